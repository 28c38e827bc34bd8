//! Records that a release wrote, which all later ones read.
//!
//! `testdata/records/version-N.txt` was written by the first release with format N and never changes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fmt::Write as _, sync::Arc};

use netstate_model::*;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/records/version-1.txt");

fn directory_changes() -> Vec<DirectoryChange> {
    let labels = Labels::new([("app", "web"), ("env", "prod")]).unwrap();
    let at = Timestamp::from_micros(1_795_430_400_000_000);
    let side = |network, selector: Option<&str>| Side {
        network: NetworkId::new(network),
        selector: selector.map(|text| text.parse().unwrap()),
    };
    vec![
        DirectoryChange::Counters(Counters { network: 3, connection: 13, host: 4 }),
        DirectoryChange::Network(Network {
            id: NetworkId::new(2),
            name: Name::new("web").unwrap(),
            pools: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            block_len_v4: 26,
            block_len_v6: 122,
            labels: labels.clone(),
            created_at: at,
            created_by: "ann".to_owned(),
            retiring: false,
        }),
        DirectoryChange::Host(Host {
            id: HostId::new(3),
            name: Name::new("host-c").unwrap(),
            underlay: [192, 0, 2, 3].into(),
            labels,
            registered_at: at,
        }),
        DirectoryChange::Connection(Connection {
            id: ConnectionId::new(12),
            from: side(2, Some("app=web,env in (prod,test)")),
            to: side(1, None),
            protocol: Protocol::Tcp,
            ports: vec![Ports::new(443, 443).unwrap(), Ports::new(8000, 8080).unwrap()],
            reason: "orders read the database".to_owned(),
            created_by: "ann".to_owned(),
            created_at: at,
            expires_at: Some(Timestamp::from_micros(at.micros() + 1)),
        }),
        DirectoryChange::HostLost(LostHost { host: HostId::new(3), since: at }),
        DirectoryChange::HostPolicy(HostPolicy { detach_after_seconds: Some(600) }),
    ]
}

fn network_changes() -> Vec<NetworkChange> {
    let at = Timestamp::from_micros(1_795_430_400_000_000);
    let id = EndpointId::new(NetworkId::new(2), 42);
    let quarantine = Quarantine { reason: "scans".to_owned(), by: "ann".to_owned(), at };
    let addresses = Addresses { v4: Some([10, 1, 0, 2].into()), v6: Some("fd00:1::2".parse().unwrap()) };
    vec![
        NetworkChange::Config(NetworkConfig {
            id: NetworkId::new(2),
            name: Name::new("web").unwrap(),
            pools: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            block_len_v4: 26,
            block_len_v6: 122,
            retired: false,
        }),
        NetworkChange::NextNumber(43),
        NetworkChange::Block { block: "10.1.0.0/26".parse().unwrap(), host: HostId::new(3) },
        NetworkChange::Block { block: "fd00:1::/122".parse().unwrap(), host: HostId::new(3) },
        NetworkChange::Endpoint(Arc::new(Endpoint {
            id,
            name: Name::new("web-1").unwrap(),
            host: HostId::new(3),
            addresses,
            mac: Mac::derived(id),
            labels: Labels::new([("app", "web")]).unwrap(),
            workload: "shop".into(),
            netns: Some(NetnsName::new("web-1").unwrap()),
            attached_at: at,
            quarantine: Some(Box::new(quarantine)),
        })),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn of_the_first_format_read_and_are_written_the_same() {
    let mut lines = String::from("# Kind, key, value.\n");
    let mut add = |kind: &str, (key, value): (Vec<u8>, Option<Vec<u8>>)| {
        writeln!(lines, "{kind} {} {}", hex(&key), hex(&value.unwrap())).unwrap();
    };
    for change in directory_changes() {
        let (key, value) = change.to_record();
        assert_eq!(DirectoryChange::from_record(&key, value.as_deref()).as_ref(), Ok(&change));
        add("directory", (key, value));
    }
    for change in network_changes() {
        let (key, value) = change.to_record();
        assert_eq!(NetworkChange::from_record(&key, value.as_deref()).as_ref(), Ok(&change));
        add("network", (key, value));
    }
    // Only ever to be used for a file of a new format.
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") && !std::path::Path::new(FILE).exists() {
        std::fs::write(FILE, &lines).unwrap();
    }
    assert_eq!(std::fs::read_to_string(FILE).unwrap(), lines, "stored records would read differently");
}

#[test]
fn removals_have_the_same_keys() {
    let directory = [
        DirectoryChange::NetworkGone(NetworkId::new(2)),
        DirectoryChange::HostGone(HostId::new(3)),
        DirectoryChange::ConnectionGone(ConnectionId::new(12)),
        DirectoryChange::HostFound(HostId::new(3)),
    ];
    for (gone, there) in directory.iter().zip(&directory_changes()[1..]) {
        let (key, value) = gone.to_record();
        assert_eq!((&key, value), (&there.to_record().0, None));
        assert_eq!(DirectoryChange::from_record(&key, None).as_ref(), Ok(gone));
    }
    let network = [NetworkChange::BlockGone("10.1.0.0/26".parse().unwrap()), NetworkChange::EndpointGone(42)];
    for (gone, at) in network.iter().zip([2, 4]) {
        let (key, value) = gone.to_record();
        assert_eq!((&key, value), (&network_changes()[at].to_record().0, None));
        assert_eq!(NetworkChange::from_record(&key, None).as_ref(), Ok(gone));
    }
}
