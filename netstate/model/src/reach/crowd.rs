//! The endpoints that a question is about, counted by their labels.

use std::collections::BTreeMap;

use super::{Networks, Subject};
use crate::{Directory, Endpoint, Labels, NetworkId, NetworkState, Quarantine, Refusal, Side, text::Quoted};

/// The endpoints of a subject.
pub(super) struct Crowd {
    pub(super) network: NetworkId,
    /// The subject's name: `web`, or `web/web-1`.
    pub(super) name: String,
    /// The endpoint, where the subject is one.
    pub(super) endpoint: Option<Endpoint>,
    /// How many there are, those in quarantine included.
    pub(super) total: u64,
    /// How many that are not in quarantine have which labels.
    pub(super) classes: Vec<(Labels, u64)>,
}

impl Crowd {
    pub(super) fn of(directory: &Directory, networks: Networks, subject: &Subject) -> Result<Self, Refusal> {
        let id = match subject {
            Subject::Network(id) => *id,
            Subject::Endpoint(id) => id.network(),
        };
        let unknown = || Refusal::UnknownNetwork { wanted: Quoted::new(&id.to_string()) };
        let network = directory.network(id).ok_or_else(unknown)?;
        let state = networks(id).unwrap_or_default();
        let Subject::Endpoint(wanted) = subject else {
            let (total, classes) = (state.len() as u64, classes(&state));
            return Ok(Crowd { network: id, name: network.name.to_string(), endpoint: None, total, classes });
        };
        let unknown =
            || Refusal::UnknownEndpoint { wanted: Quoted::new(&wanted.to_string()), network: network.name.clone() };
        let endpoint = state.endpoint(wanted.number()).ok_or_else(unknown)?;
        let name = format!("{}/{}", network.name, endpoint.name);
        let active = endpoint.quarantine.is_none().then(|| (endpoint.labels.clone(), 1));
        let classes = active.into_iter().collect();
        Ok(Crowd { network: id, name, endpoint: Some(endpoint.clone()), total: 1, classes })
    }

    /// How many are not in quarantine.
    pub(super) fn active(&self) -> u64 {
        self.classes.iter().map(|(_, count)| count).sum()
    }

    /// How many that are not in quarantine one side of a connection selects.
    pub(super) fn selected(&self, side: &Side) -> u64 {
        self.classes.iter().filter(|(labels, _)| side.matches(labels)).map(|(_, count)| count).sum()
    }

    /// Why the subject, where it is an endpoint, is in quarantine.
    pub(super) fn quarantine(&self) -> Option<&Quarantine> {
        self.endpoint.as_ref()?.quarantine.as_deref()
    }
}

fn classes(state: &NetworkState) -> Vec<(Labels, u64)> {
    let mut quarantined: BTreeMap<&Labels, u64> = BTreeMap::new();
    for endpoint in state.quarantined() {
        *quarantined.entry(&endpoint.labels).or_default() += 1;
    }
    let active = |labels, count| count as u64 - quarantined.get(labels).copied().unwrap_or(0);
    state
        .label_sets()
        .map(|(labels, count)| (labels.clone(), active(labels, count)))
        .filter(|(_, count)| *count > 0)
        .collect()
}
