//! What a node is started with.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use kv_core::{ClusterId, NodeId};

/// Groups of a cluster that is founded without saying how many.
pub const GROUPS_DEFAULT: u16 = 16;

/// Groups a cluster has at most.
pub const GROUPS_MAX: u16 = 256;

/// Nodes a cluster is founded with at most. Every node holds every group, so more would only slow down commits.
pub const FOUNDERS_MAX: usize = 7;

/// Left free on the disk: room for flushing and compacting what is in memory, and for votes.
pub const DISK_RESERVE_BYTES: u64 = 128 * 1024 * 1024;

/// Everything that a node needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name, one of `initial_cluster`.
    pub name: String,
    /// Where its data lies. Created if missing.
    pub data_dir: PathBuf,
    /// Where it listens for other nodes.
    pub listen_peer: SocketAddr,
    /// The nodes that the cluster was founded with, this one included. The same on all of them, in any order.
    pub initial_cluster: Vec<Member>,
    /// Addresses of peer ports of a cluster to join, `host:port`, in place of founding one.
    pub join: Vec<String>,
    /// Where other nodes reach this one, `host:port`; `None`: as in `initial_cluster`, or where it listens.
    pub advertise_peer: Option<String>,
    /// Where it stands: nodes of different zones don't fail together. Empty: not said.
    pub zone: String,
    /// It has a copy of everything and serves, but never votes.
    pub relay: bool,
    /// Raft groups; fixed when the cluster is founded.
    pub groups: u16,
    /// How patient it is.
    pub timing: Timing,
    /// Bytes to leave free on the disk: with less, writes are refused.
    pub disk_reserve_bytes: u64,
    /// Memory and file limits of its store.
    pub store: kv_store::Options,
}

/// A node as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where other nodes reach it: `host:port`.
    pub peer: String,
}

/// A node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where other nodes reach it: `host:port`.
    pub peer: String,
}

/// How patient a node is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between a leader's heartbeats.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time between this …
    pub election_min: Duration,
    /// … and this asks for votes. It is also how long a leader's lease lasts.
    pub election_max: Duration,
    /// A transaction without an answer for so long is reported as unknown.
    pub commit_timeout: Duration,
    /// A read that cannot be confirmed for so long is given up.
    pub read_timeout: Duration,
    /// Between comparisons of heads with the other replicas.
    pub compare_heads: Duration,
    /// Between looks at logs that could be purged and leaders that could be spread.
    pub housekeeping: Duration,
    /// Log bytes of all groups together, and …
    pub purge_after_bytes: u64,
    /// … entries of one group, beyond which state is flushed and logs are purged.
    pub purge_after_entries: u64,
    /// Bytes a second that a node sends of whole groups' states, to all other nodes together.
    pub snapshot_bytes_per_second: u64,
    /// Bytes that are copied in a second from group to group while keyspaces move and are written.
    pub move_bytes_per_second: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(650),
            commit_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(5),
            compare_heads: Duration::from_secs(1),
            housekeeping: Duration::from_secs(2),
            purge_after_bytes: 32 * 1024 * 1024,
            purge_after_entries: 20_000,
            snapshot_bytes_per_second: 64 * 1024 * 1024,
            move_bytes_per_second: 32 * 1024 * 1024,
        }
    }
}

/// What is wrong with a configuration. All of it is reported at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not among the founders.
    #[error("the node's name {name:?} is not in the initial cluster ({known}); add it or correct the name")]
    UnknownName {
        /// The name.
        name: String,
        /// The names that are there.
        known: String,
    },
    /// Twice among the founders.
    #[error("{what:?} stands twice in the initial cluster; names and addresses are used once")]
    Twice {
        /// The name or address.
        what: String,
    },
    /// An address without host or port.
    #[error("{peer:?} of node {name:?} is not of the form host:port")]
    Address {
        /// The node.
        name: String,
        /// Its address.
        peer: String,
    },
    /// Too many founders.
    #[error("{count} nodes in the initial cluster; {FOUNDERS_MAX} at most")]
    Founders {
        /// How many.
        count: usize,
    },
    /// A founder that would not vote.
    #[error("a relay does not vote, so it can found nothing; have it join a cluster")]
    Relay,
    /// No or too many groups.
    #[error("{groups} groups; 1 to {GROUPS_MAX} are possible")]
    Groups {
        /// How many.
        groups: u16,
    },
}

impl Config {
    /// All mistakes in it.
    pub fn mistakes(&self) -> Vec<ConfigError> {
        let mut mistakes = Vec::new();
        let addresses = self.join.iter().chain(&self.advertise_peer);
        for peer in addresses.filter(|peer| !is_address(peer)) {
            mistakes.push(ConfigError::Address { name: self.name.clone(), peer: peer.clone() });
        }
        if !self.join.is_empty() {
            return mistakes;
        }
        if self.relay {
            mistakes.push(ConfigError::Relay);
        }
        mistakes.extend(Self::founders_mistakes(&self.name, &self.initial_cluster));
        if self.groups == 0 || self.groups > GROUPS_MAX {
            mistakes.push(ConfigError::Groups { groups: self.groups });
        }
        mistakes
    }

    /// All mistakes in a list of founders, of which one has this name.
    pub(crate) fn founders_mistakes(name: &str, founders: &[Member]) -> Vec<ConfigError> {
        let mut mistakes = Vec::new();
        if !founders.iter().any(|member| member.name == name) {
            let known = founders.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
            mistakes.push(ConfigError::UnknownName { name: name.into(), known });
        }
        let mut seen = BTreeSet::new();
        for member in founders {
            for what in [&member.name, &member.peer] {
                if !seen.insert(what) {
                    mistakes.push(ConfigError::Twice { what: what.clone() });
                }
            }
            if !is_address(&member.peer) {
                mistakes.push(ConfigError::Address { name: member.name.clone(), peer: member.peer.clone() });
            }
        }
        if founders.len() > FOUNDERS_MAX {
            mistakes.push(ConfigError::Founders { count: founders.len() });
        }
        mistakes
    }

    /// Where other nodes reach this one.
    pub(crate) fn peer_address(&self) -> String {
        let founder = || self.initial_cluster.iter().find(|member| member.name == self.name && self.join.is_empty());
        let known = self.advertise_peer.clone().or_else(|| founder().map(|member| member.peer.clone()));
        known.unwrap_or_else(|| self.listen_peer.to_string())
    }

    /// This node's id, if it is a founder.
    pub(crate) fn own_id(&self) -> NodeId {
        let own = self.members().into_iter().find(|member| member.name == self.name);
        own.map_or_else(NodeId::default, |member| member.id)
    }

    /// The founders in the order of their names, which is that of their ids.
    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        Self::members_of(&self.initial_cluster)
    }

    /// Founders in the order of their names, which is that of their ids.
    pub(crate) fn members_of(founders: &[Member]) -> Vec<MemberInfo> {
        let mut sorted = founders.to_vec();
        sorted.sort();
        let info = |(at, member): (usize, Member)| MemberInfo {
            id: NodeId::new(at as u64 + 1),
            name: member.name,
            peer: member.peer,
        };
        sorted.into_iter().enumerate().map(info).collect()
    }

    /// What every founder derives alike.
    pub(crate) fn cluster(&self) -> ClusterId {
        let founders: Vec<_> = self.members().into_iter().map(|m| format!("{}={}", m.name, m.peer)).collect();
        ClusterId::of_founders(&founders.join(","))
    }
}

/// Whether this is of the form `host:port`.
pub(crate) fn is_address(peer: &str) -> bool {
    let port = peer.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, founders: &[(&str, &str)]) -> Config {
        let member = |(name, peer): &(&str, &str)| Member { name: (*name).into(), peer: (*peer).into() };
        Config {
            name: name.into(),
            data_dir: PathBuf::new(),
            listen_peer: SocketAddr::from(([127, 0, 0, 1], 0)),
            initial_cluster: founders.iter().map(member).collect(),
            join: Vec::new(),
            advertise_peer: None,
            zone: String::new(),
            relay: false,
            groups: GROUPS_DEFAULT,
            timing: Timing::default(),
            disk_reserve_bytes: DISK_RESERVE_BYTES,
            store: kv_store::Options::default(),
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mut wrong = config("n4", &[("n1", "a:1"), ("n1", "a:2"), ("n2", "a:1"), ("n3", "nowhere")]);
        wrong.groups = 0;
        let texts: Vec<_> = wrong.mistakes().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "the node's name \"n4\" is not in the initial cluster (n1, n1, n2, n3); add it or correct the name",
                "\"n1\" stands twice in the initial cluster; names and addresses are used once",
                "\"a:1\" stands twice in the initial cluster; names and addresses are used once",
                "\"nowhere\" of node \"n3\" is not of the form host:port",
                "0 groups; 1 to 256 are possible",
            ]
        );
    }

    #[test]
    fn founders_agree_whatever_order_they_are_given_in() {
        let one = config("n1", &[("n1", "a:1"), ("n2", "b:1")]);
        let two = config("n2", &[("n2", "b:1"), ("n1", "a:1")]);
        assert_eq!(one.cluster(), two.cluster());
        assert_eq!(one.members(), two.members());
        assert_ne!(one.cluster(), config("n1", &[("n1", "a:1"), ("n2", "b:2")]).cluster());
    }
}
