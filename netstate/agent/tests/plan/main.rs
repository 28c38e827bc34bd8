//! Plans as text: the steps of a story in, what the kernel would be told out. `UPDATE=1` rewrites what is expected.
//!
//! Each file of `testdata/` holds steps. A step is lines that say what the host is told, then `----`, then what follows: the
//! elements taken out (`-`) and put in (`+`), the routes and interfaces changed, and the flows that are stopped.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use netstate_agent::{
    plan::{self, Held, Routes, SetName, Table, Wanted},
    scope::HostScope,
};
use netstate_model::{HostId, PackedBlocks, Timestamp};
use netstate_proto::v1 as pb;
use prost::Message as _;

#[test]
fn plans() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan/testdata");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        check(&file);
    }
}

fn check(file: &Path) {
    let text = fs::read_to_string(file).unwrap();
    let (mut host, mut rendered) = (Host::default(), String::new());
    for step in text.split("\n\n\n") {
        let told = step.split_once("\n----").map_or(step, |(told, _)| told).trim();
        let separator = if rendered.is_empty() { "" } else { "\n\n" };
        write!(rendered, "{separator}{told}\n----\n{}", host.step(told)).unwrap();
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file, &rendered).unwrap();
    }
    let expected = fs::read_to_string(file).unwrap();
    assert_eq!(rendered, expected, "{}", file.display());
}

/// A host, as far as planning goes.
#[derive(Default)]
struct Host {
    scope: HostScope,
    now: i64,
    frame: u64,
    held: Wanted,
}

impl Host {
    fn step(&mut self, told: &str) -> String {
        self.frame += 1;
        let mut frame = pb::ScopeFrame { frame: self.frame, host_id: "h1".to_owned(), ..Default::default() };
        for line in told.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["time", seconds] => self.now = seconds.parse::<i64>().unwrap() * 1_000_000,
                _ => tell(&mut frame, &words),
            }
        }
        let applied = frame.try_into().and_then(|step| self.scope.apply(step));
        match applied {
            Ok(()) => self.plan(),
            Err(error) => format!("{error}\n"),
        }
    }

    fn plan(&mut self) -> String {
        let wanted = plan::wanted(&self.scope, "/run/netns", Timestamp::from_micros(self.now));
        let before = std::mem::replace(&mut self.held, wanted);
        let (mut text, after) = (String::new(), &self.held);
        let held = Held { sets: before.sets.clone(), strange: vec![] };
        let program = plan::program(&Table::new("netstate").unwrap(), &held, &after.sets, false);
        for line in program.iter().flat_map(|program| program.script.lines()) {
            let line = line.replace("delete element inet netstate", "-").replace("add element inet netstate", "+");
            writeln!(text, "{line}").unwrap();
        }
        let removed = program.map_or(BTreeMap::new(), |program| program.removed);
        for flow in plan::flows_cut(&removed, &after.sets, &quarantined(&before, after)) {
            writeln!(text, "forget {flow}").unwrap();
        }
        for link in before.links.iter().filter(|link| !after.links.contains(link)) {
            text += &plan::unplumb(link.device);
        }
        for link in after.links.iter().filter(|link| !before.links.contains(link)) {
            let plumbing = plan::plumb(link);
            text += &plumbing.create;
            plumbing.within.lines().for_each(|line| writeln!(text, "  within: {line}").unwrap());
            text += &plumbing.host;
        }
        text += &plan::replace_routes(&before.routes, &after.routes);
        for note in after.problems.iter().chain(&after.notes) {
            writeln!(text, "! {note}").unwrap();
        }
        if text.is_empty() { "nothing\n".to_owned() } else { text }
    }
}

fn quarantined(before: &Wanted, after: &Wanted) -> Vec<std::net::IpAddr> {
    let held = |wanted: &Wanted| -> Vec<std::net::IpAddr> {
        let sets = SetName::all().into_iter().filter(|set| set.text().starts_with("quarantine"));
        sets.flat_map(|set| wanted.sets.get(set).iter().map(|it| it.to_string().parse().unwrap()).collect::<Vec<_>>())
            .collect()
    };
    let old = held(before);
    held(after).into_iter().filter(|address| !old.contains(address)).collect()
}

/// One line of a frame.
fn tell(frame: &mut pb::ScopeFrame, words: &[&str]) {
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let network_of = |id: &str| id.split('.').next().unwrap().replace('e', "net");
    match words {
        ["network", id, pools, blocks @ ..] => {
            let block = |block: &&str| {
                let (cidr, host) = block.split_once('@').unwrap();
                (cidr.parse().unwrap(), host.parse::<HostId>().unwrap())
            };
            let at = |host: HostId| Some(underlay(&host.to_string()).parse().unwrap());
            let packed = PackedBlocks::pack(blocks.iter().map(block), at).into_iter();
            let network = pb::ScopeNetwork {
                network_id: (*id).to_owned(),
                name: format!("name-of-{id}"),
                full: true,
                pools: list(pools),
                packed_blocks: packed.map(columns).collect(),
                ..Default::default()
            };
            frame.networks.push(network.encode_to_vec().into());
        }
        ["stray", id, addresses, host] => {
            let stray = pb::ScopeAddress {
                endpoint_id: (*id).to_owned(),
                addresses: list(addresses),
                underlay: underlay(host),
                host_id: (*host).to_owned(),
            };
            let network = pb::ScopeNetwork { network_id: network_of(id), strays: vec![stray], ..Default::default() };
            frame.networks.push(network.encode_to_vec().into());
        }
        ["quarantine", id, addresses] => {
            let own =
                pb::ScopeAddress { endpoint_id: (*id).to_owned(), addresses: list(addresses), ..Default::default() };
            let network = pb::ScopeNetwork { network_id: network_of(id), quarantined: vec![own], ..Default::default() };
            frame.networks.push(network.encode_to_vec().into());
        }
        ["endpoint", id, addresses, netns @ ..] => {
            let endpoint = pb::ScopeEndpoint {
                id: (*id).to_owned(),
                name: "some-name".to_owned(),
                addresses: list(addresses),
                mac: "02:00:00:00:00:01".to_owned(),
                netns: netns.join(" "),
                ..Default::default()
            };
            let local = pb::ScopeLocal { network_id: network_of(id), endpoints: vec![endpoint], ..Default::default() };
            frame.locals.push(local);
        }
        ["endpoint-gone", id] => {
            let gone = vec![(*id).to_owned()];
            frame.locals.push(pb::ScopeLocal {
                network_id: network_of(id),
                endpoints_gone: gone,
                ..Default::default()
            });
        }
        ["connect", id, from, to, protocol, rest @ ..] => connect(frame, [id, from, to, protocol], rest),
        ["disconnect", id] => frame.connections_gone.push((*id).to_owned()),
        ["network-gone", id] => frame.networks_gone.push((*id).to_owned()),
        ["member", connection, side, id, addresses] => {
            let own =
                pb::ScopeAddress { endpoint_id: (*id).to_owned(), addresses: list(addresses), ..Default::default() };
            let members = pb::ScopeMembers {
                connection_id: (*connection).to_owned(),
                to_side: *side == "to",
                network_id: network_of(id),
                members: vec![own],
                ..Default::default()
            };
            frame.members.push(members.encode_to_vec().into());
        }
        other => panic!("unknown line {other:?}"),
    }
}

/// `connect c1 net1 net2 tcp 80,90-99 until=5`; a network with a star is one whose members a selector picks.
fn connect(frame: &mut pb::ScopeFrame, words: [&str; 4], rest: &[&str]) {
    let [id, from, to, protocol] = words;
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        pb::PortRange { first: first.parse().unwrap(), last: last.parse().unwrap() }
    };
    let ports = rest.iter().filter(|word| !word.contains('=')).flat_map(|ports| ports.split(','));
    let until = rest.iter().find_map(|word| word.strip_prefix("until="));
    let protocol = pb::Protocol::from_str_name(&format!("PROTOCOL_{}", protocol.to_uppercase()));
    frame.connections.push(pb::ScopeConnection {
        id: id.to_owned(),
        from_network_id: from.trim_end_matches('*').to_owned(),
        to_network_id: to.trim_end_matches('*').to_owned(),
        from_selected: from.ends_with('*'),
        to_selected: to.ends_with('*'),
        protocol: protocol.unwrap_or_default().into(),
        ports: ports.map(range).collect(),
        expires_at: until.map_or(0, |seconds| seconds.parse::<i64>().unwrap() * 1_000_000),
    });
}

fn columns(packed: PackedBlocks) -> pb::ScopeBlocks {
    pb::ScopeBlocks {
        first: packed.first.to_string(),
        runs: packed.runs,
        gaps: packed.gaps,
        hosts: packed.hosts,
        underlay_steps: packed.underlay_steps,
        underlays_v6: packed.underlays_v6.iter().map(|v6| v6.octets().to_vec().into()).collect(),
    }
}

fn underlay(host: &str) -> String {
    format!("192.168.0.{}", host.trim_start_matches('h'))
}

/// Whatever the order in which things are told, the same is wanted in the end.
#[test]
fn the_path_to_a_scope_leaves_no_trace() {
    let lines = [
        "network net1 10.1.0.0/24 10.1.0.0/26@h1 10.1.0.64/26@h2",
        "network net2 10.2.0.0/24,fd02::/64 10.2.0.0/26@h2",
        "connect c1 net1 net2 tcp 80",
        "connect c2 net1* net2 udp 53",
        "endpoint e1.1 10.1.0.5 one",
        "member c2 from e1.1 10.1.0.5",
        "quarantine e2.9 10.2.0.9",
    ];
    let mut at_once = Host::default();
    at_once.step(&lines.join("\n"));
    let mut one_by_one = Host::default();
    lines.iter().for_each(|line| drop(one_by_one.step(line)));
    let mut there_and_back = Host::default();
    there_and_back.step(&lines.join("\n"));
    there_and_back
        .step("network net3 10.3.0.0/24 10.3.0.0/26@h2\nconnect c9 net3 net1 any\nendpoint e1.2 10.1.0.6 two");
    there_and_back.step("disconnect c9\nnetwork-gone net3\nendpoint-gone e1.2");
    assert_eq!(one_by_one.held, at_once.held);
    assert_eq!(there_and_back.held, at_once.held);
    assert_ne!(at_once.held.routes, Routes::new());
}
