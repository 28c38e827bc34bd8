//! What the cluster knows of itself: its nodes and how many voters a group has.
//!
//! It is the keyspace [`PLACEMENT`], always in group 0, in JSON that people can read and that later versions can add to.
//! Every node has a replica of group 0 and keeps what is in it in memory.
//!
//! ```text
//! cluster      {"cluster": "0123…", "replicas": 3, "next_node": 4}
//! node/2       {"name": "n2", "peer": "10.0.0.2:2380", "zone": "b", "instance": "89ab…", "standing": "member", …}
//! ```
//!
//! Must hold: a node's id is given once; a record stays when its node has gone, so that it is known if it comes back. The
//! catalog counts only if it names this cluster: a restored one still has that of the cluster that was backed up.
//!
//! Left to others: which replicas follow from it (`kv_core::placement`), and carrying that out (`govern`).

mod change;
mod keep;

use std::collections::BTreeMap;

use kv_core::{ClusterId, GroupId, InstanceId, KeyRange, Keyspace, NodeId, placement};
use kv_store::{State, StoreError};
use serde::{Deserialize, Serialize};

pub use change::MembershipError;
pub(crate) use change::{Candidate, Write};
pub(crate) use keep::CatalogWatch;

use crate::config::MemberInfo;

/// The keyspace that the catalog is.
pub const PLACEMENT: &str = "kv/placement";

/// The group that it is in.
pub(crate) const GROUP: GroupId = GroupId::new(0);

/// Voters of a group, unless somebody wants another number.
pub const REPLICAS_DEFAULT: usize = 3;

/// Voters a group has at most: more would only slow down commits.
pub const REPLICAS_MAX: usize = 7;

const CLUSTER_KEY: &str = "cluster";
const NODE_PREFIX: &str = "node/";

/// Fields of later versions, kept when a record is written again.
type Rest = serde_json::Map<String, serde_json::Value>;

/// Whether a node belongs to the cluster, and what it may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// A full member.
    Member,
    /// Keeps its copies, but votes and leads nowhere: it is going to be worked on.
    Draining,
    /// Is being emptied, and removed once it is.
    Leaving,
    /// Has been removed. What it still has on disk is of no use.
    Removed,
}

/// What the cluster knows of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub name: String,
    /// Where other nodes reach it: `host:port`.
    pub peer: String,
    /// Where it stands; nodes of different zones don't fail together. Empty: nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// A relay: it has a copy of everything and serves hosts, watches and reads, but never votes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relay: bool,
    /// Its data directory, in hexadecimal digits. Empty: not known yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Whether it belongs.
    pub standing: Standing,
    /// Of the program it was started with last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterRecord {
    cluster: String,
    replicas: usize,
    next_node: u64,
    #[serde(flatten)]
    rest: Rest,
}

/// What the cluster knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    cluster: ClusterRecord,
    /// Every node that ever was, by id.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
}

impl NodeRecord {
    /// What placement counts with it for. A relay is like a node that is drained for ever.
    pub(crate) fn placed(&self) -> Option<placement::Standing> {
        match self.standing {
            Standing::Member if self.relay => Some(placement::Standing::Draining),
            Standing::Member => Some(placement::Standing::Member),
            Standing::Draining => Some(placement::Standing::Draining),
            Standing::Leaving => Some(placement::Standing::Leaving),
            Standing::Removed => None,
        }
    }

    /// Whether groups may have a voter on it.
    pub fn may_vote(&self) -> bool {
        self.placed() == Some(placement::Standing::Member)
    }

    /// What can be said of a node by its name alone.
    pub fn of_name(name: &str) -> Self {
        NodeRecord {
            name: name.into(),
            peer: String::new(),
            zone: String::new(),
            relay: false,
            instance: String::new(),
            standing: Standing::Member,
            version: String::new(),
            rest: Rest::new(),
        }
    }

    /// Whether a node that says it is this one has the data of this one.
    pub(crate) fn has(&self, instance: InstanceId) -> bool {
        self.instance.is_empty() || self.instance == instance.to_string()
    }
}

impl Catalog {
    /// The catalog in the local replica; `None`: there is none of this cluster yet.
    pub(crate) fn load(state: &State, cluster: ClusterId) -> Result<Option<Self>, StoreError> {
        let (found, nodes) = scan(state)?;
        let cluster = cluster.to_string();
        Ok(found.filter(|found| found.cluster == cluster).map(|cluster| Catalog { cluster, nodes }))
    }

    /// Voters that each group should have.
    pub fn replicas(&self) -> usize {
        self.cluster.replicas
    }

    /// The nodes that have not been removed.
    pub fn members(&self) -> impl Iterator<Item = MemberInfo> + '_ {
        let there = self.nodes.iter().filter(|(_, record)| record.standing != Standing::Removed);
        there.map(|(id, record)| MemberInfo { id: *id, name: record.name.clone(), peer: record.peer.clone() })
    }

    /// Whether a node with this data belongs to the cluster, or why it doesn't. Of one that is not known nothing can be
    /// said: this copy may be behind.
    pub(crate) fn admits(&self, node: NodeId, instance: Option<InstanceId>) -> Result<(), String> {
        let Some(record) = self.nodes.get(&node) else { return Ok(()) };
        let name = &record.name;
        if record.standing == Standing::Removed {
            return Err(format!(
                "node {name} ({node}) was removed from this cluster; to have it back, empty its data directory and start \
                 it with --join"
            ));
        }
        match instance {
            Some(instance) if !record.has(instance) => Err(format!(
                "node {name} ({node}) has another data directory than the one that this cluster knows, so it may have \
                 lost what it acknowledged; put the right directory back, or run `netstate cluster replace {name}`, empty \
                 this one and start the node with --join"
            )),
            _ => Ok(()),
        }
    }

    /// The same by the name that a node has now.
    pub(crate) fn recognises(&self, name: &str, instance: InstanceId) -> Result<(), String> {
        let last = self.nodes.iter().rev().find(|(_, record)| record.name == name);
        last.map_or(Ok(()), |(id, _)| self.admits(*id, Some(instance)))
    }

    /// Whether there ever was a node of this name.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.nodes.values().any(|record| record.name == name)
    }

    fn named(&self, name: &str) -> Option<(NodeId, &NodeRecord)> {
        let there = self.nodes.iter().filter(|(_, record)| record.standing != Standing::Removed);
        there.rev().find(|(_, record)| record.name == name).map(|(id, record)| (*id, record))
    }
}

type Stored = (Option<ClusterRecord>, BTreeMap<NodeId, NodeRecord>);

/// What is stored, of whatever cluster it is.
fn scan(state: &State) -> Result<Stored, StoreError> {
    let (mut found, mut nodes, mut flaw) = (None, BTreeMap::new(), None);
    state.scan(GROUP, &keyspace(), &KeyRange::All, |key, value, _| {
        if let Err(why) = read(key, value, &mut found, &mut nodes) {
            flaw.get_or_insert_with(|| (String::from_utf8_lossy(key).into_owned(), why));
        }
    })?;
    match flaw {
        // Somebody wrote it by hand, or a later version did. Without it nobody can tell who belongs here.
        Some((key, why)) => Err(StoreError::Damaged { file: PLACEMENT.into(), key, why }),
        None => Ok((found, nodes)),
    }
}

/// The catalog, where there has to be one.
pub(crate) fn founded(catalog: Option<&Catalog>) -> Result<&Catalog, MembershipError> {
    catalog.ok_or(MembershipError::NotFounded)
}

/// The catalog's keyspace.
pub(crate) fn keyspace() -> Keyspace {
    Keyspace::new(PLACEMENT).expect("made of allowed characters")
}

fn node_key(node: NodeId) -> String {
    format!("{NODE_PREFIX}{}", node.get())
}

fn read(
    key: &[u8],
    value: &[u8],
    cluster: &mut Option<ClusterRecord>,
    nodes: &mut BTreeMap<NodeId, NodeRecord>,
) -> Result<(), String> {
    let text = std::str::from_utf8(key).map_err(|error| error.to_string())?;
    let malformed = |error: serde_json::Error| error.to_string();
    if text == CLUSTER_KEY {
        *cluster = Some(serde_json::from_slice(value).map_err(malformed)?);
    } else if let Some(id) = text.strip_prefix(NODE_PREFIX) {
        let id = id.parse().map_err(|_| format!("{id:?} is no node's id"))?;
        nodes.insert(NodeId::new(id), serde_json::from_slice(value).map_err(malformed)?);
    }
    // Later versions have other keys.
    Ok(())
}
