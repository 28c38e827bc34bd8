//! How this node is.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;
use kv_core::NodeId;
use kv_node::{Node, Replicas, Step};
use serde::{Deserialize, Serialize};

use crate::{view::View, watch::Hub};

/// What a node reports of itself. In JSON between nodes, whose versions may differ: fields are added, never changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    pub(crate) resident_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_free_bytes: u64,
    pub(crate) disk_full: bool,
    pub(crate) disk_nearly_full: bool,
    pub(crate) networks: u64,
    pub(crate) endpoints: u64,
    pub(crate) watching_hosts: u64,
    /// Where clients and hosts reach it: `host:port`.
    pub(crate) client_address: String,
    pub(crate) version: String,
    pub(crate) groups: Vec<GroupReport>,
    /// From the node that governs placement only.
    pub(crate) placement: Option<PlacementReport>,
}

/// What a node reports of one group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GroupReport {
    pub(crate) group: u16,
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    pub(crate) keyspaces: u64,
    pub(crate) problem: Option<String>,
}

/// How replicas are placed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PlacementReport {
    pub(crate) groups: Vec<Replicas>,
    pub(crate) steps: Vec<Step>,
}

/// Makes this node's reports.
pub(crate) struct Own {
    node: Node,
    view: Arc<View>,
    hub: Arc<Hub>,
    /// Where it listens for clients.
    client: SocketAddr,
    /// When this node started.
    started: SystemTime,
}

impl Own {
    pub(crate) fn new(node: Node, view: Arc<View>, hub: Arc<Hub>, client: SocketAddr) -> Self {
        Own { node, view, hub, client, started: SystemTime::now() }
    }

    /// Where the client port is reached. Of a port on all addresses: at the host at which other nodes reach this one.
    pub(crate) fn client_address(&self) -> String {
        let members = self.node.members();
        let own = members.iter().find(|member| member.id == self.node.id() && self.client.ip().is_unspecified());
        match own.and_then(|member| member.peer.rsplit_once(':')) {
            Some((host, _)) => format!("{host}:{}", self.client.port()),
            None => self.client.to_string(),
        }
    }

    /// When this node started, in seconds since 1970.
    pub(crate) fn started(&self) -> f64 {
        self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }

    /// How this node is now.
    pub(crate) fn report(&self) -> Report {
        let (networks, endpoints) = self.view.counts();
        let group = |group: kv_node::GroupStatus| GroupReport {
            group: group.group.get(),
            leader: group.leader,
            term: group.term,
            committed: group.committed,
            applied: group.applied,
            keyspaces: group.keyspaces,
            problem: group.problem,
        };
        let room = self.node.disk_room();
        let placement = self
            .node
            .placement()
            .map(|placement| PlacementReport { groups: placement.groups.clone(), steps: placement.steps.clone() });
        Report {
            resident_bytes: resident_bytes(),
            disk_bytes: self.node.disk_bytes(),
            disk_free_bytes: room.free_bytes,
            disk_full: room.is_full(),
            disk_nearly_full: room.is_nearly_full(),
            networks,
            endpoints,
            watching_hosts: self.hub.connected() as u64,
            client_address: self.client_address(),
            version: env!("CARGO_PKG_VERSION").into(),
            groups: self.node.status().into_iter().map(group).collect(),
            placement,
        }
    }

    /// The same, for another node.
    pub(crate) fn encoded(&self) -> Result<Bytes, String> {
        serde_json::to_vec(&self.report()).map(Bytes::from).map_err(|error| error.to_string())
    }
}

/// Resident memory of this process; zero where the system doesn't tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}
