//! How the catalog changes: decided from what is in it, written as one transaction.
//!
//! Must hold: deciding is pure; a change is made only at the revision that it was decided at.

use bytes::Bytes;
use kv_core::{ClusterId, InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use super::{
    CLUSTER_KEY, Catalog, ClusterRecord, NodeRecord, REPLICAS_DEFAULT, REPLICAS_MAX, Rest, Standing, Stored, node_key,
};
use crate::config::{MemberInfo, is_address};

/// A key of the catalog and its new value.
pub(crate) type Write = (String, Bytes);

/// A node as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// Its name.
    pub name: String,
    /// Where others reach it: `host:port`.
    pub peer: String,
    /// Where it stands.
    pub zone: String,
    /// Whether it never votes.
    pub relay: bool,
    /// Its data directory.
    pub instance: InstanceId,
    /// Of its program.
    pub version: String,
}

/// Why members do not change as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MembershipError {
    /// Nobody has written the catalog yet.
    #[error("the cluster is still being founded; try again in a moment")]
    NotFounded,
    /// There is no such node.
    #[error("there is no node {name:?} in this cluster; `netstate cluster status` lists them")]
    Unknown {
        /// The name.
        name: String,
    },
    /// A node of that name, with other data, is a member.
    #[error(
        "a node named {name:?} is a member already, with another data directory; if it lost its disk, run `netstate \
         cluster replace {name}` first, otherwise choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another node is reached there.
    #[error("{peer} is the address of node {name:?} already; each node needs one of its own")]
    AddressTaken {
        /// The address.
        peer: String,
        /// Whose it is.
        name: String,
    },
    /// Not a name or an address.
    #[error("{what}: {why}")]
    Malformed {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// It is the last one.
    #[error("{name:?} is the last node that is not leaving; a cluster needs one")]
    Last {
        /// The name.
        name: String,
    },
    /// The node is being removed, and cannot be anything else any more.
    #[error("node {name:?} is leaving the cluster; join it again once it has been removed")]
    Leaving {
        /// The name.
        name: String,
    },
    /// The node answers, so it has not lost its disk.
    #[error("node {name:?} is up; drain it, or remove it with `netstate cluster remove {name}`")]
    Up {
        /// The name.
        name: String,
    },
    /// No or too many voters.
    #[error("{replicas} replicas; 1 to {REPLICAS_MAX} are possible")]
    Replicas {
        /// How many.
        replicas: usize,
    },
    /// It could not be written, or nobody knows whether it was.
    #[error("the catalog was not changed: {reason}")]
    NotWritten {
        /// Why.
        reason: String,
    },
}

fn encode<T: Serialize>(key: String, record: &T) -> Write {
    (key, serde_json::to_vec(record).expect("only maps with other keys than texts fail, and records have none").into())
}

fn malformed(what: &str, why: &str) -> MembershipError {
    MembershipError::Malformed { what: what.into(), why: why.into() }
}

/// The catalog of a cluster that has none, or still that of the one that it was restored from.
/// The nodes of that one are no members.
pub(super) fn found(cluster: ClusterId, founders: &[MemberInfo], (before, strangers): &Stored) -> Vec<Write> {
    let before = before.as_ref();
    let last = founders.iter().map(|founder| founder.id.get()).max().unwrap_or_default();
    let record = ClusterRecord {
        cluster: cluster.to_string(),
        replicas: before.map_or(REPLICAS_DEFAULT, |before| before.replicas),
        next_node: (last + 1).max(before.map_or(0, |before| before.next_node)),
        rest: Rest::default(),
    };
    let node = |founder: &MemberInfo| {
        let record = NodeRecord {
            name: founder.name.clone(),
            peer: founder.peer.clone(),
            zone: String::new(),
            relay: false,
            instance: String::new(),
            standing: Standing::Member,
            version: String::new(),
            rest: Rest::default(),
        };
        encode(node_key(founder.id), &record)
    };
    let strangers = strangers.iter().filter(|(id, _)| !founders.iter().any(|founder| founder.id == **id));
    let stranger = |(id, known): (&NodeId, &NodeRecord)| {
        encode(node_key(*id), &NodeRecord { standing: Standing::Removed, ..known.clone() })
    };
    let records = founders.iter().map(node).chain(strangers.map(stranger));
    std::iter::once(encode(CLUSTER_KEY.into(), &record)).chain(records).collect()
}

impl Catalog {
    /// Takes a node in. The same directory may ask again and gets the id that it has.
    pub(crate) fn join(&self, candidate: &Candidate) -> Result<(NodeId, Vec<Write>), MembershipError> {
        let Candidate { name, peer, .. } = candidate;
        if name.is_empty() || name.len() > 63 || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(malformed(name, "no name of a node; give 1 to 63 letters, digits, dots and dashes"));
        }
        if !is_address(peer) {
            return Err(malformed(peer, "not of the form host:port"));
        }
        let instance = candidate.instance.to_string();
        let present = || self.nodes.iter().filter(|(_, record)| record.standing != Standing::Removed);
        if let Some((id, _)) = present().find(|(_, record)| record.instance == instance) {
            return Ok((*id, Vec::new()));
        }
        let staying = || present().filter(|(_, record)| record.standing != Standing::Leaving);
        if staying().any(|(_, record)| record.name == *name) {
            return Err(MembershipError::NameTaken { name: name.clone() });
        }
        if let Some((_, other)) = staying().find(|(_, record)| record.peer == *peer) {
            return Err(MembershipError::AddressTaken { peer: peer.clone(), name: other.name.clone() });
        }
        let id = NodeId::new(self.cluster.next_node);
        let cluster = ClusterRecord { next_node: self.cluster.next_node + 1, ..self.cluster.clone() };
        let record = NodeRecord {
            name: name.clone(),
            peer: peer.clone(),
            zone: candidate.zone.clone(),
            relay: candidate.relay,
            instance,
            standing: Standing::Member,
            version: candidate.version.clone(),
            rest: Rest::default(),
        };
        Ok((id, vec![encode(CLUSTER_KEY.into(), &cluster), encode(node_key(id), &record)]))
    }

    /// What a node says of itself, where that is news.
    pub(crate) fn introduce(&self, node: NodeId, own: &Candidate) -> Option<Write> {
        let known = self.nodes.get(&node).filter(|known| known.has(own.instance))?;
        let others_vote = self.nodes.iter().any(|(other, record)| *other != node && record.may_vote());
        let now = NodeRecord {
            peer: own.peer.clone(),
            zone: own.zone.clone(),
            // Somebody has to vote.
            relay: own.relay && (others_vote || known.relay),
            instance: own.instance.to_string(),
            version: own.version.clone(),
            ..known.clone()
        };
        (now != *known).then(|| encode(node_key(node), &now))
    }

    /// Gives a node another standing.
    pub(crate) fn stand(&self, name: &str, standing: Standing) -> Result<Vec<Write>, MembershipError> {
        let name = || name.to_owned();
        let (id, record) = self.named(&name()).ok_or_else(|| MembershipError::Unknown { name: name() })?;
        if record.standing == standing {
            return Ok(Vec::new());
        }
        if record.standing == Standing::Leaving {
            return Err(MembershipError::Leaving { name: name() });
        }
        let others = self.nodes.iter().filter(|(other, record)| **other != id && record.may_vote());
        if standing != Standing::Member && others.count() == 0 {
            return Err(MembershipError::Last { name: name() });
        }
        Ok(vec![encode(node_key(id), &NodeRecord { standing, ..record.clone() })])
    }

    /// Takes note that a node that was leaving has gone.
    pub(crate) fn removed(&self, node: NodeId) -> Option<Write> {
        let record = self.nodes.get(&node).filter(|record| record.standing == Standing::Leaving)?;
        Some(encode(node_key(node), &NodeRecord { standing: Standing::Removed, ..record.clone() }))
    }

    /// Sets how many voters each group should have.
    pub(crate) fn want_replicas(&self, replicas: usize) -> Result<Vec<Write>, MembershipError> {
        if replicas == 0 || replicas > REPLICAS_MAX {
            return Err(MembershipError::Replicas { replicas });
        }
        Ok(vec![encode(CLUSTER_KEY.into(), &ClusterRecord { replicas, ..self.cluster.clone() })])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kv_core::placement;

    use super::*;

    const CLUSTER: ClusterId = ClusterId::new([7; 16]);

    fn candidate(name: &str, instance: u8) -> Candidate {
        Candidate {
            name: name.into(),
            peer: format!("{name}:1"),
            zone: String::new(),
            relay: false,
            instance: InstanceId::new([instance; 16]),
            version: "1".into(),
        }
    }

    fn written(catalog: Option<Catalog>, writes: Vec<Write>) -> Catalog {
        let (mut cluster, mut nodes) = match catalog {
            Some(catalog) => (Some(catalog.cluster), catalog.nodes),
            None => (None, BTreeMap::new()),
        };
        for (key, value) in writes {
            super::super::read(key.as_bytes(), &value, &mut cluster, &mut nodes).unwrap();
        }
        Catalog { cluster: cluster.unwrap(), nodes }
    }

    fn founded() -> Catalog {
        let founder = |id| MemberInfo { id: NodeId::new(id), name: format!("n{id}"), peer: format!("n{id}:1") };
        written(None, found(CLUSTER, &[founder(1), founder(2)], &Stored::default()))
    }

    #[test]
    fn an_id_is_given_once_and_again_only_to_the_same_directory() {
        let catalog = founded();
        let (first, writes) = catalog.join(&candidate("n3", 3)).unwrap();
        let catalog = written(Some(catalog), writes);
        assert_eq!(catalog.join(&candidate("n3", 3)), Ok((first, Vec::new())));
        assert_eq!(catalog.join(&candidate("n3", 4)), Err(MembershipError::NameTaken { name: "n3".into() }));
        let leaving = catalog.stand("n3", Standing::Leaving).unwrap();
        let catalog = written(Some(catalog), leaving);
        // Its name is free at once, its id is not.
        let (second, writes) = catalog.join(&candidate("n3", 4)).unwrap();
        assert_eq!((first, second), (NodeId::new(3), NodeId::new(4)));
        let catalog = written(Some(catalog), writes);
        let catalog = written(Some(catalog.clone()), vec![catalog.removed(first).unwrap()]);
        assert_eq!(catalog.members().map(|member| member.id.get()).collect::<Vec<_>>(), [1, 2, 4]);
        assert!(catalog.admits(first, Some(InstanceId::new([3; 16]))).unwrap_err().contains("was removed"));
    }

    #[test]
    fn a_restored_cluster_knows_the_old_ones_nodes_and_has_none_of_them() {
        let old = founded();
        let (_, writes) = old.join(&candidate("n3", 3)).unwrap();
        let Catalog { cluster, nodes } = written(Some(old), writes);
        let founder = MemberInfo { id: NodeId::new(1), name: "m1".into(), peer: "m1:1".into() };
        let new = ClusterId::new([8; 16]);
        let before = (Some(cluster), nodes);
        let writes = found(new, std::slice::from_ref(&founder), &before);
        let catalog = written(Some(Catalog { cluster: before.0.unwrap(), nodes: before.1 }), writes);
        assert_eq!(catalog.members().collect::<Vec<_>>(), [founder]);
        assert_eq!(catalog.cluster.cluster, new.to_string());
        assert_eq!(catalog.cluster.next_node, 4, "no id is given again");
    }

    #[test]
    fn a_node_that_lost_its_directory_is_not_taken_for_itself() {
        let catalog = founded();
        let n2 = NodeId::new(2);
        let write = catalog.introduce(n2, &candidate("n2", 2)).unwrap();
        let catalog = written(Some(catalog), vec![write]);
        assert_eq!(catalog.introduce(n2, &candidate("n2", 2)), None, "nothing new");
        assert_eq!(catalog.introduce(n2, &candidate("n2", 9)), None, "not the same");
        assert_eq!(catalog.admits(n2, Some(InstanceId::new([2; 16]))), Ok(()));
        assert!(catalog.admits(n2, Some(InstanceId::new([9; 16]))).unwrap_err().contains("cluster replace n2"));
    }

    #[test]
    fn the_last_member_stays() {
        let catalog = founded();
        let catalog = written(Some(catalog.clone()), catalog.stand("n1", Standing::Draining).unwrap());
        assert_eq!(catalog.stand("n2", Standing::Leaving), Err(MembershipError::Last { name: "n2".into() }));
        assert!(catalog.stand("n1", Standing::Member).is_ok());
    }

    #[test]
    fn what_a_later_version_added_is_kept() {
        let record = r#"{"name":"n1","peer":"n1:1","standing":"member","colour":"red"}"#;
        let (mut cluster, mut nodes) = (None, BTreeMap::new());
        super::super::read(b"node/1", record.as_bytes(), &mut cluster, &mut nodes).unwrap();
        super::super::read(b"colours/1", b"\xff", &mut cluster, &mut nodes).unwrap();
        assert_eq!(encode("node/1".into(), &nodes[&NodeId::new(1)]).1, record.as_bytes());
    }

    #[test]
    fn a_relay_stays_one_through_draining_and_is_none_when_it_says_so() {
        let catalog = founded();
        let relay = Candidate { relay: true, ..candidate("r1", 9) };
        let (id, writes) = catalog.join(&relay).unwrap();
        let catalog = written(Some(catalog), writes);
        assert_eq!(catalog.nodes[&id].placed(), Some(placement::Standing::Draining));
        let drained = written(Some(catalog.clone()), catalog.stand("n2", Standing::Draining).unwrap());
        assert!(
            matches!(drained.stand("n1", Standing::Draining), Err(MembershipError::Last { .. })),
            "nobody would vote"
        );
        let catalog = written(Some(catalog.clone()), catalog.stand("r1", Standing::Draining).unwrap());
        let catalog = written(Some(catalog.clone()), catalog.stand("r1", Standing::Member).unwrap());
        assert!(!catalog.nodes[&id].may_vote());
        let voter = Candidate { relay: false, ..relay };
        let write = catalog.introduce(id, &voter).unwrap();
        assert!(written(Some(catalog), vec![write]).nodes[&id].may_vote());
        // The last that votes stays a voter.
        let n1 = Candidate { relay: true, ..candidate("n1", 1) };
        let write = drained.introduce(NodeId::new(1), &n1).unwrap();
        assert!(written(Some(drained), vec![write]).nodes[&NodeId::new(1)].may_vote());
    }
}
