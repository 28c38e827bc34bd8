//! `netstate import etcd` takes a live etcd over: what is written while it runs arrives, and nothing is left behind.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcd_proto::etcdserverpb as pb;
use etcd_tests::client::Client;
use etcd_tests::server::{Kind, Server, netstate_program};
use tokio::process::Command;

/// How long a condition may take to come true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);

fn import(source: &str, target: &str, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(netstate_program()?);
    command.args(["--servers", target, "-o", "json", "import", "etcd", "--from", source]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn put(client: &mut Client, key: String) -> Result<()> {
    let value = format!("value of {key}").into();
    client.kv.put(pb::PutRequest { key: key.into(), value, ..Default::default() }).await?;
    Ok(())
}

async fn count(client: &mut Client, prefix: &'static str, end: &'static str) -> Result<i64> {
    let range = pb::RangeRequest { key: prefix.into(), range_end: end.into(), count_only: true, ..Default::default() };
    Ok(client.kv.range(range).await?.into_inner().count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_etcd_is_taken_over() -> Result<()> {
    let (etcd, netstate) = tokio::try_join!(Server::start(Kind::Etcd), Server::start(Kind::Netstate))?;
    let (mut source, mut target) = (Client::new(etcd.address())?, Client::new(netstate.address())?);
    for n in 0..500 {
        put(&mut source, format!("k/{n}")).await?;
    }
    put(&mut source, "other".into()).await?;

    let arguments = ["--prefix", "k/", "--verify"];
    let running = import(etcd.address(), netstate.address(), &arguments)?.spawn()?;
    let pid = running.id().context("it has ended already")?;
    for n in 500..700 {
        put(&mut source, format!("k/{n}")).await?;
    }
    source.kv.delete_range(pb::DeleteRangeRequest { key: "k/7".into(), ..Default::default() }).await?;
    let arrived = async {
        while count(&mut target, "k/", "k0").await? != 699 {
            tokio::time::sleep(POLL).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(PATIENCE, arrived).await.context("what was written meanwhile does not arrive")??;

    let switched = Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
    ensure!(switched.success(), "the process is not there to be told");
    let output = tokio::time::timeout(PATIENCE, running.wait_with_output()).await.context("it does not switch")??;
    ensure!(output.status.success(), "{}", said(&output));
    let answer = String::from_utf8_lossy(&output.stdout);
    ensure!(answer.contains("\"keys\": 699") && answer.contains("\"differing\": 0"), "{answer}");
    ensure!(count(&mut target, "other", "").await? == 0, "a key outside of the prefix was copied");

    let again = import(etcd.address(), netstate.address(), &["--prefix", "k/", "--once"])?.output().await?;
    ensure!(again.status.code() == Some(1) && said(&again).contains("--overwrite"), "{}", said(&again));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_not_there_is_named() -> Result<()> {
    let netstate = Server::start(Kind::Netstate).await?;
    let output = import("127.0.0.1:1", netstate.address(), &["--once"])?.output().await?;
    ensure!(output.status.code() == Some(3) && said(&output).contains("127.0.0.1:1"), "{}", said(&output));
    Ok(())
}
