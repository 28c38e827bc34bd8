//! What is looked up in a network besides addresses.
//!
//! Must hold: each index is what one would get by going through all endpoints.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use imbl::{OrdMap, OrdSet};

use super::Endpoint;
use crate::{HostId, Labels};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    /// By name: hashes, because the names themselves are in the endpoints already. Of names with one hash, the lowest
    /// number.
    names: OrdMap<u64, u32>,
    /// The other numbers of names with one hash. Next to always empty.
    namesakes: OrdSet<(u64, u32)>,
    hosts: OrdSet<(HostId, u32)>,
    host_counts: OrdMap<HostId, usize>,
    /// How many endpoints have each set of labels. Also sees to it that equal sets share their memory.
    labels: OrdMap<Labels, usize>,
    strays: OrdSet<u32>,
    quarantined: OrdSet<u32>,
}

/// The hash is of this process only and the same in each; nothing is stored under it.
pub(super) fn name_hash(name: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::new().hash_one(name)
}

impl Indexes {
    /// Adds an endpoint, and returns it with its labels shared with those of others.
    pub(super) fn add(&mut self, endpoint: &Arc<Endpoint>) -> Arc<Endpoint> {
        let endpoint = self.count_labels(endpoint);
        let (number, host) = (endpoint.number(), endpoint.host);
        self.add_name(name_hash(endpoint.name.as_str()), number);
        self.hosts.insert((host, number));
        *self.host_counts.entry(host).or_insert(0) += 1;
        if endpoint.quarantine.is_some() {
            self.quarantined.insert(number);
        }
        endpoint
    }

    fn count_labels(&mut self, endpoint: &Arc<Endpoint>) -> Arc<Endpoint> {
        let endpoint = match self.shared_labels(&endpoint.labels) {
            Some(labels) if !labels.same(&endpoint.labels) => {
                let labels = labels.clone();
                Arc::new(Endpoint { labels, ..(**endpoint).clone() })
            }
            _ => Arc::clone(endpoint),
        };
        *self.labels.entry(endpoint.labels.clone()).or_insert(0) += 1;
        endpoint
    }

    /// Labels equal to these that an endpoint has.
    pub(super) fn shared_labels(&self, labels: &Labels) -> Option<&Labels> {
        self.labels.get_key_value(labels).map(|(shared, _)| shared)
    }

    pub(super) fn remove(&mut self, endpoint: &Endpoint) {
        let (number, host) = (endpoint.number(), endpoint.host);
        self.remove_name(name_hash(endpoint.name.as_str()), number);
        self.hosts.remove(&(host, number));
        count_down(&mut self.host_counts, &host);
        count_down(&mut self.labels, &endpoint.labels);
        self.strays.remove(&number);
        self.quarantined.remove(&number);
    }

    pub(super) fn set_stray(&mut self, number: u32, stray: bool) {
        if stray {
            self.strays.insert(number);
        } else if !self.strays.is_empty() {
            self.strays.remove(&number);
        }
    }

    fn add_name(&mut self, hash: u64, number: u32) {
        let first = *self.names.entry(hash).or_insert(number);
        if first != number {
            self.names.insert(hash, first.min(number));
            self.namesakes.insert((hash, first.max(number)));
        }
    }

    fn remove_name(&mut self, hash: u64, number: u32) {
        if self.names.get(&hash) != Some(&number) {
            self.namesakes.remove(&(hash, number));
            return;
        }
        let next = self.namesakes_of(hash).next();
        match next {
            Some(next) => {
                self.namesakes.remove(&(hash, next));
                self.names.insert(hash, next);
            }
            None => {
                self.names.remove(&hash);
            }
        }
    }

    fn namesakes_of(&self, hash: u64) -> impl Iterator<Item = u32> {
        // Asking a set for a range is slow, and this is asked for every name.
        let namesakes = (!self.namesakes.is_empty()).then(|| self.namesakes.range((hash, 0)..=(hash, u32::MAX)));
        namesakes.into_iter().flatten().map(|(_, number)| *number)
    }

    /// Numbers of endpoints that may have the name of this hash.
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = u32> {
        self.names.get(&hash).copied().into_iter().chain(self.namesakes_of(hash))
    }

    pub(super) fn on_host(&self, host: HostId) -> impl Iterator<Item = u32> {
        self.hosts.range((host, 0)..=(host, u32::MAX)).map(|(_, number)| *number)
    }

    pub(super) fn count_on(&self, host: HostId) -> usize {
        self.host_counts.get(&host).copied().unwrap_or(0)
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.host_counts.keys().copied()
    }

    pub(super) fn strays(&self) -> impl Iterator<Item = u32> {
        self.strays.iter().copied()
    }

    pub(super) fn is_stray(&self, number: u32) -> bool {
        self.strays.contains(&number)
    }

    pub(super) fn quarantined(&self) -> impl Iterator<Item = u32> {
        self.quarantined.iter().copied()
    }

    pub(super) fn label_sets(&self) -> impl Iterator<Item = (&Labels, usize)> {
        self.labels.iter().map(|(labels, count)| (labels, *count))
    }
}

/// Takes one off a count, and the count away when nothing is left.
fn count_down<K: Ord + Clone>(counts: &mut OrdMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_hash_stand_side_by_side() {
        let numbers = |indexes: &Indexes, hash| indexes.candidates(hash).collect::<Vec<_>>();
        let mut indexes = Indexes::default();
        for (hash, number) in [(7, 3), (7, 1), (8, 9), (7, 2), (7, 2)] {
            indexes.add_name(hash, number);
        }
        assert_eq!(numbers(&indexes, 7), [1, 2, 3]);
        indexes.remove_name(7, 1);
        assert_eq!(numbers(&indexes, 7), [2, 3]);
        indexes.remove_name(7, 3);
        indexes.remove_name(7, 2);
        assert!(numbers(&indexes, 7).is_empty());
        assert_eq!(numbers(&indexes, 8), [9]);
    }
}
