//! Addresses as numbers.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::limits;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The block length of pools that are large enough for it: 64 addresses.
    pub fn block_len_default(self) -> u8 {
        self.bits() - 6
    }

    /// The length nearest to `len` that blocks can have.
    pub(super) fn block_len_clamped(self, len: u8) -> u8 {
        len.clamp(self.bits() - limits::BLOCK_ADDRESS_BITS_MAX, self.bits())
    }

    /// The address with this number.
    pub(super) fn address(self, number: u128) -> IpAddr {
        match self {
            // Cut, not checked: numbers come out of ranges of the family.
            Family::V4 => IpAddr::from((number as u32).to_be_bytes()),
            Family::V6 => IpAddr::from(number.to_be_bytes()),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// The number of an address within its family.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The first address of the block of this length that has the address.
pub(super) fn base(address: IpAddr, len: u8) -> IpAddr {
    let family = Family::of(address);
    family.address(number(address) & !low_bits(family, len))
}

/// Where an address is in its block of this length, which has at most [`limits::BLOCK_ADDRESSES_MAX`] addresses.
pub(super) fn offset(address: IpAddr, len: u8) -> u16 {
    (number(address) & low_bits(Family::of(address), len)) as u16
}

/// The address at this place of the block that begins there.
pub(super) fn at(base: IpAddr, offset: u16) -> IpAddr {
    Family::of(base).address(number(base) + u128::from(offset))
}

fn low_bits(family: Family, len: u8) -> u128 {
    let low = family.bits().saturating_sub(len);
    if low == 0 { 0 } else { u128::MAX >> (128 - low) }
}

/// First and last address of a range, as numbers.
pub(super) fn ends(range: &IpNet) -> (u128, u128) {
    (number(range.network()), number(range.broadcast()))
}

/// Whether no endpoint may have this address of the pool.
///
/// The first names the pool itself (in IPv6: any router), the second is the gateway, and in IPv4 the last is broadcast.
/// Pools of one or two addresses have no such addresses.
pub(super) fn reserved(pool: &IpNet, address: IpAddr) -> bool {
    let ((first, last), own) = (ends(pool), number(address));
    let broadcast = Family::of(address) == Family::V4 && own == last;
    last - first > 1 && (own == first || own == first + 1 || broadcast)
}
