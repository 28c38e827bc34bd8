//! A cluster of real processes, on loopback addresses and in folders of its own. Everything ends with the value.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use etcd_proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse, kv_client::KvClient};
use netstate_client::{Client, Options, WatchEvent};
use netstate_proto::v1 as pb;
use tonic::transport::{Channel, Endpoint};

/// How long a condition may take to come true on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Processes {
    servers: Vec<Option<Child>>,
    dir: tempfile::TempDir,
    address: String,
}

impl Processes {
    /// Starts this many servers.
    pub(crate) fn start(size: usize) -> Self {
        let mut cluster = Self::prepared(size);
        (0..size).for_each(|at| cluster.spawn(at));
        cluster
    }

    /// This many servers, with addresses and places for their data, none of them started.
    pub(crate) fn prepared(size: usize) -> Self {
        let servers = (0..size).map(|_| None).collect();
        Processes { servers, dir: tempfile::tempdir().unwrap(), address: own_address() }
    }

    /// How many servers there are, started or not.
    pub(crate) fn size(&self) -> usize {
        self.servers.len()
    }

    /// All servers, as their `--initial-cluster` names them.
    pub(crate) fn founders(&self) -> String {
        let founders = (0..self.servers.len()).map(|at| format!("{}={}", Self::name(at), self.peer_address(at)));
        founders.collect::<Vec<_>>().join(",")
    }

    /// What a server has said so far.
    pub(crate) fn said(&self, at: usize) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{}.log", Self::name(at)))).unwrap_or_default()
    }

    /// Starts one server whose data lies on a file system of this many mebibytes that nobody else sees; `None` where that
    /// isn't allowed.
    pub(crate) fn start_on_small_disk(mebibytes: u32) -> Option<Self> {
        let allowed = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
        if !allowed.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut cluster = Processes { servers: vec![None], dir: tempfile::tempdir().unwrap(), address: own_address() };
        std::fs::create_dir(cluster.data_dir(0)).unwrap();
        let server = cluster.command(0);
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", "mount -t tmpfs -o size=\"$1\" none \"$2\" && shift 2 && exec \"$@\"", "sh"])
            .arg(format!("{mebibytes}m"))
            .arg(cluster.data_dir(0))
            .arg(server.get_program())
            .args(server.get_args());
        cluster.run(0, command);
        Some(cluster)
    }

    pub(crate) fn name(at: usize) -> String {
        format!("n{}", at + 1)
    }

    pub(crate) fn client_address(&self, at: usize) -> String {
        format!("{}:{}", self.address, 2380 + 10 * at)
    }

    pub(crate) fn peer_address(&self, at: usize) -> String {
        format!("{}:{}", self.address, 2381 + 10 * at)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(Self::name(at))
    }

    fn command(&self, at: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netstate"));
        command
            .args(["server", "--name", &Self::name(at)])
            .arg("--data-dir")
            .arg(self.data_dir(at))
            .args(["--listen-client", &self.client_address(at), "--listen-peer", &self.peer_address(at)])
            .args(["--listen-http", &format!("{}:{}", self.address, 2382 + 10 * at)])
            .args(["--initial-cluster", &self.founders()]);
        command
    }

    /// Starts a server that isn't running; what it says goes to a file beside its data.
    pub(crate) fn spawn(&mut self, at: usize) {
        assert!(self.servers[at].is_none());
        self.run(at, self.command(at));
    }

    /// Starts a server that isn't running and joins the cluster of another one.
    pub(crate) fn spawn_joining(&mut self, at: usize, other: usize) {
        assert!(self.servers[at].is_none());
        let server = self.command(at);
        let mut command = Command::new(server.get_program());
        let fixed = server.get_args().take_while(|arg| *arg != "--initial-cluster");
        command.args(fixed).args(["--join", &self.peer_address(other)]);
        self.run(at, command);
    }

    /// Starts one more server, which joins as a relay. Where it is.
    pub(crate) fn add_relay(&mut self) -> usize {
        let at = self.servers.len();
        self.servers.push(None);
        let server = self.command(at);
        let mut command = Command::new(server.get_program());
        let fixed = server.get_args().take_while(|arg| *arg != "--initial-cluster");
        command.args(fixed).args(["--role", "relay", "--join", &self.peer_address(0)]);
        self.run(at, command);
        at
    }

    fn run(&mut self, at: usize, mut command: Command) {
        let log = self.dir.path().join(format!("{}.log", Self::name(at)));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.servers[at] = Some(child.unwrap());
    }

    /// Ends a server with SIGKILL.
    pub(crate) fn kill(&mut self, at: usize) {
        let mut child = self.servers[at].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn pid(&self, at: usize) -> u32 {
        self.servers[at].as_ref().unwrap().id()
    }

    pub(crate) fn is_running(&mut self, at: usize) -> bool {
        self.servers[at].as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Every port that a server listens on.
    pub(crate) fn addresses(&self, at: usize) -> [String; 3] {
        [2380, 2381, 2382].map(|port| format!("{}:{}", self.address, port + 10 * at))
    }

    /// A client of all servers.
    pub(crate) fn client(&self) -> Client {
        self.client_with(Options { deadline: Duration::from_secs(30), ..Options::default() })
    }

    pub(crate) fn client_with(&self, options: Options) -> Client {
        let addresses = (0..self.servers.len()).map(|at| self.client_address(at)).collect();
        Client::connect(addresses, options).unwrap()
    }

    /// A client of one server only.
    pub(crate) fn client_of(&self, at: usize) -> Client {
        Client::connect(vec![self.client_address(at)], Options::default()).unwrap()
    }

    /// Where the leader of group 0 is.
    pub(crate) async fn leader(&self, client: &Client) -> usize {
        until("a leader of group 0", async || {
            let status = client.cluster_status(pb::ClusterStatusRequest {}).await.ok()?;
            let leader = status.groups.iter().find(|group| group.group == 0)?.leader.clone();
            (0..self.servers.len()).find(|at| Self::name(*at) == leader)
        })
        .await
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for at in 0..self.servers.len() {
                let log = self.dir.path().join(format!("{}.log", Self::name(at)));
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                eprintln!("--- {} said last:\n{}", Self::name(at), lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
    }
}

/// A loopback address that no other test of this machine uses: ports then need not be hunted for.
fn own_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    format!("127.{}.{}.{}", 64 + (pid >> 8) % 128, pid & 0xff, 100 + NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits for a condition on a value.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn origin(reason: &str) -> Option<pb::Origin> {
    Some(pb::Origin { actor: "tester".into(), reason: reason.into(), request_id: String::new() })
}

pub(crate) async fn create_network(client: &Client, name: &str, pool: &str) {
    let request = pb::CreateNetworkRequest {
        origin: origin(""),
        name: name.into(),
        pools: vec![pool.into()],
        ..pb::CreateNetworkRequest::default()
    };
    client.create_network(request).await.unwrap();
}

pub(crate) async fn register_host(client: &Client, name: &str, underlay: &str) {
    let request = pb::RegisterHostRequest {
        origin: origin(""),
        name: name.into(),
        underlay: underlay.into(),
        ..pb::RegisterHostRequest::default()
    };
    client.register_host(request).await.unwrap();
}

/// A host that takes and acknowledges whatever it is sent, and forgets it.
pub(crate) fn live(client: &Client, host: &str) -> tokio::task::JoinHandle<()> {
    let hello = pb::host_report::Hello { host: host.into(), ..pb::host_report::Hello::default() };
    let mut watch = client.watch_host();
    tokio::spawn(async move {
        loop {
            if let WatchEvent::Frame(received) = watch.next(|| hello.clone()).await {
                watch.ack(received.stream, received.frame.frame, String::new());
            }
        }
    })
}

pub(crate) fn item(network: &str, name: &str, host: &str) -> pb::AttachItem {
    pb::AttachItem { network: network.into(), name: name.into(), host: host.into(), ..pb::AttachItem::default() }
}

/// Every endpoint there is, as one server sees it.
pub(crate) async fn endpoints(client: &Client) -> Vec<pb::Endpoint> {
    let mut chunks = client.list_endpoints(pb::ListEndpointsRequest::default()).await.unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        all.extend(chunk.endpoints);
    }
    all
}

pub(crate) fn netstate(servers: Option<&Processes>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netstate"));
    if let Some(cluster) = servers {
        let addresses: Vec<_> = (0..cluster.size()).map(|at| cluster.client_address(at)).collect();
        command.args(["--servers", &addresses.join(",")]);
    }
    command.args(args).output().unwrap()
}

/// Standard output of a command that ends well.
pub(crate) fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error of a command that is refused.
pub(crate) fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn channel(cluster: &Processes) -> Channel {
    let endpoint = |at| Endpoint::from_shared(format!("http://{}", cluster.client_address(at))).unwrap();
    Channel::balance_list((0..cluster.size()).map(endpoint))
}

pub(crate) async fn put(channel: &Channel, key: &str, value: &str, lease: i64) -> Option<i64> {
    let request =
        PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..PutRequest::default() };
    let put = KvClient::new(channel.clone()).put(request).await.ok()?;
    put.into_inner().header.map(|header| header.revision)
}

/// All keys that start so.
pub(crate) async fn range(channel: &Channel, prefix: &str) -> RangeResponse {
    until("a range is answered", async || {
        let (mut key, mut range_end) = (prefix.as_bytes().to_vec(), prefix.as_bytes().to_vec());
        match range_end.last_mut() {
            Some(last) => *last += 1,
            // Every key.
            None => (key, range_end) = (vec![0], vec![0]),
        }
        let request = RangeRequest { key: key.into(), range_end: range_end.into(), ..RangeRequest::default() };
        Some(KvClient::new(channel.clone()).range(request).await.ok()?.into_inner())
    })
    .await
}

/// Returns when every group has a leader.
pub(crate) async fn led(client: &Client) {
    until("every group has a leader", async || {
        let status = client.cluster_status(pb::ClusterStatusRequest {}).await.ok()?;
        (!status.groups.is_empty() && status.groups.iter().all(|group| !group.leader.is_empty())).then_some(())
    })
    .await;
}
