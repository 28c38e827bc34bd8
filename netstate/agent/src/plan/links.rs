//! Interfaces of endpoints: a veth pair for each, routed, without a bridge.
//!
//! ```text
//! host namespace                         endpoint's namespace
//! nse7-42  HOST_MAC           ────────── eth0  own MAC, 10.1.0.5/32
//!   169.254.1.1, fe80::1
//!   route 10.1.0.5 dev nse7-42             default via 169.254.1.1 and fe80::1, onlink
//! ```
//!
//! The host's side knows the other's MAC by a permanent neighbour entry: it never asks, so nobody can answer falsely.
//!
//! Must hold: every command may be run again; whatever step an agent died at, running all of them completes the interface.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netstate_model::{EndpointId, Mac, NetnsName};

use super::element::Device;
use crate::scope::{HostScope, LocalEndpoint, Network};

/// The host's side of every pair; each pair is a link of its own, so they may all have the same.
pub const HOST_MAC: &str = "02:6e:73:65:00:01";

/// What endpoints see as their next hop. Link-local, so that it is nobody's address.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// One endpoint's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The host's side.
    pub device: Device,
    /// The file of the namespace that the other side lives in.
    pub netns: NetnsPath,
    /// The other side's number: `eth0`, `eth1`, …
    pub slot: u16,
    /// The other side's link-layer address.
    pub mac: Mac,
    /// The other side's addresses.
    pub addresses: Vec<IpAddr>,
    /// Where the other side routes to by way of the host: everywhere for `eth0`, its network's pools for others.
    pub towards: Vec<IpNet>,
}

/// The file of a namespace, of letters that mean nothing to `ip`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetnsPath(String);

/// The commands that make an interface, by where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plumbing {
    /// Makes the pair: for `ip -batch` in the host's namespace. To be left out when the host's side exists.
    pub create: String,
    /// For `ip -batch` in the endpoint's namespace.
    pub within: String,
    /// For `ip -batch` in the host's namespace.
    pub host: String,
}

impl NetnsPath {
    /// The file of this name in this folder, unless the name holds letters that could end a word or begin another.
    pub fn new(dir: &str, name: &NetnsName) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'@' | b'+');
        name.as_str().bytes().all(plain).then(|| NetnsPath(format!("{dir}/{name}")))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NetnsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn of_scope(scope: &HostScope, netns_dir: &str, notes: &mut Vec<String>) -> Vec<Link> {
    let mut links = Vec::new();
    for (id, network, endpoint) in scope.locals() {
        let Some(name) = &endpoint.netns else { continue };
        match NetnsPath::new(netns_dir, name) {
            Some(netns) => links.push(link(id, network, endpoint, netns)),
            None => notes.push(format!(
                "{} ({id}) gets no interface: its namespace {name:?} is named with other than letters, digits and -_.:@+",
                endpoint.name
            )),
        }
    }
    links
}

fn link(id: EndpointId, network: &Network, endpoint: &LocalEndpoint, netns: NetnsPath) -> Link {
    let everywhere = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let towards = if endpoint.slot == 0 { everywhere.to_vec() } else { network.pools.clone() };
    let family = |net: &IpNet| endpoint.addresses.iter().any(|address| address.is_ipv4() == net.addr().is_ipv4());
    Link {
        endpoint: id,
        device: Device::of(id),
        netns,
        slot: endpoint.slot,
        mac: endpoint.mac,
        addresses: endpoint.addresses.clone(),
        towards: towards.into_iter().filter(family).collect(),
    }
}

/// The commands that make an interface.
pub fn plumb(link: &Link) -> Plumbing {
    let Link { device, netns, slot, mac, .. } = link;
    let create =
        format!("link add {device} address {HOST_MAC} type veth peer name eth{slot} address {mac} netns {netns}\n");
    let mut within = format!("link set lo up\nlink set eth{slot} up\n");
    let mut host = format!("link set {device} up\n");
    for address in &link.addresses {
        let (gateway, own, quiet) = gateway(*address);
        writeln!(host, "addr replace {gateway}{own} dev {device}{quiet}").expect("writing to a string");
        writeln!(host, "neigh replace {address} lladdr {mac} dev {device} nud permanent").expect("writing to a string");
        let quiet = if gateway.is_ipv6() { quiet } else { "" };
        writeln!(within, "addr replace {address} dev eth{slot}{quiet}").expect("writing to a string");
        writeln!(within, "neigh replace {gateway} lladdr {HOST_MAC} dev eth{slot} nud permanent")
            .expect("writing to a string");
    }
    for net in &link.towards {
        let (gateway, ..) = gateway(net.addr());
        writeln!(within, "route replace {net} via {gateway} dev eth{slot} onlink").expect("writing to a string");
    }
    Plumbing { create, within, host }
}

/// The next hop for an address; its prefix length on the host's side; and what that side's address comes with.
///
/// The host's side has the next hop's address, so that an endpoint that lost its neighbour entry, as changing a MAC does,
/// still finds it. Scope host keeps the host from using it as a source. IPv6 need not ask first whether somebody has the
/// address: the link has only two ends.
fn gateway(address: IpAddr) -> (IpAddr, &'static str, &'static str) {
    match address {
        IpAddr::V4(_) => (GATEWAY_V4, "/32", " scope host"),
        IpAddr::V6(_) => (GATEWAY_V6, "/64", " nodad"),
    }
}

/// The command that removes an interface, both sides of it.
pub fn unplumb(device: Device) -> String {
    format!("link del {device}\n")
}

/// Kernel settings of the host's side, as files below `/proc/sys/net` and what to write there.
pub fn sysctls(device: Device) -> Vec<(String, &'static str)> {
    vec![
        (format!("ipv4/conf/{device}/forwarding"), "1"),
        (format!("ipv4/conf/{device}/send_redirects"), "0"),
        (format!("ipv6/conf/{device}/accept_ra"), "0"),
    ]
}
