//! Hosts and endpoints as namespaces, with agents in this process that work in them.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use netstate_agent::{Agent, AgentConfig, scope::HostScope, source::ScopeSource};
use netstate_client::ReceivedFrame;
use netstate_proto::v1::ScopeFrame;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time,
};
use tokio_util::sync::CancellationToken;

use crate::story::{Endpoint, Story};

const DEADLINE: Duration = Duration::from_secs(20);
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// Some hosts on one underlay.
pub(crate) struct World {
    prefix: String,
    pub(crate) story: Story,
    pub(crate) hosts: Vec<Host>,
    pub(crate) underlays: Vec<String>,
    namespaces: Vec<String>,
    dir: tempfile::TempDir,
    frame: u64,
    pub(crate) compare_every: Duration,
    pub(crate) dry_run: bool,
}

/// One host.
pub(crate) struct Host {
    pub(crate) netns: String,
    /// Connections that its agent was told of.
    told: BTreeSet<String>,
    agent: Option<Running>,
}

struct Running {
    frames: mpsc::Sender<ScopeFrame>,
    acks: watch::Receiver<(u64, String)>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Frames from a test.
struct Told {
    frames: mpsc::Receiver<ScopeFrame>,
    acks: watch::Sender<(u64, String)>,
}

impl ScopeSource for Told {
    async fn next(&mut self, _: &HostScope) -> ReceivedFrame {
        match self.frames.recv().await {
            Some(frame) => ReceivedFrame { stream: 1, frame },
            None => std::future::pending().await,
        }
    }

    fn ack(&mut self, _: u64, frame: u64, problem: String) {
        self.acks.send_replace((frame, problem));
    }

    fn reopen(&mut self) {}
}

impl World {
    /// This many hosts, or none where the kernel or the rights don't allow it.
    pub(crate) fn new(hosts: usize, v6: bool) -> Option<World> {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("nst{}-{number}", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        let (story, namespaces) = (Story::default(), Vec::new());
        // Comparing is left to the monitor, unless a test is about comparing.
        let compare_every = Duration::from_secs(3600);
        let (hosts_made, underlays) = (vec![], vec![]);
        let mut world = World {
            prefix,
            story,
            hosts: hosts_made,
            underlays,
            namespaces,
            dir,
            frame: 0,
            compare_every,
            dry_run: false,
        };
        let wire = world.namespace("wire")?;
        let usable = run(&["ip", "netns", "exec", &wire, "nft", "add table inet probe"]);
        if !usable.status.success() {
            eprintln!("skipped: nftables can't be used here: {}", String::from_utf8_lossy(&usable.stderr));
            return None;
        }
        ok(&["ip", "-n", &wire, "link", "add", "bridge0", "type", "bridge"]);
        ok(&["ip", "-n", &wire, "link", "set", "bridge0", "up"]);
        for host in 0..hosts {
            world.host(&wire, host, v6)?;
        }
        Some(world)
    }

    fn host(&mut self, wire: &str, host: usize, v6: bool) -> Option<()> {
        let netns = self.namespace(&format!("h{host}"))?;
        let (port, underlay) =
            (format!("p{host}"), if v6 { format!("fd77::{}", host + 1) } else { format!("192.168.77.{}", host + 1) });
        let length = if v6 { 64 } else { 24 };
        ok(&["ip", "-n", wire, "link", "add", &port, "type", "veth", "peer", "name", "u0", "netns", &netns]);
        ok(&["ip", "-n", wire, "link", "set", &port, "master", "bridge0", "up"]);
        ok(&["ip", "-n", &netns, "link", "set", "lo", "up"]);
        ok(&["ip", "-n", &netns, "link", "set", "u0", "up"]);
        let address = format!("{underlay}/{length}");
        let mut words = vec!["ip", "-n", &netns, "addr", "add", &address, "dev", "u0"];
        words.extend(v6.then_some("nodad"));
        ok(&words);
        self.underlays.push(underlay);
        self.hosts.push(Host { netns, told: BTreeSet::new(), agent: None });
        Some(())
    }

    fn namespace(&mut self, name: &str) -> Option<String> {
        let name = format!("{}-{name}", self.prefix);
        let made = run(&["ip", "netns", "add", &name]);
        if !made.status.success() {
            eprintln!("skipped: no network namespaces here: {}", String::from_utf8_lossy(&made.stderr).trim());
            return None;
        }
        self.namespaces.push(name.clone());
        Some(name)
    }

    /// An endpoint with a namespace of its own. Returns the namespace.
    pub(crate) fn endpoint(&mut self, id: &str, host: usize, addresses: &[&str]) -> String {
        let netns = self.namespace(&id.replace('.', "-")).unwrap();
        self.endpoint_in(id, host, addresses, &netns);
        netns
    }

    /// An endpoint with a namespace that may not be there.
    pub(crate) fn endpoint_in(&mut self, id: &str, host: usize, addresses: &[&str], netns: &str) {
        let network = id.parse::<netstate_model::EndpointId>().unwrap().network().get();
        let addresses = addresses.iter().map(ToString::to_string).collect();
        self.story.endpoints.push(Endpoint { id: id.to_owned(), network, host, addresses, netns: netns.to_owned() });
    }

    /// Makes a namespace by its full name.
    pub(crate) fn late_namespace(&mut self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Makes a namespace that [`World::late_namespace`] named.
    pub(crate) fn make(&mut self, name: &str) {
        ok(&["ip", "netns", "add", name]);
        self.namespaces.push(name.to_owned());
    }

    /// Starts a host's agent, with whatever it left on disk.
    pub(crate) fn start(&mut self, host: usize) {
        let mut config = self.config(host);
        config.host_netns = Some(self.hosts[host].netns.parse().unwrap());
        let (frames, received) = mpsc::channel(16);
        let (acks, acked) = watch::channel((0, String::new()));
        let stop = CancellationToken::new();
        let mut agent = Agent::new(config).unwrap();
        let until = stop.clone();
        let task = tokio::spawn(async move {
            agent.run(&mut Told { frames: received, acks }, until).await.unwrap();
        });
        self.hosts[host].agent = Some(Running { frames, acks: acked, stop, task });
    }

    pub(crate) fn config(&self, host: usize) -> AgentConfig {
        let underlay = self.underlays[host].parse().unwrap();
        let mut config = AgentConfig::new(format!("host-{host}"), underlay, vec![]);
        config.state_dir = self.state_dir(host);
        config.compare_every = self.compare_every;
        config.dry_run = self.dry_run;
        config
    }

    pub(crate) fn state_dir(&self, host: usize) -> PathBuf {
        self.dir.path().join(format!("state-{host}"))
    }

    /// Stops a host's agent without a word to anybody.
    pub(crate) async fn stop(&mut self, host: usize) {
        if let Some(running) = self.hosts[host].agent.take() {
            running.stop.cancel();
            running.task.await.unwrap();
        }
    }

    /// Starts every agent.
    pub(crate) fn start_all(&mut self) {
        for host in 0..self.hosts.len() {
            self.start(host);
        }
    }

    /// Tells every running agent the story as it is now, and waits until it is in force.
    pub(crate) async fn tell(&mut self) {
        self.send().await;
        for host in 0..self.hosts.len() {
            let problem = self.acked(host).await;
            assert_eq!(problem, "", "host {host}");
        }
    }

    /// Tells every running agent the story as it is now.
    pub(crate) async fn send(&mut self) {
        self.frame += 1;
        for (number, host) in self.hosts.iter_mut().enumerate() {
            let Some(running) = &host.agent else { continue };
            let frame = self.story.frame(self.frame, number, &self.underlays, &host.told);
            host.told = self.story.connections.values().map(|connection| connection.id.clone()).collect();
            running.frames.send(frame).await.unwrap();
        }
    }

    /// The problem with which the last frame was acknowledged.
    pub(crate) async fn acked(&mut self, host: usize) -> String {
        let number = self.frame;
        let Some(running) = &mut self.hosts[host].agent else { return String::new() };
        let acked = time::timeout(DEADLINE, running.acks.wait_for(|(frame, _)| *frame >= number)).await;
        acked.expect("an ack in time").unwrap().1.clone()
    }

    /// Runs a command in a host's namespace that has to succeed.
    pub(crate) fn on(&self, host: usize, command: &[&str]) -> String {
        let mut words = vec!["ip", "netns", "exec", &self.hosts[host].netns];
        words.extend(command);
        ok(&words)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Agents end with the test's runtime; what they were about to do to a namespace that is gone does not matter.
        for host in &self.hosts {
            if let Some(running) = &host.agent {
                running.task.abort();
            }
        }
        for namespace in &self.namespaces {
            run(&["ip", "netns", "del", namespace]);
        }
    }
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(time::Instant::now() < deadline, "never: {what}");
        time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn ok(words: &[&str]) -> String {
    let output = run(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn run(words: &[&str]) -> Output {
    Command::new(words[0]).args(&words[1..]).output().unwrap()
}
