//! A member of one, as a process on the loopback.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

use super::PATIENCE;

const PROGRAM: &str = "/usr/bin/etcd";

/// Tries to start, as another process may take a port between finding it free and using it.
const TRIES: usize = 5;

/// etcd, until dropped.
pub(crate) struct Etcd {
    pub(crate) address: SocketAddr,
    _process: Child,
    _data: TempDir,
}

impl Etcd {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: run scripts/prepare, which installs it");
        let mut last = None;
        for _ in 0..TRIES {
            match Self::try_start().await {
                Ok(etcd) => return Ok(etcd),
                Err(cause) => last = Some(cause),
            }
        }
        Err(last.context("no tries")?.context("etcd doesn't start"))
    }

    async fn try_start() -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let ports = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [client, peer] = [ports[0].local_addr()?, ports[1].local_addr()?];
        drop(ports);
        let mut process = Command::new(PROGRAM)
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &format!("http://{client}")])
            .args(["--advertise-client-urls", &format!("http://{client}")])
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--initial-cluster", &format!("default=http://{peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut log = BufReader::new(process.stderr.take().context("no log")?).lines();
        let mut last = String::new();
        let ready = timeout(PATIENCE, async {
            while let Some(line) = log.next_line().await? {
                if line.contains("ready to serve") {
                    return Ok(());
                }
                last = line;
            }
            anyhow::bail!("etcd ended")
        });
        ready.await.context("etcd is not ready in time").and_then(|ready| ready).context(last)?;
        // A full pipe would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Ok(Self { address: client, _process: process, _data: data })
    }

    pub(crate) async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Endpoint::new(format!("http://{}", self.address))?.connect().await?)
    }
}
