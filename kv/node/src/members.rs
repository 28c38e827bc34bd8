//! Nodes that come, go and change: what operators and nodes ask for.

use std::sync::Arc;

use futures::future::BoxFuture;
use kv_core::NodeId;
use kv_store::Membership;

use crate::{
    Node,
    catalog::{Candidate, MembershipError, Standing, founded},
    config::MemberInfo,
    link::join::Joined,
    node::Inner,
};

/// Between two attempts of a node to have its record put right.
const INTRODUCE_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

impl Node {
    /// Has a node leave: it is emptied, and then removed.
    pub async fn remove_node(&self, name: &str) -> Result<(), MembershipError> {
        self.stand(name, Standing::Leaving, "remove").await
    }

    /// Takes note that a node has lost its data: it is removed, and its name is free for one that joins in its place.
    pub async fn replace_node(&self, name: &str) -> Result<(), MembershipError> {
        let member = self.members().iter().find(|member| member.name == name).cloned();
        if let Some(member) = member
            && (member.id == self.id() || self.0.links.up(member.id))
        {
            return Err(MembershipError::Up { name: name.into() });
        }
        self.stand(name, Standing::Leaving, "replace").await
    }

    /// Takes votes and leaders off a node, or gives them back.
    pub async fn drain_node(&self, name: &str, drain: bool) -> Result<(), MembershipError> {
        let standing = if drain { Standing::Draining } else { Standing::Member };
        self.stand(name, standing, if drain { "drain" } else { "end of draining" }).await
    }

    /// Sets how many voters each group should have.
    pub async fn want_replicas(&self, replicas: usize) -> Result<(), MembershipError> {
        let reason = format!("{replicas} replicas");
        self.change_catalog(&reason, |catalog| Ok(((), founded(catalog)?.want_replicas(replicas)?))).await
    }

    async fn stand(&self, name: &str, standing: Standing, what: &str) -> Result<(), MembershipError> {
        let reason = format!("{what} {name}");
        self.change_catalog(&reason, |catalog| Ok(((), founded(catalog)?.stand(name, standing)?))).await?;
        self.hurry_placement();
        Ok(())
    }

    pub(crate) async fn note_removed(&self, node: NodeId) -> Result<(), MembershipError> {
        let reason = format!("{node} removed");
        let decide = |catalog: Option<&crate::Catalog>| Ok(((), founded(catalog)?.removed(node).into_iter().collect()));
        self.change_catalog(&reason, decide).await
    }

    pub(crate) async fn join(&self, candidate: &Candidate) -> Result<Joined, MembershipError> {
        let reason = format!("{} joins", candidate.name);
        let decide = |catalog: Option<&crate::Catalog>| founded(catalog)?.join(candidate);
        let node = self.change_catalog(&reason, decide).await?;
        self.hurry_placement();
        let members = self.members().to_vec();
        Ok(Joined { cluster: self.cluster(), node, groups: self.groups(), members })
    }

    /// The nodes that belong to the cluster, this one included, by id.
    pub fn members(&self) -> Arc<[MemberInfo]> {
        self.0.catalog.members()
    }
}

/// Keeps links to all members, and stops the node when it is none any more.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let mut changes = inner.catalog.changes();
    loop {
        let members = inner.catalog.members();
        inner.links.set(crate::founding::addresses(&members));
        if inner.catalog.get().is_some() {
            note(&inner, &members).await;
        }
        if let Some(catalog) = inner.catalog.get()
            && let Err(reason) = catalog.admits(inner.id, Some(inner.instance))
        {
            inner.failure.report(&reason);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Notes beside the data who the members are.
async fn note(inner: &Arc<Inner>, members: &[MemberInfo]) {
    let peers = members.iter().map(|member| (member.id, member.name.clone(), member.peer.clone())).collect();
    let (membership, dir) = (Membership { instance: inner.instance, peers }, inner.data_dir.clone());
    let noting = tokio::task::spawn_blocking(move || match Membership::read(&dir)? {
        Some(known) if known == membership => Ok(()),
        _ => membership.write(&dir),
    });
    match noting.await {
        Ok(Ok(())) => {}
        // It is only needed where the catalog is not there: the next start then goes by what was noted before.
        Ok(Err(error)) => tracing::warn!(%error, "who the members are was not noted"),
        Err(error) => inner.failure.report(&error.to_string()),
    }
}

/// Has this node's record say what it is: where it is reached, in which zone, with which data and version.
pub(crate) async fn introduce(node: Node, own: Candidate) {
    let inner = node.0.clone();
    let mut changes = inner.catalog.changes();
    loop {
        let news = inner.catalog.get().and_then(|catalog| catalog.introduce(inner.id, &own));
        let mut again = false;
        if news.is_some() {
            let decide = |catalog: Option<&crate::Catalog>| {
                Ok(((), founded(catalog)?.introduce(inner.id, &own).into_iter().collect()))
            };
            let written = node.change_catalog(&format!("{} starts", own.name), decide).await;
            again = written.inspect_err(|error| tracing::debug!(%error, "not introduced yet")).is_err();
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(INTRODUCE_PAUSE), if again => {}
        }
    }
}

/// What [`Handler::join`](crate::link::Handler::join) does.
pub(crate) fn join(inner: Arc<Inner>, candidate: Candidate) -> BoxFuture<'static, Result<Joined, MembershipError>> {
    Box::pin(async move { Node(inner).join(&candidate).await })
}
