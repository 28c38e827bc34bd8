//! Which addresses endpoints get: a plan, with nothing left to decide.
//!
//! Works on a copy of the blocks in which the plan's earlier parts are made already.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{Attach, Family, NetworkChange, NetworkConfig, NetworkState, address, blocks::Blocks, endpoint::Addresses};
use crate::{HostId, Name, Refusal};

pub(super) struct Plan<'a> {
    state: &'a NetworkState,
    config: &'a NetworkConfig,
    blocks: Blocks,
    /// The number of the first endpoint of the batch.
    first: u32,
    /// The block that a host's latest address came from.
    current: BTreeMap<(HostId, Family), IpNet>,
    /// Blocks that change hands.
    pub(super) changes: Vec<NetworkChange>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(state: &'a NetworkState, config: &'a NetworkConfig, first: u32) -> Self {
        Plan { state, config, blocks: state.blocks.clone(), first, current: BTreeMap::new(), changes: Vec::new() }
    }

    /// The addresses of a batch of endpoints, numbered from the plan's first number.
    ///
    /// Those asked for come first, so that none of them is given to another endpoint of the batch that takes any.
    pub(super) fn addresses(&mut self, batch: &[Attach]) -> Result<Vec<Addresses>, Refusal> {
        let mut planned = vec![Addresses::default(); batch.len()];
        for ((attach, own), number) in batch.iter().zip(&mut planned).zip(self.first..) {
            for &address in &attach.addresses {
                if let Some(first) = own.set(address) {
                    return Err(Refusal::TwoAddresses { name: attach.name.clone(), first, second: address });
                }
                self.check(attach, address, batch)?;
                if self.blocks.owner(address).is_none() {
                    self.give(self.blocks.block_of(address), attach.host);
                }
                self.blocks.take(address, number);
            }
        }
        for family in Family::ALL.into_iter().filter(|family| self.config.has(*family)) {
            for ((attach, own), number) in batch.iter().zip(&mut planned).zip(self.first..) {
                if own.iter().all(|there| Family::of(there) != family) {
                    let address = self.any(family, attach.host).ok_or_else(|| self.exhausted(&attach.name, family))?;
                    self.blocks.take(address, number);
                    own.set(address);
                }
            }
        }
        Ok(planned)
    }

    /// Whether an endpoint may have the address that it asks for.
    fn check(&self, attach: &Attach, address: IpAddr, batch: &[Attach]) -> Result<(), Refusal> {
        let name = || attach.name.clone();
        let outside = || Refusal::AddressOutside { name: name(), address, pools: self.config.pools_text(None) };
        let pool = self.config.pool_of(address).ok_or_else(outside)?;
        if address::reserved(&pool, address) {
            return Err(Refusal::AddressReserved { name: name(), address, pool });
        }
        let Some(holder) = self.blocks.holder(address) else { return Ok(()) };
        let in_batch = || holder.checked_sub(self.first).and_then(|at| batch.get(at as usize)).map(|other| &other.name);
        let holder = self.state.endpoint(holder).map(|other| &other.name).or_else(in_batch);
        let holder = holder.expect("an address is held by an endpoint of the state or of the batch").clone();
        Err(Refusal::AddressTaken { name: name(), address, holder })
    }

    /// A free address for an endpoint on this host: of a block of its own; else of a block that nobody has or uses,
    /// which it then gets; else of any block.
    fn any(&mut self, family: Family, host: HostId) -> Option<IpAddr> {
        // Looking for a block costs more than the rest. A plan only takes addresses, so the lowest block with room
        // stays that until it is full.
        if let Some(address) = self.current.get(&(host, family)).and_then(|own| self.blocks.lowest_free(*own)) {
            return Some(address);
        }
        let own = self.blocks.roomy_of(host, family).or_else(|| {
            let unused = self.blocks.free(family).or_else(|| self.blocks.empty(family))?;
            self.give(unused, host);
            Some(unused)
        });
        if let Some(own) = own {
            self.current.insert((host, family), own);
        }
        own.or_else(|| self.blocks.roomy(family)).and_then(|block| self.blocks.lowest_free(block))
    }

    fn give(&mut self, block: IpNet, host: HostId) {
        self.blocks.set_owner(block, Some(host));
        self.changes.push(NetworkChange::Block { block, host });
    }

    fn exhausted(&self, name: &Name, family: Family) -> Refusal {
        let (name, network) = (name.clone(), self.config.name.clone());
        Refusal::PoolExhausted { name, network, family, pools: self.config.pools_text(Some(family)) }
    }
}
