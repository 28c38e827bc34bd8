//! The blocks of a network in columns.
//!
//! A network that is on ten thousand hosts has at least as many blocks, and each of those hosts has to know all of them. As
//! texts a block takes some forty bytes, in columns some three: two for its host, and one for where that is reached, if hosts
//! that are registered one after the other have addresses near each other.
//!
//! Must hold: unpacking gives what was packed; what makes no sense is refused; the memory taken is in proportion to the bytes that it came in.

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::HostId;

/// Blocks of one size in the order of their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBlocks {
    /// The first of them.
    pub first: IpNet,
    /// How many blocks touch each other, before each gap. Those behind the last gap do, too.
    pub runs: Vec<u32>,
    /// How many blocks further the first one behind each gap lies than the last one before it: 2 where one is missing.
    pub gaps: Vec<u64>,
    /// The number of each one's host.
    pub hosts: Vec<u32>,
    /// Where each host is reached, once, by number: by how much its IPv4 address is greater than the one before it, the first
    /// one than 0. Address 0 stands for the next one of `underlays_v6`.
    pub underlay_steps: Vec<i64>,
    /// The underlay addresses that are IPv6.
    pub underlays_v6: Vec<Ipv6Addr>,
}

/// A block, who has it, and where that host is reached.
pub type PlacedBlock = (IpNet, HostId, IpAddr);

/// Why columns make no blocks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// Columns don't belong together.
    #[error("{hosts} blocks come with {runs} runs, {gaps} gaps and {underlays} + {underlays_v6} underlay addresses")]
    Columns {
        /// How long each of them is.
        hosts: usize,
        /// As above.
        runs: usize,
        /// As above.
        gaps: usize,
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
    /// A run is empty, or no block follows the last gap.
    #[error("the {hosts} blocks that there are make no such runs")]
    Runs {
        /// How many blocks there are.
        hosts: usize,
    },
    /// A step leads to what is no IPv4 address.
    #[error("a step of {step} from underlay address {from} leads to none")]
    Underlay {
        /// From where.
        from: Ipv4Addr,
        /// How far.
        step: i64,
    },
}

impl PackedBlocks {
    /// Packs blocks that come by address. Those of hosts without an underlay address are left out.
    pub fn pack(
        blocks: impl IntoIterator<Item = (IpNet, HostId)>,
        underlay: impl Fn(HostId) -> Option<IpAddr>,
    ) -> Vec<Self> {
        let mut packed: Vec<Self> = Vec::new();
        let (mut last, mut run) = (None, 0);
        for (block, host) in blocks.into_iter().filter(|(_, host)| underlay(*host).is_some()) {
            match (packed.last_mut(), last.and_then(|last| step(last, block))) {
                (Some(_), Some(1)) => run += 1,
                (Some(columns), Some(gap)) => {
                    columns.runs.push(std::mem::replace(&mut run, 1));
                    columns.gaps.push(gap);
                }
                _ => {
                    packed.push(Self::from_first(block));
                    run = 1;
                }
            }
            if let Some(columns) = packed.last_mut() {
                columns.hosts.push(host.get());
            }
            last = Some(block);
        }
        for columns in &mut packed {
            let mut before = 0;
            for address in distinct(&columns.hosts).into_iter().filter_map(|host| underlay(HostId::new(host))) {
                let v4 = match address {
                    IpAddr::V4(v4) => v4.to_bits(),
                    IpAddr::V6(v6) => {
                        columns.underlays_v6.push(v6);
                        0
                    }
                };
                columns.underlay_steps.push(i64::from(v4) - i64::from(before));
                before = v4;
            }
        }
        packed
    }

    fn from_first(first: IpNet) -> Self {
        PackedBlocks {
            first,
            runs: Vec::new(),
            gaps: Vec::new(),
            hosts: Vec::new(),
            underlay_steps: Vec::new(),
            underlays_v6: Vec::new(),
        }
    }

    /// The blocks, by address.
    pub fn unpack(&self) -> Result<Vec<PlacedBlock>, PackedError> {
        let known = distinct(&self.hosts);
        let underlays = self.underlays(known.len())?;
        let in_runs: u64 = self.runs.iter().copied().map(u64::from).sum();
        if in_runs >= self.hosts.len() as u64 || self.runs.contains(&0) {
            return Err(PackedError::Runs { hosts: self.hosts.len() });
        }
        let run_then_gap = |(run, gap): (&u32, &u64)| iter::repeat_n(1, *run as usize - 1).chain([*gap]);
        let steps = self.runs.iter().zip(&self.gaps).flat_map(run_then_gap).chain(iter::repeat(1));
        let steps = iter::once(None).chain(steps.map(Some));
        let mut at = self.first;
        let mut blocks = Vec::with_capacity(self.hosts.len());
        for (number, step) in self.hosts.iter().zip(steps) {
            if let Some(step) = step {
                at = stepped(at, step).ok_or(PackedError::Step { from: at, step })?;
            }
            // There is an underlay address for each of the known.
            if let Ok(place) = known.binary_search(number) {
                blocks.push((at, HostId::new(*number), underlays[place]));
            }
        }
        Ok(blocks)
    }

    /// The underlay addresses of so many hosts.
    fn underlays(&self, known: usize) -> Result<Vec<IpAddr>, PackedError> {
        let mismatched = || PackedError::Columns {
            hosts: self.hosts.len(),
            runs: self.runs.len(),
            gaps: self.gaps.len(),
            underlays: self.underlay_steps.len(),
            underlays_v6: self.underlays_v6.len(),
        };
        if self.runs.len() != self.gaps.len() || self.underlay_steps.len() != known {
            return Err(mismatched());
        }
        let (mut before, mut v6) = (0_u32, self.underlays_v6.iter());
        let mut underlays = Vec::with_capacity(known);
        for step in &self.underlay_steps {
            let at = i64::from(before).checked_add(*step).and_then(|at| u32::try_from(at).ok());
            before = at.ok_or(PackedError::Underlay { from: Ipv4Addr::from_bits(before), step: *step })?;
            underlays.push(match before {
                0 => (*v6.next().ok_or_else(mismatched)?).into(),
                v4 => Ipv4Addr::from_bits(v4).into(),
            });
        }
        if v6.next().is_some() {
            return Err(mismatched());
        }
        Ok(underlays)
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
        assert_eq!((&*packed[0].runs, &*packed[0].gaps), (&[2][..], &[15][..]));
        assert_eq!((&*packed[0].hosts, &*packed[0].underlay_steps), (&[2, 7, 2][..], &[2, 5][..]));
        assert_eq!((packed[1].first, &*packed[1].hosts), (net("fd00::/120"), &[3][..]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let sound = PackedBlocks {
            first: net("255.255.255.224/28"),
            runs: Vec::new(),
            gaps: Vec::new(),
            hosts: vec![2, 1],
            underlay_steps: vec![0, 5],
            underlays_v6: vec![Ipv6Addr::LOCALHOST],
        };
        assert_eq!(sound.unpack().unwrap().len(), 2);
        for step in [0, 2, u64::MAX] {
            let columns = PackedBlocks { runs: vec![1], gaps: vec![step], ..sound.clone() };
            assert_eq!(columns.unpack(), Err(PackedError::Step { from: sound.first, step }));
        }
        for run in [0, 2, u32::MAX] {
            let columns = PackedBlocks { runs: vec![run], gaps: vec![1], ..sound.clone() };
            assert_eq!(columns.unpack(), Err(PackedError::Runs { hosts: 2 }));
        }
        assert_eq!(
            PackedBlocks { hosts: Vec::new(), underlay_steps: Vec::new(), underlays_v6: Vec::new(), ..sound.clone() }
                .unpack(),
            Err(PackedError::Runs { hosts: 0 })
        );
        for step in [-1, i64::from(u32::MAX) + 1, i64::MAX, i64::MIN] {
            let columns = PackedBlocks { underlay_steps: vec![0, step], ..sound.clone() };
            assert_eq!(columns.unpack(), Err(PackedError::Underlay { from: Ipv4Addr::UNSPECIFIED, step }));
        }
        let everything = PackedBlocks { first: net("::/0"), ..sound.clone() };
        assert!(matches!(everything.unpack(), Err(PackedError::Step { .. })));
        let broken = [
            PackedBlocks { runs: vec![1], ..sound.clone() },
            PackedBlocks { gaps: vec![1], ..sound.clone() },
            PackedBlocks { hosts: vec![1, 1], ..sound.clone() },
            PackedBlocks { hosts: Vec::new(), ..sound.clone() },
            PackedBlocks { underlay_steps: vec![4, 5], ..sound.clone() },
            PackedBlocks { underlays_v6: Vec::new(), ..sound },
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
