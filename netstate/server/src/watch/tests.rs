//! Random histories: whatever happens in whatever order, a host that applies its frames ends with what a first frame gives,
//! and holds nothing outside its scope at any moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use kv_core::{ChainRecord, Change, Commit, GroupId, Head, Revision};
use kv_node::{AppliedCommit, Observer};
use netstate_model::{
    Attach, Context, DirectoryCommand, HostId, Labels, Name, NetworkCommand, NetworkConfig, NetworkId, PackedBlocks,
    Ports, Protocol, Side, Timestamp, scope,
};
use netstate_proto::v1 as pb;
use proptest::prelude::*;
use prost::Message;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    frame::Held,
    frame::HeldNetwork,
    hub::Hub,
    hub::Stream,
    schedule,
    stream::{Arriving, Serving, acknowledge, advance},
};
use crate::{
    execute::{Changes, records},
    forward::Question,
    keyspaces::Home,
    view::View,
};

const NETWORKS: u32 = 4;
const HOSTS: u32 = 3;
/// Frames after which a host that nothing happens to has everything.
const FRAMES: usize = 100;

/// A store without a store: decides, and shows the view what was decided.
struct World {
    view: Arc<View>,
    hub: Arc<Hub>,
    heads: BTreeMap<u32, Head>,
}

/// What a host holds, made of frames alone. Everything keyed so that two of them can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Host {
    directory: u64,
    /// Per network: pools, blocks, strays, quarantined.
    networks: BTreeMap<String, Network>,
    locals: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    connections: BTreeMap<String, BTreeMap<(bool, String), Vec<String>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Network {
    pools: Vec<String>,
    blocks: BTreeMap<String, String>,
    strays: BTreeMap<String, Vec<String>>,
    quarantined: BTreeMap<String, Vec<String>>,
}

/// One host's end and the server's end of its stream.
struct Watching {
    id: HostId,
    host: Host,
    /// The revisions that the host would pass in a hello.
    revisions: BTreeMap<String, u64>,
    held: Held,
    stream: Arc<Stream>,
    arriving: Arriving,
}

impl World {
    fn new(frame_bytes: usize) -> Self {
        World::patient(frame_bytes, Duration::from_millis(50))
    }

    fn patient(frame_bytes: usize, patience: Duration) -> Self {
        let hub = Arc::new(Hub::new(frame_bytes, 1, patience));
        let mut world = World { view: Arc::new(View::new(hub.clone())), hub, heads: BTreeMap::new() };
        for n in 0..HOSTS {
            world.directory(DirectoryCommand::RegisterHost {
                name: Name::new(&format!("host-{n}")).unwrap(),
                underlay: std::net::Ipv4Addr::new(192, 0, 2, n as u8 + 1).into(),
                labels: Labels::NONE,
            });
        }
        for n in 0..NETWORKS {
            world.directory(DirectoryCommand::CreateNetwork {
                name: Name::new(&format!("network-{n}")).unwrap(),
                pools: vec![format!("10.{n}.0.0/27").parse().unwrap()],
                block_len_v4: Some(29),
                block_len_v6: None,
                labels: Labels::NONE,
            });
        }
        let directory = world.view.directory().state;
        for network in directory.networks() {
            world.network(network.id, NetworkCommand::Install(NetworkConfig::of(network)));
        }
        world
    }

    fn commit(&mut self, home: Home, changes: &Changes) {
        let keyspace = home.keyspace();
        let slot = match home {
            Home::Directory => 0,
            Home::Network(id) => id.get(),
        };
        let head = self.heads.entry(slot).or_default();
        let change = |(key, value): (Vec<u8>, Option<Vec<u8>>)| Change {
            key: key.into(),
            value: value.map(Into::into),
            lease: None,
        };
        let commit = Commit {
            keyspace: keyspace.clone(),
            base: head.revision,
            at: kv_core::Timestamp::default(),
            actor: String::new(),
            reason: String::new(),
            request: None,
            succeeded: true,
            changes: records(changes).into_iter().map(change).collect(),
            effects: Vec::new(),
        };
        let record = ChainRecord::follow(head, &commit);
        *head = record.head(&keyspace);
        let applied = AppliedCommit { keyspace: &keyspace, record: &record, changes: &commit.changes, written: &[] };
        self.view.applied(GroupId::new(0), &[applied]);
    }

    fn directory(&mut self, command: DirectoryCommand) {
        let context = Context { now: Timestamp::from_micros(1), actor: "ann", reason: "test" };
        if let Ok(changes) = self.view.directory().state.decide(command, &context)
            && !changes.is_empty()
        {
            self.commit(Home::Directory, &Changes::Directory(changes));
        }
    }

    fn network(&mut self, id: NetworkId, command: NetworkCommand) {
        let context = Context { now: Timestamp::from_micros(1), actor: "ann", reason: "test" };
        if let Ok(changes) = self.view.network(id).state.decide(command, &context)
            && !changes.is_empty()
        {
            self.commit(Home::Network(id), &Changes::Network(changes));
        }
    }

    fn watch(&self, id: HostId) -> Watching {
        let stream = self.hub.enter(id).unwrap();
        let (host, revisions) = Default::default();
        Watching { id, host, revisions, held: Held::default(), stream, arriving: Arriving::Begins }
    }

    /// What a host without anything is told now.
    fn fresh(&self, id: HostId) -> Host {
        let hub = Arc::new(Hub::default());
        let world = World { view: self.view.clone(), hub, heads: BTreeMap::new() };
        let mut watching = world.watch(id);
        watching.take_all(&world);
        watching.host
    }
}

impl Watching {
    /// Takes one frame, if there is one. Says whether there was.
    fn take(&mut self, world: &World) -> bool {
        if self.arriving != Arriving::Begins && self.stream.marks.lock().is_empty() {
            return false;
        }
        let marks = self.stream.take_marks(Duration::ZERO);
        let frame = advance(&world.hub, &world.view, &self.stream, &mut self.held, marks, &mut self.arriving);
        self.stream.made(frame.is_some());
        if let Some(frame) = frame {
            assert!(!frame.complete || self.arriving == Arriving::Complete);
            self.host.apply(&frame, &mut self.revisions);
            let ack = pb::host_report::Ack { frame: frame.frame, problem: String::new() };
            acknowledge(&world.hub, &self.stream, &ack);
            self.check_scope(world);
        }
        self.check_progress(world);
        true
    }

    /// Takes all frames that there are.
    fn take_all(&mut self, world: &World) {
        assert!((0..FRAMES).any(|_| !self.take(world)), "there is always another frame");
    }

    fn reconnect(&mut self, world: &World) {
        self.stream = world.hub.enter(self.id).unwrap();
        self.arriving = Arriving::Begins;
        self.held = Held { directory: Revision::new(self.host.directory), ..Held::default() };
        for (id, network) in &self.host.networks {
            let revision = Some(Revision::new(self.revisions[id]));
            let local = self.host.locals.contains_key(id);
            let held = HeldNetwork { given: true, revision, local, locals: revision.filter(|_| local) };
            assert!(!network.pools.is_empty());
            self.held.networks.insert(id.parse().unwrap(), held);
        }
        // What it holds is not known to those who ask, until it has been sent something.
        for connection in world.view.directory().state.connections() {
            for there in [true, false] {
                let all = world.hub.progress(Question::Connection { id: connection.id, there });
                assert!(all.iter().all(|progress| progress.host != self.id || !progress.programmed));
            }
        }
        self.held.connections = self.host.connections.keys().map(|id| (id.parse().unwrap(), [None, None])).collect();
    }

    /// Nothing but what concerns it; nobody else's endpoints but those that something names.
    fn check_scope(&self, world: &World) {
        let directory = world.view.directory().state;
        let local = world.view.networks_on(self.id);
        let scope = scope(&directory, local);
        let networks: BTreeSet<_> = scope.networks.keys().map(ToString::to_string).collect();
        let connections: BTreeSet<_> = scope.connections.iter().map(ToString::to_string).collect();
        let held = self.host.networks.keys().cloned().collect::<BTreeSet<_>>();
        assert!(held.is_subset(&networks), "{held:?} of {networks:?}");
        let permitted = self.host.connections.keys().cloned().collect::<BTreeSet<_>>();
        assert!(permitted.is_subset(&connections), "{permitted:?} of {connections:?}");
        if self.stream.marks.lock().is_empty() {
            assert_eq!((held, permitted), (networks, connections), "nothing is on its way");
        }
        for (network, endpoints) in &self.host.locals {
            let state = world.view.network(network.parse().unwrap()).state;
            for id in endpoints.keys() {
                let id: netstate_model::EndpointId = id.parse().unwrap();
                assert!(state.endpoint(id.number()).is_none_or(|endpoint| endpoint.host == self.id));
            }
        }
    }
}

impl Watching {
    /// What others are told of this host: nothing is in force before it has all of it, and then everything is.
    fn check_progress(&self, world: &World) {
        let said = |question| {
            let all = world.hub.progress(question).into_iter();
            all.filter(|progress| progress.host == self.id).map(|progress| progress.programmed).next().unwrap_or(true)
        };
        let at_rest = self.stream.marks.lock().is_empty();
        let directory = world.view.directory();
        for connection in directory.state.connections() {
            let has = self.host.connections.contains_key(&connection.id.to_string());
            for there in [true, false] {
                let programmed = said(Question::Connection { id: connection.id, there });
                assert!(!programmed || has == there, "{} {there}", connection.id);
                assert!(!at_rest || programmed == (has == there), "{} {there}, at rest", connection.id);
            }
        }
        if at_rest {
            assert!(said(Question::Directory(directory.revision)));
            for network in directory.state.networks() {
                assert!(said(Question::Network(network.id, world.view.network(network.id).revision)), "{}", network.id);
            }
        }
    }
}

impl Host {
    fn apply(&mut self, frame: &pb::ScopeFrame, revisions: &mut BTreeMap<String, u64>) {
        self.directory = frame.directory_revision;
        for gone in &frame.networks_gone {
            assert!(self.networks.remove(gone).is_some(), "{gone} was not held");
            self.locals.remove(gone);
            revisions.remove(gone);
        }
        for gone in &frame.connections_gone {
            assert!(self.connections.remove(gone).is_some(), "{gone} was not held");
        }
        for connection in &frame.connections {
            assert!(self.connections.insert(connection.id.clone(), BTreeMap::new()).is_none());
        }
        for encoded in &frame.networks {
            let part = pb::ScopeNetwork::decode(encoded.clone()).unwrap();
            let network = self.networks.entry(part.network_id.clone()).or_default();
            if part.full {
                *network = Network { pools: part.pools, ..Network::default() };
            }
            part.blocks_gone.iter().for_each(|cidr| drop(network.blocks.remove(cidr)));
            network.blocks.extend(part.blocks.into_iter().map(|block| (block.cidr, block.underlay)));
            for columns in part.packed_blocks {
                let packed = PackedBlocks {
                    first: columns.first.parse().unwrap(),
                    runs: columns.runs,
                    gaps: columns.gaps,
                    hosts: columns.hosts,
                    underlay_steps: columns.underlay_steps,
                    underlays_v6: Vec::new(),
                };
                let blocks = packed.unpack().unwrap().into_iter();
                network.blocks.extend(blocks.map(|(cidr, _, underlay)| (cidr.to_string(), underlay.to_string())));
            }
            part.strays_gone.iter().for_each(|id| drop(network.strays.remove(id)));
            network.strays.extend(part.strays.into_iter().map(|stray| (stray.endpoint_id, stray.addresses)));
            part.quarantined_gone.iter().for_each(|id| drop(network.quarantined.remove(id)));
            network.quarantined.extend(part.quarantined.into_iter().map(|one| (one.endpoint_id, one.addresses)));
            revisions.insert(part.network_id, part.revision);
        }
        for part in &frame.locals {
            let locals = self.locals.entry(part.network_id.clone()).or_default();
            if part.full {
                locals.clear();
            }
            part.endpoints_gone.iter().for_each(|id| drop(locals.remove(id)));
            locals.extend(part.endpoints.iter().map(|one| (one.id.clone(), one.addresses.clone())));
            let empty = locals.is_empty();
            if empty {
                self.locals.remove(&part.network_id);
            }
        }
        for encoded in &frame.members {
            let part = pb::ScopeMembers::decode(encoded.clone()).unwrap();
            let members = self.connections.get_mut(&part.connection_id).expect("members of a connection that is held");
            if part.full {
                members.retain(|(to_side, _), _| *to_side != part.to_side);
            }
            part.members_gone.iter().for_each(|id| drop(members.remove(&(part.to_side, id.clone()))));
            members.extend(part.members.into_iter().map(|one| ((part.to_side, one.endpoint_id), one.addresses)));
        }
    }
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Attach { network: u32, host: u32, count: u32, blue: bool },
    Detach { network: u32, which: usize },
    Quarantine { network: u32, which: usize, on: bool },
    Connect { from: u32, to: u32, selected: bool, port: u32 },
    Disconnect { which: usize },
    Move { host: u32, to: u8 },
    Read { host: u32 },
    Reconnect { host: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let (network, host) = (1..=NETWORKS, 1..=HOSTS);
    prop_oneof![
        4 => (network.clone(), host.clone(), 1..4u32, any::<bool>())
            .prop_map(|(network, host, count, blue)| Step::Attach { network, host, count, blue }),
        3 => (network.clone(), any::<usize>()).prop_map(|(network, which)| Step::Detach { network, which }),
        1 => (network.clone(), any::<usize>(), any::<bool>())
            .prop_map(|(network, which, on)| Step::Quarantine { network, which, on }),
        2 => (network.clone(), network, any::<bool>(), 1..4u32)
            .prop_map(|(from, to, selected, port)| Step::Connect { from, to, selected, port }),
        1 => any::<usize>().prop_map(|which| Step::Disconnect { which }),
        1 => (host.clone(), 1..200u8).prop_map(|(host, to)| Step::Move { host, to }),
        4 => host.clone().prop_map(|host| Step::Read { host }),
        1 => host.prop_map(|host| Step::Reconnect { host }),
    ]
}

fn pick<T: Copy>(all: &[T], which: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[which % all.len()])
}

fn perform(world: &mut World, hosts: &mut [Watching], at: usize, step: &Step) {
    let endpoints = |world: &World, network: u32| -> Vec<u32> {
        world.view.network(NetworkId::new(network)).state.endpoints().map(netstate_model::Endpoint::number).collect()
    };
    match *step {
        Step::Attach { network, host, count, blue } => {
            let one = |n| Attach {
                name: Name::new(&format!("x{at}-{n}")).unwrap(),
                host: HostId::new(host),
                addresses: Vec::new(),
                mac: None,
                labels: if blue { Labels::new([("colour", "blue")]).unwrap() } else { Labels::NONE },
                workload: String::new(),
                netns: None,
            };
            world.network(NetworkId::new(network), NetworkCommand::Attach((0..count).map(one).collect()));
        }
        Step::Detach { network, which } => {
            if let Some(number) = pick(&endpoints(world, network), which) {
                world.network(NetworkId::new(network), NetworkCommand::Detach(vec![number]));
            }
        }
        Step::Quarantine { network, which, on } => {
            if let Some(endpoint) = pick(&endpoints(world, network), which) {
                world.network(NetworkId::new(network), NetworkCommand::Quarantine { endpoint, on });
            }
        }
        Step::Connect { from, to, selected, port } => {
            let side = |network| Side {
                network: NetworkId::new(network),
                selector: selected.then(|| "colour=blue".parse().unwrap()),
            };
            world.directory(DirectoryCommand::Connect {
                from: side(from),
                to: Side { selector: None, ..side(to) },
                protocol: Protocol::Tcp,
                ports: vec![Ports::new(port, port).unwrap()],
                lifetime: None,
            });
        }
        Step::Disconnect { which } => {
            let all: Vec<_> = world.view.directory().state.connections().map(|connection| connection.id).collect();
            if let Some(connection) = pick(&all, which) {
                world.directory(DirectoryCommand::Disconnect { connection });
            }
        }
        Step::Move { host, to } => world.directory(DirectoryCommand::RegisterHost {
            name: Name::new(&format!("host-{}", host - 1)).unwrap(),
            underlay: std::net::Ipv4Addr::new(192, 0, 3, to).into(),
            labels: Labels::NONE,
        }),
        Step::Read { host } => {
            hosts[host as usize - 1].take(world);
        }
        Step::Reconnect { host } => hosts[host as usize - 1].reconnect(world),
    }
}

/// Attaches an endpoint of every host to every network.
fn attach_everywhere(world: &mut World) {
    for (network, host) in (1..=NETWORKS).flat_map(|network| (1..=HOSTS).map(move |host| (network, host))) {
        perform(
            world,
            &mut [],
            (network * HOSTS + host) as usize,
            &Step::Attach { network, host, count: 1, blue: false },
        );
    }
}

#[tokio::test]
async fn a_host_that_does_not_read_lets_others_arrive() {
    // One host at a time, and a frame for each network.
    let mut world = World::new(1);
    attach_everywhere(&mut world);
    let arrive = |host: u32| {
        let (hub, view, stream) = (world.hub.clone(), world.view.clone(), world.hub.enter(HostId::new(host)).unwrap());
        let (reports, stop) = (futures::stream::pending(), CancellationToken::new());
        Box::pin(Serving::new(hub, view, stream, Held::default(), reports, stop).frames())
    };
    let mut stuck = arrive(1);
    assert!(!stuck.next().await.unwrap().unwrap().complete, "that was all");
    let mut reads = arrive(2);
    let all = async { while !reads.next().await.unwrap().unwrap().complete {} };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("all of its scope");
    assert!(!stuck.next().await.unwrap().unwrap().complete, "the other is not done");
}

#[tokio::test]
async fn a_turn_ends_when_the_host_says_that_it_has_all() {
    let mut world = World::patient(64 * 1024, Duration::from_secs(3600));
    attach_everywhere(&mut world);
    let arrive = |host: u32| {
        let (hub, view, stream) = (world.hub.clone(), world.view.clone(), world.hub.enter(HostId::new(host)).unwrap());
        let (reports, heard) = tokio::sync::mpsc::channel(1);
        let heard = tokio_stream::wrappers::ReceiverStream::new(heard);
        let frames = Serving::new(hub, view, stream, Held::default(), heard, CancellationToken::new()).frames();
        (reports, Box::pin(frames))
    };
    let (says, mut first) = arrive(1);
    let complete = first.next().await.unwrap().unwrap();
    assert!(complete.complete);
    let (_says_nothing, mut second) = arrive(2);
    assert!(futures::poll!(first.next()).is_pending(), "there is no more");
    assert!(futures::poll!(second.next()).is_pending(), "the first is not heard to have it");
    // Whether it can program a kernel is nobody else's concern.
    let ack = pb::host_report::Ack { frame: complete.frame, problem: "no nftables".into() };
    says.send(Ok(pb::HostReport { report: Some(pb::host_report::Report::Ack(ack)) })).await.unwrap();
    assert!(futures::poll!(first.next()).is_pending());
    let next = tokio::time::timeout(Duration::from_secs(20), second.next()).await.expect("its turn");
    assert!(next.unwrap().unwrap().complete);
}

#[tokio::test(start_paused = true)]
async fn a_turn_lasts_while_the_host_goes_on_and_not_for_ever() {
    const PATIENCE: Duration = Duration::from_millis(100);
    const STEP: Duration = Duration::from_millis(80);
    let hub = Arc::new(Hub::new(1, 1, PATIENCE));
    let next = || {
        let hub = hub.clone();
        tokio::spawn(async move { (hub.turn().await, Instant::now()) })
    };
    let first = hub.turn().await;
    let second = next();
    for _ in 0..10 {
        tokio::time::sleep(STEP).await;
        assert!(!second.is_finished(), "the first has gone on");
        first.goes_on();
    }
    let silent = Instant::now();
    let (second, taken) = second.await.unwrap();
    assert!((PATIENCE..PATIENCE + STEP).contains(&(taken - silent)), "{:?}", taken - silent);
    let third = next();
    while !third.is_finished() {
        tokio::time::sleep(STEP).await;
        second.goes_on();
    }
    let (_third, third_taken) = third.await.unwrap();
    let most = Duration::from_secs(2);
    assert!((most..most + STEP).contains(&(third_taken - taken)), "{:?}", third_taken - taken);
}

#[tokio::test(start_paused = true)]
async fn frames_of_a_late_node_are_apart_and_none_is_lost() {
    let mut world = World::new(64 * 1024);
    attach_everywhere(&mut world);
    let (reports, heard) = tokio::sync::mpsc::channel(1);
    let heard = tokio_stream::wrappers::ReceiverStream::new(heard);
    let (hub, view, stream) = (world.hub.clone(), world.view.clone(), world.hub.enter(HostId::new(1)).unwrap());
    let waking = tokio::spawn(world.hub.clone().wake_streams());
    let mut frames =
        Box::pin(Serving::new(hub, view, stream, Held::default(), heard, CancellationToken::new()).frames());
    let mut next = async || frames.next().await.unwrap().unwrap();
    assert!(next().await.complete);
    (0..1000).for_each(|_| world.hub.pace.was_late(Duration::from_secs(1)));
    let apart = world.hub.pace.apart();
    let mut attach = |at| {
        perform(&mut world, &mut [], at, &Step::Attach { network: 1, host: 1, count: 1, blue: false });
    };
    let began = Instant::now();
    attach(1001);
    let first = next().await;
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing was sent before");
    attach(1002);
    // It is heard while the second frame waits for its time, and so is another change.
    let ack = pb::host_report::Ack { frame: first.frame, problem: String::new() };
    let more = async {
        reports.send(Ok(pb::HostReport { report: Some(pb::host_report::Report::Ack(ack)) })).await.unwrap();
        tokio::time::sleep(apart / 2).await;
        attach(1003);
    };
    let (second, ()) = tokio::join!(next(), more);
    assert!((apart..apart * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(second.locals[0].endpoints.len(), 2);
    waking.abort();
}

#[test]
fn others_run_between_streams() {
    const STREAMS: usize = 800;
    // As servers have it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).event_interval(7).enable_all().build();
    let others = async {
        let hub = Arc::new(Hub::default());
        let told = Arc::new(AtomicUsize::new(0));
        let streams: Vec<_> = (1..=STREAMS).map(|host| hub.enter(HostId::new(host as u32)).unwrap()).collect();
        for stream in &streams {
            // It was woken when it came.
            stream.wake.notified().await;
            stream.take_marks(Duration::ZERO);
            let (stream, told) = (stream.clone(), told.clone());
            tokio::spawn(async move {
                stream.wake.notified().await;
                told.fetch_add(1, Ordering::Relaxed);
            });
        }
        streams.iter().for_each(|stream| stream.mark(|marks| marks.rescope = true));
        let waking = tokio::spawn(hub.wake_streams());
        let mut before = 0;
        while before < STREAMS {
            schedule::others_run().await;
            let now = told.load(Ordering::Relaxed);
            assert!(now - before <= 2 * schedule::AT_ONCE, "{} streams ran before another task", now - before);
            before = now;
        }
        waking.abort();
    };
    let runtime = runtime.unwrap();
    runtime.block_on(runtime.spawn(others)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn hosts_end_with_their_scope(
        steps in prop::collection::vec(step(), 1..60),
        frame_bytes in prop_oneof![Just(1), Just(100), Just(64 * 1024)],
    ) {
        let mut world = World::new(frame_bytes);
        let mut hosts: Vec<_> = (1..=HOSTS).map(|id| world.watch(HostId::new(id))).collect();
        for (at, step) in steps.iter().enumerate() {
            perform(&mut world, &mut hosts, at, step);
        }
        for watching in &mut hosts {
            watching.take_all(&world);
            let mut fresh = world.fresh(watching.id);
            // A host that nothing concerned was not told of directory revisions either.
            fresh.directory = watching.host.directory;
            prop_assert_eq!(&watching.host, &fresh, "{}", watching.id);
        }
    }

    /// A host that comes from another history, where the same ids stood for other things, ends with what it would be told
    /// if it came with nothing.
    #[test]
    fn hosts_start_over_after_a_restore(
        before in prop::collection::vec(step(), 1..40),
        restored in prop::collection::vec(step(), 1..40),
        frame_bytes in prop_oneof![Just(1), Just(64 * 1024)],
    ) {
        let mut world = World::new(frame_bytes);
        let mut hosts: Vec<_> = (1..=HOSTS).map(|id| world.watch(HostId::new(id))).collect();
        before.iter().enumerate().for_each(|(at, step)| perform(&mut world, &mut hosts, at, step));
        hosts.iter_mut().for_each(|host| host.take_all(&world));
        let mut world = World::new(frame_bytes);
        restored.iter().enumerate().for_each(|(at, step)| {
            // Nobody watches yet.
            if !matches!(step, Step::Read { .. } | Step::Reconnect { .. }) {
                perform(&mut world, &mut [], at, step);
            }
        });
        for watching in &mut hosts {
            watching.reconnect(&world);
            watching.held.start_over();
            watching.take_all(&world);
            prop_assert_eq!(&watching.host, &world.fresh(watching.id), "{}", watching.id);
        }
    }
}
