//! From a scope to what the kernel should hold, and from what it holds to the scripts that lead there.
//!
//! Must hold: everything here is a function of its arguments; every text that reaches a script is the `Display` of a typed
//! value, so nothing that came over a network can be read as a command; what takes permissions away comes before what gives
//! them.
//!
//! Left to others: running the scripts and reading what is there (`kernel`).

mod element;
mod links;
mod permit;
mod program;
mod routes;
mod sets;
mod skeleton;

use netstate_model::Timestamp;

use crate::scope::HostScope;

pub use element::{Device, Element, PortMatch};
pub use links::{HOST_MAC, Link, NetnsPath, Plumbing, plumb, sysctls, unplumb};
pub use program::{Flow, Held, Program, flows_cut, from_nothing, program};
pub use routes::{ROUTE_PROTOCOL, Route, Routes, replace_routes};
pub use sets::{Family, SetKind, SetName, Sets, Shape};
pub(crate) use skeleton::chain_names;
pub use skeleton::{Table, TableNameError};

/// What the kernel should hold for a scope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Elements of the table's sets.
    pub sets: Sets,
    /// Interfaces of endpoints on this host.
    pub links: Vec<Link>,
    /// Routes to everybody in scope.
    pub routes: Routes,
    /// Permissions that can't be given, each with its reason. Everything else is.
    pub problems: Vec<String>,
    /// Ways that can't be made, each with its reason. What may talk is not touched by that.
    pub notes: Vec<String>,
}

/// What a scope asks of the kernel, at a time: a connection that has expired permits nothing.
pub fn wanted(scope: &HostScope, netns_dir: &str, now: Timestamp) -> Wanted {
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    let sets = sets::of_scope(scope, now, &mut problems);
    let links = links::of_scope(scope, netns_dir, &mut notes);
    let routes = routes::of_scope(scope, &mut notes);
    Wanted { sets, links, routes, problems, notes }
}
