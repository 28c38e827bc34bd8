//! The table without its elements: sets, chains and rules. They are the same on every host and never change while an agent
//! runs; what changes are elements.
//!
//! A packet meets three of the chains:
//!
//! ```text
//! prerouting ──▶ from an endpoint's interface: quarantined or not its own MAC and address: drop
//! forward    ──▶ from or to an endpoint: quarantined: drop; flow permitted: accept; else drop
//! input      ──▶ from an endpoint to the host itself: only answers to what the host began
//! output     ──▶ from the host itself to an endpoint: unless it is quarantined
//! ```
//!
//! Whether a flow is permitted is asked of every packet, by the tuple of the flow's *first* packet as connection tracking
//! remembers it. Answers and ICMP errors carry that tuple too, so they pass while, and only while, what they belong to is
//! permitted: taking an element out stops running flows with the very transaction, without "established" being trusted.
//!
//! An accept here means that this table has no objection; other tables still have their say.

use std::fmt::Write as _;

use super::{
    element::Device,
    sets::{Family, SetKind, SetName, Shape},
};

/// The name of the table that the agent owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(String);

/// What is no name of a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table name {name:?} refused; use up to 32 letters, digits and underscores, a letter first")]
pub struct TableNameError {
    /// What was given.
    pub name: String,
}

/// Protocols whose flows have ports, or a type and code in their place, for connection tracking. nft takes a port in a
/// concatenation only after a rule has named the protocols.
const WITH_PORTS: &str = "meta l4proto { tcp, udp, sctp, icmp, ipv6-icmp }";

/// What an endpoint may send from any address of its link: without it IPv6 can't find its neighbours.
const NEIGHBOURS: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255";

impl Table {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is no plain identifier.
    pub fn new(name: &str) -> Result<Self, TableNameError> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain || !name.starts_with(|first: char| first.is_ascii_alphabetic()) || name.len() > 32 {
            return Err(TableNameError { name: name.chars().take(40).collect() });
        }
        Ok(Table(name.to_owned()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Family and name, as nft's commands take them.
    pub fn path(&self) -> String {
        format!("inet {}", self.0)
    }
}

/// The names of the chains.
pub(crate) fn chain_names() -> [&'static str; 8] {
    ["from_endpoint", "decide4", "decide6", "to_host", "prerouting", "forward", "input", "output"]
}

/// The chains in order of definition, each with its hook if it has one, and its rules.
pub(super) fn chains() -> Vec<(&'static str, Option<&'static str>, Vec<String>)> {
    let nse = Device::PREFIX;
    let mut input = vec!["ct direction reply ct state established,related accept".to_owned()];
    input.extend([format!("{NEIGHBOURS} accept"), "counter drop".to_owned()]);
    vec![
        ("from_endpoint", None, from_endpoint()),
        ("decide4", None, decide(Family::V4)),
        ("decide6", None, decide(Family::V6)),
        ("to_host", None, input),
        ("prerouting", Some("type filter hook prerouting priority raw; policy accept;"), prerouting(nse)),
        ("forward", Some("type filter hook forward priority filter; policy accept;"), forward(nse)),
        (
            "input",
            Some("type filter hook input priority filter; policy accept;"),
            vec![format!("iifname \"{nse}*\" goto to_host")],
        ),
        (
            "output",
            Some("type filter hook output priority filter; policy accept;"),
            vec!["ip daddr @quarantine4 drop".to_owned(), "ip6 daddr @quarantine6 drop".to_owned()],
        ),
    ]
}

fn prerouting(nse: &str) -> Vec<String> {
    vec![
        format!("iifname \"{nse}*\" goto from_endpoint"),
        // An endpoint that has an interface here speaks from nowhere else.
        "ip saddr @plumbed4 counter drop".to_owned(),
        "ip6 saddr @plumbed6 counter drop".to_owned(),
    ]
}

fn from_endpoint() -> Vec<String> {
    vec![
        "ip saddr @quarantine4 drop".to_owned(),
        "ip6 saddr @quarantine6 drop".to_owned(),
        "iifname . ether saddr . ip saddr @source4 accept".to_owned(),
        "iifname . ether saddr . ip6 saddr @source6 accept".to_owned(),
        format!("{NEIGHBOURS} accept"),
        "counter drop".to_owned(),
    ]
}

fn forward(nse: &str) -> Vec<String> {
    let families = "meta nfproto vmap { ipv4 : goto decide4, ipv6 : goto decide6 }";
    vec![
        format!("iifname \"{nse}*\" {families}"),
        format!("oifname \"{nse}*\" {families}"),
        // Endpoints whose interfaces others made, and whatever is sent towards a network from outside.
        "ip saddr @pools4 goto decide4".to_owned(),
        "ip daddr @pools4 goto decide4".to_owned(),
        "ip6 saddr @pools6 goto decide6".to_owned(),
        "ip6 daddr @pools6 goto decide6".to_owned(),
    ]
}

fn decide(family: Family) -> Vec<String> {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let set = |kind| SetName { kind, family }.text();
    let quarantine = set(SetKind::Quarantine);
    let mut rules = vec![format!("{ip} saddr @{quarantine} drop"), format!("{ip} daddr @{quarantine} drop")];
    let flow = format!("ct original {ip} saddr . ct original {ip} daddr");
    for shape in [Shape::PoolPool, Shape::HostPool, Shape::PoolHost, Shape::HostHost] {
        rules.push(format!("{flow} @{} accept", set(SetKind::Pair(shape))));
        let ports = set(SetKind::Port(shape));
        rules.push(format!("{WITH_PORTS} {flow} . ct protocol . ct original proto-dst @{ports} accept"));
    }
    rules.push("counter drop".to_owned());
    rules
}

/// The commands that make the table, its sets and its chains where they are missing, and put the rules in place of whatever
/// the chains hold. `replaced` sets are made anew, empty.
///
/// The chains stay in their hooks throughout: a packet sees the rules of before or those of after. Deleting the table and
/// making it again would leave a moment in which a packet that already found its way to the old chains finds them empty.
pub(super) fn script(table: &Table, replaced: &[SetName]) -> String {
    let path = table.path();
    let mut text = format!("add table {path}\n");
    let write = |text: &mut String, line: std::fmt::Arguments<'_>| {
        text.write_fmt(line).expect("writing to a string");
        text.push('\n');
    };
    let chains = chains();
    for set in SetName::all() {
        write(&mut text, format_args!("add set {path} {} {{ {} }}", set.text(), set.definition()));
    }
    for (name, hook, _) in &chains {
        let hook = hook.map(|hook| format!(" {{ {hook} }}")).unwrap_or_default();
        write(&mut text, format_args!("add chain {path} {name}{hook}"));
    }
    for (name, ..) in &chains {
        write(&mut text, format_args!("flush chain {path} {name}"));
    }
    for set in replaced {
        write(&mut text, format_args!("delete set {path} {}", set.text()));
        write(&mut text, format_args!("add set {path} {} {{ {} }}", set.text(), set.definition()));
    }
    for (name, _, rules) in &chains {
        for rule in rules {
            write(&mut text, format_args!("add rule {path} {name} {rule}"));
        }
    }
    text
}
