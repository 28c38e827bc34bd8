//! The copy of the catalog that this node has, and how it is changed.

use std::{sync::Arc, time::Duration};

use kv_core::{ClusterId, NodeId, Operation, Outcome, Revision, Txn};
use kv_store::State;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{Catalog, GROUP, MembershipError, Write, keyspace};
use crate::{Node, config::MemberInfo, node::Inner, publish::Feeds};

/// Who the log says has changed the catalog.
const ACTOR: &str = "placement";

/// How often a change is decided again because another one came first.
const ATTEMPTS: usize = 16;

/// How often the copy is looked at although nothing was said to have changed: a group that was just installed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// This node's copy. Who the members are until the catalog says it, it is told. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CatalogWatch(Arc<Shared>);

struct Shared {
    cluster: ClusterId,
    members: RwLock<Arc<[MemberInfo]>>,
    now: watch::Sender<Option<Arc<Catalog>>>,
}

impl CatalogWatch {
    /// Of a node that knows these members from elsewhere, and what is in the local replica.
    pub(crate) fn new(cluster: ClusterId, initial: Vec<MemberInfo>, catalog: Option<Catalog>) -> Self {
        let shared = Shared { cluster, members: RwLock::new(initial.into()), now: watch::Sender::new(None) };
        let watch = CatalogWatch(Arc::new(shared));
        watch.set(catalog);
        watch
    }

    fn set(&self, catalog: Option<Catalog>) {
        let Some(catalog) = catalog else { return };
        if self.get().as_deref() == Some(&catalog) {
            return;
        }
        *self.0.members.write() = catalog.members().collect();
        self.0.now.send_replace(Some(Arc::new(catalog)));
    }

    /// As it is here now; `None`: not known yet.
    pub(crate) fn get(&self) -> Option<Arc<Catalog>> {
        self.0.now.borrow().clone()
    }

    /// Changes with it.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Arc<Catalog>>> {
        self.0.now.subscribe()
    }

    /// The nodes that have not been removed, by id.
    pub(crate) fn members(&self) -> Arc<[MemberInfo]> {
        self.0.members.read().clone()
    }

    /// Follows the local replica.
    pub(crate) async fn follow(self, inner: Arc<Inner>) {
        let state = inner.store.state().clone();
        let mut revision = subscribe(&inner.feeds, &state);
        loop {
            match Catalog::load(&state, self.0.cluster) {
                Ok(catalog) => self.set(catalog),
                Err(error) => {
                    if let Some(group) = inner.group(GROUP) {
                        group.leadership.quarantine.store_failed(&error);
                    }
                }
            }
            tokio::select! {
                changed = revision.changed() => if changed.is_err() { revision = subscribe(&inner.feeds, &state) },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

fn subscribe(feeds: &Feeds, state: &State) -> watch::Receiver<Revision> {
    feeds.watched(state, &keyspace()).0
}

impl Node {
    /// What the cluster knows of itself, as this node has it; `None`: it is still being founded.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        self.0.catalog.get()
    }

    /// Changes the catalog as is decided from it as it is.
    pub(crate) async fn change_catalog<T>(
        &self,
        reason: &str,
        decide: impl Fn(Option<&Catalog>) -> Result<(T, Vec<Write>), MembershipError>,
    ) -> Result<T, MembershipError> {
        let not_written = |error: &dyn std::error::Error| MembershipError::NotWritten { reason: error.to_string() };
        for _ in 0..ATTEMPTS {
            self.read_barrier(GROUP).await.map_err(|error| not_written(&error))?;
            let base = self.head(&keyspace()).revision;
            let known = Catalog::load(self.0.store.state(), self.0.cluster).map_err(|error| not_written(&error))?;
            let (answer, writes) = decide(known.as_ref())?;
            if writes.is_empty() {
                return Ok(answer);
            }
            let then = writes.into_iter().map(|(key, value)| Operation::put(key, value)).collect();
            let (actor, reason) = (ACTOR.into(), reason.to_owned());
            let txn = Txn { then, actor, reason, base: Some(base), ..Txn::default() };
            match self.txn(&keyspace(), txn).await.map_err(|error| not_written(&error))? {
                Outcome::Applied(_) | Outcome::Repeated(_) => {
                    // Whoever asks here next sees it; without that it is seen a moment later.
                    let _ = self.read_barrier(GROUP).await;
                    let known = Catalog::load(self.0.store.state(), self.0.cluster);
                    self.0.catalog.set(known.map_err(|error| not_written(&error))?);
                    return Ok(answer);
                }
                Outcome::Stale { .. } | Outcome::Elsewhere { .. } => {}
            }
        }
        Err(MembershipError::NotWritten { reason: "it changes all the time".into() })
    }

    /// Writes the catalog of a cluster that has none yet.
    pub(crate) async fn found_catalog(&self, founders: &[MemberInfo]) -> Result<(), MembershipError> {
        let before = super::scan(self.0.store.state());
        let before = before.map_err(|error| MembershipError::NotWritten { reason: error.to_string() })?;
        let decide = |catalog: Option<&Catalog>| match catalog {
            Some(_) => Ok(((), Vec::new())),
            None => Ok(((), super::change::found(self.0.cluster, founders, &before))),
        };
        self.change_catalog("founded", decide).await
    }

    /// The name of a node, or its id if it is not known.
    pub fn name_of(&self, node: NodeId) -> String {
        let known = self.0.catalog.members();
        let member = known.iter().find(|member| member.id == node);
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    }
}
