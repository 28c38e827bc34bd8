//! The next frame for a host: from what it holds to what it should hold.
//!
//! Must hold: applying frames one after the other leaves a host with what a first frame would give it now; a frame says
//! nothing of what is out of scope, but that it is gone.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_core::Revision;
use netstate_model::{Connection, ConnectionId, Endpoint, HostId, NetworkId, Scope, Side, scope};
use netstate_proto::v1 as pb;
use prost::Message;

use super::{
    encoded::{Encoded, Topic},
    hub::Marks,
};
use crate::{
    view::{CoreItem, DirectoryAt, NetworkAt, Touched, View},
    wire,
};

/// What a host holds, as far as it was told.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) directory: Revision,
    pub(super) networks: BTreeMap<NetworkId, HeldNetwork>,
    /// Connections, each with the revisions of its sides' networks up to which its members were sent.
    pub(super) connections: BTreeMap<ConnectionId, [Option<Revision>; 2]>,
    /// Connections whose ids may stand for others now: to be taken back before anything is given.
    pub(super) void: Vec<ConnectionId>,
}

impl Held {
    /// Relies on nothing that the host holds, which may be of another history: networks and connections have their ids
    /// from counters, and those went back.
    pub(super) fn start_over(&mut self) {
        self.directory = Revision::ZERO;
        for network in self.networks.values_mut() {
            (network.revision, network.locals) = (None, None);
        }
        self.void.extend(std::mem::take(&mut self.connections).into_keys());
    }
}

/// A network that a host holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldNetwork {
    /// Up to where; `None`: it has to be sent whole.
    pub(super) revision: Option<Revision>,
    pub(super) local: bool,
    /// Its own endpoints, up to where.
    pub(super) locals: Option<Revision>,
}

/// A frame to be sent, and what it says something of.
#[derive(Debug, Default)]
pub(super) struct Next {
    pub(super) frame: pb::ScopeFrame,
    pub(super) scope: Scope,
    pub(super) networks: Vec<NetworkId>,
    pub(super) connections: Vec<ConnectionId>,
}

impl Next {
    /// Whether there is anything in it.
    pub(super) fn says_nothing(&self) -> bool {
        self.networks.is_empty() && self.connections.is_empty()
    }
}

struct Builder<'a> {
    view: &'a View,
    encoded: &'a Encoded,
    host: HostId,
    directory: DirectoryAt,
    next: Next,
}

/// Works out the next frame and moves the cursors to its end.
pub(super) fn next(view: &View, encoded: &Encoded, host: HostId, held: &mut Held, marks: &Marks) -> Next {
    let mut builder = Builder { view, encoded, host, directory: view.directory(), next: Next::default() };
    builder.next.frame.directory_revision = builder.directory.revision.get();
    for id in std::mem::take(&mut held.void) {
        builder.next.frame.connections_gone.push(id.to_string());
        builder.next.connections.push(id);
    }
    let here = |id: &NetworkId| view.network(*id).state.count_on(host) > 0;
    let lost = held.networks.iter().any(|(id, network)| network.local && marks.networks.contains(id) && !here(id));
    if marks.rescope || lost || builder.directory.revision != held.directory {
        builder.rescope(held);
    } else {
        let networks = held.networks.iter().map(|(id, network)| (*id, network.local)).collect();
        builder.next.scope = Scope { networks, connections: held.connections.keys().copied().collect() };
    }
    for id in &marks.whole {
        if let Some(network) = held.networks.get_mut(id) {
            network.revision = None;
        }
    }
    let behind: Vec<_> = held
        .networks
        .iter()
        .filter(|(id, network)| {
            let unsent = network.revision.is_none() || (network.local && network.locals.is_none());
            unsent || marks.networks.contains(id) || marks.whole.contains(id)
        })
        .map(|(id, _)| *id)
        .collect();
    for id in behind {
        builder.network(id, held);
    }
    builder.members(held, marks);
    held.directory = builder.directory.revision;
    builder.next
}

impl Builder<'_> {
    /// What has come into scope and what has left it.
    fn rescope(&mut self, held: &mut Held) {
        let on_host = self.view.networks_on(self.host);
        let local = on_host.into_iter().filter(|id| self.view.network(*id).state.count_on(self.host) > 0);
        let scope = scope(&self.directory.state, local);
        let frame = &mut self.next.frame;
        held.networks.retain(|id, _| {
            let stays = scope.networks.contains_key(id);
            if !stays {
                frame.networks_gone.push(id.to_string());
                self.next.networks.push(*id);
            }
            stays
        });
        held.connections.retain(|id, _| {
            let stays = scope.connections.contains(id);
            if !stays {
                frame.connections_gone.push(id.to_string());
                self.next.connections.push(*id);
            }
            stays
        });
        for (id, local) in &scope.networks {
            let new = HeldNetwork { revision: None, local: *local, locals: None };
            let network = held.networks.entry(*id).or_insert(new);
            if network.local && !local {
                frame.locals.push(pb::ScopeLocal {
                    network_id: id.to_string(),
                    revision: network.locals.or(network.revision).unwrap_or_default().get(),
                    full: true,
                    ..pb::ScopeLocal::default()
                });
                self.next.networks.push(*id);
                network.locals = None;
            }
            network.local = *local;
        }
        for id in &scope.connections {
            if held.connections.contains_key(id) {
                continue;
            }
            let Some(connection) = self.directory.state.connection(*id) else { continue };
            frame.connections.push(wire::scope_connection(connection));
            self.next.connections.push(*id);
            held.connections.insert(*id, [None, None]);
        }
        self.next.scope = scope;
    }

    /// What is new in one network.
    fn network(&mut self, id: NetworkId, held: &mut Held) {
        let Some(network) = held.networks.get_mut(&id) else { return };
        let from = match (network.revision, network.local, network.locals) {
            (Some(core), true, Some(locals)) => core.min(locals),
            (Some(core), _, _) => core,
            (None, _, locals) => locals.unwrap_or_default(),
        };
        let (now, touched) = self.view.network_since(id, from);
        let known = |cursor: Option<Revision>| cursor.filter(|at| *at <= now.revision).and(touched.as_ref());
        let key = (Topic::Network(id), known(network.revision).and(network.revision), now.revision);
        let directory = &self.directory;
        let core =
            self.encoded.get(key, || core(directory, id, &now, known(network.revision)).map(|part| encode(&part)));
        if let Some(core) = core {
            self.next.frame.networks.push(core);
            self.next.networks.push(id);
        }
        network.revision = Some(now.revision);
        if network.local {
            let local = locals(self.host, id, &now, known(network.locals));
            if local.full || !local.endpoints.is_empty() || !local.endpoints_gone.is_empty() {
                self.next.frame.locals.push(local);
                self.next.networks.push(id);
            }
            network.locals = Some(now.revision);
        }
    }

    /// What is new among the members of selected sides.
    fn members(&mut self, held: &mut Held, marks: &Marks) {
        for (id, cursors) in &mut held.connections {
            let Some(connection) = self.directory.state.connection(*id) else { continue };
            for (cursor, (to_side, side)) in cursors.iter_mut().zip([(false, &connection.from), (true, &connection.to)])
            {
                let marked = marks.networks.contains(&side.network) || marks.whole.contains(&side.network);
                if side.selector.is_none() || (cursor.is_some() && !marked) {
                    continue;
                }
                let from = cursor.filter(|_| !marks.whole.contains(&side.network));
                let (now, touched) = self.view.network_since(side.network, from.unwrap_or_default());
                let touched = from.filter(|at| *at <= now.revision).and(touched.as_ref());
                let key = (Topic::Members { connection: *id, to_side }, touched.and(from), now.revision);
                let directory = &self.directory;
                let part = self.encoded.get(key, || {
                    members(directory, connection, to_side, side, &now, touched).map(|part| encode(&part))
                });
                if let Some(part) = part {
                    self.next.frame.members.push(part);
                    self.next.connections.push(*id);
                }
                *cursor = Some(now.revision);
            }
        }
    }
}

fn encode(part: &impl Message) -> Bytes {
    part.encode_to_vec().into()
}

fn address(directory: &DirectoryAt, endpoint: &Endpoint) -> pb::ScopeAddress {
    pb::ScopeAddress {
        endpoint_id: endpoint.id.to_string(),
        addresses: endpoint.addresses.iter().map(|address| address.to_string()).collect(),
        underlay: underlay(directory, endpoint.host),
        host_id: endpoint.host.to_string(),
    }
}

/// Where a host is reached; empty as long as this node has not heard of the host. It is sent again when it has.
fn underlay(directory: &DirectoryAt, host: HostId) -> String {
    directory.state.host(host).map(|host| host.underlay.to_string()).unwrap_or_default()
}

/// What every host needs of a network: all of it, or what changed. `None`: nothing did.
fn core(
    directory: &DirectoryAt,
    id: NetworkId,
    now: &NetworkAt,
    touched: Option<&Touched>,
) -> Option<pb::ScopeNetwork> {
    let state = &now.state;
    let name = directory.state.network(id).map(|network| network.name.to_string()).unwrap_or_default();
    let mut part = pb::ScopeNetwork {
        network_id: id.to_string(),
        name,
        revision: now.revision.get(),
        ..pb::ScopeNetwork::default()
    };
    let block = |cidr: ipnet::IpNet, host: HostId| pb::ScopeBlock {
        cidr: cidr.to_string(),
        underlay: underlay(directory, host),
        host_id: host.to_string(),
    };
    let Some(touched) = touched else {
        part.full = true;
        part.pools =
            state.config().map(|config| config.pools.iter().map(ToString::to_string).collect()).unwrap_or_default();
        part.blocks = state.blocks().map(|(cidr, host)| block(cidr, host)).collect();
        part.strays = state.strays().map(|endpoint| address(directory, endpoint)).collect();
        part.quarantined = state.quarantined().map(|endpoint| address(directory, endpoint)).collect();
        return Some(part);
    };
    if touched.core.is_empty() {
        return None;
    }
    for item in &touched.core {
        match *item {
            CoreItem::Block(cidr) => match state.block_owner(cidr.addr()) {
                Some(host) => part.blocks.push(block(cidr, host)),
                None => part.blocks_gone.push(cidr.to_string()),
            },
            CoreItem::Stray(number) => match state.endpoint(number).filter(|_| state.is_stray(number)) {
                Some(endpoint) => part.strays.push(address(directory, endpoint)),
                None => part.strays_gone.push(netstate_model::EndpointId::new(id, number).to_string()),
            },
            CoreItem::Quarantine(number) => {
                match state.endpoint(number).filter(|endpoint| endpoint.quarantine.is_some()) {
                    Some(endpoint) => part.quarantined.push(address(directory, endpoint)),
                    None => part.quarantined_gone.push(netstate_model::EndpointId::new(id, number).to_string()),
                }
            }
        }
    }
    Some(part)
}

/// A host's own endpoints: all, or what changed.
fn locals(host: HostId, id: NetworkId, now: &NetworkAt, touched: Option<&Touched>) -> pb::ScopeLocal {
    let mut part = pb::ScopeLocal {
        network_id: id.to_string(),
        revision: now.revision.get(),
        full: touched.is_none(),
        ..pb::ScopeLocal::default()
    };
    let Some(touched) = touched else {
        part.endpoints = now.state.on_host(host).map(wire::scope_endpoint).collect();
        return part;
    };
    let changed = touched.changed.iter().filter_map(|number| now.state.endpoint(*number));
    part.endpoints = changed.filter(|endpoint| endpoint.host == host).map(wire::scope_endpoint).collect();
    let gone = touched.gone.iter().filter(|gone| gone.host == host && now.state.endpoint(gone.number).is_none());
    part.endpoints_gone = gone.map(|gone| netstate_model::EndpointId::new(id, gone.number).to_string()).collect();
    part
}

/// The endpoints that a side's selector names: all, or what changed. `None`: nothing did.
fn members(
    directory: &DirectoryAt,
    connection: &Connection,
    to_side: bool,
    side: &Side,
    now: &NetworkAt,
    touched: Option<&Touched>,
) -> Option<pb::ScopeMembers> {
    let mut part = pb::ScopeMembers {
        connection_id: connection.id.to_string(),
        to_side,
        network_id: side.network.to_string(),
        revision: now.revision.get(),
        full: touched.is_none(),
        ..pb::ScopeMembers::default()
    };
    let Some(touched) = touched else {
        let chosen = now.state.endpoints().filter(|endpoint| side.matches(&endpoint.labels));
        part.members = chosen.map(|endpoint| address(directory, endpoint)).collect();
        return Some(part);
    };
    let changed = touched.changed.iter().filter_map(|number| now.state.endpoint(*number));
    let chosen = changed.filter(|endpoint| side.matches(&endpoint.labels));
    part.members = chosen.map(|endpoint| address(directory, endpoint)).collect();
    let gone =
        touched.gone.iter().filter(|gone| side.matches(&gone.labels) && now.state.endpoint(gone.number).is_none());
    let id = |number| netstate_model::EndpointId::new(side.network, number).to_string();
    part.members_gone = gone.map(|gone| id(gone.number)).collect();
    (!part.members.is_empty() || !part.members_gone.is_empty()).then_some(part)
}
