//! What nodes ask of each other above the key-value store.

use bytes::Bytes;
use futures::future::BoxFuture;
use kv_core::{Change, Fold, GroupId, NodeId, Revision};
use kv_node::{CallHandler, Node, ReadError};
use netstate_model::{ConnectionId, HostId, NetworkId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    execute::{Asked, Changes, Done, ExecuteError, Executor, records},
    keyspaces::Home,
    services::status,
    view::{View, directory_changes, network_changes},
    watch::{Hub, presence::Heard},
};

/// How long another node may take to answer a question about itself.
pub(crate) const ASK_PATIENCE: Duration = Duration::from_secs(2);

/// A call to another node.
#[derive(Serialize, Deserialize)]
pub(crate) enum Call {
    /// Carry this out, if you lead its keyspace.
    Execute(Asked),
    /// How far are the hosts that you serve?
    Convergence(Question),
    /// Which hosts do you hear?
    Heard,
    /// How are you?
    Status,
    /// Walk your replica of this group.
    Verify(GroupId),
    /// Fetch the state of this group, or of all that are damaged at you, from the others, and start again.
    Repair(Option<GroupId>),
}

/// What hosts are asked to have programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// A connection: made, or removed if it is not `there`.
    Connection { id: ConnectionId, there: bool },
    /// The directory, up to a revision.
    Directory(Revision),
    /// A network, up to a revision.
    Network(NetworkId, Revision),
}

/// How far one host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostProgress {
    pub(crate) host: HostId,
    pub(crate) concerned: bool,
    pub(crate) programmed: bool,
    pub(crate) problem: String,
}

/// What a walk over one group's chains found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WalkReport {
    pub(crate) keyspaces: u64,
    pub(crate) records: u64,
    pub(crate) fold: Fold,
    pub(crate) applied: u64,
    /// Where and what, when not sound.
    pub(crate) problem: Option<String>,
}

type DoneWire = Result<(Revision, Vec<(Vec<u8>, Option<Vec<u8>>)>), ExecuteError>;

/// Bytes of a call or an answer.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_allocvec(value).expect("our types have lengths known up front").into()
}

/// A call or an answer from bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|error| format!("malformed: {error}"))
}

/// Puts the same question to every node. Nodes that don't answer are given with the reason.
pub(crate) async fn ask_all(node: &Node, call: &Call, patience: Duration) -> Vec<(NodeId, Result<Bytes, String>)> {
    let call = encode(call);
    let members = node.members();
    let asking = members.iter().map(|member| {
        let call = call.clone();
        async move {
            let answer = node.call(member.id, call, patience).await;
            (member.id, answer.map_err(|error| error.to_string()))
        }
    });
    futures::future::join_all(asking).await
}

/// Returns when this node has everything acknowledged so far, of all groups.
pub(crate) async fn catch_up(node: &Node) -> Result<(), ReadError> {
    let groups = (0..node.groups()).map(|group| node.read_barrier(GroupId::new(group)));
    futures::future::try_join_all(groups).await.map(drop)
}

/// What all nodes hear of hosts. One that can't be asked may hear any of them: until its link has been down for some time,
/// nobody has been silent for longer.
pub(crate) async fn heard(node: &Node) -> Vec<Heard> {
    let answers = ask_all(node, &Call::Heard, ASK_PATIENCE).await.into_iter();
    let heard = |(id, answer): (NodeId, Result<Bytes, String>)| {
        answer.and_then(|bytes| decode(&bytes)).unwrap_or_else(|_| Heard::since(node.down_for(id)))
    };
    answers.map(heard).collect()
}

fn encode_done(done: Result<Done, ExecuteError>) -> Bytes {
    let wire: DoneWire = done.map(|done| (done.revision, records(&done.changes)));
    encode(&wire)
}

/// What a forwarded command came to.
pub(crate) fn decode_done(home: Home, bytes: &[u8]) -> Result<Done, ExecuteError> {
    let wire: DoneWire = decode(bytes).map_err(|_| ExecuteError::Unknown)?;
    let (revision, records) = wire?;
    let change = |(key, value): (Vec<u8>, Option<Vec<u8>>)| Change {
        key: key.into(),
        value: value.map(Bytes::from),
        lease: None,
    };
    let changes: Vec<_> = records.into_iter().map(change).collect();
    let changes = match home {
        Home::Directory => directory_changes(&changes).map(Changes::Directory),
        Home::Network(_) => network_changes(&changes).map(Changes::Network),
    };
    // It was done; only what exactly can't be read here. Asking again, perhaps elsewhere, tells.
    Ok(Done { revision, changes: changes.map_err(|_| ExecuteError::Unknown)? })
}

/// Answers calls. The parts are there once the node has started; until then it refuses.
#[derive(Default)]
pub(crate) struct Answers(OnceLock<Parts>);

pub(crate) struct Parts {
    pub(crate) node: Node,
    pub(crate) executor: Executor,
    pub(crate) hub: Arc<Hub>,
    pub(crate) view: Arc<View>,
    pub(crate) status: Arc<status::Own>,
}

impl Parts {
    /// How far the hosts served here are. None is further than this node itself.
    fn progress(&self, question: Question) -> Vec<HostProgress> {
        let behind = match question {
            Question::Connection { .. } => false,
            Question::Directory(revision) => self.view.directory_revision() < revision,
            Question::Network(id, revision) => self.view.revision(Home::Network(id)) < revision,
        };
        let mut progress = self.hub.progress(question);
        progress.iter_mut().for_each(|host| host.programmed &= !behind);
        progress
    }
}

impl Answers {
    /// From now on calls are answered.
    pub(crate) fn attach(&self, parts: Parts) {
        // Called once.
        let _ = self.0.set(parts);
    }
}

impl CallHandler for Answers {
    fn call(&self, _from: NodeId, request: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let parts = self.0.get().ok_or("this node is still starting")?;
            match decode(&request)? {
                Call::Execute(asked) => Ok(encode_done(parts.executor.execute_here(asked).await)),
                Call::Convergence(question) => Ok(encode(&parts.progress(question))),
                Call::Heard => Ok(encode(&parts.hub.heard())),
                Call::Status => parts.status.encoded(),
                Call::Repair(group) => Ok(encode(&parts.node.repair(group).await.map_err(|error| error.to_string()))),
                Call::Verify(group) => {
                    let node = parts.node.clone();
                    let walking = tokio::task::spawn_blocking(move || verify(&node, group));
                    Ok(encode(&walking.await.map_err(|error| error.to_string())?))
                }
            }
        })
    }
}

/// Walks the local replica of a group. Blocks on disk.
fn verify(node: &Node, group: GroupId) -> WalkReport {
    match node.verify(group) {
        Ok(walked) => WalkReport {
            keyspaces: walked.keyspaces,
            records: walked.records,
            fold: walked.fold,
            applied: walked.applied,
            problem: None,
        },
        Err(error) => {
            WalkReport { keyspaces: 0, records: 0, fold: Fold::default(), applied: 0, problem: Some(error.to_string()) }
        }
    }
}
