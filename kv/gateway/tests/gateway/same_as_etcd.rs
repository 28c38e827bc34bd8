//! The same requests to etcd's own gateway and to ours, with an etcd behind each, get the same answers.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use kv_gateway::Gateway;
use serde_json::{Value, json};

use crate::support::{
    Served,
    etcd::Etcd,
    http::{Answer, Body, Exchange, send},
};

/// Two members that are asked the same.
struct Pair {
    theirs: Etcd,
    _behind_ours: Etcd,
    ours: Served,
}

impl Pair {
    async fn start() -> anyhow::Result<Self> {
        let (theirs, behind_ours) = tokio::try_join!(Etcd::start(), Etcd::start())?;
        let ours = Served::new(Gateway::new()?.router(behind_ours.channel().await?)).await?;
        Ok(Self { theirs, _behind_ours: behind_ours, ours })
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [self.theirs.address, self.ours.address]
    }

    /// Asks both and compares; the answer, if they are equal.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Result<Answer, String>> {
        let [theirs, ours] = self.addresses();
        let (theirs, ours) =
            tokio::try_join!(send(theirs, method, path, headers, body), send(ours, method, path, headers, body))
                .with_context(|| format!("{method} {path}"))?;
        let (theirs, ours) = (comparable(theirs), comparable(ours));
        if theirs == ours { Ok(Ok(ours)) } else { Ok(Err(format!("etcd: {theirs:?}\nours: {ours:?}"))) }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
        let asked = self.ask("POST", path, headers, body.as_bytes()).await?;
        asked.map_err(|difference| anyhow::anyhow!("{path} {body}\n{difference}"))
    }
}

/// An answer without what differs between two members, and without headers that say nothing about the answer.
fn comparable(mut answer: Answer) -> Answer {
    const COMPARED: [&str; 3] = ["content-type", "x-content-type-options", "grpc-metadata-content-type"];
    answer.headers.retain(|(name, _)| COMPARED.contains(&name.as_str()));
    answer.headers.sort();
    if let Body::Json(values) = &mut answer.body {
        values.iter_mut().for_each(mask);
    }
    answer
}

/// Puts a mark where members or moments differ: that something is there, and is text, is still compared.
fn mask(value: &mut Value) {
    const OWN: [&str; 14] = [
        "cluster_id",
        "member_id",
        "ID",
        "peerURLs",
        "clientURLs",
        "leader",
        "dbSize",
        "dbSizeInUse",
        "raftIndex",
        "raftAppliedIndex",
        "hash",
        "blob",
        "remaining_bytes",
        "token",
    ];
    match value {
        Value::Object(members) => {
            // A lease has the id that it was given; only members have names and clocks of their own.
            let is_lease = members.contains_key("TTL") || members.len() == 1;
            if members.contains_key("grantedTTL") {
                members.insert("TTL".to_owned(), json!("left"));
            }
            for (name, value) in members.iter_mut() {
                match OWN.contains(&name.as_str()) && !value.is_object() && !(is_lease && name == "ID") {
                    true => *value = json!(if value.is_string() { "text" } else { "other" }),
                    false => mask(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        _ => {}
    }
}

#[tokio::test]
async fn the_same_requests_get_the_same_answers() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let script = include_str!("../../testdata/requests.txt");
    let (mut asked, mut differences) = (0, Vec::new());
    for line in script.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut parts = line.splitn(3, ' ');
        let (method, path) = parts.next().zip(parts.next()).context("a line needs a method and a path")?;
        asked += 1;
        let body = parts.next().unwrap_or_default();
        if let Err(difference) = pair.ask(method, path, &[], body.as_bytes()).await? {
            differences.push(format!("{line}\n{difference}"));
        }
    }
    println!("{asked} requests, {} answers differ", differences.len());
    ensure!(differences.is_empty(), "{} of {asked} answers differ:\n\n{}", differences.len(), differences.join("\n\n"));
    Ok(())
}

#[tokio::test]
async fn large_and_deep_requests_are_refused_in_the_same_words() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let put = |characters: usize| format!(r#"{{"key":"YmFy","value":"{}"}}"#, "A".repeat(characters));
    let nested = |transactions: usize| {
        let (open, close) = (r#"{"success":[{"request_txn":"#, "}]}");
        format!("{}{{}}{}", open.repeat(transactions), close.repeat(transactions))
    };
    let cases = [
        ("/v3/kv/put", put(2_000_000), 200),
        // More than etcd stores, more than fits a message, and what Go finds too deep.
        ("/v3/kv/put", put(2_400_000), 400),
        ("/v3/kv/put", put(2_900_000), 429),
        ("/v3/kv/put", "[".repeat(20_000), 400),
        ("/v3/kv/txn", nested(40), 200),
    ];
    for (path, body, status) in cases {
        let asked = pair.ask("POST", path, &[], body.as_bytes()).await?;
        assert_eq!(asked.map(|answer| answer.status), Ok(status), "{path} with {} bytes", body.len());
    }
    let is_refused = send(pair.ours.address, "POST", "/v3/kv/put", &[], put(40_000_000).as_bytes()).await;
    // The connection is closed on a client that goes on sending, which may lose the answer on its way.
    assert!(is_refused.is_err() || is_refused.is_ok_and(|answer| answer.status == 429));
    Ok(())
}

#[tokio::test]
async fn tokens_and_metadata_reach_the_service() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"r"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        assert_eq!(pair.post(path, &[], body).await?.status, 200, "{path}");
    }
    let get = r#"{"key":"Zm9v"}"#;
    assert_eq!(pair.post("/v3/auth/authenticate", &[], r#"{"name":"root","password":"x"}"#).await?.status, 400);
    assert_eq!(pair.post("/v3/kv/range", &[], get).await?.status, 400);
    let bad = [("Authorization", "x")];
    assert_eq!(pair.post("/v3/kv/range", &bad, get).await?.status, 401);
    assert_eq!(pair.post("/v3/maintenance/snapshot", &bad, "{}").await?.status, 500);

    let mut tokens = Vec::new();
    for address in pair.addresses() {
        let login = r#"{"name":"root","password":"r"}"#;
        let answer = send(address, "POST", "/v3/auth/authenticate", &[], login.as_bytes()).await?;
        let Body::Json(values) = answer.body else { anyhow::bail!("no token") };
        tokens.push(values[0]["token"].as_str().context("no token")?.to_owned());
    }
    for header in ["Authorization", "Grpc-Metadata-Token", "grpc-metadata-authorization"] {
        for (address, token) in pair.addresses().into_iter().zip(&tokens) {
            let answer = send(address, "POST", "/v3/kv/range", &[(header, token)], get.as_bytes()).await?;
            assert_eq!(answer.status, 200, "{header} to {address}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn timeouts_are_kept() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let get = r#"{"key":"Zm9v"}"#;
    assert_eq!(pair.post("/v3/kv/range", &[("Grpc-Timeout", "1x")], get).await?.status, 400);
    assert_eq!(pair.post("/v3/kv/range", &[("Grpc-Timeout", "1n")], get).await?.status, 504);
    assert_eq!(pair.post("/v3/kv/range", &[("Grpc-Timeout", "1M")], get).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn watches_see_the_same_events() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let mut seen = Vec::new();
    for address in pair.addresses() {
        let post = async |path: &str, body: &str| send(address, "POST", path, &[], body.as_bytes()).await;
        post("/v3/kv/put", r#"{"key":"Zm9v","value":"MQ=="}"#).await?;
        let body = r#"{"create_request":{"key":"Zm9v","start_revision":"2","prev_kv":true,"watch_id":"5"}}
            {"createRequest":{"key":"AA==","rangeEnd":"AA==","filters":["NOPUT"]}} {"progress_request":{}}"#;
        let mut watch = Exchange::open(address, "POST", "/v3/watch", &[], Some(body.as_bytes())).await?;
        let (status, _) = watch.head().await?;
        assert_eq!(status, 200);
        let mut created = 0;
        let mut lines = Vec::new();
        // Both are there, and the first has sent what was before it.
        while created < 2 || !lines.iter().any(|line: &Value| line.to_string().contains("MQ==")) {
            let line = watch.next().await?.context("the watch ended")?;
            created += usize::from(line["result"]["created"] == json!(true));
            lines.push(line);
        }
        post("/v3/kv/put", r#"{"key":"Zm9v","value":"Mg=="}"#).await?;
        post("/v3/kv/deleterange", r#"{"key":"Zm9v"}"#).await?;
        while lines.iter().filter(|line| line.to_string().contains("DELETE")).count() < 2 {
            lines.push(watch.next().await?.context("the watch ended")?);
        }
        lines.iter_mut().for_each(mask);
        // The order between two watches is nobody's promise.
        lines.sort_by_key(|line| (line["result"]["watch_id"].to_string(), line["result"]["created"].to_string()));
        seen.push(lines);
    }
    println!("{} lines of each watch", seen[0].len());
    assert_eq!(seen[0], seen[1]);
    Ok(())
}

#[tokio::test]
async fn snapshots_and_observed_leaders_are_streams() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.post("/v3/lease/grant", &[], r#"{"TTL":"1000","ID":"99"}"#).await?;
    pair.post("/v3/election/campaign", &[], r#"{"name":"ZWxlY3Rpb24=","lease":"99","value":"bWU="}"#).await?;
    let mut leaders = Vec::new();
    for address in pair.addresses() {
        let body = br#"{"name":"ZWxlY3Rpb24="}"#;
        let mut observed = Exchange::open(address, "POST", "/v3/election/observe", &[], Some(body)).await?;
        assert_eq!(observed.head().await?.0, 200);
        let mut leader = observed.next().await?.context("no leader")?;
        mask(&mut leader);
        leaders.push(leader);

        let mut snapshot = Exchange::open(address, "POST", "/v3/maintenance/snapshot", &[], Some(b"{}")).await?;
        assert_eq!(snapshot.head().await?.0, 200);
        let mut blobs = 0;
        while let Some(chunk) = snapshot.next().await? {
            assert!(chunk["result"]["blob"].is_string(), "{chunk}");
            blobs += 1;
        }
        assert!(blobs > 0);
    }
    assert_eq!(leaders[0], leaders[1]);
    Ok(())
}
