//! Routes: where packets to each address in scope go.
//!
//! Own routes are told from others' by their protocol number. The most specific one wins, as in the kernel:
//!
//! ```text
//! pool      unreachable: an address that nobody has must not wander off by the default route
//! block     to its host
//! stray     to its host, though its block belongs to another
//! endpoint  to its interface, when it is on this host
//! ```

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::IpAddr,
};

use ipnet::IpNet;

use super::element::Device;
use crate::scope::HostScope;

/// Marks routes as the agent's. From the range that nobody is assigned.
pub const ROUTE_PROTOCOL: u8 = 86;

/// Every route, by destination.
pub type Routes = BTreeMap<IpNet, Route>;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nowhere.
    Unreachable,
    /// To a host.
    Via(IpAddr),
    /// To an endpoint on this host.
    Device(Device),
    /// Somewhere that the agent never sends anything. Found, never wanted.
    Strange,
}

pub(super) fn of_scope(scope: &HostScope, problems: &mut Vec<String>) -> Routes {
    let mut routes = Routes::new();
    let elsewhere = |host| Some(host) != scope.host;
    for network in scope.networks.values() {
        routes.extend(network.pools.iter().map(|pool| (*pool, Route::Unreachable)));
        let (mut crossing, mut example) = (0, None);
        let mut via = |routes: &mut Routes, net: IpNet, underlay: IpAddr| {
            if net.addr().is_ipv4() == underlay.is_ipv4() {
                routes.insert(net, Route::Via(underlay));
            } else {
                crossing += 1;
                example = Some((net, underlay));
            }
        };
        for (block, owner) in network.blocks.iter().filter(|(_, owner)| elsewhere(owner.host)) {
            via(&mut routes, *block, owner.underlay);
        }
        for place in network.strays.values().filter(|place| elsewhere(place.host)) {
            for address in &place.addresses {
                via(&mut routes, (*address).into(), place.underlay);
            }
        }
        if let Some((net, underlay)) = example {
            problems.push(format!(
                "{crossing} blocks of {} have no route, such as {net}: it can't be routed over {underlay}, which is of the \
                 other address family; give the hosts underlay addresses of the networks' family",
                network.name
            ));
        }
    }
    for (id, _, endpoint) in scope.locals().filter(|(_, _, endpoint)| endpoint.netns.is_some()) {
        let to = Route::Device(Device::of(id));
        routes.extend(endpoint.addresses.iter().map(|address| (IpNet::from(*address), to)));
    }
    routes
}

/// The commands for `ip -batch` that lead from the agent's routes that there are to those that there should be. What is taken
/// away comes first.
pub fn replace_routes(held: &Routes, wanted: &Routes) -> String {
    let mut text = String::new();
    for net in held.keys().filter(|net| !wanted.contains_key(net)) {
        writeln!(text, "route del {net} proto {ROUTE_PROTOCOL}").expect("writing to a string");
    }
    for (net, route) in wanted.iter().filter(|(net, route)| held.get(net) != Some(route)) {
        // IPv6 would add a second route beside one of another type.
        if held.contains_key(net) && matches!(net, IpNet::V6(_)) {
            writeln!(text, "route del {net} proto {ROUTE_PROTOCOL}").expect("writing to a string");
        }
        writeln!(text, "route replace {}", Line(*net, *route)).expect("writing to a string");
    }
    text
}

struct Line(IpNet, Route);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line(net, route) = self;
        match route {
            Route::Unreachable | Route::Strange => write!(f, "unreachable {net} proto {ROUTE_PROTOCOL}"),
            Route::Via(host) => write!(f, "{net} via {host} proto {ROUTE_PROTOCOL}"),
            Route::Device(device) => write!(f, "{net} dev {device} proto {ROUTE_PROTOCOL}"),
        }
    }
}
