//! A network's state.

use std::{net::IpAddr, sync::Arc};

use imbl::OrdMap;
use ipnet::IpNet;

use super::{
    Endpoint, NetworkChange, NetworkCommand, NetworkConfig,
    blocks::Blocks,
    indexes::{Indexes, name_hash},
};
use crate::{Context, EndpointId, HostId, Labels, Refusal, text::Quoted};

/// Endpoints and blocks of one network. Cloning takes constant time; the clones share what they have in common.
///
/// The default has no settings yet: only [`NetworkCommand::Install`] is possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkState {
    pub(super) config: Option<Arc<NetworkConfig>>,
    pub(super) next_number: u32,
    endpoints: OrdMap<u32, Arc<Endpoint>>,
    pub(super) blocks: Blocks,
    pub(super) indexes: Indexes,
}

impl NetworkState {
    /// Says what a command changes, or refuses it. The changes are to be made in order, all or none.
    pub fn decide(&self, command: NetworkCommand, context: &Context) -> Result<Vec<NetworkChange>, Refusal> {
        super::decide::decide(self, command, context)
    }

    /// Makes a change.
    pub fn evolve(&mut self, change: &NetworkChange) {
        match change {
            NetworkChange::Config(config) => self.put_config(config),
            NetworkChange::Block { block, host } => self.put_owner(*block, Some(*host)),
            NetworkChange::BlockGone(block) => self.put_owner(*block, None),
            NetworkChange::Endpoint(endpoint) => self.put_endpoint(endpoint),
            NetworkChange::EndpointGone(number) => self.remove_endpoint(*number),
            NetworkChange::NextNumber(number) => self.next_number = *number,
        }
    }

    fn put_config(&mut self, config: &NetworkConfig) {
        let config = Arc::new(config.clone());
        self.config = Some(Arc::clone(&config));
        // Blocks are indexed by the settings' pools and block lengths. These change only where nothing is attached yet,
        // or where records come in another order than they were written in.
        if self.blocks.shaped_by(&config) {
            return;
        }
        self.blocks = self.blocks.reshaped(&config);
        for endpoint in self.endpoints.values() {
            for address in endpoint.addresses.iter() {
                self.blocks.take(address, endpoint.number());
            }
        }
        for endpoint in self.endpoints.values() {
            self.indexes.set_stray(endpoint.number(), self.blocks.strayed(endpoint));
        }
    }

    fn put_owner(&mut self, block: IpNet, host: Option<HostId>) {
        self.blocks.set_owner(block, host);
        for number in self.blocks.numbers_in(block) {
            if let Some(endpoint) = self.endpoints.get(&number) {
                self.indexes.set_stray(number, self.blocks.strayed(endpoint));
            }
        }
    }

    fn put_endpoint(&mut self, endpoint: &Arc<Endpoint>) {
        self.remove_endpoint(endpoint.number());
        let endpoint = self.indexes.add(endpoint);
        for address in endpoint.addresses.iter() {
            self.blocks.take(address, endpoint.number());
        }
        self.indexes.set_stray(endpoint.number(), self.blocks.strayed(&endpoint));
        self.endpoints.insert(endpoint.number(), endpoint);
    }

    fn remove_endpoint(&mut self, number: u32) {
        let Some(endpoint) = self.endpoints.remove(&number) else { return };
        self.indexes.remove(&endpoint);
        for address in endpoint.addresses.iter() {
            self.blocks.release(address, number);
        }
    }

    /// The settings; none before the network is prepared.
    pub fn config(&self) -> Option<&NetworkConfig> {
        self.config.as_deref()
    }

    /// How many endpoints are attached.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether no endpoint is attached.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// All endpoints, by number.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.endpoints.values().map(|endpoint| &**endpoint)
    }

    /// The endpoints with numbers above this one, by number: for going through them in steps.
    pub fn endpoints_after(&self, number: u32) -> impl Iterator<Item = &Endpoint> {
        let range = (std::ops::Bound::Excluded(number), std::ops::Bound::Unbounded);
        self.endpoints.range(range).map(|(_, endpoint)| &**endpoint)
    }

    /// The endpoint with this number.
    pub fn endpoint(&self, number: u32) -> Option<&Endpoint> {
        self.endpoints.get(&number).map(|endpoint| &**endpoint)
    }

    /// The endpoint with this number, shared.
    pub fn endpoint_shared(&self, number: u32) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(&number)
    }

    /// The endpoint with this name.
    pub fn endpoint_named(&self, name: &str) -> Option<&Endpoint> {
        self.endpoint_hashed(name_hash(name), name)
    }

    /// The endpoint with this name, whose hash is known.
    pub(super) fn endpoint_hashed(&self, hash: u64, name: &str) -> Option<&Endpoint> {
        self.indexes.candidates(hash).filter_map(|number| self.endpoint(number)).find(|own| own.name.as_str() == name)
    }

    /// The endpoint that has this address.
    pub fn endpoint_at(&self, address: IpAddr) -> Option<&Endpoint> {
        self.blocks.holder(address).and_then(|number| self.endpoint(number))
    }

    /// The endpoint that a name or an id (`e7.42`) means.
    pub fn resolve(&self, wanted: &str) -> Result<&Endpoint, Refusal> {
        let config = self.config().ok_or(Refusal::NotInstalled)?;
        let found = match wanted.parse::<EndpointId>() {
            Ok(id) => self.endpoint(id.number()).filter(|own| own.id == id),
            Err(_) => self.endpoint_named(wanted),
        };
        found.ok_or_else(|| Refusal::UnknownEndpoint { wanted: Quoted::new(wanted), network: config.name.clone() })
    }

    /// The endpoints on a host, by number.
    pub fn on_host(&self, host: HostId) -> impl Iterator<Item = &Endpoint> {
        self.indexes.on_host(host).filter_map(|number| self.endpoint(number))
    }

    /// How many endpoints are on a host.
    pub fn count_on(&self, host: HostId) -> usize {
        self.indexes.count_on(host)
    }

    /// The hosts that have an endpoint, by id.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.indexes.hosts()
    }

    /// The blocks that hosts have, by address.
    pub fn blocks(&self) -> impl Iterator<Item = (IpNet, HostId)> {
        self.blocks.owned()
    }

    /// The host that has the block of this address.
    pub fn block_owner(&self, address: IpAddr) -> Option<HostId> {
        self.blocks.owner(address)
    }

    /// How many addresses of a block are in use.
    pub fn used_in(&self, block: IpNet) -> u32 {
        self.blocks.used_in(block)
    }

    /// Endpoints with an address that lies in no block of their host, by number.
    pub fn strays(&self) -> impl Iterator<Item = &Endpoint> {
        self.indexes.strays().filter_map(|number| self.endpoint(number))
    }

    /// Whether the endpoint with this number is a stray.
    pub fn is_stray(&self, number: u32) -> bool {
        self.indexes.is_stray(number)
    }

    /// The endpoints in quarantine, by number.
    pub fn quarantined(&self) -> impl Iterator<Item = &Endpoint> {
        self.indexes.quarantined().filter_map(|number| self.endpoint(number))
    }

    /// The different sets of labels that endpoints have, and how many have each.
    pub fn label_sets(&self) -> impl Iterator<Item = (&Labels, usize)> {
        self.indexes.label_sets()
    }
}
