//! What a server refuses, how it says so, and that it goes on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Output, Stdio},
    time::Duration,
};

use netstate_client::ClientError;
use netstate_proto::v1 as pb;
use support::{Processes, create_network, endpoints, item, origin, register_host, until};

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netstate"));
    command.args(args).env_clear().stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn mistakes_in_the_configuration_are_told_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("netstate.toml");
    std::fs::write(&file, "name = \"n9\"\nlisten-client = \"nowhere\"\ncolour = \"red\"\n").unwrap();
    let output = run(&[
        "server",
        "--config",
        file.to_str().unwrap(),
        "--initial-cluster",
        "n1=127.0.0.1:2380,n1=127.0.0.1:2380",
    ]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in ["n9", "listen-client", "nowhere", "colour", "n1"] {
        assert!(text.contains(part), "{part:?} is not told in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_data_and_data_in_use_are_refused() {
    let cluster = Processes::start(1);
    let client = cluster.client();
    create_network(&client, "web", "10.0.0.0/24").await;
    let dir = cluster.data_dir(0);
    let start = |name: &str, founders: &str| {
        run(&[
            "server",
            "--name",
            name,
            "--data-dir",
            dir.to_str().unwrap(),
            "--listen-client",
            "127.0.0.1:0",
            "--listen-peer",
            "127.0.0.1:0",
            "--listen-http",
            "127.0.0.1:0",
            "--initial-cluster",
            founders,
        ])
    };
    let in_use = start("n1", &cluster.founders());
    assert_eq!(in_use.status.code(), Some(1), "{}", said(&in_use));
    assert!(said(&in_use).contains("in use"), "{}", said(&in_use));
    let mut cluster = cluster;
    cluster.kill(0);
    let other = start("n9", "n9=127.9.9.9:2380");
    assert_eq!(other.status.code(), Some(1), "{}", said(&other));
    assert!(said(&other).contains("data directory of node"), "{}", said(&other));
    // The refusals have harmed nothing.
    cluster.spawn(0);
    until("the network is still there", async || {
        let networks = client.list_networks(pb::ListNetworksRequest {}).await.ok()?.networks;
        (networks.len() == 1).then_some(())
    })
    .await;
}

/// Bytes that look random and are the same every time.
fn noise(seed: u32, len: u32) -> Vec<u8> {
    (0..len).map(|n| ((n ^ seed).wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// One HTTP/2 connection with one gRPC call whose message is noise, written by hand.
fn malformed_call(path: &str, seed: u32) -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        let mut field = vec![0, name.len() as u8];
        field.extend(name.as_bytes());
        field.push(value.len() as u8);
        field.extend(value.as_bytes());
        field
    };
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let headers = [
        literal(":method", "POST"),
        literal(":scheme", "http"),
        literal(":path", path),
        literal(":authority", "x"),
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
    ]
    .concat();
    let message = noise(seed, 200);
    let mut data = vec![0];
    data.extend((message.len() as u32).to_be_bytes());
    data.extend(message);
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(1, 4, 1, &headers), frame(0, 1, 1, &data)]
        .concat()
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_every_port_harms_nobody() {
    let cluster = Processes::start(1);
    let client = cluster.client();
    create_network(&client, "web", "10.0.0.0/24").await;
    let before = resident_bytes(cluster.pid(0));
    for seed in 0..60 {
        for address in cluster.addresses(0) {
            let Ok(mut socket) = TcpStream::connect(&address) else { panic!("{address} is closed") };
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let bytes = match seed % 4 {
                0 => noise(seed, 8192),
                1 => [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), noise(seed, 8192)].concat(),
                2 => malformed_call("/netstate.v1.Endpoints/Attach", seed),
                _ => [b"GET /".to_vec(), vec![b'a'; 100_000], b" HTTP/1.1\r\n\r\n".to_vec()].concat(),
            };
            // The server may hang up in the middle of it.
            let _ = socket.write_all(&bytes);
            let _ = socket.read(&mut [0; 512]);
        }
    }
    create_network(&client, "db", "10.1.0.0/24").await;
    let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_for_nothing_make_way() {
    let cluster = Processes::start(1);
    create_network(&cluster.client(), "web", "10.0.0.0/24").await;
    let connect = |_| TcpStream::connect(&cluster.addresses(0)[0]).unwrap();
    let silent: Vec<_> = (0..300).map(connect).collect();
    create_network(&cluster.client(), "db", "10.1.0.0/24").await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_with_what_to_do() {
    let cluster = Processes::start(1);
    let client = cluster.client();
    create_network(&client, "web", "10.0.0.0/29").await;
    create_network(&client, "db", "10.1.0.0/24").await;
    register_host(&client, "h-a", "192.0.2.1").await;
    let taken = pb::AttachItem { addresses: vec!["10.0.0.2".into()], ..item("web", "w0", "h-a") };
    let attach = async |item: pb::AttachItem| {
        let request = pb::AttachRequest { origin: origin(""), endpoints: vec![item] };
        match client.attach(request).await {
            Ok(response) => match response.results.into_iter().next().unwrap().refusal {
                Some(refusal) => format!("{}: {}", tonic::Code::from_i32(refusal.code).description(), refusal.message),
                None => "done".to_string(),
            },
            Err(ClientError::Refused { code, message }) => format!("{}: {message}", code.description()),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(attach(taken).await, "done");
    let at = |address: &str, name: &str| pb::AttachItem { addresses: vec![address.into()], ..item("web", name, "h-a") };
    // Each item with a part of what must be said of it.
    let refused = [
        (item("nowhere", "w1", "h-a"), "nowhere"),
        (item("web", "w1", "nobody"), "nobody"),
        (item("web", "w0", "h-a"), "w0"),
        (at("10.9.9.9", "w1"), "10.9.9.9"),
        (at("10.0.0.2", "w1"), "w0"),
        (at("not an address", "w1"), "not an address"),
        (item("web", "bad\u{7}name", "h-a"), "name"),
        (item("web", &"x".repeat(1 << 20), "h-a"), "name"),
        (item("web", "", "h-a"), "name"),
        (pb::AttachItem { mac: "zz".into(), ..item("web", "w1", "h-a") }, "zz"),
        (pb::AttachItem { netns: "../../etc".into(), ..item("web", "w1", "h-a") }, "netns"),
    ];
    for (item, part) in refused {
        let text = attach(item).await;
        assert!(text.contains(part) && text != "done" && text.len() < 2000, "{part:?} is not told in: {text}");
    }
    let connect = async |change: &dyn Fn(&mut pb::ConnectRequest)| {
        let side = |network: &str| Some(pb::Side { network: network.into(), selector: String::new() });
        let mut request = pb::ConnectRequest {
            origin: origin("orders read the database"),
            from: side("web"),
            to: side("db"),
            protocol: pb::Protocol::Tcp.into(),
            ports: vec![pb::PortRange { first: 5432, last: 5432 }],
            ..pb::ConnectRequest::default()
        };
        change(&mut request);
        match client.open_connection(request).await {
            Ok(_) => "done".to_string(),
            Err(ClientError::Refused { message, .. }) => message,
            Err(other) => panic!("{other}"),
        }
    };
    type Spoil<'a> = &'a dyn Fn(&mut pb::ConnectRequest);
    let refusals: [(Spoil<'_>, &str); 7] = [
        (&|r| r.origin.as_mut().unwrap().reason.clear(), "reason"),
        (&|r| r.ports[0] = pb::PortRange { first: 0, last: 10 }, "port"),
        (&|r| r.ports[0] = pb::PortRange { first: 20, last: 10 }, "port"),
        (&|r| r.ports[0] = pb::PortRange { first: 1, last: 70_000 }, "port"),
        (&|r| r.to.as_mut().unwrap().network.clear(), "network"),
        (&|r| *r.from.as_mut().unwrap() = pb::Side { network: String::new(), selector: "a=b".into() }, "network"),
        (&|r| r.from.as_mut().unwrap().selector = "a==b,,".into(), "selector"),
    ];
    for (change, part) in refusals {
        let text = connect(change).await;
        assert!(text.contains(part) && text != "done", "{part:?} is not told in: {text}");
    }
    // 10.0.0.0/29 has 5 addresses for endpoints, of which one is taken: five more don't fit, and none of them is attached.
    let five = (0..5).map(|n| item("web", &format!("many-{n}"), "h-a")).collect();
    let response = client.attach(pb::AttachRequest { origin: origin(""), endpoints: five }).await.unwrap();
    let refusal = response.results[0].refusal.clone().unwrap();
    assert_eq!(refusal.code, tonic::Code::ResourceExhausted as i32, "{}", refusal.message);
    assert_eq!(endpoints(&client).await.len(), 1);
}

/// A node whose disk fills up takes no more, says so, and goes on; the others don't need it.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_stops_nobody() {
    let Some(mut cluster) = Processes::start_on_small_disk(144) else {
        eprintln!("skipped: this needs to mount a tmpfs in a mount namespace of its own, which needs root");
        return;
    };
    let client = cluster.client();
    create_network(&client, "web", "10.0.0.0/8").await;
    register_host(&client, "h-a", "192.0.2.1").await;
    let mut attached = 0;
    let refusal = until("the disk is full", async || {
        let items = (0..1000)
            .map(|n| pb::AttachItem { workload: "w".repeat(200), ..item("web", &format!("e{}", attached + n), "h-a") });
        let request = pb::AttachRequest { origin: origin(""), endpoints: items.collect() };
        let refusal = match client.attach(request).await {
            Ok(response) => response.results[0].refusal.clone().map(|refusal| refusal.message),
            Err(error) => Some(error.to_string()),
        };
        attached += if refusal.is_none() { 1000 } else { 0 };
        refusal
    })
    .await;
    assert!(refusal.contains("free") && refusal.contains("reserve"), "{refusal}");
    assert!(cluster.is_running(0));
    assert_eq!(endpoints(&client).await.len(), attached);
}
