//! The table's transaction: from the elements that it holds to those that it should hold.

use std::{collections::BTreeMap, fmt, fmt::Write as _, net::IpAddr};

use ipnet::IpNet;

use super::{
    element::{Element, PortMatch},
    sets::{SetKind, SetName, Sets},
    skeleton::{self, Table},
};
use crate::scope::Ports;

/// Deletions times elements of a set, from which on the set is made anew instead: see [`SetName::deletes_slowly`]. A tenth of
/// a second's work for the kernel, in which every other transaction waits.
const SLOW_DELETES_MAX: usize = 100_000;
/// Flows forgotten after one transaction. The rest is stopped all the same, and times out.
const FLOWS_MAX: usize = 64;

/// One atomic transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// For `nft -f -`.
    pub script: String,
    /// Elements taken out, by set.
    pub removed: BTreeMap<SetName, Vec<Element>>,
    /// How many elements are put in.
    pub added: usize,
}

/// What the table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Elements of its sets.
    pub sets: Sets,
    /// Sets with something in them that the agent never puts there. They are made anew.
    pub strange: Vec<SetName>,
}

/// Flows of which connection tracking should know nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Who began; none: anybody.
    pub from: Option<IpNet>,
    /// Who was talked to; none: anybody.
    pub to: Option<IpNet>,
    /// On what; none: everything. Port ranges of more than one port stand for the whole protocol.
    pub on: Option<PortMatch>,
}

/// The transaction that leads from what the table holds to what it should, or none when nothing differs. With `rules`, the
/// table, sets, chains and rules are put right as well.
pub fn program(table: &Table, held: &Held, wanted: &Sets, rules: bool) -> Option<Program> {
    let path = table.path();
    let (mut removed, mut replaced) = (BTreeMap::new(), Vec::new());
    let (mut deletes, mut adds, mut added) = (String::new(), String::new(), 0);
    for set in SetName::all() {
        let (old, new) = (held.sets.get(set), wanted.get(set));
        let gone = missing(old, new);
        let fresh = missing(new, old);
        let slow = set.deletes_slowly() && gone.len() > 1 && gone.len() * old.len() > SLOW_DELETES_MAX;
        if slow || held.strange.contains(&set) {
            replaced.push(set);
            elements(&mut adds, "add", &path, set, new);
            added += new.len();
        } else {
            elements(&mut deletes, "delete", &path, set, &gone);
            elements(&mut adds, "add", &path, set, &fresh);
            added += fresh.len();
        }
        if !gone.is_empty() {
            removed.insert(set, gone);
        }
    }
    if !rules && removed.is_empty() && added == 0 && replaced.is_empty() {
        return None;
    }
    let skeleton = if rules || !replaced.is_empty() { skeleton::script(table, &replaced) } else { String::new() };
    Some(Program { script: skeleton + &deletes + &adds, removed, added })
}

/// The transaction that makes the whole table anew, whatever is there: for a table that somebody changed in its structure.
pub fn from_nothing(table: &Table, wanted: &Sets) -> Program {
    let all = program(table, &Held::default(), wanted, true).expect("rules were asked for");
    // Adding it first makes deleting it safe when it does not exist.
    let path = table.path();
    Program { script: format!("add table {path}\ndelete table {path}\n{}", all.script), ..all }
}

/// The flows that ran on what a transaction took away, and on nothing else: a flow that is still permitted would stutter if
/// connection tracking had to learn it again from the middle.
///
/// `quarantined` are the addresses that may talk to nobody from now on.
pub fn flows_cut(removed: &BTreeMap<SetName, Vec<Element>>, wanted: &Sets, quarantined: &[IpAddr]) -> Vec<Flow> {
    let mut flows: Vec<Flow> = quarantined.iter().flat_map(|address| everything_of((*address).into())).collect();
    for (set, elements) in removed {
        for element in elements {
            if flows.len() >= FLOWS_MAX {
                break;
            }
            match *element {
                Element::Pair { from, to } => flows.extend(pair_cut(*set, from, to, wanted)),
                Element::Port { from, to, on } => flows.extend(port_cut(*set, from, to, on, wanted)),
                Element::Address(address) if set.kind == SetKind::Plumbed => {
                    flows.extend(everything_of(address.into()));
                }
                _ => {}
            }
        }
    }
    flows.sort_unstable();
    flows.dedup();
    flows.truncate(FLOWS_MAX);
    flows
}

fn pair_cut(set: SetName, from: IpNet, to: IpNet, wanted: &Sets) -> Option<Flow> {
    let SetKind::Pair(shape) = set.kind else { return None };
    let left = wanted.get(SetName { kind: SetKind::Port(shape), ..set });
    let still = left.iter().any(|it| matches!(it, Element::Port { from: f, to: t, .. } if (*f, *t) == (from, to)));
    (!still).then_some(Flow { from: Some(from), to: Some(to), on: None })
}

fn port_cut(set: SetName, from: IpNet, to: IpNet, on: PortMatch, wanted: &Sets) -> Vec<Flow> {
    let SetKind::Port(shape) = set.kind else { return Vec::new() };
    if wanted.get(SetName { kind: SetKind::Pair(shape), ..set }).binary_search(&Element::Pair { from, to }).is_ok() {
        return Vec::new();
    }
    let left: Vec<Ports> = wanted.get(set).iter().filter_map(|it| left_of(it, from, to, on.protocol)).collect();
    if left.is_empty() {
        return vec![Flow { from: Some(from), to: Some(to), on: Some(on) }];
    }
    let still = |port: u16| left.iter().any(|ports| (ports.first..=ports.last).contains(&port));
    let one = |port| Flow {
        from: Some(from),
        to: Some(to),
        on: Some(PortMatch { ports: Ports { first: port, last: port }, ..on }),
    };
    (on.ports.first..=on.ports.last).filter(|port| !still(*port)).take(FLOWS_MAX).map(one).collect()
}

fn left_of(element: &Element, from: IpNet, to: IpNet, protocol: u8) -> Option<Ports> {
    match element {
        Element::Port { from: f, to: t, on } if (*f, *t, on.protocol) == (from, to, protocol) => Some(on.ports),
        _ => None,
    }
}

fn everything_of(address: IpNet) -> [Flow; 2] {
    let one = Flow { from: Some(address), to: None, on: None };
    [one, Flow { from: None, to: Some(address), on: None }]
}

fn elements(text: &mut String, verb: &str, path: &str, set: SetName, elements: &[Element]) {
    if elements.is_empty() {
        return;
    }
    write!(text, "{verb} element {path} {} {{ ", set.text()).expect("writing to a string");
    for (at, element) in elements.iter().enumerate() {
        write!(text, "{}{element}", if at == 0 { "" } else { ", " }).expect("writing to a string");
    }
    text.push_str(" }\n");
}

/// What the first has and the second has not. Both are sorted.
fn missing(first: &[Element], second: &[Element]) -> Vec<Element> {
    let mut second = second.iter().peekable();
    let mut only = Vec::new();
    for element in first {
        while second.next_if(|other| *other < element).is_some() {}
        if second.peek() != Some(&element) {
            only.push(*element);
        }
    }
    only
}

/// As a line for `conntrack -R`.
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("-D")?;
        if matches!(self.from.or(self.to), Some(IpNet::V6(_))) {
            f.write_str(" -f ipv6")?;
        }
        if let Some(from) = self.from {
            write!(f, " -s {from}")?;
        }
        if let Some(to) = self.to {
            write!(f, " -d {to}")?;
        }
        if let Some(PortMatch { protocol, ports }) = self.on {
            write!(f, " -p {protocol}")?;
            if ports.first == ports.last {
                write!(f, " --dport {}", ports.first)?;
            }
        }
        Ok(())
    }
}
