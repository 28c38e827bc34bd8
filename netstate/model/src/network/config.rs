//! What a network's own keyspace knows of its network.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Family;
use crate::{Name, Network, NetworkId, Refusal, limits};

/// A copy of what attaching needs of the directory's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// The network's id.
    pub id: NetworkId,
    /// The network's name.
    pub name: Name,
    /// Its address pools.
    pub pools: Vec<IpNet>,
    /// Prefix length of the blocks that IPv4 pools are cut into.
    pub block_len_v4: u8,
    /// Prefix length of the blocks that IPv6 pools are cut into.
    pub block_len_v6: u8,
    /// Whether it is removed: nothing may be attached any more.
    pub retired: bool,
}

impl NetworkConfig {
    /// What attaching needs of this network.
    pub fn of(network: &Network) -> Self {
        NetworkConfig {
            id: network.id,
            name: network.name.clone(),
            pools: network.pools.clone(),
            block_len_v4: network.block_len_v4,
            block_len_v6: network.block_len_v6,
            retired: false,
        }
    }

    /// Checks what everything about addresses rests on: there are pools, they begin at their range, and blocks fit into
    /// them.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.pools.is_empty() {
            return Err(Refusal::NoPools);
        }
        for pool in &self.pools {
            let family = Family::of(pool.addr());
            let len = match family {
                Family::V4 => self.block_len_v4,
                Family::V6 => self.block_len_v6,
            };
            let shortest = pool.prefix_len().max(family.bits() - limits::BLOCK_ADDRESS_BITS_MAX);
            if !(shortest..=family.bits()).contains(&len) {
                return Err(Refusal::BlockLen { len, family, shortest, longest: family.bits() });
            }
            if pool.addr() != pool.network() {
                return Err(Refusal::PoolBits { pool: *pool, meant: pool.trunc() });
            }
        }
        Ok(())
    }

    /// The block length of a family, within what blocks can have.
    pub fn block_len(&self, family: Family) -> u8 {
        let len = match family {
            Family::V4 => self.block_len_v4,
            Family::V6 => self.block_len_v6,
        };
        family.block_len_clamped(len)
    }

    /// The pool that has this address.
    pub fn pool_of(&self, address: IpAddr) -> Option<IpNet> {
        self.pools.iter().copied().find(|pool| pool.contains(&address))
    }

    /// Whether there is a pool of this family.
    pub fn has(&self, family: Family) -> bool {
        self.pools.iter().any(|pool| Family::of(pool.addr()) == family)
    }

    /// The pools of a family, for people.
    pub(super) fn pools_text(&self, family: Option<Family>) -> String {
        let meant = |pool: &&IpNet| family.is_none_or(|family| Family::of(pool.addr()) == family);
        let pools: Vec<String> = self.pools.iter().filter(meant).map(ToString::to_string).collect();
        pools.join(", ")
    }
}
