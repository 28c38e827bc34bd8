//! A directory and its networks, driven by lines of text.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use netstate_model::*;

use super::{invariants, words::Words};

#[derive(Default)]
pub(crate) struct World {
    pub(crate) directory: Directory,
    pub(crate) networks: BTreeMap<NetworkId, NetworkState>,
    pub(crate) now: Timestamp,
}

impl World {
    /// Runs a line and says what came of it.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let mut words = Words::of(line);
        let answer = match words.next().as_str() {
            "clock" => {
                self.now = Timestamp::from_micros(words.next().parse::<i64>().unwrap() * 1_000_000);
                Ok(String::new())
            }
            "network" => self.create_network(&mut words),
            "retire" => self.of_network(&mut words, |network| DirectoryCommand::RetireNetwork { network }),
            "keep" => self.of_network(&mut words, |network| DirectoryCommand::KeepNetwork { network }),
            "remove" => self.of_network(&mut words, |network| DirectoryCommand::RemoveNetwork { network }),
            "connect" => self.connect(&mut words, false),
            "would-connect" => self.connect(&mut words, true),
            "disconnect" => self.of_connection(&mut words, |connection| DirectoryCommand::Disconnect { connection }),
            "expire" => self.of_connection(&mut words, |connection| DirectoryCommand::Expire { connection }),
            "host" => self.register_host(&mut words),
            "remove-host" => {
                self.of_host(&mut words, |host, endpoints| DirectoryCommand::RemoveHost { host, endpoints })
            }
            "host-policy" => {
                let seconds = words.after("detach-after").map(|seconds| seconds.parse().unwrap());
                let detach_after = seconds.map(Duration::from_secs);
                self.directory_command(DirectoryCommand::SetHostPolicy { detach_after }, "", "")
            }
            "lose" => {
                let host = self.directory.resolve_host(&words.next()).map(|host| host.id);
                let silent = words.after("silent").expect("for how long").parse().unwrap();
                let silent = Duration::from_secs(silent);
                host.and_then(|host| self.directory_command(DirectoryCommand::LoseHost { host, silent }, "", ""))
            }
            "find" => self.of_host(&mut words, |host, endpoints| DirectoryCommand::FindHost { host, endpoints }),
            "install" => self.install(&mut words),
            "attach" => self.attach(&mut words),
            "attach-many" => self.attach_many(&mut words),
            "detach" => self.detach(&mut words),
            "quarantine" => self.quarantine(&mut words, true),
            "free" => self.quarantine(&mut words, false),
            "end" => self.network_command(&words.next(), |_| Ok(NetworkCommand::Retire), "", ""),
            "reach" => self.reach(&mut words),
            "exposure" => self.exposure(&mut words),
            "scope" => Ok(self.scope(&mut words)),
            "show" => self.show(&mut words),
            "label" => {
                Labels::new([(words.next(), words.next())]).map(|labels| labels.to_string()).map_err(Refusal::from)
            }
            "matches" => self.matches(&mut words),
            "mac" => words.next().parse::<Mac>().map(|mac| mac.to_string()).map_err(Refusal::from),
            other => panic!("no command {other}"),
        };
        assert!(words.is_empty() || answer.is_err(), "words left over in {line}");
        match answer {
            Ok(text) if text.is_empty() || text.ends_with('\n') => text,
            Ok(text) => text + "\n",
            Err(refusal) => format!("refused, {:?}: {refusal}\n", refusal.kind()),
        }
    }

    fn directory_command(&mut self, command: DirectoryCommand, actor: &str, reason: &str) -> Result<String, Refusal> {
        let changes = self.directory.decide(command, &Context { now: self.now, actor, reason })?;
        let mut text = String::new();
        for change in &changes {
            invariants::directory_record(change);
            self.directory.evolve(change);
            if !matches!(change, DirectoryChange::Counters(_)) {
                writeln!(text, "{}", change.describe()).unwrap();
            }
        }
        invariants::directory(&self.directory);
        Ok(if changes.is_empty() { "no change".to_owned() } else { text })
    }

    fn network_command(
        &mut self,
        network: &str,
        command: impl FnOnce(&NetworkState) -> Result<NetworkCommand, Refusal>,
        actor: &str,
        reason: &str,
    ) -> Result<String, Refusal> {
        let id = self.directory.resolve_network(network)?.id;
        let state = self.networks.entry(id).or_default();
        let changes = state.decide(command(state)?, &Context { now: self.now, actor, reason })?;
        let mut text = String::new();
        for change in &changes {
            invariants::network_record(change);
            state.evolve(change);
            if !matches!(change, NetworkChange::NextNumber(_)) {
                writeln!(text, "{}", change.describe()).unwrap();
            }
        }
        invariants::network(state);
        Ok(if changes.is_empty() { "no change".to_owned() } else { text })
    }

    fn create_network(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let name = Name::new(&words.next())?;
        let mut pools = Vec::new();
        while let Some(pool) = words.after("pool") {
            pools.push(pool.parse().expect("a pool"));
        }
        let mut len = |keyword| words.after(keyword).map(|len| len.parse().expect("a length"));
        let (block_len_v4, block_len_v6) = (len("blocks4"), len("blocks6"));
        let labels = labels(words)?;
        let command = DirectoryCommand::CreateNetwork { name, pools, block_len_v4, block_len_v6, labels };
        let (actor, reason) = origin(words);
        self.directory_command(command, &actor, &reason)
    }

    fn of_network(
        &mut self,
        words: &mut Words,
        command: impl FnOnce(NetworkId) -> DirectoryCommand,
    ) -> Result<String, Refusal> {
        let id = self.directory.resolve_network(&words.next())?.id;
        self.directory_command(command(id), "", "")
    }

    fn of_connection(
        &mut self,
        words: &mut Words,
        command: impl FnOnce(ConnectionId) -> DirectoryCommand,
    ) -> Result<String, Refusal> {
        let id = self.directory.resolve_connection(&words.next())?.id;
        let (actor, reason) = origin(words);
        self.directory_command(command(id), &actor, &reason)
    }

    fn connect(&mut self, words: &mut Words, dry_run: bool) -> Result<String, Refusal> {
        let from = self.side(&words.next())?;
        assert!(words.take("to"));
        let to = self.side(&words.next())?;
        assert!(words.take("on"));
        let traffic = words.next();
        let (protocol, ports) = traffic.split_once('/').unwrap_or((&traffic, ""));
        let ports = ports.split(',').filter(|range| !range.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
        let lifetime = words.after("for").map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
        let (actor, reason) = origin(words);
        let command = DirectoryCommand::Connect { from, to, protocol: protocol.parse()?, ports, lifetime };
        if !dry_run {
            return self.directory_command(command, &actor, &reason);
        }
        let changes = self.directory.decide(command, &Context { now: self.now, actor: &actor, reason: &reason })?;
        let Some(DirectoryChange::Connection(connection)) = changes.first() else { panic!("no connection first") };
        let opened = opened_pairs(&self.directory, &|id| self.networks.get(&id).cloned(), connection, self.now)?;
        let hosts: Vec<String> = opened.hosts.iter().map(|host| self.host_name(*host)).collect();
        let Opened { from_endpoints, to_endpoints, pairs, pairs_new, .. } = opened;
        Ok(format!(
            "{from_endpoints} endpoints to {to_endpoints}: {pairs} pairs, {pairs_new} of them new; hosts {}",
            hosts.join(" ")
        ))
    }

    /// A side as `web` or `web[app=x]`.
    fn side(&self, text: &str) -> Result<Side, Refusal> {
        let (network, selector) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
            Some((network, selector)) => (network, Some(selector.parse()?)),
            None => (text, None),
        };
        Ok(Side { network: self.directory.resolve_network(network)?.id, selector })
    }

    fn register_host(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let name = Name::new(&words.next())?;
        let underlay = words.after("at").expect("an address").parse().expect("an address");
        let labels = labels(words)?;
        self.directory_command(DirectoryCommand::RegisterHost { name, underlay, labels }, "", "")
    }

    /// A command about a host and how many endpoints are on it.
    fn of_host(
        &mut self,
        words: &mut Words,
        command: impl Fn(HostId, u64) -> DirectoryCommand,
    ) -> Result<String, Refusal> {
        let host = self.directory.resolve_host(&words.next())?.id;
        let endpoints = self.networks.values().map(|state| state.count_on(host) as u64).sum();
        self.directory_command(command(host, endpoints), "", "")
    }

    fn install(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let network = words.next();
        let mut config = NetworkConfig::of(self.directory.resolve_network(&network)?);
        if let Some(len) = words.after("blocks4") {
            config.block_len_v4 = len.parse().unwrap();
        }
        self.network_command(&network, |_| Ok(NetworkCommand::Install(config)), "", "")
    }

    fn attach(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let network = words.next();
        let mut batch = Vec::new();
        while !words.is_empty() {
            batch.push(self.attach_one(words)?);
            words.take(";");
        }
        self.network_command(&network, |_| Ok(NetworkCommand::Attach(batch)), "", "")
    }

    fn attach_one(&self, words: &mut Words) -> Result<Attach, Refusal> {
        let name = Name::new(&words.next())?;
        let host = self.directory.resolve_host_for_endpoints(&words.after("on").expect("a host"))?.id;
        let mut addresses = Vec::new();
        while let Some(address) = words.after("at") {
            addresses.push(address.parse().expect("an address"));
        }
        let workload = words.after("workload").unwrap_or_default();
        let netns = words.after("netns").map(|netns| netns.parse()).transpose()?;
        let labels = labels(words)?;
        let mac = words.after("mac").map(|mac| mac.parse()).transpose()?;
        Ok(Attach { name, host, addresses, mac, labels, workload, netns })
    }

    fn attach_many(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let network = words.next();
        let count: usize = words.next().parse().unwrap();
        let prefix = words.next();
        let host = self.directory.resolve_host(&words.after("on").expect("a host"))?.id;
        let one = |at: usize| {
            let name = Name::new(&format!("{prefix}-{at}"))?;
            let (addresses, labels) = (Vec::new(), Labels::NONE);
            Ok(Attach { name, host, addresses, mac: None, labels, workload: String::new(), netns: None })
        };
        let batch = (1..=count).map(one).collect::<Result<_, Refusal>>()?;
        let printed = self.network_command(&network, |_| Ok(NetworkCommand::Attach(batch)), "", "")?;
        let endpoints = printed.lines().filter(|line| line.starts_with("endpoint")).count();
        let blocks = printed.lines().count() - endpoints;
        Ok(format!("{endpoints} endpoints, {blocks} blocks"))
    }

    fn detach(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let network = words.next();
        let mut names = Vec::new();
        while !words.is_empty() {
            names.push(words.next());
        }
        let numbers = |state: &NetworkState| -> Result<NetworkCommand, Refusal> {
            let numbers = names.iter().map(|name| state.resolve(name).map(Endpoint::number));
            Ok(NetworkCommand::Detach(numbers.collect::<Result<_, _>>()?))
        };
        self.network_command(&network, numbers, "", "")
    }

    fn quarantine(&mut self, words: &mut Words, on: bool) -> Result<String, Refusal> {
        let path = words.next();
        let (network, name) = path.split_once('/').expect("network/name");
        let (actor, reason) = origin(words);
        let command =
            |state: &NetworkState| Ok(NetworkCommand::Quarantine { endpoint: state.resolve(name)?.number(), on });
        self.network_command(network, command, &actor, &reason)
    }

    fn subject(&self, text: &str) -> Result<Subject, Refusal> {
        let Some((network, name)) = text.split_once('/') else {
            return Ok(Subject::Network(self.directory.resolve_network(text)?.id));
        };
        let network = self.directory.resolve_network(network)?.id;
        let none = NetworkState::default();
        let state = self.networks.get(&network).unwrap_or(&none);
        Ok(Subject::Endpoint(state.resolve(name)?.id))
    }

    fn reach(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let from = self.subject(&words.next())?;
        assert!(words.take("to"));
        let to = self.subject(&words.next())?;
        let reach = reach(&self.directory, &|id| self.networks.get(&id).cloned(), &from, &to, self.now)?;
        let Reach { verdict, permits, pairs, pairs_possible, explanation } = reach;
        let mut text = format!("{verdict:?} {pairs}/{pairs_possible}\n{explanation}\n");
        for permit in permits {
            match permit {
                Permit::SameNetwork { pairs } => writeln!(text, "  same network: {pairs}").unwrap(),
                Permit::Connection { connection, pairs } => writeln!(text, "  {}: {pairs}", connection.id).unwrap(),
            }
        }
        Ok(text)
    }

    fn exposure(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let target = self.subject(&words.next())?;
        let entries = exposure(&self.directory, &|id| self.networks.get(&id).cloned(), &target, self.now)?;
        let mut text = String::new();
        for Exposure { network, selector, endpoints, connection } in entries {
            let side = Connection::side_text(&Side { network, selector }, &self.directory);
            let cause = connection.map_or("same network".to_owned(), |own| format!("{} on {}", own.id, own.traffic()));
            writeln!(text, "{endpoints} of {side}: {cause}").unwrap();
        }
        Ok(if text.is_empty() { "nobody".to_owned() } else { text })
    }

    fn scope(&mut self, words: &mut Words) -> String {
        let mut local = Vec::new();
        while !words.is_empty() {
            local.push(self.directory.resolve_network(&words.next()).unwrap().id);
        }
        let Scope { networks, connections } = scope(&self.directory, local);
        let networks = networks.iter().map(|(id, local)| format!(" {id}{}", if *local { " (local)" } else { "" }));
        let connections = connections.iter().map(|id| format!(" {id}"));
        format!("networks{}\nconnections{}", networks.collect::<String>(), connections.collect::<String>())
    }

    fn show(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let mut text = String::new();
        match words.next().as_str() {
            "networks" => {
                for network in self.directory.networks() {
                    writeln!(text, "{}", DirectoryChange::Network(network.clone()).describe()).unwrap();
                }
            }
            "connections" => {
                for connection in self.directory.connections() {
                    writeln!(text, "{}", DirectoryChange::Connection(connection.clone()).describe()).unwrap();
                }
            }
            "blocks" => {
                let id = self.directory.resolve_network(&words.next())?.id;
                for (block, host) in self.networks[&id].blocks() {
                    let used = self.networks[&id].used_in(block);
                    writeln!(text, "{block} {} {used} used", self.host_name(host)).unwrap();
                }
            }
            "strays" => {
                let id = self.directory.resolve_network(&words.next())?.id;
                for stray in self.networks[&id].strays() {
                    let addresses: Vec<String> = stray.addresses.iter().map(|address| address.to_string()).collect();
                    writeln!(text, "{} {} {}", stray.name, self.host_name(stray.host), addresses.join(" ")).unwrap();
                }
            }
            other => panic!("no show {other}"),
        }
        Ok(if text.is_empty() { "none".to_owned() } else { text })
    }

    fn matches(&mut self, words: &mut Words) -> Result<String, Refusal> {
        let selector: Selector = words.next().parse()?;
        assert_eq!(selector.to_string().parse(), Ok(selector.clone()), "reads back as written");
        let matches = selector.matches(&labels(words)?);
        Ok(format!("{selector}: {matches}"))
    }

    fn host_name(&self, id: HostId) -> String {
        self.directory.host(id).map_or_else(|| id.to_string(), |host| host.name.to_string())
    }
}

/// Labels as `labels a=b,c=d`.
fn labels(words: &mut Words) -> Result<Labels, Refusal> {
    let text = words.after("labels").unwrap_or_default();
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    Ok(Labels::new(pairs.map(|pair| pair.split_once('=').expect("key=value")))?)
}

/// `by ann because "a reason"`.
fn origin(words: &mut Words) -> (String, String) {
    let actor = words.after("by").unwrap_or_default();
    (actor, words.after("because").unwrap_or_default())
}
