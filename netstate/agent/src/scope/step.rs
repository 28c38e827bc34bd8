//! A frame as typed values, and what it does to a scope: what is removed goes first, then what is given comes.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use netstate_model::{ConnectionId, EndpointId, HostId, Mac, NetnsName, NetworkId};

use super::{Block, Connection, FrameError, HostScope, LocalEndpoint, Place};

/// One step from a consistent scope to the next.
#[derive(Clone, Debug)]
pub struct Step {
    pub(super) host: Option<HostId>,
    pub(super) directory_revision: u64,
    pub(super) networks_gone: Vec<NetworkId>,
    pub(super) connections_gone: Vec<ConnectionId>,
    pub(super) connections: Vec<ConnectionStep>,
    pub(super) networks: Vec<NetworkStep>,
    pub(super) locals: Vec<LocalStep>,
    pub(super) members: Vec<Members>,
    pub(super) complete: bool,
}

/// What happens to a map: emptied first when `full`, then what is gone goes, then what is given comes.
#[derive(Clone, Debug)]
pub(super) struct Change<K, V> {
    pub(super) full: bool,
    pub(super) given: Vec<(K, V)>,
    pub(super) gone: Vec<K>,
}

#[derive(Clone, Debug)]
pub(super) struct ConnectionStep {
    pub(super) id: ConnectionId,
    pub(super) connection: Connection,
}

#[derive(Clone, Debug)]
pub(super) struct NetworkStep {
    pub(super) id: NetworkId,
    /// Present when all that was held is replaced.
    pub(super) name: Option<String>,
    pub(super) revision: u64,
    pub(super) pools: Vec<IpNet>,
    pub(super) blocks: Vec<(IpNet, Block)>,
    pub(super) blocks_gone: Vec<IpNet>,
    pub(super) strays: Change<EndpointId, Place>,
    pub(super) quarantined: Change<EndpointId, Vec<IpAddr>>,
}

#[derive(Clone, Debug)]
pub(super) struct LocalStep {
    pub(super) network: NetworkId,
    pub(super) revision: u64,
    pub(super) endpoints: Change<EndpointId, NewEndpoint>,
}

/// A local endpoint before it has a slot.
#[derive(Clone, Debug)]
pub(super) struct NewEndpoint {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Mac,
    pub(super) netns: Option<NetnsName>,
    pub(super) quarantined: bool,
}

/// Members of one side of a connection.
#[derive(Clone, Debug)]
pub(super) struct Members {
    pub(super) connection: ConnectionId,
    pub(super) to_side: bool,
    pub(super) network: NetworkId,
    pub(super) members: Change<EndpointId, Vec<IpAddr>>,
}

impl HostScope {
    /// Applies a step whole.
    ///
    /// # Errors
    /// When the step does not fit what is held. Nothing has changed then.
    pub fn apply(&mut self, step: Step) -> Result<(), FrameError> {
        self.check(&step)?;
        self.host = step.host.or(self.host);
        self.directory_revision = step.directory_revision;
        for id in &step.connections_gone {
            self.connections.remove(id);
        }
        for id in &step.networks_gone {
            self.networks.remove(id);
        }
        for given in step.connections {
            self.connections.insert(given.id, given.connection);
        }
        for given in step.networks {
            self.network(given);
        }
        for given in step.locals {
            self.local(given);
        }
        for given in step.members {
            self.members(given);
        }
        self.complete |= step.complete;
        Ok(())
    }

    fn check(&self, step: &Step) -> Result<(), FrameError> {
        let kept = |id: &NetworkId| self.networks.contains_key(id) && !step.networks_gone.contains(id);
        let given = |id: &NetworkId| step.networks.iter().any(|network| network.id == *id && network.name.is_some());
        for network in &step.networks {
            if network.name.is_none() && !kept(&network.id) && !given(&network.id) {
                return Err(FrameError::Unfounded { what: network.id.to_string() });
            }
        }
        for local in &step.locals {
            if !kept(&local.network) && !given(&local.network) {
                return Err(FrameError::Unfounded { what: format!("endpoints of {}", local.network) });
            }
        }
        for members in &step.members {
            let new = step.connections.iter().rfind(|new| new.id == members.connection).map(|new| &new.connection);
            let held = self.connections.get(&members.connection);
            let held = held.filter(|_| !step.connections_gone.contains(&members.connection));
            let side = new.or(held).map(|it| if members.to_side { &it.to } else { &it.from });
            if side.is_none_or(|side| side.members.is_none() || side.network != members.network) {
                return Err(FrameError::Unfounded { what: format!("members of {}", members.connection) });
            }
        }
        self.check_pools(step)
    }

    /// Sets of networks' pools hold no overlaps: the kernel would refuse them, and who is who would be unclear.
    fn check_pools(&self, step: &Step) -> Result<(), FrameError> {
        let mut pools: BTreeMap<IpNet, NetworkId> = BTreeMap::new();
        let given: Vec<_> = step.networks.iter().filter(|network| network.name.is_some()).collect();
        for (id, network) in &self.networks {
            if !step.networks_gone.contains(id) && !given.iter().any(|new| new.id == *id) {
                pools.extend(network.pools.iter().map(|pool| (*pool, *id)));
            }
        }
        for network in given {
            for pool in &network.pools {
                // In the order of addresses, an overlapping pool is the last that begins before this one's end.
                let last = pools.range(..=IpNet::from(pool.broadcast())).next_back();
                if let Some((other_pool, other)) = last.filter(|(other, _)| overlap(pool, other)) {
                    let (other, other_pool) = (*other, *other_pool);
                    return Err(FrameError::Overlap { network: network.id, pool: *pool, other, other_pool });
                }
                pools.insert(*pool, network.id);
            }
        }
        Ok(())
    }

    fn network(&mut self, step: NetworkStep) {
        let network = self.networks.entry(step.id).or_default();
        if let Some(name) = step.name {
            network.name = name;
            network.pools = step.pools;
            network.blocks.clear();
        }
        network.revision = network.revision.max(step.revision);
        for block in step.blocks_gone {
            network.blocks.remove(&block);
        }
        network.blocks.extend(step.blocks);
        step.strays.apply(&mut network.strays);
        step.quarantined.apply(&mut network.quarantined);
    }

    fn local(&mut self, step: LocalStep) {
        let mut slots = self.slots();
        let Some(network) = self.networks.get_mut(&step.network) else { return };
        let Change { full, given, gone } = step.endpoints;
        let before = network.endpoints.clone();
        if full {
            network.endpoints.clear();
        }
        for id in gone {
            network.endpoints.remove(&id);
        }
        for (id, new) in given {
            let NewEndpoint { name, addresses, mac, netns, quarantined } = new;
            let slot = match before.get(&id) {
                Some(known) if known.netns == netns => known.slot,
                _ => netns.as_ref().map_or(0, |netns| slots.take(netns)),
            };
            network.endpoints.insert(id, LocalEndpoint { name, addresses, mac, netns, quarantined, slot });
        }
        network.local = true;
        network.revision = network.revision.max(step.revision);
    }

    fn members(&mut self, step: Members) {
        if let Some(connection) = self.connections.get_mut(&step.connection) {
            let side = if step.to_side { &mut connection.to } else { &mut connection.from };
            step.members.apply(side.members.get_or_insert_default());
        }
    }

    fn slots(&self) -> Slots {
        let mut slots = Slots::default();
        for (_, _, endpoint) in self.locals() {
            if let Some(netns) = &endpoint.netns {
                slots.taken.entry(netns.clone()).or_default().push(endpoint.slot);
            }
        }
        slots
    }
}

impl<V> Change<EndpointId, V> {
    fn apply(self, held: &mut BTreeMap<EndpointId, V>) {
        if self.full {
            held.clear();
        }
        for id in self.gone {
            held.remove(&id);
        }
        held.extend(self.given);
    }
}

/// Interfaces taken in each namespace.
#[derive(Default)]
struct Slots {
    taken: BTreeMap<NetnsName, Vec<u16>>,
}

impl Slots {
    fn take(&mut self, netns: &NetnsName) -> u16 {
        let taken = self.taken.entry(netns.clone()).or_default();
        let free = (0..u16::MAX).find(|slot| !taken.contains(slot)).unwrap_or(u16::MAX);
        taken.push(free);
        free
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}
