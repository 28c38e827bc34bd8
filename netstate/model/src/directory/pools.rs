//! Checks on the pools of a new network, and the choice of its block lengths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Directory;
use crate::{Family, Refusal, limits};

/// Ranges whose addresses no endpoint can have.
const SPECIAL: [(IpAddr, u8, &str); 9] = [
    (IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8, "this host"),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8, "loopback"),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16, "link-local"),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4, "multicast"),
    (IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), 4, "reserved for the future, broadcast"),
    (IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0)), 96, "unspecified, loopback"),
    (IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), 96, "mapped from IPv4"),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10, "link-local"),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8, "multicast"),
];

/// Checks the pools of a new network against each other and against all networks that there are.
pub(super) fn check(directory: &Directory, pools: &[IpNet]) -> Result<(), Refusal> {
    if pools.is_empty() {
        return Err(Refusal::NoPools);
    }
    if pools.len() > limits::POOLS_MAX {
        return Err(Refusal::TooManyPools { found: pools.len() });
    }
    for (at, pool) in pools.iter().enumerate() {
        if pool.addr() != pool.network() {
            return Err(Refusal::PoolBits { pool: *pool, meant: pool.trunc() });
        }
        for (base, len, what) in SPECIAL {
            let special = IpNet::new_assert(base, len);
            if overlap(pool, &special) {
                return Err(Refusal::PoolSpecial { pool: *pool, special, what });
            }
        }
        if let Some(before) = pools[..at].iter().find(|before| overlap(pool, before)) {
            return Err(Refusal::PoolsOverlap { first: *before, second: *pool });
        }
        if let Some((network, other)) = directory.pool_overlapping(pool) {
            return Err(Refusal::PoolTaken { pool: *pool, other, network: network.id, name: network.name.clone() });
        }
    }
    Ok(())
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The block length of one family: the one asked for, if it fits, or one chosen to fit.
///
/// Chosen for the largest pool: blocks of 64 addresses, smaller ones where the pool would have fewer than 16 of them,
/// and of a quarter of the pool where it has less than 64 addresses. Never larger than the smallest pool.
pub(super) fn block_len(pools: &[IpNet], family: Family, asked: Option<u8>) -> Result<u8, Refusal> {
    let bits = family.bits();
    let lens = || pools.iter().filter(|pool| Family::of(pool.addr()) == family).map(IpNet::prefix_len);
    let (Some(largest), Some(smallest)) = (lens().min(), lens().max()) else {
        return match asked {
            Some(_) => Err(Refusal::BlockLenWithoutPool { family }),
            None => Ok(family.block_len_default()),
        };
    };
    if let Some(len) = asked {
        let shortest = smallest.max(bits - limits::BLOCK_ADDRESS_BITS_MAX);
        let fits = (shortest..=bits).contains(&len);
        return if fits { Ok(len) } else { Err(Refusal::BlockLen { len, family, shortest, longest: bits }) };
    }
    let parts_bits = if bits - largest >= 6 { 4 } else { 2 };
    Ok((largest + parts_bits).max(family.block_len_default()).max(smallest).min(bits))
}
