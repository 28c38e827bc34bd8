//! A server process of either kind: Debian's etcd, which is the reference, or the system under test.
//!
//! Must hold: a server listens on loopback only, keeps its data in a temporary directory, and is gone, with the
//! directory, once its [`Server`] is dropped.
//!
//! Left to others: what is sent to it (see `client`).

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etcd_proto::etcdserverpb as pb;
use tempfile::TempDir;

use crate::client::Client;

/// Where Debian's package `etcd-server` puts its program.
const ETCD: &str = "/usr/bin/etcd";
/// How long a server may take from its start to its first answer. Generous: tests share few cores.
const START_SECONDS_MAX: u64 = 60;
/// How often a start is tried, since a free port may be taken by somebody else before the server binds it.
const START_ATTEMPTS_MAX: usize = 5;
/// The pause between two looks at whether a server answers.
const POLL: Duration = Duration::from_millis(25);

/// Which program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's etcd, whose answers are taken as right.
    Etcd,
    /// This repository's server.
    Netstate,
}

impl Kind {
    /// The system under test: this repository's server, unless `ETCD_TESTS_SUBJECT=etcd` asks for a second etcd,
    /// against which every test must pass too. That shows that the tests themselves are sound.
    pub fn subject() -> Result<Self> {
        match std::env::var("ETCD_TESTS_SUBJECT").ok().as_deref() {
            None | Some("netstate") => Ok(Self::Netstate),
            Some("etcd") => Ok(Self::Etcd),
            Some(other) => bail!("ETCD_TESTS_SUBJECT is {other:?}: it must be netstate or etcd"),
        }
    }
}

/// A running server, stopped when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: String,
    directory: TempDir,
}

impl Server {
    /// Starts a server on free ports and waits until it answers a linearizable read.
    pub async fn start(kind: Kind) -> Result<Self> {
        Self::start_with(kind, &[]).await
    }

    /// The same with further arguments.
    pub async fn start_with(kind: Kind, arguments: &[&str]) -> Result<Self> {
        let mut attempt = 1;
        loop {
            let mut server = Self::spawn(kind, arguments)?;
            match server.wait_until_healthy().await {
                Ok(()) => return Ok(server),
                Err(error) if attempt == START_ATTEMPTS_MAX => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    /// Where it serves gRPC, as `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn spawn(kind: Kind, arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("etcd-tests-").tempdir().context("no temporary directory")?;
        let [client, peer, http] = free_ports()?;
        let data = directory.path().join("data");
        let mut command = match kind {
            Kind::Etcd => etcd(&data, client, peer)?,
            Kind::Netstate => netstate(&data, client, peer, http)?,
        };
        command.args(arguments);
        let log = std::fs::File::create(directory.path().join("log")).context("no log file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{command:?} does not start"))?;
        Ok(Self { child, address: format!("127.0.0.1:{client}"), directory })
    }

    async fn wait_until_healthy(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        let mut client = Client::new(&self.address)?;
        loop {
            let request = pb::RangeRequest { key: "health".into(), ..Default::default() };
            let last = match client.kv.range(request).await {
                Ok(_) => return Ok(()),
                Err(status) => status,
            };
            if let Some(exit) = self.child.try_wait()? {
                bail!("the server ended with {exit} before it answered; its log:\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("no answer within {START_SECONDS_MAX} s, the last was {last:?}; its log:\n{}", self.log());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only for a process that has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn etcd(data: &Path, client: u16, peer: u16) -> Result<Command> {
    if !Path::new(ETCD).exists() {
        bail!("{ETCD} is missing: install the package `etcd-server`, whose answers these tests compare with");
    }
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new(ETCD);
    command
        .arg("--name=reference")
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .arg(format!("--initial-cluster=reference={peer}"))
        // The cheapest hash of passwords that it accepts: nothing compared depends on it.
        .args(["--bcrypt-cost", "4", "--logger", "zap", "--log-level", "error"]);
    Ok(command)
}

fn netstate(data: &Path, client: u16, peer: u16, http: u16) -> Result<Command> {
    let program = netstate_program()?;
    let mut command = Command::new(program);
    command.arg("server").arg("--data-dir").arg(data);
    for (flag, port) in [("--listen-client", client), ("--listen-peer", peer), ("--listen-http", http)] {
        command.arg(flag).arg(format!("127.0.0.1:{port}"));
    }
    Ok(command)
}

/// `NETSTATE_BIN`, or the program that cargo built into the same target directory as the running test.
pub fn netstate_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("NETSTATE_BIN") {
        return Ok(PathBuf::from(path));
    }
    let test = std::env::current_exe().context("this program does not know where it is")?;
    let profile = test.parent().and_then(Path::parent).context("a test lies in target/PROFILE/deps")?;
    let program = profile.join("netstate");
    if !program.exists() {
        bail!("{} is missing: build it (cargo build -p netstate-cli) or name it in NETSTATE_BIN", program.display());
    }
    Ok(program)
}

/// Three ports that are free now: all are held at once, so that they differ.
fn free_ports() -> Result<[u16; 3]> {
    let hold = || TcpListener::bind(("127.0.0.1", 0)).context("no free port");
    let held = [hold()?, hold()?, hold()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
