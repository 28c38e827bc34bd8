//! The commands, a file for each group of them.
//!
//! Each is the same three steps: build a request, ask, write the answer for a program or for a person.

pub(crate) mod agent;
pub(crate) mod attach;
pub(crate) mod audit;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod endpoint;
pub(crate) mod host;
pub(crate) mod import;
pub(crate) mod logging;
pub(crate) mod network;
pub(crate) mod probe;
pub(crate) mod query;
pub(crate) mod server;
pub(crate) mod signals;
pub(crate) mod snapshot;
pub(crate) mod wait;

use std::collections::HashMap;

/// Labels in one cell, by key.
fn labels(labels: &HashMap<String, String>) -> String {
    let mut pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    pairs.join(",")
}

/// Names and values, the values one below the other.
fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {value}").trim_end().to_owned();
    facts.iter().map(line).collect::<Vec<_>>().join("\n")
}
