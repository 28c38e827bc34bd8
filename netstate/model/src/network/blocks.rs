//! Blocks: which host has which, and which of their addresses are taken.
//!
//! Must hold: what is here follows from the settings, the blocks' owners and the endpoints' addresses, whatever the
//! order in which they became known. So an address can be taken in a block that nobody has yet.

use std::{net::IpAddr, sync::Arc};

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use super::{Endpoint, Family, NetworkConfig, address, shape::Shape};
use crate::HostId;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks {
    shape: Shape,
    /// By first address: blocks that somebody has or that have taken addresses.
    blocks: OrdMap<IpAddr, Arc<Block>>,
    /// Blocks with a free address that a host has.
    roomy_of: OrdSet<(HostId, IpAddr)>,
    /// The same without their hosts.
    roomy: OrdSet<IpAddr>,
    /// Blocks that a host has and no endpoint uses.
    empty: OrdSet<IpAddr>,
    /// Blocks that nobody has, as ranges: first addresses of the first and the last block. Ranges never touch, except
    /// where pools do.
    free: OrdMap<IpAddr, IpAddr>,
}

/// One block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    owner: Option<HostId>,
    /// Taken addresses by their place in the block, with the endpoint's number, or none where the address is reserved.
    /// More than one endpoint for an address is possible only between two changes of one commit.
    taken: Vec<(u16, Option<u32>)>,
    reserved: u16,
}

/// What the indexes say of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    owner: Option<HostId>,
    room: bool,
    used: bool,
}

impl Block {
    /// A block with nothing taken but these places, which come in order.
    pub(super) fn reserving(places: impl Iterator<Item = u16>) -> Self {
        let taken: Vec<_> = places.map(|place| (place, None)).collect();
        Block { owner: None, reserved: taken.len() as u16, taken }
    }

    fn entry(&self, size: u32) -> Entry {
        let used = self.taken.len() > usize::from(self.reserved);
        Entry { owner: self.owner, room: self.taken.len() < size as usize, used }
    }

    fn holder(&self, offset: u16) -> Option<Option<u32>> {
        let at = self.taken.partition_point(|(taken, _)| *taken < offset);
        self.taken.get(at).filter(|(taken, _)| *taken == offset).map(|(_, number)| *number)
    }

    /// The lowest place that is not taken.
    fn lowest_free(&self) -> u16 {
        let gap = self.taken.iter().zip(0..).find(|((taken, _), place)| taken != place);
        gap.map_or(self.taken.len() as u16, |(_, place)| place)
    }
}

impl Blocks {
    pub(super) fn shaped_by(&self, config: &NetworkConfig) -> bool {
        self.shape == Shape::of(config)
    }

    /// Blocks of the same owners under other settings, with no address taken.
    pub(super) fn reshaped(&self, config: &NetworkConfig) -> Self {
        let mut blocks = Blocks { shape: Shape::of(config), ..Blocks::default() };
        for pool in &config.pools {
            if let Some((first, last)) = blocks.shape.usable(pool) {
                blocks.free.insert(first, last);
            }
        }
        for (block, owner) in self.owned() {
            blocks.set_owner(block, Some(owner));
        }
        blocks
    }

    /// Gives a block to a host, or to nobody.
    pub(super) fn set_owner(&mut self, block: IpNet, owner: Option<HostId>) {
        self.change(block.network(), |block| block.owner = owner);
    }

    /// Notes that an endpoint has an address.
    pub(super) fn take(&mut self, address: IpAddr, number: u32) {
        let slot = (self.shape.offset(address), Some(number));
        self.change(address, |block| {
            if let Err(at) = block.taken.binary_search(&slot) {
                block.taken.insert(at, slot);
            }
        });
    }

    /// Notes that an endpoint no longer has an address.
    pub(super) fn release(&mut self, address: IpAddr, number: u32) {
        let slot = (self.shape.offset(address), Some(number));
        self.change(address, |block| {
            if let Ok(at) = block.taken.binary_search(&slot) {
                block.taken.remove(at);
            }
        });
    }

    /// Changes the block of an address and what the indexes say of it.
    fn change(&mut self, address: IpAddr, change: impl FnOnce(&mut Block)) {
        let (base, size) = (self.shape.base(address), self.shape.size(Family::of(address)));
        let shape = &self.shape;
        let block = Arc::make_mut(self.blocks.entry(base).or_insert_with(|| Arc::new(shape.block(base))));
        let before = block.entry(size);
        change(block);
        let after = block.entry(size);
        if !after.used && after.owner.is_none() {
            self.blocks.remove(&base);
        }
        if before != after {
            self.unlist(base, before);
            self.list(base, after);
        }
    }

    fn unlist(&mut self, base: IpAddr, Entry { owner, .. }: Entry) {
        match owner {
            Some(owner) => {
                self.roomy_of.remove(&(owner, base));
                self.roomy.remove(&base);
                self.empty.remove(&base);
            }
            None => self.free_remove(base),
        }
    }

    fn list(&mut self, base: IpAddr, Entry { owner, room, used }: Entry) {
        match owner {
            Some(owner) if room => {
                self.roomy_of.insert((owner, base));
                self.roomy.insert(base);
                if !used {
                    self.empty.insert(base);
                }
            }
            Some(_) => {}
            // An address in a block that nobody has does not make the block less free: whoever gets it finds it taken.
            None => self.free_insert(base),
        }
    }

    /// Takes a block out of the range that has it.
    fn free_remove(&mut self, base: IpAddr) {
        let Some((&first, &last)) =
            self.free.get_prev(&base).filter(|(first, last)| same_family(**first, base) && base <= **last)
        else {
            return;
        };
        self.free.remove(&first);
        if first < base {
            self.free.insert(first, self.shape.before(base));
        }
        if base < last {
            self.free.insert(self.shape.after(base), last);
        }
    }

    /// Puts a block with the ranges that it touches.
    fn free_insert(&mut self, base: IpAddr) {
        let usable = self.shape.pools.iter().filter_map(|pool| self.shape.usable(pool));
        let Some((pool_first, pool_last)) =
            usable.into_iter().find(|(first, last)| same_family(*first, base) && (*first..=*last).contains(&base))
        else {
            return;
        };
        let (mut first, mut last) = (base, base);
        if base > pool_first
            && let Some((&before, _)) = self.free.get_prev(&base).filter(|(_, end)| **end == self.shape.before(base))
        {
            self.free.remove(&before);
            first = before;
        }
        if base < pool_last
            && let Some(end) = self.free.remove(&self.shape.after(base))
        {
            last = end;
        }
        self.free.insert(first, last);
    }

    /// The endpoint that has an address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<u32> {
        self.block(address)?.holder(self.shape.offset(address)).flatten()
    }

    /// The host that has the block of an address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<HostId> {
        self.block(address)?.owner
    }

    /// Whether an address lies in no block of the endpoint's host.
    pub(super) fn strayed(&self, endpoint: &Endpoint) -> bool {
        endpoint.addresses.iter().any(|address| self.owner(address) != Some(endpoint.host))
    }

    /// The numbers of the endpoints with an address in a block.
    pub(super) fn numbers_in(&self, block: IpNet) -> Vec<u32> {
        let block = self.block(block.network());
        block.map_or_else(Vec::new, |block| block.taken.iter().filter_map(|(_, number)| *number).collect())
    }

    /// How many addresses of a block endpoints have.
    pub(super) fn used_in(&self, block: IpNet) -> u32 {
        self.block(block.network()).map_or(0, |block| block.taken.len() as u32 - u32::from(block.reserved))
    }

    /// The blocks that hosts have.
    pub(super) fn owned(&self) -> impl Iterator<Item = (IpNet, HostId)> {
        self.blocks.iter().filter_map(|(base, block)| Some((self.shape.net(*base), block.owner?)))
    }

    /// The block of an address.
    pub(super) fn block_of(&self, address: IpAddr) -> IpNet {
        self.shape.net(self.shape.base(address))
    }

    /// The lowest block of a host that has a free address.
    pub(super) fn roomy_of(&self, host: HostId, family: Family) -> Option<IpNet> {
        let (found, base) = self.roomy_of.get_next(&(host, family.address(0)))?;
        (*found == host && Family::of(*base) == family).then(|| self.shape.net(*base))
    }

    /// The lowest block that has a free address, whoever has the block.
    pub(super) fn roomy(&self, family: Family) -> Option<IpNet> {
        self.lowest(self.roomy.get_next(&family.address(0)), family)
    }

    /// The lowest block that a host has and no endpoint uses.
    pub(super) fn empty(&self, family: Family) -> Option<IpNet> {
        self.lowest(self.empty.get_next(&family.address(0)), family)
    }

    /// The lowest block that nobody has.
    pub(super) fn free(&self, family: Family) -> Option<IpNet> {
        self.lowest(self.free.get_next(&family.address(0)).map(|(first, _)| first), family)
    }

    /// The blocks of a host that no endpoint uses.
    pub(super) fn empty_of(&self, host: HostId) -> impl Iterator<Item = IpNet> {
        let range = (host, Family::V4.address(0))..=(host, Family::V6.address(u128::MAX));
        let empty = self.roomy_of.range(range).filter(|(_, base)| self.empty.contains(base));
        empty.map(|(_, base)| self.shape.net(*base))
    }

    /// The lowest free address of a block that somebody has, if there is one.
    pub(super) fn lowest_free(&self, block: IpNet) -> Option<IpAddr> {
        let base = block.network();
        let place = self.block(base)?.lowest_free();
        (u32::from(place) < self.shape.size(Family::of(base))).then(|| address::at(base, place))
    }

    fn block(&self, address: IpAddr) -> Option<&Block> {
        self.blocks.get(&self.shape.base(address)).map(|block| &**block)
    }

    fn lowest(&self, base: Option<&IpAddr>, family: Family) -> Option<IpNet> {
        base.filter(|base| Family::of(**base) == family).map(|base| self.shape.net(*base))
    }
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
