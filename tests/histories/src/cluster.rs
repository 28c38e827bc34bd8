//! Members on this machine, as processes that can be killed, stopped and started again.
//!
//! Must hold: only processes started here are ever signalled, and all of them end with the [`Cluster`].
//!
//! Left to others: load, when to break what, and the namespaces, disks and clocks that members may live with.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tempfile::TempDir;

use crate::doors::Doors;
use crate::watch::Marks;

/// How many members a cluster has unless it is said.
pub const MEMBERS: usize = 3;
/// How long a cluster may take to start, or to elect a leader.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long one try to reach a member may take.
const TRY: Duration = Duration::from_secs(1);
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Starts a program that is killed when who started it dies. Part of util-linux.
const SETPRIV: &str = "/usr/bin/setpriv";

/// Whose promises are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An installed etcd, which shows that the checks are sound.
    Etcd,
    /// `netstate server`.
    Netstate,
}

impl Subject {
    /// The one that `HISTORIES_SUBJECT` names; without it, Netstate.
    pub fn from_env() -> Result<Self> {
        match std::env::var("HISTORIES_SUBJECT").as_deref() {
            Ok("etcd") => Ok(Subject::Etcd),
            Ok("netstate") | Err(std::env::VarError::NotPresent) => Ok(Subject::Netstate),
            other => bail!("HISTORIES_SUBJECT is {other:?}, and must be etcd or netstate"),
        }
    }

    /// Which progress marks are believed: see [`Marks`]. `HISTORIES_ETCD_MARKS=all` believes a newer etcd everything.
    pub fn marks(self) -> Marks {
        let all = std::env::var("HISTORIES_ETCD_MARKS").is_ok_and(|value| value == "all");
        if self == Subject::Etcd && !all { Marks::Unasked } else { Marks::All }
    }

    fn program(self) -> Result<PathBuf> {
        let program = match self {
            Subject::Etcd => return Ok("etcd".into()),
            Subject::Netstate => std::env::var_os("NETSTATE_BIN").map_or_else(built_netstate, PathBuf::from),
        };
        ensure!(program.exists(), "there is no {}: build it, or set NETSTATE_BIN", program.display());
        Ok(program)
    }
}

/// Where cargo puts the binary, seen from what runs: `target/debug/deps/TEST` or `target/release/chaos`.
fn built_netstate() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let mut beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("netstate"));
    let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/debug/netstate"));
    beside.find(|path| path.is_file()).unwrap_or_else(default)
}

/// Where and how one member lives.
#[derive(Clone, Debug)]
pub struct Home {
    /// Where it listens.
    pub address: IpAddr,
    /// Its data directory, if that is not to lie in the cluster's own folder.
    pub data_dir: Option<PathBuf>,
    /// The network namespace that it runs in.
    pub namespace: Option<String>,
    /// Variables that it is started with.
    pub environment: Vec<(String, OsString)>,
    /// Further flags. Without `--initial-cluster`, given here or by being a founder, a member has to join by one of them.
    pub flags: Vec<String>,
}

impl Default for Home {
    fn default() -> Self {
        Home {
            address: Ipv4Addr::LOCALHOST.into(),
            data_dir: None,
            namespace: None,
            environment: Vec::new(),
            flags: Vec::new(),
        }
    }
}

/// The ports of one member.
#[derive(Clone, Copy, Debug)]
struct Ports {
    client: u16,
    peer: u16,
    http: u16,
}

struct Member {
    ports: Ports,
    home: Home,
    founder: bool,
    /// It comes anew, by another member.
    joins: bool,
    process: Option<Child>,
}

/// A running cluster.
pub struct Cluster {
    subject: Subject,
    program: PathBuf,
    members: Vec<Member>,
    doors: Doors,
    dir: TempDir,
}

impl Cluster {
    /// Starts a cluster with empty members and waits until it serves.
    pub async fn start(subject: Subject) -> Result<Self> {
        Self::start_in(subject, vec![Home::default(); MEMBERS]).await
    }

    /// The same, with a founder in each of these homes.
    pub async fn start_in(subject: Subject, homes: Vec<Home>) -> Result<Self> {
        let mut cluster = Cluster {
            subject,
            program: subject.program()?,
            members: Vec::new(),
            doors: Doors::default(),
            dir: tempfile::tempdir()?,
        };
        let ports = free_ports(homes.len())?;
        for (home, ports) in homes.into_iter().zip(ports) {
            cluster.settle(home, ports, true);
        }
        for member in 0..cluster.members.len() {
            cluster.restart(member)?;
        }
        for member in 0..cluster.members.len() {
            cluster.serves(member).await?;
        }
        Ok(cluster)
    }

    /// Adds a member that is no founder, and tells its number. It is started with [`Cluster::restart`].
    pub fn add(&mut self, home: Home) -> Result<usize> {
        let ports = free_ports(1)?.pop().context("a port was asked for")?;
        Ok(self.settle(home, ports, false))
    }

    fn settle(&mut self, home: Home, ports: Ports, founder: bool) -> usize {
        let door = self.doors.add(SocketAddr::new(home.address, ports.client));
        self.members.push(Member { ports, home, founder, joins: false, process: None });
        door
    }

    /// Whose cluster it is.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// How to reach it.
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// The address at which other members reach one.
    pub fn peer(&self, member: usize) -> SocketAddr {
        let Member { home, ports, .. } = &self.members[member];
        SocketAddr::new(home.address, ports.peer)
    }

    /// Where a member's data lies.
    pub fn data_dir(&self, member: usize) -> PathBuf {
        let own = || self.dir.path().join(name(member));
        self.members[member].home.data_dir.clone().unwrap_or_else(own)
    }

    /// Where and how a member lives; what is changed counts from its next start.
    pub fn home(&mut self, member: usize) -> &mut Home {
        &mut self.members[member].home
    }

    /// Starts a member on what it left on disk.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        ensure!(self.members[member].process.is_none(), "{} is running", name(member));
        let mut command = self.command(member);
        let log = std::fs::File::options().create(true).append(true).open(self.log(member))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().with_context(|| format!("{} cannot be started", self.program.display()))?;
        self.members[member].process = Some(process);
        self.doors.next_life(member);
        Ok(())
    }

    /// `kill -9`. A member that has ended by itself is as dead.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        let mut process = self.members[member].process.take().context("the member is not running")?;
        self.doors.next_life(member);
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// `kill -STOP`: the process keeps its connections and its idea of the world, and does nothing.
    pub fn stop(&mut self, member: usize) -> Result<()> {
        self.signal(member, "STOP")
    }

    /// `kill -CONT`.
    pub fn go_on(&mut self, member: usize) -> Result<()> {
        self.signal(member, "CONT")
    }

    fn signal(&mut self, member: usize, signal: &str) -> Result<()> {
        let process = self.members[member].process.as_ref().context("the member is not running")?;
        let command = format!("kill -{signal} {}", process.id());
        ensure!(Command::new("sh").args(["-c", &command]).status()?.success(), "`{command}` failed");
        Ok(())
    }

    /// Runs a command of `netstate` that asks one of the members; what it prints, if it succeeds.
    pub async fn command_at(&self, through: usize, arguments: &[&str]) -> Result<String> {
        let server =
            SocketAddr::new(self.members[through].home.address, self.members[through].ports.client).to_string();
        let mut command = tokio::process::Command::new(&self.program);
        command.args(["--servers", &server]).args(arguments);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`netstate {}` failed: {told}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Has a keyspace in a group, and waits until it is there.
    pub async fn move_keyspace(&self, through: usize, keyspace: &str, group: u16) -> Result<()> {
        match self.command_at(through, &["cluster", "move", keyspace, "--to", &group.to_string()]).await {
            Err(error) if error.to_string().contains(&format!("is in g{group} already")) => Ok(()),
            moved => moved.map(drop),
        }
    }

    /// Asks a member to end, as a service manager does, and waits until it has.
    pub async fn terminate(&mut self, member: usize) -> Result<()> {
        self.signal(member, "TERM")?;
        let status = self.ends(member).await?;
        ensure!(status.success(), "{} ended with {status}", name(member));
        Ok(())
    }

    /// From now on a member joins by this one, in place of founding the cluster with the others.
    pub fn join_by(&mut self, member: usize, through: usize) {
        let peer = self.peer(through).to_string();
        let joining = &mut self.members[member];
        joining.joins = true;
        joining.home.flags = vec!["--join".into(), peer];
    }

    /// Whether a member was started and has not been seen to end.
    pub fn runs(&self, member: usize) -> bool {
        self.members[member].process.is_some()
    }

    /// How a member ended by itself; `None` while it runs.
    pub fn ended(&mut self, member: usize) -> Result<Option<ExitStatus>> {
        let Some(process) = self.members[member].process.as_mut() else { return Ok(None) };
        let ended = process.try_wait()?;
        if ended.is_some() {
            self.members[member].process = None;
            self.doors.next_life(member);
        }
        Ok(ended)
    }

    /// Waits until a member ends by itself.
    pub async fn ends(&mut self, member: usize) -> Result<ExitStatus> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(ended) = self.ended(member)? {
                return Ok(ended);
            }
            ensure!(Instant::now() < deadline, "{} does not end:\n{}", name(member), self.last_words(member));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until a member answers a linearizable read.
    pub async fn serves(&mut self, member: usize) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let channel = self.doors.channel(member)?;
        loop {
            let request = tonic::Request::new(pb::RangeRequest { key: "ready".into(), ..Default::default() });
            let seen = match tokio::time::timeout(TRY, KvClient::new(channel.clone()).range(request)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) => status.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if let Some(ended) = self.ended(member)? {
                bail!("{} ended with {ended}:\n{}", name(member), self.last_words(member));
            }
            if Instant::now() > deadline {
                bail!("{} does not serve; last seen: {seen}\n{}", name(member), self.last_words(member));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until one of `among` says that it leads, and tells which.
    pub async fn leader(&self, among: &[usize]) -> Result<usize> {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            for &member in among {
                let mut client = MaintenanceClient::new(self.doors.channel(member)?);
                let Ok(Ok(status)) = tokio::time::timeout(TRY, client.status(pb::StatusRequest {})).await else {
                    continue;
                };
                let status = status.into_inner();
                if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
                    return Ok(member);
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        bail!("none of the members {among:?} leads within {READY_WITHIN:?}")
    }

    fn command(&self, member: usize) -> Command {
        let Member { ports, home, founder, joins, .. } = &self.members[member];
        let mut command = self.launcher(home);
        let scheme = if self.subject == Subject::Etcd { "http://" } else { "" };
        let at = |port: u16| format!("{scheme}{}", SocketAddr::new(home.address, port));
        let (client, peer) = (at(ports.client), at(ports.peer));
        match self.subject {
            Subject::Etcd => {
                command.args(["--log-level", "error", "--initial-cluster-state", "new"]);
                command.args(["--experimental-watch-progress-notify-interval", "200ms"]);
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            }
            Subject::Netstate => {
                command.arg("server").args(["--listen-client", &client, "--listen-peer", &peer]);
                command.args(["--listen-http", &at(ports.http)]);
            }
        }
        if *founder && !*joins {
            let founders = (0..self.members.len()).filter(|member| self.members[*member].founder);
            let founders = founders.map(|member| format!("{}={scheme}{}", name(member), self.peer(member)));
            command.args(["--initial-cluster", &founders.collect::<Vec<_>>().join(",")]);
        }
        command.args(["--name", &name(member)]).arg("--data-dir").arg(self.data_dir(member));
        command.args(&home.flags).envs(home.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What becomes the program, so that signals reach it.
    fn launcher(&self, home: &Home) -> Command {
        let mut words = Vec::new();
        // Members don't outlive a test that is killed itself. They are started by its first thread, which is its last.
        if Path::new(SETPRIV).exists() {
            words.extend([SETPRIV, "--pdeathsig", "KILL"].map(OsString::from));
        }
        if let Some(namespace) = &home.namespace {
            words.extend(["ip", "netns", "exec", namespace].map(OsString::from));
        }
        words.push(self.program.clone().into_os_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    fn log(&self, member: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", name(member)))
    }

    /// Everything that a member has said.
    pub fn said(&self, member: usize) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log(member)).unwrap_or_default()).into_owned()
    }

    fn last_words(&self, member: usize) -> String {
        let said = self.said(member);
        said.chars().skip(said.chars().count().saturating_sub(2000)).collect()
    }

    /// Copies what the members have said to a folder, for who wants to know why something failed.
    pub fn keep_logs(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for member in 0..self.members.len() {
            std::fs::write(folder.join(format!("{}.log", name(member))), self.said(member))?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            // A process that is gone already is what is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A member's name, from its number.
pub fn name(member: usize) -> String {
    format!("n{}", member + 1)
}

/// Ports that nobody listens on; all are held until the last is found, so that none is given twice.
fn free_ports(members: usize) -> Result<Vec<Ports>> {
    let listeners = (0..3 * members).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
    Ok(ports.chunks(3).map(|three| Ports { client: three[0], peer: three[1], http: three[2] }).collect())
}
