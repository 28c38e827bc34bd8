//! Whose data a node works on: what its directory says, or a cluster that it founds or joins.
//!
//! ```text
//! IDENTITY there ─────────────────────────────► that one; --initial-cluster or --join must not point elsewhere
//! empty, --join ──► MEMBERSHIP ──► ask ──► peers noted ──┐
//! empty, founder ─► MEMBERSHIP ──────────────────────────┴─► store opened, IDENTITY written last
//! ```
//!
//! Who the members are is noted in MEMBERSHIP whenever it changes: the catalog may lie in the log, not applied yet, when a
//! node starts.
//!
//! Must hold: an instance is on disk before anybody hears of it, so that a node that was interrupted while it joined is
//! recognised and gets the same id.

use std::{sync::Arc, time::Duration};

use kv_core::{ClusterId, InstanceId, NodeId};
use kv_store::{Identity, Membership};
use rand::RngExt;
use tokio::time::Instant;

use crate::{
    catalog::{self, Candidate, Catalog, Standing},
    config::{Config, Member, MemberInfo},
    error::StartError,
    link::join::{self, Joined, NotJoined},
    node::Inner,
};

/// For how long a node that wants to join asks for a member that lets it.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
const JOIN_PAUSE: Duration = Duration::from_millis(500);

/// Leases for which a group may be without a leader while all is well.
const LED_WITHIN: u32 = 8;

/// What a node starts from.
pub(crate) struct Origin {
    pub(crate) identity: Identity,
    pub(crate) instance: InstanceId,
    /// The members as far as they are known without the catalog, by id.
    pub(crate) members: Vec<MemberInfo>,
    /// They are those that the cluster was founded with, and this node is one of them.
    pub(crate) founder: bool,
}

/// Finds out, or joins.
pub(crate) async fn establish(config: &Config) -> Result<Origin, StartError> {
    let dir = &config.data_dir;
    let identity = Identity::read(dir)?;
    let membership = match Membership::read(dir)? {
        Some(membership) => membership,
        None => {
            let fresh = Membership { instance: InstanceId::new(rand::rng().random()), peers: Vec::new() };
            fresh.write(dir)?;
            fresh
        }
    };
    let candidate = candidate(config, membership.instance);
    match identity {
        Some(identity) => known(config, identity, membership, &candidate).await,
        None if config.join.is_empty() => {
            let identity = Identity { cluster: config.cluster(), node: config.own_id(), groups: config.groups };
            let (instance, members) = (membership.instance, config.members());
            Ok(Origin { identity, instance, members, founder: true })
        }
        None => {
            let joined = ask_all(config, &candidate).await?;
            let others = joined.members.iter().filter(|member| member.id != joined.node);
            let peers = others.map(|member| (member.id, member.name.clone(), member.peer.clone())).collect();
            Membership { peers, ..membership.clone() }.write(dir)?;
            let identity = Identity { cluster: joined.cluster, node: joined.node, groups: joined.groups };
            let instance = membership.instance;
            Ok(Origin { identity, instance, members: joined.members, founder: false })
        }
    }
}

/// How a node introduces itself.
pub(crate) fn candidate(config: &Config, instance: InstanceId) -> Candidate {
    Candidate {
        name: config.name.clone(),
        peer: config.peer_address(),
        zone: config.zone.clone(),
        relay: config.relay,
        instance,
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// A directory that has an identity already.
async fn known(
    config: &Config,
    identity: Identity,
    membership: Membership,
    candidate: &Candidate,
) -> Result<Origin, StartError> {
    belongs(&config.join, candidate, identity.cluster).await.map_err(|reason| StartError::NotJoined { reason })?;
    let founder = membership.peers.is_empty();
    let peer = |(id, name, peer)| MemberInfo { id, name, peer };
    let mut members: Vec<_> = membership.peers.into_iter().map(peer).collect();
    if founder {
        check_founder(config, &identity)?;
        members = config.members();
    } else if let Some(own) = members.iter().find(|member| member.id == identity.node) {
        check_name(config, &own.name)?;
    } else {
        members.push(MemberInfo { id: identity.node, name: config.name.clone(), peer: config.peer_address() });
        members.sort_by_key(|member| member.id);
    }
    Ok(Origin { identity, instance: membership.instance, members, founder })
}

/// Whether a directory's cluster is that of the nodes at these addresses. Only a plain no counts: a node has to start whether
/// or not others are there.
async fn belongs(addresses: &[String], candidate: &Candidate, cluster: ClusterId) -> Result<(), String> {
    for address in addresses {
        match join::ask(address, candidate, Some(cluster)).await {
            Ok(_) => break,
            Err(NotJoined::Never(reason)) => return Err(reason),
            Err(NotJoined::Later(reason)) => tracing::debug!(address, reason, "not asked"),
        }
    }
    Ok(())
}

/// As long as nobody leads this node, asks those that --initial-cluster names whether it is one of them; stops it if one says
/// no, none says yes, and nobody leads it either. They may be down, and starting does not wait for them; and one of them may
/// be what a cluster that was recovered has left behind.
pub(crate) async fn compare(inner: Arc<Inner>, founders: Vec<Member>, candidate: Candidate) {
    // Who led it when it was stopped is still known, so a leader counts only if it is there.
    let led = || {
        let leadership = inner.group(catalog::GROUP).map(|group| &group.leadership);
        leadership.is_some_and(|it| it.leads().is_some() || it.leader().is_some_and(|leader| inner.links.up(leader)))
    };
    while !led() {
        let mut refusal = None;
        for founder in founders.iter().filter(|founder| founder.name != candidate.name) {
            match join::ask(&founder.peer, &candidate, Some(inner.cluster)).await {
                Ok(_) => return,
                Err(NotJoined::Never(reason)) => drop(refusal.get_or_insert(reason)),
                Err(NotJoined::Later(reason)) => tracing::debug!(founder.peer, reason, "not asked"),
            }
        }
        if let Some(reason) = refusal {
            tokio::time::sleep(inner.timing.election_max * LED_WITHIN).await;
            if !led() {
                inner.failure.report(&reason);
            }
            return;
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

async fn ask_all(config: &Config, candidate: &Candidate) -> Result<Joined, StartError> {
    let deadline = Instant::now() + JOIN_PATIENCE;
    let (mut said, mut told) = (String::new(), String::new());
    loop {
        for address in &config.join {
            match join::ask(address, candidate, None).await {
                Ok(Some(joined)) => return Ok(joined),
                Ok(None) => {}
                Err(NotJoined::Never(reason)) => return Err(StartError::NotJoined { reason }),
                Err(NotJoined::Later(reason)) => said = format!("{address}: {reason}"),
            }
            if said != told {
                tracing::info!(said, "no member has taken this node in yet");
                told.clone_from(&said);
            }
        }
        if Instant::now() > deadline {
            return Err(StartError::NotJoined { reason: said });
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

/// Whether what the directory holds is what the node was started for.
pub(crate) fn check(config: &Config, origin: &Origin, catalog: Option<&Catalog>) -> Result<(), StartError> {
    let Some(catalog) = catalog else { return Ok(()) };
    let own = origin.identity.node;
    let dir = || config.data_dir.display().to_string();
    match catalog.nodes.get(&own) {
        Some(record) if record.standing == Standing::Removed => {
            let reason = catalog.admits(own, None).err().unwrap_or_default();
            return Err(StartError::NotMember { reason });
        }
        Some(record) => check_name(config, &record.name)?,
        None => {
            let reason = format!("{} belongs to {own}, which its own cluster does not know", dir());
            return Err(StartError::NotMember { reason });
        }
    }
    if config.join.is_empty()
        && let Some(stranger) = config.initial_cluster.iter().find(|wanted| !catalog.knows(&wanted.name))
    {
        let members = catalog.members().map(|member| format!("{}={}", member.name, member.peer));
        let reason = format!(
            "--initial-cluster names {:?}, but {} is of a cluster of {}; correct one of the two",
            stranger.name,
            dir(),
            members.collect::<Vec<_>>().join(",")
        );
        return Err(StartError::NotMember { reason });
    }
    Ok(())
}

/// Whether the directory is that of the node that was started.
fn check_name(config: &Config, found: &str) -> Result<(), StartError> {
    if found == config.name {
        return Ok(());
    }
    let reason = format!(
        "{} is the data directory of node {found:?}, and this one is named {:?}; correct --name or --data-dir",
        config.data_dir.display(),
        config.name
    );
    Err(StartError::NotMember { reason })
}

/// The directory of a founder that has not noted yet who the members are: those that it was founded with.
fn check_founder(config: &Config, identity: &Identity) -> Result<(), StartError> {
    let own = (config.cluster(), config.own_id());
    if own == (identity.cluster, identity.node) {
        return Ok(());
    }
    if config.initial_cluster.is_empty() {
        let reason = format!(
            "{} is that of a founder that does not know yet who the members are; start it once with the --initial-cluster \
             that it was founded with",
            config.data_dir.display()
        );
        return Err(StartError::NotMember { reason });
    }
    let dir = config.data_dir.display();
    let reason = if own.0 != identity.cluster {
        format!(
            "{dir} is the data directory of node {} and belongs to another cluster ({}) than the one of this \
             --initial-cluster ({}); correct --data-dir or --initial-cluster, or empty the directory if that cluster \
             never began",
            identity.node, identity.cluster, own.0
        )
    } else {
        format!(
            "{dir} is the data directory of node {}, and {:?} of this --initial-cluster is {}; correct --data-dir or \
             --name",
            identity.node, config.name, own.1
        )
    };
    Err(StartError::NotMember { reason })
}

/// Ids of the nodes that a link is kept to, and their addresses.
pub(crate) fn addresses(members: &[MemberInfo]) -> Vec<(NodeId, String)> {
    members.iter().map(|member| (member.id, member.peer.clone())).collect()
}
