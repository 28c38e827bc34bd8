//! Server processes of either kind: Debian's etcd, which is the reference, or the system under test.
//!
//! Must hold: a server listens on loopback only, keeps its data in a temporary directory, and is gone, with the directory,
//! once its [`Server`] is dropped.
//!
//! Left to others: what is asked of it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// The port on which suites expect etcd.
pub const ETCD_PORT: u16 = 2379;
/// Where Debian's packages `etcd-server` and `etcd-client` put their programs.
const ETCD: &str = "/usr/bin/etcd";
/// As for the server.
pub const ETCDCTL: &str = "/usr/bin/etcdctl";
/// How long a server may take from its start to its first answer. Generous: tests share few cores.
const START_SECONDS_MAX: u64 = 60;
/// How often a start is tried, since a free port may be taken by somebody else before the server binds it.
const START_ATTEMPTS_MAX: usize = 5;
/// The pause between two looks at whether a server answers.
const POLL: Duration = Duration::from_millis(50);

/// Which program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's etcd, whose answers are taken as right.
    Etcd,
    /// This repository's server.
    Netstate,
}

impl Kind {
    /// The system under test: this repository's server, unless `CONFORMANCE_SUBJECT=etcd` asks for etcd, against which every
    /// test must pass too. That shows that the tests themselves are sound.
    pub fn subject() -> Result<Self> {
        match std::env::var("CONFORMANCE_SUBJECT").ok().as_deref() {
            None | Some("netstate") => Ok(Self::Netstate),
            Some("etcd") => Ok(Self::Etcd),
            Some(other) => bail!("CONFORMANCE_SUBJECT is {other:?}: it must be netstate or etcd"),
        }
    }
}

/// The ports of one member.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    client: u16,
    peer: u16,
    http: u16,
}

impl Ports {
    /// Those of etcd, plus 10 for each further member.
    fn usual(member: u16) -> Self {
        let client = ETCD_PORT + 10 * member;
        Self { client, peer: client + 1, http: client + 2 }
    }

    /// Three that are free now: all are held at once, so that they differ.
    fn free() -> Result<Self> {
        let hold = || TcpListener::bind(("127.0.0.1", 0)).context("no free port");
        let held = [hold()?, hold()?, hold()?];
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        Ok(Self { client: port(&held[0])?, peer: port(&held[1])?, http: port(&held[2])? })
    }
}

/// A member's name and where it listens.
#[derive(Clone, Debug)]
struct Member {
    name: String,
    ports: Ports,
}

/// A running member, stopped when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    member: Member,
    directory: TempDir,
}

impl Server {
    /// Starts a server on free ports of this machine and waits until it answers.
    pub async fn start(kind: Kind) -> Result<Self> {
        let mut attempt = 1;
        loop {
            let member = Member { name: "one".into(), ports: Ports::free()? };
            let mut server = Self::spawn(kind, &member, std::slice::from_ref(&member), plain)?;
            match server.wait_until_healthy(plain).await {
                Ok(()) => return Ok(server),
                Err(error) if attempt == START_ATTEMPTS_MAX => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    /// Starts a member for each name, the first on etcd's own port, by the commands that `command` makes, and waits until all of
    /// them answer.
    pub async fn start_all(command: impl Fn(&Path) -> Command, kind: Kind, names: &[&str]) -> Result<Vec<Self>> {
        let member = |(name, number): (&&str, u16)| Member { name: (*name).to_owned(), ports: Ports::usual(number) };
        let members: Vec<Member> = names.iter().zip(0..).map(member).collect();
        let start = |member| Self::spawn(kind, member, &members, &command);
        let mut servers = members.iter().map(start).collect::<Result<Vec<_>>>()?;
        for server in &mut servers {
            server.wait_until_healthy(&command).await?;
        }
        Ok(servers)
    }

    /// Where it serves clients, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.member.ports.client)
    }

    /// Where it talks to other members, as `host:port`.
    pub fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.member.ports.peer)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Ends the process that was started, which in a namespace is the one that entered it.
    pub(crate) fn end(&mut self) {
        // Fails only for a process that has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn spawn(kind: Kind, member: &Member, all: &[Member], command: impl Fn(&Path) -> Command) -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("etcd-conformance-").tempdir().context("no temporary directory")?;
        let mut command = command(&program(kind)?);
        match kind {
            Kind::Etcd => etcd(&mut command, member, all),
            Kind::Netstate => netstate(&mut command, member, all),
        }
        command.arg("--data-dir").arg(directory.path().join("data"));
        let log = std::fs::File::create(directory.path().join("log")).context("no log file")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
        Ok(Self { child, member: member.clone(), directory })
    }

    async fn wait_until_healthy(&mut self, command: impl Fn(&Path) -> Command) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        loop {
            let mut look = command(Path::new(ETCDCTL));
            look.env("ETCDCTL_API", "3").args(["--endpoints", &self.address(), "get", "health"]);
            let last = tokio::process::Command::from(look).kill_on_drop(true).output().await.context(ETCDCTL)?;
            if last.status.success() {
                return Ok(());
            }
            if let Some(exit) = self.child.try_wait()? {
                bail!("the server ended with {exit} before it answered; its log:\n{}", self.log());
            }
            if Instant::now() > deadline {
                let last = String::from_utf8_lossy(&last.stderr);
                bail!("no answer within {START_SECONDS_MAX} s, the last was {last}; its log:\n{}", self.log());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn etcd(command: &mut Command, member: &Member, all: &[Member]) {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let (client, peer) = (url(member.ports.client), url(member.ports.peer));
    let cluster: Vec<String> = all.iter().map(|member| format!("{}={}", member.name, url(member.ports.peer))).collect();
    command
        .args(["--name", &member.name])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &cluster.join(",")])
        // The cheapest hash of passwords that it accepts: nothing compared depends on it.
        .args(["--bcrypt-cost", "4", "--logger", "zap", "--log-level", "error"]);
}

fn netstate(command: &mut Command, member: &Member, all: &[Member]) {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let cluster: Vec<_> = all.iter().map(|member| format!("{}={}", member.name, address(member.ports.peer))).collect();
    command.arg("server").args(["--name", &member.name, "--initial-cluster", &cluster.join(",")]);
    let Ports { client, peer, http } = member.ports;
    for (flag, port) in [("--listen-client", client), ("--listen-peer", peer), ("--listen-http", http)] {
        command.args([flag, &address(port)]);
    }
}

fn program(kind: Kind) -> Result<PathBuf> {
    for (program, package) in [(ETCD, "etcd-server"), (ETCDCTL, "etcd-client")] {
        if !Path::new(program).exists() {
            bail!("{program} is missing: install the package `{package}`, whose answers these tests compare with");
        }
    }
    match kind {
        Kind::Etcd => Ok(ETCD.into()),
        Kind::Netstate => netstate_program(),
    }
}

/// `NETSTATE_BIN`, or the program that cargo built into the same target directory as the running test.
fn netstate_program() -> Result<PathBuf> {
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

/// A command on this machine, as it is.
fn plain(program: &Path) -> Command {
    Command::new(program)
}
