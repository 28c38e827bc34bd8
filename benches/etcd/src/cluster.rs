//! Three members of one system as child processes: started, watched, killed and started again.
//!
//! Must hold: no child outlives its [`Cluster`], nor this program, however it ends; data directories go with the cluster,
//! logs stay.
//!
//! Left to others: what is sent to the members.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use etcd_proto::etcdserverpb::{StatusRequest, StatusResponse};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::client;
use crate::process::{self, Memory};
use crate::system::{Place, Programs, System};

/// Members of every cluster: the smallest that survives a loss.
pub(crate) const MEMBERS: usize = 3;
/// Until all members answer and agree about a leader. A restart with a million keys is well below it.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// One question about a member's health.
const STATUS_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at whether a killed process is gone; short, because a restart waits for it.
const REAP_EVERY: Duration = Duration::from_millis(2);
/// Memory has settled once it changes by less than this part over the whole of the pause.
const SETTLED_PART: f64 = 0.01;
const SETTLED_FOR: Duration = Duration::from_secs(3);
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// Lines of a dead server's log that go into an error message.
const LOG_LINES_SHOWN: usize = 5;

/// A running cluster.
pub(crate) struct Cluster {
    system: System,
    programs: Programs,
    members: Vec<Member>,
    /// Declared after the members, so that it is removed after they are dead.
    _data: TempDir,
}

struct Member {
    place: Place,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts all members, with data in a temporary directory under `dir` and logs in `dir/logs`, whose names begin with
    /// `label`, and waits until they have a leader.
    pub(crate) async fn start(system: System, programs: &Programs, dir: &Path, label: &str) -> Result<Cluster> {
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let data = tempfile::Builder::new().prefix("data-").tempdir_in(dir)?;
        let ports = free_ports(3 * MEMBERS)?;
        let members = ports.chunks(3).enumerate().map(|(at, ports)| {
            let name = format!("n{}", at + 1);
            let log = logs.join(format!("{label}-{}-{name}.log", system.name()));
            let place = Place {
                data: data.path().join(&name),
                name,
                client_port: ports[0],
                peer_port: ports[1],
                http_port: ports[2],
            };
            Member { place, log, child: None }
        });
        let mut cluster = Cluster { system, programs: programs.clone(), members: members.collect(), _data: data };
        for at in 0..MEMBERS {
            // A log of an earlier run would be taken for this one's.
            File::create(&cluster.members[at].log)?;
            cluster.spawn(at)?;
        }
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    pub(crate) fn system(&self) -> System {
        self.system
    }

    /// The members' client addresses, in order.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|at| self.endpoint(at)).collect()
    }

    pub(crate) fn endpoint(&self, at: usize) -> String {
        format!("http://127.0.0.1:{}", self.members[at].place.client_port)
    }

    /// The process ids of the living members.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|m| m.child.as_ref()).map(Child::id).collect()
    }

    /// Where the members' logs are, for messages.
    pub(crate) fn logs(&self) -> String {
        let paths: Vec<_> = self.members.iter().map(|m| m.log.display().to_string()).collect();
        paths.join(", ")
    }

    /// The member that leads.
    pub(crate) async fn leader(&mut self) -> Result<usize> {
        let statuses = self.wait_ready().await?;
        let leads = |s: &StatusResponse| s.header.as_ref().is_some_and(|h| h.member_id == s.leader);
        statuses.iter().position(leads).context("the leader is none of the members")
    }

    /// Waits until every member answers and all agree about one leader.
    pub(crate) async fn wait_ready(&mut self) -> Result<Vec<StatusResponse>> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let last = match self.statuses().await {
                Ok(statuses) if agreed(&statuses) => return Ok(statuses),
                Ok(statuses) => format!("leaders {:?}", statuses.iter().map(|s| s.leader).collect::<Vec<_>>()),
                Err(error) => format!("{error:#}"),
            };
            self.check_alive()?;
            if Instant::now() >= deadline {
                bail!("{} has no leader after {READY_WITHIN:?}: {last}; logs: {}", self.system.name(), self.logs());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn statuses(&self) -> Result<Vec<StatusResponse>> {
        let mut statuses = Vec::with_capacity(self.members.len());
        for endpoint in self.endpoints() {
            let ask = async {
                let mut maintenance = client::maintenance(&endpoint).await?;
                Ok::<_, anyhow::Error>(maintenance.status(StatusRequest {}).await?.into_inner())
            };
            statuses.push(timeout(STATUS_WITHIN, ask).await.with_context(|| format!("no answer from {endpoint}"))??);
        }
        Ok(statuses)
    }

    /// Says so if a member that should run has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        for member in &mut self.members {
            let Some(child) = &mut member.child else { continue };
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(&member.log).unwrap_or_default();
                let lines: Vec<_> = log.lines().rev().take(LOG_LINES_SHOWN).collect();
                let end = lines.into_iter().rev().collect::<Vec<_>>().join("\n  ");
                let (name, log) = (&member.place.name, member.log.display());
                bail!("{} {name} ended by itself ({status}); its log {log} ends with\n  {end}", self.system.name());
            }
        }
        Ok(())
    }

    /// Kills a member as `kill -9` does and returns when the signal is sent.
    pub(crate) fn kill(&mut self, at: usize) -> Result<Instant> {
        let child = self.members[at].child.as_mut().context("the member to be killed does not run")?;
        child.kill().context("cannot kill a server")?;
        Ok(Instant::now())
    }

    /// Waits, without holding up the clients, until a killed member is gone.
    pub(crate) async fn reap(&mut self, at: usize) -> Result<()> {
        while let Some(child) = &mut self.members[at].child {
            match child.try_wait()? {
                Some(_) => self.members[at].child = None,
                None => sleep(REAP_EVERY).await,
            }
        }
        Ok(())
    }

    /// Starts a member that is not running, on the data that it has, and returns at once.
    pub(crate) fn spawn(&mut self, at: usize) -> Result<()> {
        ensure!(self.members[at].child.is_none(), "the member to be started runs already");
        let places: Vec<_> = self.members.iter().map(|m| m.place.clone()).collect();
        let log = &self.members[at].log;
        let output =
            File::options().append(true).open(log).with_context(|| format!("cannot open {}", log.display()))?;
        let mut command = self.system.command(&self.programs, &places[at], &places);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        dies_with_parent(&mut command);
        let program = self.system.program(&self.programs);
        let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        self.members[at].child = Some(child);
        Ok(())
    }

    /// Memory of each living member.
    pub(crate) fn memory(&self) -> Result<Vec<Memory>> {
        self.pids().into_iter().map(process::memory).collect()
    }

    /// Waits until the members' memory stays as it is, or long enough.
    pub(crate) async fn settle(&self) -> Result<Vec<Memory>> {
        let deadline = Instant::now() + SETTLE_WITHIN;
        let mut before = self.memory()?;
        loop {
            sleep(SETTLED_FOR).await;
            let after = self.memory()?;
            let same = |(b, a): (&Memory, &Memory)| (a.resident - b.resident).abs() < SETTLED_PART * b.resident;
            if before.iter().zip(&after).all(same) || Instant::now() >= deadline {
                return Ok(after);
            }
            before = after;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut children: Vec<_> = self.members.iter_mut().filter_map(|m| m.child.take()).collect();
        // An error means that the child is gone already, which is what is wanted.
        for child in &mut children {
            let _ = child.kill();
        }
        for child in &mut children {
            let _ = child.wait();
        }
    }
}

fn agreed(statuses: &[StatusResponse]) -> bool {
    let leader = statuses.first().map_or(0, |s| s.leader);
    leader != 0 && statuses.iter().all(|s| s.leader == leader)
}

/// Ports on which nothing listens now. All are held until all are found, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?)
}

/// Lets the kernel kill the child when this program ends by a way that runs no destructors: an abort, or `kill -9`.
/// Servers are only ever started on the main thread, which lives as long as the program.
#[expect(unsafe_code, reason = "only code between fork and exec can ask for it; prctl is async-signal-safe")]
fn dies_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call without pointers and touches no memory shared with the parent.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}
