//! Decisions on a network's own state.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Addresses, Attach, Endpoint, NetworkChange, NetworkCommand, NetworkConfig, NetworkState, Quarantine,
    allocate::Plan, indexes::name_hash,
};
use crate::{
    Context, EndpointId, HostId, Labels, Mac, Name, Refusal, limits,
    text::{self, Quoted},
};

type Decision = Result<Vec<NetworkChange>, Refusal>;

pub(super) fn decide(state: &NetworkState, command: NetworkCommand, context: &Context) -> Decision {
    context.check()?;
    let installed = state.config().ok_or(Refusal::NotInstalled);
    match command {
        NetworkCommand::Install(config) => install(state.config(), config),
        NetworkCommand::Attach(batch) => attach(state, installed?, batch, context),
        NetworkCommand::Detach(numbers) => detach(state, installed?, &numbers),
        NetworkCommand::Quarantine { endpoint, on } => quarantine(state, installed?, endpoint, on, context),
        NetworkCommand::Retire => retire(state, installed?),
    }
}

fn install(there: Option<&NetworkConfig>, config: NetworkConfig) -> Decision {
    match there {
        Some(there) if there.retired => Err(Refusal::NetworkRetiring { name: there.name.clone() }),
        Some(there) if *there == config => Ok(Vec::new()),
        Some(there) => Err(Refusal::OtherConfig { name: there.name.clone() }),
        None => {
            config.check()?;
            Ok(vec![NetworkChange::Config(config)])
        }
    }
}

fn attach(state: &NetworkState, config: &NetworkConfig, batch: Vec<Attach>, context: &Context) -> Decision {
    batch_size("attach", batch.len(), limits::ATTACH_MAX)?;
    if config.retired {
        return Err(Refusal::NetworkRetiring { name: config.name.clone() });
    }
    if state.len() + batch.len() > limits::ENDPOINTS_MAX {
        return Err(Refusal::Full { what: "endpoints on this network", limit: limits::ENDPOINTS_MAX });
    }
    let first = state.next_number.max(1);
    let used = Refusal::NumbersUsed { what: "endpoints of this network" };
    let next = u32::try_from(batch.len()).ok().and_then(|length| first.checked_add(length)).ok_or(used)?;
    check_names(state, &batch)?;
    let mut plan = Plan::new(state, config, first);
    let addresses = plan.addresses(&batch)?;
    let mut changes = plan.changes;
    changes.reserve(batch.len() + 1);
    let mut labels = SharedLabels { state, last: Labels::NONE };
    for ((attach, addresses), number) in batch.into_iter().zip(addresses).zip(first..) {
        let id = EndpointId::new(config.id, number);
        changes.push(NetworkChange::Endpoint(Arc::new(endpoint(attach, id, addresses, &mut labels, context))));
    }
    changes.push(NetworkChange::NextNumber(next));
    Ok(changes)
}

fn check_names(state: &NetworkState, batch: &[Attach]) -> Result<(), Refusal> {
    let mut names: Vec<(u64, &Name)> = Vec::with_capacity(batch.len());
    for Attach { name, workload, .. } in batch {
        text::check("the workload's name", workload, limits::WORKLOAD_BYTES_MAX)?;
        let hash = name_hash(name.as_str());
        if let Some(there) = state.endpoint_hashed(hash, name.as_str()) {
            return Err(Refusal::EndpointNameTaken { name: name.clone(), id: there.id });
        }
        names.push((hash, name));
    }
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(Refusal::TwiceInBatch { name: twice[0].1.clone() }),
        None => Ok(()),
    }
}

fn endpoint(
    attach: Attach,
    id: EndpointId,
    addresses: Addresses,
    labels: &mut SharedLabels,
    context: &Context,
) -> Endpoint {
    Endpoint {
        id,
        name: attach.name,
        host: attach.host,
        addresses,
        mac: attach.mac.unwrap_or_else(|| Mac::derived(id)),
        labels: labels.shared(attach.labels),
        workload: attach.workload.into(),
        netns: attach.netns,
        attached_at: context.now,
        quarantine: None,
    }
}

/// Labels that share their memory with equal ones, so that nothing needs to be copied when the change is made.
struct SharedLabels<'a> {
    state: &'a NetworkState,
    /// Those of the endpoint before: batches tend to repeat them.
    last: Labels,
}

impl SharedLabels<'_> {
    fn shared(&mut self, labels: Labels) -> Labels {
        if labels != self.last {
            self.last = self.state.indexes.shared_labels(&labels).cloned().unwrap_or(labels);
        }
        self.last.clone()
    }
}

/// Blocks go back when their host has no endpoint on the network any more, so that no host keeps a route to a host that
/// has nothing to do with the network, or is no more.
fn detach(state: &NetworkState, config: &NetworkConfig, numbers: &[u32]) -> Decision {
    batch_size("detach", numbers.len(), limits::DETACH_MAX)?;
    let mut changes = Vec::with_capacity(numbers.len());
    let mut left = state.clone();
    let mut hosts: BTreeSet<HostId> = BTreeSet::new();
    for &number in numbers {
        let endpoint = state.endpoint(number).ok_or_else(|| unknown(config, number))?;
        if left.endpoint(number).is_none() {
            return Err(Refusal::TwiceInBatch { name: endpoint.name.clone() });
        }
        hosts.insert(endpoint.host);
        hosts.extend(endpoint.addresses.iter().filter_map(|address| state.block_owner(address)));
        let change = NetworkChange::EndpointGone(number);
        left.evolve(&change);
        changes.push(change);
    }
    for host in hosts.into_iter().filter(|host| left.count_on(*host) == 0) {
        changes.extend(left.blocks.empty_of(host).map(NetworkChange::BlockGone));
    }
    Ok(changes)
}

fn quarantine(state: &NetworkState, config: &NetworkConfig, number: u32, on: bool, context: &Context) -> Decision {
    let reason = context.required_reason(if on { "quarantine" } else { "taking out of quarantine" })?;
    let endpoint = state.endpoint(number).ok_or_else(|| unknown(config, number))?;
    if endpoint.quarantine.is_some() == on {
        return Ok(Vec::new());
    }
    let put = || Quarantine { reason: reason.to_owned(), by: context.actor.to_owned(), at: context.now };
    let quarantine = on.then(|| Box::new(put()));
    Ok(vec![NetworkChange::Endpoint(Arc::new(Endpoint { quarantine, ..endpoint.clone() }))])
}

fn retire(state: &NetworkState, config: &NetworkConfig) -> Decision {
    if !state.is_empty() {
        return Err(Refusal::NetworkInUse { name: config.name.clone(), count: state.len() });
    }
    let retired = (!config.retired).then(|| NetworkChange::Config(NetworkConfig { retired: true, ..config.clone() }));
    Ok(retired.into_iter().collect())
}

fn batch_size(operation: &'static str, found: usize, limit: usize) -> Result<(), Refusal> {
    match found {
        0 => Err(Refusal::EmptyBatch { operation }),
        _ if found > limit => Err(Refusal::BatchTooLarge { operation, found, limit }),
        _ => Ok(()),
    }
}

fn unknown(config: &NetworkConfig, number: u32) -> Refusal {
    let id = EndpointId::new(config.id, number);
    Refusal::UnknownEndpoint { wanted: Quoted::new(&id.to_string()), network: config.name.clone() }
}
