//! The configuration of a server: flags, then variables, then a file, then defaults.
//!
//! Must hold: everything is read before anything is refused, and all mistakes are told at once, each with where it stands;
//! afterwards the configuration does not change.
//!
//! Left to others: doing the reading (the caller passes the flags, a way to ask for variables, and the file's text), so that
//! all of it can be tested as text in, text out.

mod etcd;
mod source;

use std::{fmt, io, net::SocketAddr, path::Path};

use kv_node::{Config, ConfigError, DISK_RESERVE_BYTES, GROUPS_DEFAULT, Member, StoreOptions, Timing};
use netstate_server::ServerConfig;

pub(crate) use etcd::members_keyspace;
use source::Settings;

pub(crate) const NAME: &str = "name";
pub(crate) const DATA_DIR: &str = "data-dir";
pub(crate) const LISTEN_CLIENT: &str = "listen-client";
pub(crate) const LISTEN_PEER: &str = "listen-peer";
pub(crate) const LISTEN_HTTP: &str = "listen-http";
pub(crate) const INITIAL_CLUSTER: &str = "initial-cluster";
pub(crate) const JOIN: &str = "join";
pub(crate) const ADVERTISE_PEER: &str = "advertise-peer";
pub(crate) const ZONE: &str = "zone";
pub(crate) const ROLE: &str = "role";
pub(crate) const GROUPS: &str = "groups";
pub(crate) const DISK_RESERVE: &str = "disk-reserve";
pub(crate) const ETCD_LISTEN: &str = "etcd-listen";
pub(crate) const ETCD_QUOTA: &str = "etcd-quota";
pub(crate) const ETCD_AUTO_COMPACTION: &str = "etcd-auto-compaction";
pub(crate) const ETCD_AUTH_TOKEN: &str = "etcd-auth-token";
pub(crate) const OTEL_ENDPOINT: &str = "otel-endpoint";
pub(crate) const OTEL_SAMPLE: &str = "otel-sample";

/// Every setting with what it is unless it is given. None: derived from the others.
const SETTINGS: [(&str, Option<&str>); 18] = [
    (NAME, Some("n1")),
    (DATA_DIR, Some("./netstate-data")),
    (LISTEN_CLIENT, Some("127.0.0.1:2379")),
    (LISTEN_PEER, Some("127.0.0.1:2380")),
    (LISTEN_HTTP, Some("127.0.0.1:2381")),
    (INITIAL_CLUSTER, None),
    (JOIN, None),
    (ADVERTISE_PEER, None),
    (ZONE, Some("")),
    (ROLE, Some("voter")),
    (GROUPS, None),
    (DISK_RESERVE, None),
    (ETCD_LISTEN, None),
    (ETCD_QUOTA, None),
    (ETCD_AUTO_COMPACTION, Some("off")),
    (ETCD_AUTH_TOKEN, Some("simple")),
    (OTEL_ENDPOINT, None),
    (OTEL_SAMPLE, Some("0.01")),
];

/// Where spans of requests go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Collector {
    /// Its URL.
    pub(crate) endpoint: String,
    /// The share of requests of which spans are sent, unless their clients say.
    pub(crate) sample: f64,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub(crate) struct Mistakes(Vec<String>);

/// Reads a server's configuration. `file` is its path and its text, or why that could not be read.
pub(crate) fn read(
    flags: &[(&'static str, String)],
    variable: &dyn Fn(&str) -> Option<String>,
    file: Option<(&Path, io::Result<String>)>,
) -> Result<(ServerConfig, Option<Collector>), Mistakes> {
    let mut mistakes = Vec::new();
    let settings = Settings::gather(flags, variable, file, &mut mistakes);
    let config = check(&settings, &mut mistakes);
    let collector = collector(&settings, &mut mistakes);
    match config {
        Some(config) if mistakes.is_empty() => Ok((config, collector)),
        _ => Err(Mistakes(mistakes)),
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {}:", plural(self.0.len()))?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

fn plural(mistakes: usize) -> String {
    if mistakes == 1 { "a mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

fn check(settings: &Settings, mistakes: &mut Vec<String>) -> Option<ServerConfig> {
    let listen_client = address(settings, LISTEN_CLIENT, mistakes);
    let listen_peer = address(settings, LISTEN_PEER, mistakes);
    let listen_http = address(settings, LISTEN_HTTP, mistakes);
    let ports = [(LISTEN_CLIENT, listen_client), (LISTEN_PEER, listen_peer), (LISTEN_HTTP, listen_http)];
    for (at, (key, address)) in ports.iter().enumerate() {
        let same =
            |(_, other): &&(&str, Option<SocketAddr>)| other == address && address.is_some_and(|own| own.port() != 0);
        if let Some((other, _)) = ports[..at].iter().find(same) {
            mistakes.push(format!("{}: the same as {other}; each needs a port of its own", settings.source(key)));
        }
    }
    let name = settings.value(NAME).unwrap_or_default().to_owned();
    if name.is_empty()
        || name.len() > 63
        || name.contains(|c: char| c.is_control() || c.is_whitespace() || "=,".contains(c))
    {
        let source = settings.source(NAME);
        mistakes.push(format!("{source}: no name of a node; give 1 to 63 letters, digits, dots and dashes"));
    }
    let groups = number(settings, GROUPS, GROUPS_DEFAULT, mistakes);
    let reserve = number(settings, DISK_RESERVE, DISK_RESERVE_BYTES >> 20, mistakes);
    let data_dir = settings.value(DATA_DIR).unwrap_or_default();
    if data_dir.is_empty() {
        mistakes.push(format!("{}: no folder; give a path", settings.source(DATA_DIR)));
    }
    let (etcd, listen_etcd) = etcd::read(settings, mistakes);
    let join = settings.value(JOIN).into_iter().flat_map(|text| text.split(',')).map(|peer| peer.trim().to_owned());
    let join: Vec<_> = join.filter(|peer| !peer.is_empty()).collect();
    if !join.is_empty() && settings.value(INITIAL_CLUSTER).is_some() {
        mistakes.push(format!(
            "{}: a node joins a cluster or founds one; leave out {INITIAL_CLUSTER}",
            settings.source(JOIN)
        ));
    }
    let advertise_peer = settings.value(ADVERTISE_PEER).map(str::to_owned);
    if !join.is_empty()
        && advertise_peer.is_none()
        && listen_peer.is_some_and(|address| address.ip().is_unspecified() || address.port() == 0)
    {
        mistakes.push(format!(
            "{}: others can't reach a node at every address; say with --{ADVERTISE_PEER} where they do",
            settings.source(LISTEN_PEER)
        ));
    }
    let initial_cluster = if join.is_empty() { members(settings, &name, mistakes)? } else { Vec::new() };
    let node = Config {
        name,
        data_dir: data_dir.into(),
        listen_peer: listen_peer.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        initial_cluster,
        join,
        advertise_peer,
        zone: settings.value(ZONE).unwrap_or_default().to_owned(),
        relay: relay(settings, mistakes),
        groups: groups.unwrap_or(GROUPS_DEFAULT),
        timing: Timing::default(),
        disk_reserve_bytes: reserve.unwrap_or_default().saturating_mul(1 << 20),
        store: StoreOptions::default(),
    };
    for mistake in node.mistakes() {
        let key = match mistake {
            ConfigError::Groups { .. } => GROUPS,
            ConfigError::Relay => ROLE,
            ConfigError::UnknownName { .. } => NAME,
            ConfigError::Address { .. } if !node.join.is_empty() => JOIN,
            ConfigError::Twice { .. } | ConfigError::Address { .. } | ConfigError::Founders { .. } => INITIAL_CLUSTER,
        };
        mistakes.push(format!("{}: {mistake}", settings.source(key)));
    }
    Some(ServerConfig {
        node,
        listen_client: listen_client?,
        listen_http: listen_http?,
        etcd,
        listen_etcd,
        trace: None,
    })
}

fn collector(settings: &Settings, mistakes: &mut Vec<String>) -> Option<Collector> {
    let endpoint = settings.value(OTEL_ENDPOINT)?;
    if !cfg!(feature = "otel") {
        let source = settings.source(OTEL_ENDPOINT);
        mistakes.push(format!("{source}: this program was built without OpenTelemetry; build it with --features otel"));
    }
    if !endpoint.starts_with("http://") {
        let (source, given) = (settings.source(OTEL_ENDPOINT), shown(endpoint));
        mistakes.push(format!("{source}: {given:?} is no collector; write http://HOST:4317"));
    }
    let sample = settings.value(OTEL_SAMPLE)?;
    let parsed = sample.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    if parsed.is_none() {
        let source = settings.source(OTEL_SAMPLE);
        mistakes.push(format!("{source}: {:?} is no share; write a number from 0 to 1, such as 0.01", shown(sample)));
    }
    Some(Collector { endpoint: endpoint.to_owned(), sample: parsed? })
}

fn address(settings: &Settings, key: &'static str, mistakes: &mut Vec<String>) -> Option<SocketAddr> {
    let text = settings.value(key)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let source = settings.source(key);
        mistakes.push(format!(
            "{source}: {:?} is no address to listen on; write IP:PORT, such as 127.0.0.1:2379",
            shown(text)
        ));
    }
    parsed
}

fn number<N: std::str::FromStr + Copy>(
    settings: &Settings,
    key: &'static str,
    default: N,
    mistakes: &mut Vec<String>,
) -> Option<N> {
    let Some(text) = settings.value(key) else { return Some(default) };
    let parsed = text.parse().ok();
    if parsed.is_none() {
        mistakes.push(format!(
            "{}: {:?} is no number that fits; write a whole number",
            settings.source(key),
            shown(text)
        ));
    }
    parsed
}

/// Whether it is a relay.
fn relay(settings: &Settings, mistakes: &mut Vec<String>) -> bool {
    match settings.value(ROLE).unwrap_or_default() {
        "voter" => false,
        "relay" => true,
        other => {
            mistakes.push(format!(
                "{}: {:?} is no role; there are voter and relay",
                settings.source(ROLE),
                shown(other)
            ));
            false
        }
    }
}

/// The founders; without any given, this node alone, at the address where it listens.
fn members(settings: &Settings, name: &str, mistakes: &mut Vec<String>) -> Option<Vec<Member>> {
    let Some(text) = settings.value(INITIAL_CLUSTER) else {
        let peer = settings.value(LISTEN_PEER)?;
        // Port 0 is for tests of one node: nobody else ever dials it.
        let peer = peer.strip_suffix(":0").map_or_else(|| peer.to_owned(), |host| format!("{host}:1"));
        return peer.parse::<SocketAddr>().is_ok().then(|| vec![Member { name: name.to_owned(), peer }]);
    };
    let mut members = Vec::new();
    let before = mistakes.len();
    for part in text.split(',').map(str::trim) {
        match part.split_once('=') {
            Some((name, peer)) if !name.is_empty() => {
                members.push(Member { name: name.to_owned(), peer: peer.to_owned() });
            }
            _ => {
                let source = settings.source(INITIAL_CLUSTER);
                mistakes.push(format!(
                    "{source}: {:?} is no node; write name=host:port for each, with commas between",
                    shown(part)
                ));
            }
        }
    }
    // A node that could not be read would be missed in all that follows.
    (mistakes.len() == before).then_some(members)
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags and variables as `key=value` lines, then the file's text; gives the configuration or its mistakes as text.
    fn told(flags: &[(&'static str, &str)], variables: &[(&str, &str)], file: &str) -> String {
        let flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let variable =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        match read(&flags, &variable, Some((Path::new("s.toml"), Ok(file.to_owned())))) {
            Ok((config, _)) => {
                let members: Vec<_> =
                    config.node.initial_cluster.iter().map(|m| format!("{}={}", m.name, m.peer)).collect();
                format!(
                    "{} {} client {} peer {} http {} of {} groups {}",
                    config.node.name,
                    config.node.data_dir.display(),
                    config.listen_client,
                    config.node.listen_peer,
                    config.listen_http,
                    members.join(","),
                    config.node.groups
                )
            }
            Err(mistakes) => mistakes.to_string(),
        }
    }

    #[test]
    fn with_nothing_given_it_is_one_node_here() {
        let expected = "n1 ./netstate-data client 127.0.0.1:2379 peer 127.0.0.1:2380 http 127.0.0.1:2381 of \
                        n1=127.0.0.1:2380 groups 16";
        assert_eq!(told(&[], &[], ""), expected);
    }

    /// The file that is shipped for operators to fill in.
    #[test]
    fn the_example_file_is_read() {
        let file = include_str!("../../../deploy/systemd/server.toml");
        let expected = "n1 /var/lib/netstate client 10.0.0.11:2379 peer 10.0.0.11:2380 http 10.0.0.11:2381 of \
                        n1=10.0.0.11:2380,n2=10.0.0.12:2380,n3=10.0.0.13:2380 groups 16";
        assert_eq!(told(&[], &[], file), expected);
        // And so is all that is commented out in it, except for the one that has no place beside initial-cluster.
        let all = file.lines().map(|line| line.strip_prefix('#').filter(|rest| rest.contains(" = ")).unwrap_or(line));
        let all: Vec<_> = all.filter(|line| !line.starts_with("join")).collect();
        assert_eq!(told(&[], &[], &all.join("\n")), expected);
    }

    #[test]
    fn flags_go_before_variables_before_the_file() {
        let file = "name = \"file\"\ndata-dir = \"/file\"\ngroups = 4\ninitial-cluster = [\"flag=a:1\", \"b=b:1\"]\n";
        let variables =
            [("NETSTATE_NAME", "variable"), ("NETSTATE_DATA_DIR", "/variable"), ("NETSTATE_LISTEN_HTTP", "")];
        let expected = "flag /variable client 127.0.0.1:2379 peer 127.0.0.1:2380 http 127.0.0.1:2381 of flag=a:1,b=b:1 \
                        groups 4";
        assert_eq!(told(&[(NAME, "flag")], &variables, file), expected);
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_where_they_stand() {
        let file = "name = \"n9\"\nlisten-client = \"nowhere\"\ncolour = \"red\"\nlisten-http = 2381\n";
        let found = told(
            &[(INITIAL_CLUSTER, "n1=a:1,n1=a:1")],
            &[("NETSTATE_GROUPS", "many"), ("NETSTATE_LISTEN_PEER", "127.0.0.1")],
            file,
        );
        let expected = "the configuration has 8 mistakes:
  s.toml, colour: there is no such setting; there are name, data-dir, listen-client, listen-peer, listen-http, initial-cluster, join, advertise-peer, zone, role, groups, disk-reserve, etcd-listen, etcd-quota, etcd-auto-compaction, etcd-auth-token, otel-endpoint, otel-sample
  s.toml, listen-http: has to be a text in quotes
  s.toml, listen-client: \"nowhere\" is no address to listen on; write IP:PORT, such as 127.0.0.1:2379
  variable NETSTATE_LISTEN_PEER: \"127.0.0.1\" is no address to listen on; write IP:PORT, such as 127.0.0.1:2379
  variable NETSTATE_GROUPS: \"many\" is no number that fits; write a whole number
  s.toml, name: the node's name \"n9\" is not in the initial cluster (n1, n1); add it or correct the name
  --initial-cluster: \"n1\" stands twice in the initial cluster; names and addresses are used once
  --initial-cluster: \"a:1\" stands twice in the initial cluster; names and addresses are used once";
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_that_is_no_toml_does_not_hide_other_mistakes() {
        let found = told(&[(LISTEN_PEER, "127.0.0.1:2379"), (INITIAL_CLUSTER, "n1")], &[], "name = \n");
        for part in ["3 mistakes", "s.toml: ", "--listen-peer: the same as listen-client", "\"n1\" is no node"] {
            assert!(found.contains(part), "{part:?} is not told in: {found}");
        }
    }

    #[test]
    fn what_is_said_of_tracing_is_checked() {
        let found = told(&[(OTEL_ENDPOINT, "collector:4317"), (OTEL_SAMPLE, "2")], &[], "");
        for part in ["--otel-endpoint: \"collector:4317\" is no collector", "--otel-sample: \"2\" is no share"] {
            assert!(found.contains(part), "{part:?} is not told in: {found}");
        }
        let good = told(&[(OTEL_ENDPOINT, "http://collector:4317"), (OTEL_SAMPLE, "1")], &[], "");
        assert_eq!(good.contains("built without OpenTelemetry"), !cfg!(feature = "otel"), "{good}");
    }

    #[test]
    fn a_file_that_is_not_there_is_a_mistake() {
        let missing = Some((Path::new("s.toml"), Err(io::Error::from(io::ErrorKind::NotFound))));
        let mistakes = read(&[], &|_| None, missing).unwrap_err().to_string();
        assert!(mistakes.contains("s.toml: can't be read"), "{mistakes}");
    }
}
