//! What the layer above supplies.

use bytes::Bytes;
use futures::future::BoxFuture;
use kv_core::{ChainRecord, Change, GroupId, Head, Keyspace, NodeId, Revision};
use kv_store::Written;

/// Called for each latest key and value, with the revision that wrote it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8], Revision) + 'a;

/// A commit that was applied here.
#[derive(Clone, Copy, Debug)]
pub struct AppliedCommit<'a> {
    /// Its keyspace.
    pub keyspace: &'a Keyspace,
    /// Its record: revision, time, actor and so on.
    pub record: &'a ChainRecord,
    /// What it wrote.
    pub changes: &'a [Change],
    /// What became of each of those keys.
    pub written: &'a [Written],
}

/// Sees every commit as it is applied on this node, in order within each group.
///
/// It is called from the group's own task, after the state was written and before whoever proposed the commit is
/// answered; so what it builds is never behind an acknowledgement given by this node. It must not block for long.
pub trait Observer: Send + Sync + 'static {
    /// Once per keyspace of the local replica, before anything is applied or after [`reset`](Observer::reset).
    fn load(&self, keyspace: &Keyspace, head: Head, scan: &mut dyn FnMut(&mut Visit<'_>));
    /// Commits were applied.
    fn applied(&self, group: GroupId, commits: &[AppliedCommit<'_>]);
    /// The group's state is replaced by a snapshot: what was loaded and applied of it is void, `load` follows.
    fn reset(&self, group: GroupId);
    /// This node's idea of who leads the group has changed.
    fn leadership(&self, group: GroupId, leader: Option<NodeId>);
}

/// Answers calls from other nodes' upper layers.
pub trait CallHandler: Send + Sync + 'static {
    /// Answers one call, or refuses it with a reason.
    fn call(&self, from: NodeId, request: Bytes) -> BoxFuture<'_, Result<Bytes, String>>;
}
