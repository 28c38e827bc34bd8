//! Three members on this machine, as processes that can be killed, stopped and started again.
//!
//! Must hold: only processes started here are ever signalled, and all of them end with the [`Cluster`].
//!
//! Left to others: load, and when to break what.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::history::Life;
use crate::watch::Marks;

/// How many members a cluster has.
pub const MEMBERS: usize = 3;
/// How long a cluster may take to start, or to elect a leader.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long one try to reach a member may take.
const TRY: Duration = Duration::from_secs(1);
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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

/// Where cargo puts the binary, seen from the test that runs: `target/debug/deps/TEST`.
fn built_netstate() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.join("netstate")));
    let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/debug/netstate"));
    beside.filter(|path| path.exists()).unwrap_or_else(default)
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
    dir: PathBuf,
    process: Option<Child>,
    lives: Arc<AtomicU64>,
}

/// How clients find the members, and see them die.
#[derive(Clone, Debug)]
pub struct Doors {
    members: Vec<(u16, Arc<AtomicU64>)>,
}

impl Doors {
    /// A connection that is made when it is first used, and again when it was lost.
    pub fn channel(&self, member: usize) -> Result<Channel> {
        let address = format!("http://127.0.0.1:{}", self.members[member].0);
        Ok(Endpoint::from_shared(address)?.connect_timeout(TRY).connect_lazy())
    }

    /// The life that a member is in.
    pub fn life(&self, member: usize) -> Life {
        Life { member, count: self.members[member].1.load(Ordering::SeqCst) }
    }
}

/// A running cluster.
pub struct Cluster {
    subject: Subject,
    program: PathBuf,
    members: Vec<Member>,
    dir: TempDir,
}

impl Cluster {
    /// Starts a cluster with empty members and waits until it serves.
    pub async fn start(subject: Subject) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let ports = free_ports()?;
        let members = ports.into_iter().enumerate().map(|(index, ports)| Member {
            ports,
            dir: dir.path().join(format!("n{}", index + 1)),
            process: None,
            lives: Arc::default(),
        });
        let mut cluster = Cluster { subject, program: subject.program()?, members: members.collect(), dir };
        for member in 0..MEMBERS {
            cluster.restart(member)?;
        }
        for member in 0..MEMBERS {
            cluster.serves(member).await?;
        }
        Ok(cluster)
    }

    /// Whose cluster it is.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// How to reach it.
    pub fn doors(&self) -> Doors {
        Doors { members: self.members.iter().map(|member| (member.ports.client, member.lives.clone())).collect() }
    }

    /// Starts a member on what it left on disk.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        ensure!(self.members[member].process.is_none(), "n{} is running", member + 1);
        let mut command = self.command(member);
        let log = std::fs::File::options().create(true).append(true).open(self.log(member))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().with_context(|| format!("{} cannot be started", self.program.display()))?;
        self.members[member].process = Some(process);
        self.members[member].lives.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        let mut process = self.members[member].process.take().context("the member is not running")?;
        self.members[member].lives.fetch_add(1, Ordering::SeqCst);
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

    /// Has a keyspace in a group, and waits until it is there.
    pub async fn move_keyspace(&self, through: usize, keyspace: &str, group: u16) -> Result<()> {
        let server = format!("127.0.0.1:{}", self.members[through].ports.client);
        let mut command = tokio::process::Command::new(&self.program);
        command.args(["--servers", &server, "cluster", "move", keyspace, "--to", &group.to_string()]);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        let told = String::from_utf8_lossy(&output.stderr);
        let there = told.contains(&format!("is in g{group} already"));
        ensure!(output.status.success() || there, "{keyspace} did not move to g{group}: {told}");
        Ok(())
    }

    /// Waits until a member answers a linearizable read.
    pub async fn serves(&mut self, member: usize) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let channel = self.doors().channel(member)?;
        loop {
            let request = tonic::Request::new(pb::RangeRequest { key: "ready".into(), ..Default::default() });
            let seen = match tokio::time::timeout(TRY, KvClient::new(channel.clone()).range(request)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) => status.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if let Some(Some(ended)) = self.members[member].process.as_mut().map(Child::try_wait).transpose()? {
                bail!("n{} ended with {ended}:\n{}", member + 1, self.last_words(member));
            }
            if Instant::now() > deadline {
                bail!("n{} does not serve; last seen: {seen}\n{}", member + 1, self.last_words(member));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until one of `among` says that it leads, and tells which.
    pub async fn leader(&self, among: &[usize]) -> Result<usize> {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            for &member in among {
                let mut client = MaintenanceClient::new(self.doors().channel(member)?);
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
        let mut command = Command::new(&self.program);
        let Member { ports, dir, .. } = &self.members[member];
        let name = format!("n{}", member + 1);
        let scheme = if self.subject == Subject::Etcd { "http://" } else { "" };
        let peer = |ports: &Ports| format!("{scheme}127.0.0.1:{}", ports.peer);
        let everybody = self.members.iter().enumerate().map(|(i, m)| format!("n{}={}", i + 1, peer(&m.ports)));
        let everybody = everybody.collect::<Vec<_>>().join(",");
        let client = format!("{scheme}127.0.0.1:{}", ports.client);
        match self.subject {
            Subject::Etcd => {
                command.args(["--log-level", "error", "--initial-cluster-state", "new"]);
                command.args(["--experimental-watch-progress-notify-interval", "200ms"]);
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer(ports), "--initial-advertise-peer-urls", &peer(ports)]);
            }
            Subject::Netstate => {
                command.arg("server").args(["--listen-client", &client, "--listen-peer", &peer(ports)]);
                command.args(["--listen-http", &format!("127.0.0.1:{}", ports.http)]);
            }
        }
        command.args(["--name", &name, "--initial-cluster", &everybody]).arg("--data-dir").arg(dir);
        command
    }

    fn log(&self, member: usize) -> PathBuf {
        self.dir.path().join(format!("n{}.log", member + 1))
    }

    fn last_words(&self, member: usize) -> String {
        let log = std::fs::read(self.log(member)).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned()
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

/// Ports that nobody listens on; all are held until the last is found, so that none is given twice.
fn free_ports() -> Result<Vec<Ports>> {
    let listeners = (0..3 * MEMBERS).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
    Ok(ports.chunks(3).map(|three| Ports { client: three[0], peer: three[1], http: three[2] }).collect())
}
