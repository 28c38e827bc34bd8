//! How pools are cut into blocks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Family, NetworkConfig, address, blocks::Block};

/// What of the settings blocks depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) pools: Vec<IpNet>,
    len_v4: u8,
    len_v6: u8,
}

impl Default for Shape {
    fn default() -> Self {
        let [len_v4, len_v6] = Family::ALL.map(Family::block_len_default);
        Shape { pools: Vec::new(), len_v4, len_v6 }
    }
}

impl Shape {
    pub(super) fn of(config: &NetworkConfig) -> Self {
        let [len_v4, len_v6] = Family::ALL.map(|family| config.block_len(family));
        Shape { pools: config.pools.clone(), len_v4, len_v6 }
    }

    fn len(&self, family: Family) -> u8 {
        match family {
            Family::V4 => self.len_v4,
            Family::V6 => self.len_v6,
        }
    }

    /// Addresses in a block.
    pub(super) fn size(&self, family: Family) -> u32 {
        1 << (family.bits() - self.len(family))
    }

    /// The first address of the block of an address.
    pub(super) fn base(&self, address: IpAddr) -> IpAddr {
        address::base(address, self.len(Family::of(address)))
    }

    /// The place of an address in its block.
    pub(super) fn offset(&self, address: IpAddr) -> u16 {
        address::offset(address, self.len(Family::of(address)))
    }

    /// The block that begins there.
    pub(super) fn net(&self, base: IpAddr) -> IpNet {
        IpNet::new(base, self.len(Family::of(base))).expect("block lengths are clamped to their family")
    }

    /// The first address of the next block.
    pub(super) fn after(&self, base: IpAddr) -> IpAddr {
        let family = Family::of(base);
        family.address(address::number(base).saturating_add(self.size(family).into()))
    }

    /// The first address of the block before.
    pub(super) fn before(&self, base: IpAddr) -> IpAddr {
        let family = Family::of(base);
        family.address(address::number(base).saturating_sub(self.size(family).into()))
    }

    /// First addresses of the first and the last block of a pool that have an address for an endpoint. None where the
    /// pool has none.
    pub(super) fn usable(&self, pool: &IpNet) -> Option<(IpAddr, IpAddr)> {
        let family = Family::of(pool.addr());
        let size = u128::from(self.size(family));
        let (first, last) = address::ends(pool);
        let (mut first, mut last) = (address::number(self.base(family.address(first))), last);
        // At most two addresses are reserved at the beginning and one at the end: blocks of four always have one left.
        let useless = |base: u128| (base..=base + (size - 1)).all(|own| address::reserved(pool, family.address(own)));
        while size < 4 && first <= last && useless(first) {
            first += size;
        }
        while size < 4 && first < last && useless(address::number(self.base(family.address(last)))) {
            last -= size;
        }
        (first <= last).then(|| (family.address(first), self.base(family.address(last))))
    }

    /// The block that begins there, with nothing taken but what is reserved.
    pub(super) fn block(&self, base: IpAddr) -> Block {
        let Some(pool) = self.pools.iter().find(|pool| pool.contains(&base)) else { return Block::default() };
        let (first, last) = address::ends(pool);
        let begin = address::number(base);
        let end = begin + u128::from(self.size(Family::of(base)) - 1);
        let family = Family::of(base);
        let mut candidates = vec![first, first.saturating_add(1), last];
        candidates.dedup();
        let reserved = candidates
            .into_iter()
            .filter(|own| (begin..=end).contains(own) && address::reserved(pool, family.address(*own)));
        Block::reserving(reserved.map(|own| (own - begin) as u16))
    }
}
