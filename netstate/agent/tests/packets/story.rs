//! What a test wants the world to be, and the frames that tell a host of it.

use std::collections::{BTreeMap, BTreeSet};

use netstate_proto::v1 as pb;
use prost::Message as _;

/// Everything that a cluster would know.
#[derive(Clone, Default)]
pub(crate) struct Story {
    pub(crate) networks: BTreeMap<u32, Network>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) connections: BTreeMap<u32, pb::ScopeConnection>,
    pub(crate) quarantined: BTreeSet<String>,
    pub(crate) members: Vec<pb::ScopeMembers>,
}

#[derive(Clone, Default)]
pub(crate) struct Network {
    pub(crate) pools: Vec<String>,
    /// Block, and the number of its host.
    pub(crate) blocks: Vec<(String, usize)>,
}

#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) network: u32,
    pub(crate) host: usize,
    pub(crate) addresses: Vec<String>,
    pub(crate) netns: String,
}

impl Story {
    pub(crate) fn network(&mut self, id: u32, pools: &[&str], blocks: &[(&str, usize)]) {
        let blocks = blocks.iter().map(|(block, host)| ((*block).to_owned(), *host)).collect();
        self.networks.insert(id, Network { pools: pools.iter().map(ToString::to_string).collect(), blocks });
    }

    pub(crate) fn connect(&mut self, id: u32, from: u32, to: u32, port: u32) {
        let ports = vec![pb::PortRange { first: port, last: port }];
        let connection = pb::ScopeConnection {
            id: format!("c{id}"),
            from_network_id: format!("net{from}"),
            to_network_id: format!("net{to}"),
            protocol: pb::Protocol::Tcp.into(),
            ports,
            ..Default::default()
        };
        self.connections.insert(id, connection);
    }

    /// A frame that makes a host hold this story, whatever it held before.
    pub(crate) fn frame(
        &self,
        number: u64,
        host: usize,
        underlays: &[String],
        had: &BTreeSet<String>,
    ) -> pb::ScopeFrame {
        let connections: Vec<_> = self.connections.values().cloned().collect();
        let live: BTreeSet<String> = connections.iter().map(|connection| connection.id.clone()).collect();
        pb::ScopeFrame {
            frame: number,
            directory_revision: number,
            connections_gone: had.difference(&live).cloned().collect(),
            connections,
            networks: self.networks.iter().map(|(id, it)| self.of_network(*id, it, number, underlays)).collect(),
            locals: self.networks.keys().map(|id| self.locals(*id, host, number)).collect(),
            members: self.members.iter().map(|members| members.encode_to_vec().into()).collect(),
            complete: true,
            host_id: format!("h{}", host + 1),
            ..Default::default()
        }
    }

    fn of_network(&self, id: u32, network: &Network, revision: u64, underlays: &[String]) -> prost::bytes::Bytes {
        let block = |(cidr, host): &(String, usize)| pb::ScopeBlock {
            cidr: cidr.clone(),
            underlay: underlays[*host].clone(),
            host_id: format!("h{}", host + 1),
        };
        let quarantined = self.endpoints.iter().filter(|it| it.network == id && self.quarantined.contains(&it.id));
        let address = |it: &Endpoint| pb::ScopeAddress {
            endpoint_id: it.id.clone(),
            addresses: it.addresses.clone(),
            ..Default::default()
        };
        let message = pb::ScopeNetwork {
            network_id: format!("net{id}"),
            name: format!("network-{id}"),
            revision,
            full: true,
            pools: network.pools.clone(),
            blocks: network.blocks.iter().map(block).collect(),
            quarantined: quarantined.map(address).collect(),
            ..Default::default()
        };
        message.encode_to_vec().into()
    }

    fn locals(&self, network: u32, host: usize, revision: u64) -> pb::ScopeLocal {
        let endpoints = self.endpoints.iter().filter(|it| it.network == network && it.host == host);
        let endpoint = |it: &Endpoint| pb::ScopeEndpoint {
            id: it.id.clone(),
            name: it.id.replace('.', "-at-"),
            addresses: it.addresses.clone(),
            mac: mac(&it.id),
            netns: it.netns.clone(),
            quarantined: self.quarantined.contains(&it.id),
            ..Default::default()
        };
        pb::ScopeLocal {
            network_id: format!("net{network}"),
            revision,
            full: true,
            endpoints: endpoints.map(endpoint).collect(),
            ..Default::default()
        }
    }
}

fn mac(id: &str) -> String {
    let id: netstate_model::EndpointId = id.parse().unwrap();
    netstate_model::Mac::derived(id).to_string()
}
