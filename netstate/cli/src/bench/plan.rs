//! What a load consists of: how many endpoints each network has, on which hosts, and from which pool.
//!
//! The sizes follow Zipf's law with exponent 1: the n-th largest network has a share in proportion to 1/n. Of 2,000 networks
//! with 200,000 endpoints the largest has 24,000, the tenth 2,400, half of them have 25 or fewer and the smallest 13: most
//! are small, a few are very large. Which network has which rank, and which hosts a network is on, is drawn from the seed.
//!
//! Must hold: the same arguments and seed give the same plan; the sizes add up; pools don't overlap.

use std::net::Ipv4Addr;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

/// Endpoints of a network that share a host, on average, unless there are too few hosts.
const ENDPOINTS_PER_HOST: u64 = 8;
/// Addresses that a pool keeps for itself: the first, the last, the gateway's.
const POOL_OWN: u64 = 3;
/// The smallest pool: 16 addresses.
const POOL_BITS_MIN: u32 = 4;

/// One network of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) name: String,
    /// CIDR.
    pub(super) pool: String,
    pub(super) block_len: u32,
    pub(super) endpoints: u64,
    /// The numbers of the hosts that it is on.
    pub(super) hosts: Vec<u32>,
}

impl Network {
    /// Addresses of the pool that no endpoint of the load has, nor the pool itself.
    pub(super) fn room(&self) -> usize {
        let bits = self.pool.split_once('/').and_then(|(_, len)| len.parse::<u32>().ok()).map_or(0, |len| 32 - len);
        usize::try_from((1_u64 << bits).saturating_sub(self.endpoints + POOL_OWN)).unwrap_or(usize::MAX)
    }
}

/// One endpoint of a load: the place of its network in the plan, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) network: usize,
    pub(super) number: u64,
}

/// What is asked of a plan.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) prefix: String,
    pub(super) networks: u32,
    pub(super) endpoints: u64,
    pub(super) hosts: u32,
    pub(super) seed: u64,
    /// The range that pools are cut from.
    pub(super) base: Ipv4Addr,
    pub(super) base_len: u32,
}

/// A whole load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) networks: Vec<Network>,
}

/// Why there is no such plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    #[error(
        "{endpoints} endpoints don't give each of {networks} networks one; ask for more endpoints or fewer networks"
    )]
    TooFew { endpoints: u64, networks: u32 },
    #[error("the pools of these networks don't fit into {base}/{len}; pass a larger --range")]
    Range { base: Ipv4Addr, len: u32 },
}

impl Plan {
    pub(super) fn new(wanted: &Wanted) -> Result<Self, PlanError> {
        let mut sizes = sizes(wanted.networks, wanted.endpoints)?;
        let mut random = SmallRng::seed_from_u64(wanted.seed);
        // Large pools first leaves no gaps between them.
        let mut pools = Vec::with_capacity(sizes.len());
        let start = u64::from(wanted.base.to_bits());
        let end = start + (1_u64 << (32 - wanted.base_len));
        let mut free = start;
        for &size in &sizes {
            let shape = Shape::of(size, wanted.hosts);
            let next = free + (1 << shape.pool_bits);
            let base = u32::try_from(free).ok().filter(|_| next <= end);
            let range = || PlanError::Range { base: wanted.base, len: wanted.base_len };
            pools.push((base.ok_or_else(range)?, shape));
            free = next;
        }
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.shuffle(&mut random);
        let networks = order.iter().enumerate().map(|(number, &rank)| {
            let (base, shape) = &pools[rank];
            let first = random.random_range(0..wanted.hosts);
            Network {
                name: format!("{}-net-{number}", wanted.prefix),
                pool: format!("{}/{}", Ipv4Addr::from_bits(*base), 32 - shape.pool_bits),
                block_len: 32 - shape.block_bits,
                endpoints: std::mem::take(&mut sizes[rank]),
                hosts: (0..shape.hosts).map(|at| (first + at) % wanted.hosts).collect(),
            }
        });
        Ok(Plan { networks: networks.collect() })
    }

    /// A network and one of its hosts for an endpoint of this number, large networks as rarely as small ones.
    pub(super) fn anywhere(&self, number: u64) -> (&Network, u32) {
        let network = &self.networks[(number % self.networks.len() as u64) as usize];
        (network, network.hosts[(number % network.hosts.len() as u64) as usize])
    }

    /// All endpoints in calls of at most `batch`, in an order that spreads the large networks over the whole load.
    pub(super) fn batches(&self, batch: usize, seed: u64) -> Vec<Vec<Member>> {
        let members = self
            .networks
            .iter()
            .enumerate()
            .flat_map(|(network, shape)| (0..shape.endpoints).map(move |number| Member { network, number }));
        let members: Vec<Member> = members.collect();
        let mut batches: Vec<Vec<Member>> = members.chunks(batch).map(<[Member]>::to_vec).collect();
        batches.shuffle(&mut SmallRng::seed_from_u64(seed));
        batches
    }
}

/// How many endpoints each network has, largest first. Each has at least one.
fn sizes(networks: u32, endpoints: u64) -> Result<Vec<u64>, PlanError> {
    let count = u64::from(networks);
    let Some(shared) = endpoints.checked_sub(count).filter(|_| count > 0) else {
        return Err(PlanError::TooFew { endpoints, networks });
    };
    let whole: f64 = (1..=count).map(|rank| 1.0 / rank as f64).sum();
    let mut sizes: Vec<u64> = (1..=count).map(|rank| 1 + (shared as f64 / whole / rank as f64) as u64).collect();
    // Rounding down leaves some over, fewer than there are networks: one more for each of the largest.
    let left = endpoints.saturating_sub(sizes.iter().sum());
    sizes.iter_mut().zip(0..left).for_each(|(size, _)| *size += 1);
    Ok(sizes)
}

/// What a network of some size needs.
struct Shape {
    hosts: u32,
    block_bits: u32,
    pool_bits: u32,
}

impl Shape {
    fn of(endpoints: u64, hosts: u32) -> Self {
        let used = endpoints.div_ceil(ENDPOINTS_PER_HOST).clamp(1, u64::from(hosts));
        let each = endpoints.div_ceil(used);
        // A host's endpoints fill a few blocks; blocks have 4 to 64 addresses.
        let block_bits = bits(each).clamp(2, 6);
        let blocks = used * (each.div_ceil(1 << block_bits));
        // Room for some growth, and for the addresses that a pool keeps for itself.
        let pool_bits = (bits(blocks + blocks / 8 + 2) + block_bits).max(POOL_BITS_MIN);
        Shape { hosts: u32::try_from(used).unwrap_or(hosts), block_bits, pool_bits }
    }
}

/// The bits that so many different values need.
fn bits(values: u64) -> u32 {
    values.max(1).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(networks: u32, endpoints: u64, seed: u64) -> Wanted {
        let prefix = "b".to_owned();
        Wanted { prefix, networks, endpoints, hosts: 100, seed, base: Ipv4Addr::new(10, 0, 0, 0), base_len: 8 }
    }

    #[test]
    fn sizes_are_zipfs_and_add_up() {
        for (networks, endpoints) in [(1, 1), (3, 3), (10, 1234), (2000, 200_000)] {
            let sizes = sizes(networks, endpoints).unwrap();
            assert_eq!(sizes.iter().sum::<u64>(), endpoints);
            assert!(sizes.is_sorted_by(|a, b| a >= b) && *sizes.last().unwrap() >= 1);
        }
        let large = sizes(2000, 200_000).unwrap();
        assert_eq!((large[0], large[9], large[999], large[1999]), (24_212, 2_423, 25, 13));
        assert!(sizes(10, 9).is_err());
        assert!(sizes(0, 9).is_err());
    }

    #[test]
    fn pools_don_t_overlap_and_hold_their_endpoints() {
        let plan = Plan::new(&wanted(500, 50_000, 7)).unwrap();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for network in &plan.networks {
            let (base, len) = network.pool.split_once('/').unwrap();
            let base = u64::from(base.parse::<Ipv4Addr>().unwrap().to_bits());
            let size = 1_u64 << (32 - len.parse::<u32>().unwrap());
            assert_eq!(base % size, 0, "{network:?}");
            assert!(size > network.endpoints, "{network:?}");
            ranges.push((base, base + size));
        }
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }

    #[test]
    fn the_same_seed_gives_the_same_load() {
        let (one, two) = (Plan::new(&wanted(50, 5000, 7)).unwrap(), Plan::new(&wanted(50, 5000, 7)).unwrap());
        assert_eq!(one, two);
        assert_eq!(one.batches(100, 7), two.batches(100, 7));
        assert_ne!(one, Plan::new(&wanted(50, 5000, 8)).unwrap());
        let mut seen: Vec<_> = one.batches(64, 7).concat();
        assert_eq!(seen.len(), 5000);
        seen.sort_by_key(|member| (member.network, member.number));
        seen.dedup();
        assert_eq!(seen.len(), 5000);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let small = Wanted { base_len: 24, ..wanted(50, 5000, 7) };
        assert!(matches!(Plan::new(&small), Err(PlanError::Range { .. })));
    }
}
