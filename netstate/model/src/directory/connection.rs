//! Connections: the explicit, directed permissions between networks.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Directory, Ports, Protocol, ports};
use crate::{ConnectionId, Labels, NetworkId, Selector, Timestamp};

/// One side of a connection: a network, or those of its endpoints that a selector selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Side {
    /// The network.
    pub network: NetworkId,
    /// Which of its endpoints. None: all.
    pub selector: Option<Selector>,
}

impl Side {
    /// Whether an endpoint of the side's network that has these labels is meant.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }
}

/// A permission: `from` may open flows to `to`. It never changes; only its end is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// Who may open flows.
    pub from: Side,
    /// Who may be reached.
    pub to: Side,
    /// With which protocol.
    pub protocol: Protocol,
    /// On which ports of `to`: sorted, merged. Empty: all.
    pub ports: Vec<Ports>,
    /// Why it was made.
    pub reason: String,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself. None: never.
    pub expires_at: Option<Timestamp>,
}

impl Connection {
    /// Whether it has not reached its end.
    pub fn live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether both permit the same, regardless of who made them, when and for how long.
    pub fn same_permission(&self, other: &Self) -> bool {
        (&self.from, &self.to, self.protocol, &self.ports) == (&other.from, &other.to, other.protocol, &other.ports)
    }

    /// What it opens, as people write it: `tcp/443,8000-8080`, `udp`, `everything`.
    pub fn traffic(&self) -> impl fmt::Display + use<'_> {
        ports::Traffic { protocol: self.protocol, ports: &self.ports }
    }

    /// One of its sides as people write it: the network's name, and the selector in brackets.
    pub fn side_text(side: &Side, directory: &Directory) -> String {
        let network = directory.network(side.network);
        let name = network.map_or_else(|| side.network.to_string(), |network| network.name.to_string());
        match &side.selector {
            Some(selector) => format!("{name}[{selector}]"),
            None => name,
        }
    }
}
