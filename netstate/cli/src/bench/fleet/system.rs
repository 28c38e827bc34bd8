//! What a fleet is measured against.

use std::{collections::BTreeSet, sync::Arc};

use super::tally::{Orders, Tally};
use crate::{bench::plan::Network, failure::Failure};

/// Where endpoints come and go: a network, and another one that may reach those endpoints.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) network: Network,
    pub(super) other: Network,
}

impl Place {
    /// Whether its endpoints concern a host.
    pub(super) fn concerns(&self, host: u32) -> bool {
        self.network.hosts.contains(&host) || self.other.hosts.contains(&host)
    }

    /// The hosts that its endpoints concern.
    pub(super) fn hosts(&self) -> BTreeSet<u32> {
        self.network.hosts.iter().chain(&self.other.hosts).copied().collect()
    }

    /// Where the endpoint of this number is.
    pub(super) fn host(&self, number: u64) -> u32 {
        self.network.hosts[(number % self.network.hosts.len() as u64) as usize]
    }
}

/// A store that hosts watch.
pub(super) trait System: Clone + Send + Sync + 'static {
    /// Makes what changes need before hosts come.
    fn prepare(&self, places: &[Place]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Lives as a host until orders end: has a stream open, keeps what it is given, counts it.
    fn live(&self, host: u32, orders: Orders, tally: Arc<Tally>) -> impl Future<Output = ()> + Send + 'static;

    /// Attaches an endpoint that all hosts of the place have to know of. Returns its id, as hosts are told it.
    fn attach(&self, place: &Place, number: u64) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Detaches it. Returns its id again.
    fn detach(&self, place: &Place, number: u64) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Attaches and detaches so many endpoints all over the plan.
    fn churn(&self, endpoints: u64) -> impl Future<Output = Result<(), Failure>> + Send;
}
