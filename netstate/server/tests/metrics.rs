//! The page of metrics, and that what is shipped for operators names what is on it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use netstate_client::{Client, Options};
use netstate_proto::v1 as pb;
use netstate_server::{ALARMS, Kind, METRICS, Server, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

const PATIENCE: Duration = Duration::from_secs(60);
const GROUPS: u16 = 4;

/// A sample's name and labels, as they stand on the page.
type Sample = (String, BTreeMap<String, String>);

/// What a page says.
#[derive(Debug, Default)]
struct Page {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<Sample, f64>,
}

impl Page {
    /// Reads Prometheus' text format, as strictly as Prometheus does.
    fn parse(text: &str) -> Self {
        let mut page = Page::default();
        let (mut helped, mut current) = (BTreeSet::new(), "");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, meaning) = rest.split_once(' ').unwrap();
                assert!(!meaning.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(helped.contains(name), "{line}: a type without help");
                assert_eq!(page.kinds.insert(name.to_owned(), kind.to_owned()), None, "{line}: twice");
                current = name;
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = sample.split_once('{').map_or((sample, ""), |(name, rest)| (name, rest));
                assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
                let family = family(name);
                assert_eq!(current, family, "{line}: not below its type");
                assert_eq!(family == name, page.kinds[family] != "histogram", "{line}");
                let labels = labels.strip_suffix('}').unwrap_or(labels);
                let each = labels.split("\",").filter(|label| !label.is_empty()).map(|label| {
                    let (key, value) = label.split_once("=\"").unwrap();
                    (key.to_owned(), value.trim_end_matches('"').to_owned())
                });
                let value = value.parse().unwrap();
                let before = page.samples.insert((name.to_owned(), each.collect()), value);
                assert_eq!(before, None, "{line}: twice");
            }
        }
        page.check_histograms();
        page
    }

    fn check_histograms(&self) {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let buckets = self.samples.iter().filter(|((found, _), _)| *found == format!("{name}_bucket"));
            let bound = |text: &str| if text == "+Inf" { f64::INFINITY } else { text.parse().unwrap() };
            let mut buckets: Vec<_> = buckets.map(|((_, labels), count)| (bound(&labels["le"]), *count)).collect();
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{name}: {buckets:?}");
            let (last, count) = *buckets.last().unwrap();
            assert_eq!((last, Some(count)), (f64::INFINITY, self.get(&format!("{name}_count"), &[])), "{name}");
        }
    }

    fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|((found, _), _)| found == name).map(|(_, value)| value).sum()
    }
}

/// The metric that a sample is of.
fn family(sample: &str) -> &str {
    let declared = |name: &str| METRICS.iter().any(|metric| metric.name == name && metric.kind == Kind::Histogram);
    let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| sample.strip_suffix(part));
    parts.into_iter().find(|name| declared(name)).unwrap_or(sample)
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    // Pages are sent in one piece, with their length.
    assert!(head.contains("content-length"), "{head}");
    body.to_owned()
}

struct Cluster {
    servers: Vec<Server>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// Three servers on loopback addresses of their own. The disk of the last has less room than it is to leave free.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let address = Ipv4Addr::new(127, 64 + (pid >> 8) as u8 % 128, pid as u8, 77);
        let at = |port: u16| SocketAddr::from((address, port));
        let member = |n: u16| kv_node::Member { name: format!("n{n}"), peer: at(23800 + n).to_string() };
        let mut servers = Vec::new();
        for n in 1..=3 {
            let config = ServerConfig {
                node: kv_node::Config {
                    name: format!("n{n}"),
                    data_dir: dir.path().join(format!("n{n}")),
                    listen_peer: at(23800 + n),
                    initial_cluster: (1..=3).map(member).collect(),
                    join: Vec::new(),
                    advertise_peer: None,
                    zone: String::new(),
                    relay: false,
                    groups: GROUPS,
                    timing: kv_node::Timing::default(),
                    disk_reserve_bytes: if n == 3 { u64::MAX } else { 0 },
                    store: kv_node::StoreOptions::default(),
                },
                listen_client: at(0),
                listen_http: at(0),
                etcd: kv_etcd::Config::new(kv_core::Keyspace::new("default").unwrap()),
                listen_etcd: Vec::new(),
                trace: None,
            };
            servers.push(Server::start(config).await.unwrap());
        }
        Cluster { servers, _dir: dir }
    }

    async fn pages(&self) -> Vec<Page> {
        let pages = self.servers.iter().map(|server| get(server.http_address(), "/metrics"));
        futures::future::join_all(pages).await.iter().map(|text| Page::parse(text)).collect()
    }

    /// The pages of all servers, once they are as they have to be.
    async fn pages_when(&self, what: &str, holds: impl Fn(&[Page]) -> bool) -> Vec<Page> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pages = self.pages().await;
            if holds(&pages) {
                return pages;
            }
            assert!(Instant::now() < deadline, "still waiting for: {what}; last seen: {pages:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_every_metric_and_says_what_is_so() {
    let cluster = Cluster::start().await;
    let addresses = cluster.servers.iter().map(|server| server.client_address().to_string()).collect();
    let client = Client::connect(addresses, Options { deadline: PATIENCE, ..Options::default() }).unwrap();
    let full = [("what", "disk-full"), ("where", "n3"), ("serious", "yes")];
    let governs = |page: &Page| page.get("netstate_governs", &[]) == Some(1.0);
    cluster
        .pages_when("one that governs, leaders with room, and alarms", |pages| {
            let led: f64 = pages.iter().map(|page| page.sum("netstate_group_leads")).sum();
            let told = pages.iter().filter(|page| page.get("netstate_alarm", &full) == Some(1.0)).count();
            let linked = pages.iter().all(|page| page.sum("netstate_link_up") == 2.0);
            let timed = pages.iter().all(|page| page.sum("netstate_link_round_trip_seconds") > 0.0);
            pages.iter().filter(|page| governs(page)).count() == 1
                && (led, told, linked, timed) == (GROUPS.into(), 2, true, true)
                && pages[2].sum("netstate_group_leads") == 0.0
        })
        .await;

    // n3 can take no write; the others make a majority.
    let request = pb::CreateNetworkRequest {
        origin: Some(pb::Origin { actor: "ann".into(), ..pb::Origin::default() }),
        name: "web".into(),
        pools: vec!["10.1.0.0/16".into()],
        ..pb::CreateNetworkRequest::default()
    };
    client.create_network(request).await.unwrap();
    let lags = |page: &Page| page.samples.keys().filter(|(name, _)| name == "netstate_group_peer_lag_entries").count();
    let pages = cluster
        .pages_when("a commit that is counted, and leaders that know of two other replicas each", |pages| {
            let wrote: f64 = pages.iter().map(|page| page.sum("netstate_commit_seconds_count")).sum();
            wrote >= 1.0 && pages.iter().map(lags).sum::<usize>() == 2 * usize::from(GROUPS)
        })
        .await;

    for page in &pages {
        let declared: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(page.kinds.keys().map(String::as_str).collect::<BTreeSet<_>>(), declared);
        assert_eq!(page.sum("netstate_group_out_of_service"), 0.0);
    }
    // n3 could not even write down who belongs to the cluster.
    for page in &pages[..2] {
        assert_eq!(page.get("netstate_nodes", &[("standing", "member")]), Some(3.0));
        assert_eq!(page.sum("netstate_group_voters"), f64::from(3 * GROUPS));
    }
    // Who governs tells of n3, and so does n3 itself; the third node says nothing of others.
    for (at, page) in pages.iter().enumerate() {
        assert_eq!(page.get("netstate_alarm", &full).is_some(), at == 2 || governs(page), "n{}", at + 1);
    }
    let all = |name: &str| pages.iter().map(|page| page.sum(name)).sum::<f64>();
    assert!(all("netstate_commit_seconds_count") >= 1.0 && all("netstate_commit_seconds_sum") > 0.0);
    assert!(all("netstate_revisions_total") >= 2.0 && all("netstate_log_write_seconds_count") >= 2.0);
    assert!(pages.iter().all(|page| page.sum("netstate_log_bytes") > 0.0 && page.sum("netstate_state_bytes") > 0.0));
    assert!(all("netstate_proposals_total") >= 1.0);
    assert!(all("netstate_group_elections_total") >= GROUPS.into());
    for server in cluster.servers {
        server.shutdown().await;
    }
}

fn shipped(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every name of a metric of ours in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("netstate_") || word.starts_with("process_")).map(family).collect()
}

#[test]
fn what_rules_and_dashboard_name_is_on_the_page() {
    let declared: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    for path in ["deploy/prometheus/alerts.yaml", "deploy/grafana/netstate.json"] {
        let text = shipped(path);
        let unknown: Vec<_> = named(&text).difference(&declared).copied().collect();
        assert_eq!(unknown, Vec::<&str>::new(), "in {path}");
    }
    let named_somewhere = shipped("deploy/grafana/netstate.json");
    let unseen: Vec<_> = declared.difference(&named(&named_somewhere)).copied().collect();
    // Who wants the positions of each group looks at `netstate cluster status --groups`.
    let of_each_group = [
        "netstate_governs",
        "netstate_group_applied_entries",
        "netstate_group_committed_entries",
        "netstate_group_has_leader",
    ];
    assert_eq!(unseen, of_each_group, "on the page and not on the dashboard");
}

#[test]
fn the_dashboard_is_one_that_can_be_imported() {
    let dashboard: serde_json::Value = serde_json::from_str(&shipped("deploy/grafana/netstate.json")).unwrap();
    assert_eq!(dashboard["uid"], "netstate");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["type"] == "datasource" && variable["name"] == "datasource"));
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are used once");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && panel["datasource"]["uid"] == "${datasource}", "{}", panel["title"]);
    }
}

/// Each alarm has a rule that waits for it, says what to do, and leads to its section for operators.
#[test]
fn every_alarm_has_a_rule_and_a_section() {
    let (rules, manual) = (shipped("deploy/prometheus/alerts.yaml"), shipped("docs/operations.md"));
    let sections: BTreeSet<_> = manual.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    let rules: Vec<_> = rules.split("- alert: ").skip(1).collect();
    for word in ALARMS {
        let expression = format!("netstate_alarm{{what=\"{word}\"}}");
        let rule = rules.iter().find(|rule| rule.contains(&expression)).unwrap_or_else(|| panic!("no rule for {word}"));
        assert!(rule.contains(&format!("docs/operations.md#{word}")), "{word}: {rule}");
        assert!(sections.contains(*word), "docs/operations.md has no section {word}; it has {sections:?}");
    }
    for rule in rules {
        for part in ["expr: ", "severity: ", "summary: ", "action: ", "manual: docs/operations.md#"] {
            assert!(rule.contains(part), "{part} is missing in {rule}");
        }
        let section = rule.split("docs/operations.md#").nth(1).unwrap().lines().next().unwrap();
        assert!(sections.contains(section), "docs/operations.md has no section {section}");
    }
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
