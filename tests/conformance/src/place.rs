//! Where a server listens on the port that a suite expects it on, while other tests run on the same machine.
//!
//! ```text
//! with namespaces:     unshare ─ sh (loopback up; ends when the test does, and takes everything inside with it)
//!                      nsenter ─ server     nsenter ─ suite
//! without, port free:  server, suite        (one test at a time)
//! ```
//!
//! Must hold: nothing that was started inside outlives the [`Place`], not even when the test is killed.
//!
//! Left to others: what is asked of the servers (see `suite`).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::server::{ETCD_PORT, Kind, Server};

/// What makes a place: loopback up, said so, and then nothing until the pipe from the test breaks.
const HOLD: &str = "ip link set lo up && echo ready && exec cat";
const NAMESPACES: [&str; 3] = ["--net", "--pid", "--mount"];

/// Members of a cluster, the first on etcd's own port, and the network that they are in. The order of the fields matters: the
/// namespace ends its processes before their folders are removed, and the next test's turn comes after both.
#[derive(Debug)]
pub struct Place {
    namespace: Option<Namespace>,
    servers: Vec<Server>,
    _turn: Option<File>,
}

impl Place {
    /// Starts a member for each name, in a namespace where that is allowed; else on the machine, if nobody listens on etcd's
    /// port; else gives nothing.
    pub async fn start(kind: Kind, names: &[&str]) -> Result<Option<Self>> {
        let Some(mut place) = Self::find()? else { return Ok(None) };
        place.servers = Server::start_all(|program| place.command(program), kind, names).await?;
        Ok(Some(place))
    }

    /// A command that will run there.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref().as_os_str();
        self.namespace.as_ref().map_or_else(|| Command::new(program), |namespace| namespace.command(program))
    }

    /// What the members have logged.
    pub fn log(&self) -> String {
        self.servers.iter().map(Server::log).collect::<Vec<_>>().join("\n")
    }

    fn find() -> Result<Option<Self>> {
        // Root makes namespaces by itself; others may make them inside a user namespace, where the kernel lets them.
        for user in [false, true] {
            if let Some(namespace) = Namespace::make(user)? {
                return Ok(Some(Self { namespace: Some(namespace), servers: Vec::new(), _turn: None }));
            }
        }
        let turn = std::env::temp_dir().join("etcd-conformance.lock");
        let turn = File::create(&turn).with_context(|| format!("cannot write {}", turn.display()))?;
        turn.lock()?;
        let free = TcpListener::bind(("127.0.0.1", ETCD_PORT)).is_ok();
        Ok(free.then_some(Self { namespace: None, servers: Vec::new(), _turn: Some(turn) }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A suite that stops a member stops the process that entered the namespace, too. The namespace would wait for it.
        self.servers.iter_mut().for_each(Server::end);
    }
}

/// Namespaces of network, processes and mounts, gone when dropped.
#[derive(Debug)]
struct Namespace {
    holder: Child,
    user: bool,
}

impl Namespace {
    fn make(user: bool) -> Result<Option<Self>> {
        let mut command = Command::new("unshare");
        command.args(user.then_some("--map-root-user")).args(NAMESPACES).args([
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command.args(["sh", "-c", HOLD]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(holder) = command.spawn() else { return Ok(None) };
        let mut namespace = Self { holder, user };
        let mut said = String::new();
        let stdout = namespace.holder.stdout.take().context("the holder has no output")?;
        BufReader::new(stdout).read_line(&mut said)?;
        Ok((said == "ready\n").then_some(namespace))
    }

    fn command(&self, program: &OsStr) -> Command {
        let file = |kind: &str| format!("/proc/{}/ns/{kind}", self.holder.id());
        let mut command = Command::new("nsenter");
        if self.user {
            command.arg("--preserve-credentials").arg(format!("--user={}", file("user")));
        }
        // unshare itself stays outside of the namespace of processes that it makes for its children.
        command.arg(format!("--net={}", file("net"))).arg(format!("--mount={}", file("mnt")));
        // The folder that it is started in, which would be lost with the mounts.
        command.arg(format!("--pid={}", file("pid_for_children"))).args(["--wd=.", "--"]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The holder ends when its input does; the kernel ends whatever is left inside, and only then is the holder gone.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
