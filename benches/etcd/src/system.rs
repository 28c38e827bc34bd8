//! The two systems and how a member of each is started.
//!
//! Must hold: both run with their own defaults but for what is said here, above all with every acknowledged write synced on a
//! majority; both listen on the loopback only.
//!
//! Left to others: processes and their ends (see `cluster`).

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What is being compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// The reference.
    Etcd,
    /// This repository's server.
    Netstate,
}

/// Where the programs are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Programs {
    /// etcd's program
    #[arg(long, default_value = "etcd")]
    pub(crate) etcd: PathBuf,
    /// Netstate's program, built for release
    #[arg(long, default_value = "target/release/netstate")]
    pub(crate) netstate: PathBuf,
    /// Netstate's Raft groups, unless its own default.
    #[arg(skip)]
    pub(crate) groups: Option<u16>,
}

/// What a member of a cluster is called, and where it listens and keeps its data.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
    /// Only Netstate has a third one, for metrics and health.
    pub(crate) http_port: u16,
}

/// The largest database that etcd's documentation recommends; its default of 2 GiB would fill up during the heavier loads.
const ETCD_QUOTA_BYTES: u64 = 8 << 30;

impl System {
    /// Both, in the order in which the first round runs them.
    pub(crate) const ALL: [System; 2] = [System::Etcd, System::Netstate];

    /// As in tables and file names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Etcd => "etcd",
            System::Netstate => "netstate",
        }
    }

    /// The program of this system.
    pub(crate) fn program(self, programs: &Programs) -> &Path {
        match self {
            System::Etcd => &programs.etcd,
            System::Netstate => &programs.netstate,
        }
    }

    /// The command that runs one member of a cluster of `all`. Restarting a member runs the same command again.
    pub(crate) fn command(self, programs: &Programs, member: &Place, all: &[Place]) -> Command {
        let mut command = Command::new(self.program(programs));
        match self {
            System::Etcd => etcd_arguments(&mut command, member, all),
            System::Netstate => netstate_arguments(&mut command, programs.groups, member, all),
        }
        command
    }
}

fn etcd_arguments(command: &mut Command, member: &Place, all: &[Place]) {
    // Flags come first with etcd, but a variable that names something not given here would still count.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
        command.env_remove(name);
    }
    let client = format!("http://127.0.0.1:{}", member.client_port);
    let peer = format!("http://127.0.0.1:{}", member.peer_port);
    let cluster: Vec<_> = all.iter().map(|m| format!("{}=http://127.0.0.1:{}", m.name, m.peer_port)).collect();
    command
        .args(["--name", &member.name, "--data-dir"])
        .arg(&member.data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
        .args(["--quota-backend-bytes", &ETCD_QUOTA_BYTES.to_string()]);
}

fn netstate_arguments(command: &mut Command, groups: Option<u16>, member: &Place, all: &[Place]) {
    let local = |port: u16| format!("127.0.0.1:{port}");
    let cluster: Vec<_> = all.iter().map(|m| format!("{}={}", m.name, local(m.peer_port))).collect();
    command
        .args(["server", "--name", &member.name, "--data-dir"])
        .arg(&member.data)
        .args(["--listen-client", &local(member.client_port), "--listen-peer", &local(member.peer_port)])
        .args(["--listen-http", &local(member.http_port), "--initial-cluster", &cluster.join(",")])
        .args(groups.map(|groups| format!("--groups={groups}")));
}
