//! The blocks of a network in columns.
//!
//! A network that is on ten thousand hosts has at least as many blocks, and each of those hosts has to know all of them. As
//! texts a block takes some forty bytes, in columns some seven.
//!
//! Must hold: unpacking gives what was packed; what makes no sense is refused; the memory taken is in proportion to the bytes that it came in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::HostId;

/// Blocks of one size in the order of their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBlocks {
    /// The first of them.
    pub first: IpNet,
    /// How many blocks further each one after it lies than the one before it: 1 where they touch.
    pub steps: Vec<u64>,
    /// The number of each one's host.
    pub hosts: Vec<u32>,
    /// Where each host is reached, once, by number: an IPv4 address, or 0 for the next one of `underlays_v6`.
    pub underlays: Vec<u32>,
    /// The underlay addresses that are IPv6.
    pub underlays_v6: Vec<Ipv6Addr>,
}

/// A block, who has it, and where that host is reached.
pub type PlacedBlock = (IpNet, HostId, IpAddr);

/// Why columns make no blocks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// Columns don't belong together.
    #[error("{hosts} blocks come with {steps} steps and {underlays} + {underlays_v6} underlay addresses")]
    Columns {
        /// How long each of them is.
        hosts: usize,
        /// As above.
        steps: usize,
        /// As above.
        underlays: usize,
        /// As above.
        underlays_v6: usize,
    },
    /// A step leaves the addresses that there are, or goes nowhere.
    #[error("a step of {step} blocks from {from} leads to no block")]
    Step {
        /// From where.
        from: IpNet,
        /// How far.
        step: u64,
    },
}

impl PackedBlocks {
    /// Packs blocks that come by address. Those of hosts without an underlay address are left out.
    pub fn pack(
        blocks: impl IntoIterator<Item = (IpNet, HostId)>,
        underlay: impl Fn(HostId) -> Option<IpAddr>,
    ) -> Vec<Self> {
        let mut packed: Vec<Self> = Vec::new();
        let mut last: Option<IpNet> = None;
        for (block, host) in blocks.into_iter().filter(|(_, host)| underlay(*host).is_some()) {
            match (packed.last_mut(), last.and_then(|last| step(last, block))) {
                (Some(columns), Some(step)) => columns.steps.push(step),
                _ => packed.push(Self {
                    first: block,
                    steps: Vec::new(),
                    hosts: Vec::new(),
                    underlays: Vec::new(),
                    underlays_v6: Vec::new(),
                }),
            }
            if let Some(columns) = packed.last_mut() {
                columns.hosts.push(host.get());
            }
            last = Some(block);
        }
        for columns in &mut packed {
            for host in distinct(&columns.hosts) {
                match underlay(HostId::new(host)) {
                    Some(IpAddr::V4(v4)) => columns.underlays.push(v4.to_bits()),
                    Some(IpAddr::V6(v6)) => {
                        columns.underlays.push(0);
                        columns.underlays_v6.push(v6);
                    }
                    None => {}
                }
            }
        }
        packed
    }

    /// The blocks, by address.
    pub fn unpack(&self) -> Result<Vec<PlacedBlock>, PackedError> {
        let known = distinct(&self.hosts);
        let v6 = self.underlays.iter().filter(|v4| **v4 == 0).count();
        if self.steps.len() + 1 != self.hosts.len()
            || self.underlays.len() != known.len()
            || self.underlays_v6.len() != v6
        {
            return Err(PackedError::Columns {
                hosts: self.hosts.len(),
                steps: self.steps.len(),
                underlays: self.underlays.len(),
                underlays_v6: self.underlays_v6.len(),
            });
        }
        let mut v6 = self.underlays_v6.iter().copied();
        let underlays: Vec<Option<IpAddr>> = self
            .underlays
            .iter()
            .map(|v4| match v4 {
                0 => v6.next().map(IpAddr::V6),
                v4 => Some(Ipv4Addr::from_bits(*v4).into()),
            })
            .collect();
        let mut at = self.first;
        let mut blocks = Vec::with_capacity(self.hosts.len());
        for (number, step) in self.hosts.iter().zip([None].into_iter().chain(self.steps.iter().copied().map(Some))) {
            if let Some(step) = step {
                at = stepped(at, step).ok_or(PackedError::Step { from: at, step })?;
            }
            let place = known.binary_search(number).ok();
            // Both columns were found to be as long as there are hosts.
            if let Some(underlay) = place.and_then(|place| underlays[place]) {
                blocks.push((at, HostId::new(*number), underlay));
            }
        }
        Ok(blocks)
    }
}

/// Each number once, by size.
fn distinct(numbers: &[u32]) -> Vec<u32> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn position(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// How many blocks of this size lie between the beginnings of two, if the second is of the same size and comes later.
fn step(from: IpNet, to: IpNet) -> Option<u64> {
    if (from.prefix_len(), from.max_prefix_len()) != (to.prefix_len(), to.max_prefix_len()) {
        return None;
    }
    let bits = from.max_prefix_len() - from.prefix_len();
    let further = position(to.network()).checked_sub(position(from.network()))?.checked_shr(bits.into())?;
    u64::try_from(further).ok().filter(|step| *step > 0)
}

/// The block so many blocks further, if there is one.
fn stepped(from: IpNet, step: u64) -> Option<IpNet> {
    let bits = from.max_prefix_len() - from.prefix_len();
    let further = u128::from(step).checked_mul(1_u128.checked_shl(bits.into())?).filter(|further| *further > 0)?;
    let to = position(from.network()).checked_add(further)?;
    let address = match from {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(to).ok()?)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(to)),
    };
    IpNet::new(address, from.prefix_len()).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn underlay(host: HostId) -> Option<IpAddr> {
        match host.get() % 5 {
            0 => None,
            1 => Some(Ipv6Addr::from_bits(host.get().into()).into()),
            _ => Some(Ipv4Addr::from_bits(host.get()).into()),
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_block_takes_a_few_numbers() {
        let blocks = [("10.0.0.0/28", 2), ("10.0.0.16/28", 7), ("10.0.1.0/28", 2), ("fd00::/120", 3)];
        let packed = PackedBlocks::pack(blocks.map(|(block, host)| (net(block), HostId::new(host))), underlay);
        assert_eq!(packed.len(), 2);
        assert_eq!(
            (&*packed[0].steps, &*packed[0].hosts, &*packed[0].underlays),
            (&[1, 15][..], &[2, 7, 2][..], &[2, 7][..])
        );
        assert_eq!((packed[1].first, &*packed[1].hosts), (net("fd00::/120"), &[3][..]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let sound = PackedBlocks {
            first: net("255.255.255.224/28"),
            steps: vec![1],
            hosts: vec![2, 1],
            underlays: vec![0, 5],
            underlays_v6: vec![Ipv6Addr::LOCALHOST],
        };
        assert_eq!(sound.unpack().unwrap().len(), 2);
        for step in [0, 2, u64::MAX] {
            let columns = PackedBlocks { steps: vec![step], ..sound.clone() };
            assert_eq!(columns.unpack(), Err(PackedError::Step { from: sound.first, step }));
        }
        let everything = PackedBlocks { first: net("::/0"), ..sound.clone() };
        assert!(matches!(everything.unpack(), Err(PackedError::Step { .. })));
        let broken = [
            PackedBlocks { steps: Vec::new(), ..sound.clone() },
            PackedBlocks { hosts: vec![1, 1], ..sound.clone() },
            PackedBlocks { underlays: vec![4, 5], ..sound.clone() },
            PackedBlocks { underlays_v6: Vec::new(), ..sound.clone() },
            PackedBlocks { hosts: Vec::new(), steps: Vec::new(), ..sound },
        ];
        for columns in broken {
            assert!(matches!(columns.unpack(), Err(PackedError::Columns { .. })), "{columns:?}");
        }
    }

    proptest! {
        #[test]
        fn unpacking_gives_what_was_packed(
            v4 in prop::collection::btree_map((any::<u32>(), 20..=32_u8), 0..30_u32, 0..40),
            v6 in prop::collection::btree_map((any::<u128>(), 0..=128_u8), 0..30_u32, 0..40),
        ) {
            let v4 = v4.into_iter().map(|((bits, len), host)| (IpAddr::from(Ipv4Addr::from_bits(bits)), len, host));
            let v6 = v6.into_iter().map(|((bits, len), host)| (IpAddr::from(Ipv6Addr::from_bits(bits)), len, host));
            let blocks: BTreeMap<IpNet, HostId> = v4
                .chain(v6)
                .map(|(address, len, host)| (IpNet::new(address, len).unwrap().trunc(), HostId::new(host)))
                .collect();
            let packed = PackedBlocks::pack(blocks.clone(), underlay);
            let unpacked: Vec<_> = packed.iter().flat_map(|columns| columns.unpack().unwrap()).collect();
            let expected: Vec<_> = blocks
                .into_iter()
                .filter_map(|(block, host)| Some((block, host, underlay(host)?)))
                .collect();
            prop_assert_eq!(unpacked, expected);
        }
    }
}
