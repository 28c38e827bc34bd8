//! The next frame for a host: from what it holds to what it should hold.
//!
//! Must hold: applying frames one after the other leaves a host with what a first frame would give it now; a frame says
//! nothing of what is out of scope, but that it is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use bytes::Bytes;
use kv_core::Revision;
use netstate_model::{
    Connection, ConnectionId, Endpoint, HostId, NetworkId, NetworkState, PackedBlocks, Scope, Side, scope,
};
use netstate_proto::v1 as pb;
use prost::Message;

use super::{
    encoded::{Encoded, Topic},
    hub::Marks,
};
use crate::{
    view::{CoreItem, DirectoryAt, NetworkAt, TouchedEndpoints, View},
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
    /// The next frame has to say everything: what is held of one network may not go together with what is given of another.
    pub(super) at_once: bool,
}

impl Held {
    /// Whether the host holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.connections.is_empty()
    }

    /// Relies on nothing that the host holds, which may be of another history: networks and connections have their ids
    /// from counters, and those went back.
    pub(super) fn start_over(&mut self) {
        self.directory = Revision::ZERO;
        self.at_once = true;
        for network in self.networks.values_mut() {
            (network.revision, network.locals) = (None, None);
        }
        self.void.extend(std::mem::take(&mut self.connections).into_keys());
    }
}

/// A network that a host holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldNetwork {
    /// Whether the host has anything of it.
    pub(super) given: bool,
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
    /// The host's scope, where it was worked out anew.
    pub(super) scope: Option<Scope>,
    pub(super) networks: Vec<NetworkId>,
    pub(super) connections: Vec<ConnectionId>,
    /// What is left for the frames after this one.
    pub(super) left: Left,
    /// [`DirectoryAt::moved`] of the directory that it was made from.
    pub(super) moved: Revision,
}

/// What the host lacks, and has to wait for because the frame is large enough.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) networks: Vec<NetworkId>,
    pub(super) connections: Vec<ConnectionId>,
}

impl Left {
    pub(super) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.connections.is_empty()
    }
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
    /// Bytes that the frame may still grow by. What has been begun when it is used up goes in whole.
    room: usize,
}

/// Works out the next frame, of about `size` bytes, and moves the cursors to its end.
///
/// What does not fit is left for later frames: networks first, then the connections between them, then their members. Each of
/// the frames leaves the host with a part of its scope that stands by itself.
pub(super) fn next(view: &View, encoded: &Encoded, host: HostId, held: &mut Held, marks: &Marks, size: usize) -> Next {
    let directory = view.directory();
    let size = if std::mem::take(&mut held.at_once) { usize::MAX } else { size };
    let next = Next { moved: directory.moved, ..Next::default() };
    let mut builder = Builder { view, encoded, host, directory, next, room: size };
    for id in std::mem::take(&mut held.void) {
        builder.next.frame.connections_gone.push(id.to_string());
        builder.next.connections.push(id);
    }
    for id in &marks.whole {
        if let Some(network) = held.networks.get_mut(id) {
            network.revision = None;
        }
    }
    let here = |id: &NetworkId| view.network(*id).state.count_on(host) > 0;
    let lost = marks.networks.iter().any(|id| held.networks.get(id).is_some_and(|held| held.local) && !here(id));
    let rescoped = marks.rescope || lost || builder.directory.revision != held.directory;
    let came = if rescoped { builder.rescope(held) } else { Vec::new() };
    builder.networks(held, marks);
    builder.connections(held, came);
    builder.members(held, marks);
    if builder.next.left.is_empty() {
        // Not before: a host that comes back says by it that nothing has to be sent again of what moved until then.
        held.directory = builder.directory.revision;
    }
    builder.next.frame.directory_revision = held.directory.get();
    builder.next
}

impl Builder<'_> {
    /// What has left the scope and which connections have come into it.
    fn rescope(&mut self, held: &mut Held) -> Vec<ConnectionId> {
        let on_host = self.view.networks_on(self.host);
        let local = on_host.into_iter().filter(|id| self.view.network(*id).state.count_on(self.host) > 0);
        let scope = scope(&self.directory.state, local);
        let frame = &mut self.next.frame;
        held.networks.retain(|id, network| {
            let stays = scope.networks.contains_key(id);
            if !stays && network.given {
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
            let new = HeldNetwork { given: false, revision: None, local: *local, locals: None };
            let network = held.networks.entry(*id).or_insert(new);
            if network.local && !local && network.given {
                frame.locals.push(pb::ScopeLocal {
                    network_id: id.to_string(),
                    revision: network.locals.or(network.revision).unwrap_or_default().get(),
                    full: true,
                    ..pb::ScopeLocal::default()
                });
                self.next.networks.push(*id);
            }
            if !local {
                network.locals = None;
            }
            network.local = *local;
        }
        let came = scope.connections.iter().filter(|id| !held.connections.contains_key(id)).copied().collect();
        self.next.scope = Some(scope);
        came
    }

    /// What is new in networks, as far as there is room.
    fn networks(&mut self, held: &mut Held, marks: &Marks) {
        for (id, network) in &mut held.networks {
            let unsent = network.revision.is_none() || (network.local && network.locals.is_none());
            if !(unsent || marks.networks.contains(id) || marks.whole.contains(id)) {
                continue;
            }
            if self.room == 0 {
                self.next.left.networks.push(*id);
            } else {
                self.network(*id, network);
            }
        }
    }

    /// What is new in one network.
    fn network(&mut self, id: NetworkId, held: &mut HeldNetwork) {
        let (now, touched) = self.view.network_since(id, held.revision, held.locals.filter(|_| held.local));
        let from = touched.core.as_ref().and(held.revision);
        let directory = &self.directory;
        let part = || core(directory, id, &now, touched.core.as_ref()).map(|part| encode(&part));
        if let Some(core) = self.encoded.get((Topic::Network(id), directory.moved, from, now.revision), part) {
            self.room = self.room.saturating_sub(core.len());
            self.next.frame.networks.push(core);
            self.next.networks.push(id);
        }
        (held.given, held.revision) = (true, Some(now.revision));
        if held.local {
            let local = locals(self.host, id, &now, touched.endpoints.as_ref());
            if local.full || !local.endpoints.is_empty() || !local.endpoints_gone.is_empty() {
                self.room = self.room.saturating_sub(local.encoded_len());
                self.next.frame.locals.push(local);
                self.next.networks.push(id);
            }
            held.locals = Some(now.revision);
        }
    }

    /// Connections that came into scope, once the host has their networks.
    fn connections(&mut self, held: &mut Held, came: Vec<ConnectionId>) {
        for id in came {
            if self.room == 0 || !self.next.left.networks.is_empty() {
                self.next.left.connections.push(id);
                continue;
            }
            let Some(connection) = self.directory.state.connection(id) else { continue };
            let connection = wire::scope_connection(connection);
            self.room = self.room.saturating_sub(connection.encoded_len());
            self.next.frame.connections.push(connection);
            self.next.connections.push(id);
            held.connections.insert(id, [None, None]);
        }
    }

    /// What is new among the members of selected sides, as far as there is room.
    fn members(&mut self, held: &mut Held, marks: &Marks) {
        for (id, cursors) in &mut held.connections {
            let Some(connection) = self.directory.state.connection(*id) else { continue };
            for (cursor, (to_side, side)) in cursors.iter_mut().zip([(false, &connection.from), (true, &connection.to)])
            {
                let whole = marks.whole.contains(&side.network);
                if side.selector.is_none() || (cursor.is_some() && !whole && !marks.networks.contains(&side.network)) {
                    continue;
                }
                if whole {
                    *cursor = None;
                }
                if self.room == 0 {
                    self.next.left.connections.push(*id);
                    self.next.left.networks.push(side.network);
                    continue;
                }
                let (now, touched) = self.view.network_since(side.network, None, *cursor);
                let from = touched.endpoints.as_ref().and(*cursor);
                let directory = &self.directory;
                let part = || {
                    let touched = touched.endpoints.as_ref();
                    members(directory, connection, to_side, side, &now, touched).map(|part| encode(&part))
                };
                let key = (Topic::Members { connection: *id, to_side }, directory.moved, from, now.revision);
                if let Some(part) = self.encoded.get(key, part) {
                    self.room = self.room.saturating_sub(part.len());
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
        underlay: underlay(directory, endpoint.host).map(|underlay| underlay.to_string()).unwrap_or_default(),
        host_id: endpoint.host.to_string(),
    }
}

/// Where a host is reached; none as long as this node has not heard of the host. When it has, its networks are sent again.
fn underlay(directory: &DirectoryAt, host: HostId) -> Option<IpAddr> {
    directory.state.host(host).map(|host| host.underlay)
}

/// All blocks of a network, in columns.
fn packed_blocks(directory: &DirectoryAt, state: &NetworkState) -> Vec<pb::ScopeBlocks> {
    let columns = |packed: PackedBlocks| pb::ScopeBlocks {
        first: packed.first.to_string(),
        runs: packed.runs,
        gaps: packed.gaps,
        hosts: packed.hosts,
        underlay_steps: packed.underlay_steps,
        underlays_v6: packed.underlays_v6.iter().map(|v6| Bytes::copy_from_slice(&v6.octets())).collect(),
    };
    PackedBlocks::pack(state.blocks(), |host| underlay(directory, host)).into_iter().map(columns).collect()
}

/// What every host needs of a network: all of it, or what changed. `None`: nothing did.
fn core(
    directory: &DirectoryAt,
    id: NetworkId,
    now: &NetworkAt,
    touched: Option<&BTreeSet<CoreItem>>,
) -> Option<pb::ScopeNetwork> {
    let state = &now.state;
    let name = directory.state.network(id).map(|network| network.name.to_string()).unwrap_or_default();
    let mut part = pb::ScopeNetwork {
        network_id: id.to_string(),
        name,
        revision: now.revision.get(),
        ..pb::ScopeNetwork::default()
    };
    let Some(touched) = touched else {
        part.full = true;
        part.pools =
            state.config().map(|config| config.pools.iter().map(ToString::to_string).collect()).unwrap_or_default();
        part.packed_blocks = packed_blocks(directory, state);
        part.strays = state.strays().map(|endpoint| address(directory, endpoint)).collect();
        part.quarantined = state.quarantined().map(|endpoint| address(directory, endpoint)).collect();
        return Some(part);
    };
    if touched.is_empty() {
        return None;
    }
    for item in touched {
        match *item {
            CoreItem::Block(cidr) => match state.block_owner(cidr.addr()) {
                Some(host) => part.blocks.extend(underlay(directory, host).map(|underlay| pb::ScopeBlock {
                    cidr: cidr.to_string(),
                    underlay: underlay.to_string(),
                    host_id: host.to_string(),
                })),
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
fn locals(host: HostId, id: NetworkId, now: &NetworkAt, touched: Option<&TouchedEndpoints>) -> pb::ScopeLocal {
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
    touched: Option<&TouchedEndpoints>,
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
