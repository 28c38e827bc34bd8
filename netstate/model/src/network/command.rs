//! What may be asked of a network's own keyspace.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::NetworkConfig;
use crate::{HostId, Labels, Mac, Name, NetnsName};

/// A command to one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkCommand {
    /// Prepares the network for endpoints. No change if that is done already.
    Install(NetworkConfig),
    /// Attaches endpoints, all or none, in this order; up to [`crate::limits::ATTACH_MAX`].
    Attach(Vec<Attach>),
    /// Detaches the endpoints with these numbers, all or none; up to [`crate::limits::DETACH_MAX`].
    Detach(Vec<u32>),
    /// Puts an endpoint into quarantine or takes it out. Needs a reason. No change if it is so already.
    Quarantine {
        /// The endpoint's number.
        endpoint: u32,
        /// Into quarantine, or out of it.
        on: bool,
    },
    /// Ends the network: nothing may be attached any more. Refused while endpoints are attached.
    Retire,
}

/// An endpoint to attach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Its name.
    pub name: Name,
    /// The host that it is on.
    pub host: HostId,
    /// Addresses asked for, at most one per family. Families that are missing are assigned.
    pub addresses: Vec<IpAddr>,
    /// The MAC address asked for. None: derived from the id.
    pub mac: Option<Mac>,
    /// Its labels.
    pub labels: Labels,
    /// What it belongs to. May be empty.
    pub workload: String,
    /// The network namespace to put it into.
    pub netns: Option<NetnsName>,
}
