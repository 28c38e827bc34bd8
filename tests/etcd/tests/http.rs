//! What is asked over plain HTTP is answered on the client port, as by etcd.

use anyhow::{Context, Result, ensure};
use etcd_tests::server::{Kind, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The status code and the body of an answer.
async fn ask(server: &Server, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let mut connection = TcpStream::connect(server.address()).await?;
    let (host, length) = (server.address(), body.len());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    Ok((status, body.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_health_and_version_are_on_the_client_port() -> Result<()> {
    let (etcd, netstate) = tokio::try_join!(Server::start(Kind::Etcd), Server::start(Kind::Netstate))?;
    for (method, path, body, part) in [
        ("GET", "/health", "", r#""health":"true""#),
        ("GET", "/version", "", r#""etcdserver":"3."#),
        ("GET", "/metrics", "", "# TYPE"),
        ("POST", "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#, r#""revision":"2""#),
        ("POST", "/v3/kv/range", r#"{"key":"Zm9v"}"#, r#""value":"YmFy""#),
        ("POST", "/v3beta/kv/range", r#"{"key":"Zm9v"}"#, r#""count":"1""#),
        ("POST", "/v3/kv/range", "{}", r#""error":"etcdserver: key is not provided""#),
        ("POST", "/v3/kv/nonsense", "{}", ""),
    ] {
        let (reference, subject) =
            tokio::try_join!(ask(&etcd, method, path, body), ask(&netstate, method, path, body))?;
        ensure!(reference.0 == subject.0, "{path}: {reference:?} by etcd, {subject:?} by this");
        for answer in [reference, subject] {
            ensure!(answer.1.contains(part), "{path}: {answer:?}");
        }
    }
    Ok(())
}
