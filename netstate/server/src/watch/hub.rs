//! Who watches, and what there is for whom.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use kv_node::Histogram;
use netstate_model::{ConnectionId, Directory, HostId, NetworkId, Scope};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::Instant,
};

use super::{encoded::Encoded, pace::Pace, presence::Heard, schedule::Schedule};
use crate::{
    forward::{HostProgress, Question},
    view::Outcome,
};

/// Streams that one node serves at most.
const STREAMS: usize = 20_000;

/// Hosts that are given the scope that they come for at a time, so that those who are have it soon; and how many may wait.
const ARRIVALS: usize = 32;
const WAITING: usize = 8192;

/// How long nothing may be heard of a host that is given its scope until it doesn't keep others waiting any more. Whoever
/// programs a kernel for longer before it says that it has all, has what it needs.
const ARRIVAL_PATIENCE: Duration = Duration::from_millis(100);

/// How long a turn may last, for a host that takes frame after frame slowly.
const TURN_MAX: Duration = Duration::from_secs(2);

/// Bytes of a frame beyond which the rest is left for the next one.
const FRAME_BYTES: usize = 32 * 1024;

/// When a host that was sent away is to come back: after so long at least, and by host up to four times as long.
const COME_BACK: Duration = Duration::from_millis(500);
const COME_BACK_STEPS: u32 = 64;

/// What waits for one stream: marks, no events.
#[derive(Default)]
pub(super) struct Marks {
    /// Networks in which something changed for it.
    pub(super) networks: BTreeSet<NetworkId>,
    /// Networks that have to be sent whole again: a host's underlay address changed.
    pub(super) whole: BTreeSet<NetworkId>,
    /// Its scope may have changed.
    pub(super) rescope: bool,
    /// When the first of these marks was made. Since then the stream is in the [`Schedule`], or woken.
    pub(super) since: Option<Instant>,
    /// No frame is made of them before.
    pub(super) not_before: Option<Instant>,
    /// What was marked before is being made into a frame.
    making: bool,
}

impl Marks {
    /// When a frame of them may be made.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.max(self.since.and(self.not_before))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.whole.is_empty() && !self.rescope
    }
}

/// Stands for the frame that is still to be made.
pub(super) const UNSENT: u64 = u64::MAX;

/// What was sent and what came back.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) last_frame: u64,
    pub(super) acked: u64,
    /// Frames that are not acknowledged yet, the oldest first, and since when what they tell has been so.
    pub(super) unacked: VecDeque<(u64, Instant)>,
    /// The frame with which the host had all of the scope that it came for; 0: it hasn't.
    pub(super) arrived: u64,
    pub(super) problem: String,
    /// What the host holds once all frames are acknowledged.
    pub(super) scope: Scope,
    /// The last frame that said something of a network or a connection, until it is acknowledged; [`UNSENT`] where the next will.
    pub(super) of_network: BTreeMap<NetworkId, u64>,
    pub(super) of_connection: BTreeMap<ConnectionId, u64>,
}

/// One host's stream.
pub(super) struct Stream {
    pub(super) host: HostId,
    pub(super) marks: Mutex<Marks>,
    pub(super) wake: Notify,
    schedule: Arc<Schedule>,
    pub(super) progress: Mutex<Progress>,
    /// The host has opened another one, or is registered no more.
    pub(super) ended: AtomicBool,
}

impl Stream {
    /// Has a frame made of what is marked, when its time comes.
    pub(super) fn mark(self: &Arc<Self>, mark: impl FnOnce(&mut Marks)) {
        if let Some(at) = self.note(mark) {
            self.schedule.add(at, self);
        }
    }

    /// Has it made as soon as the transport has room.
    pub(super) fn mark_at_once(&self, mark: impl FnOnce(&mut Marks)) {
        self.note(|marks| {
            mark(marks);
            marks.not_before = None;
        });
        self.wake.notify_one();
    }

    /// When the stream is to be woken, if nobody has seen to it.
    fn note(&self, mark: impl FnOnce(&mut Marks)) -> Option<Instant> {
        let mut marks = self.marks.lock();
        let seen_to = marks.since.is_some();
        mark(&mut marks);
        marks.since.get_or_insert_with(Instant::now);
        marks.due().filter(|_| !seen_to)
    }

    /// Takes the marks, to make a frame of what they stand for, with the next one `apart` from it.
    pub(super) fn take_marks(&self, apart: Duration) -> Marks {
        let mut marks = self.marks.lock();
        let taken = std::mem::take(&mut *marks);
        marks.making = true;
        marks.not_before = Some(Instant::now() + apart);
        taken
    }

    /// What came of the marks that were taken has been noted: a frame, or nothing.
    pub(super) fn made(&self, frame: bool) {
        let mut marks = self.marks.lock();
        marks.making = false;
        if !frame {
            marks.not_before = None;
        }
    }

    /// For how long it has not had in force all that lies in its scope.
    fn behind(&self, now: Instant) -> Duration {
        let marked = self.marks.lock().since;
        let unacked = self.progress.lock().unacked.front().map(|(_, since)| *since);
        let since = [marked, unacked].into_iter().flatten().min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn acknowledged(progress: &Progress, frame: Option<&u64>) -> bool {
        progress.problem.is_empty() && frame.is_none_or(|frame| *frame <= progress.acked)
    }

    fn progress(&self, question: Question) -> HostProgress {
        // Marks first: whatever this node shows of a keyspace has been marked before.
        let marked = {
            let marks = self.marks.lock();
            marks.making
                || marks.rescope
                || match question {
                    Question::Network(id, _) => marks.networks.contains(&id) || marks.whole.contains(&id),
                    Question::Directory(_) => !marks.is_empty(),
                    Question::Connection { .. } => false,
                }
        };
        let progress = self.progress.lock();
        // What a host holds that has been sent nothing yet is not known here.
        let unknown = marked || progress.last_frame == 0;
        let (concerned, programmed) = match question {
            Question::Connection { id, there } => {
                let (held, frame) = (progress.scope.connections.contains(&id), progress.of_connection.get(&id));
                let pending = frame.is_some_and(|frame| *frame > progress.acked);
                (held || pending, held == there && Self::acknowledged(&progress, frame))
            }
            Question::Directory(_) => (true, Self::acknowledged(&progress, Some(&progress.last_frame))),
            Question::Network(id, _) => {
                let held = progress.scope.networks.contains_key(&id);
                (held, Self::acknowledged(&progress, progress.of_network.get(&id)))
            }
        };
        let programmed = programmed && !unknown;
        HostProgress { host: self.host, concerned, programmed, problem: progress.problem.clone() }
    }
}

#[derive(Default)]
struct Streams {
    by_host: HashMap<HostId, Arc<Stream>>,
    /// Registered hosts that had a stream here, or came and were sent away, and when that was.
    gone: HashMap<HostId, Instant>,
    /// Which hosts have a network in scope, and for which of them it is local.
    by_network: HashMap<NetworkId, BTreeMap<HostId, bool>>,
    by_connection: HashMap<ConnectionId, BTreeSet<HostId>>,
}

/// All streams of this node.
pub(crate) struct Hub {
    streams: Mutex<Streams>,
    arrivals: Arc<Semaphore>,
    patience: Duration,
    waiting: AtomicUsize,
    pub(super) encoded: Encoded,
    pub(super) frame_bytes: usize,
    pub(super) pace: Pace,
    schedule: Arc<Schedule>,
    /// Frames sent since the start.
    pub(crate) frames: AtomicU64,
    /// From a change's being applied here to a host's reporting it programmed, in microseconds.
    pub(crate) programmed: Histogram,
    began: Instant,
}

impl Default for Hub {
    fn default() -> Self {
        Hub::new(FRAME_BYTES, ARRIVALS, ARRIVAL_PATIENCE)
    }
}

/// A host's turn to be given its scope, over when it is dropped.
#[must_use]
pub(super) struct Turn(mpsc::Sender<()>);

impl Turn {
    /// The host has taken a frame: it may go on.
    pub(super) fn goes_on(&self) {
        // One word that waits to be heard says as much as two.
        let _ = self.0.try_send(());
    }
}

/// A place among those that wait for their scope, given back when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    /// Serves nobody yet. Frames are about so large at most, and so many hosts are given the scope that they come for at a
    /// time, as long as none of them is silent for longer than `patience`.
    pub(super) fn new(frame_bytes: usize, arrivals: usize, patience: Duration) -> Self {
        Hub {
            streams: Mutex::default(),
            arrivals: Arc::new(Semaphore::new(arrivals)),
            patience,
            waiting: AtomicUsize::new(0),
            encoded: Encoded::default(),
            frame_bytes,
            pace: Pace::default(),
            schedule: Arc::default(),
            frames: AtomicU64::new(0),
            programmed: Histogram::of_micros(),
            began: Instant::now(),
        }
    }

    /// Wakes streams that there is something to be told on, for as long as it is polled.
    pub(crate) async fn wake_streams(self: Arc<Self>) {
        self.schedule.run().await;
    }

    /// Waits until it is the caller's turn to be given its scope. The next one is let in when the turn is dropped, when nothing
    /// is heard of the host, or after [`TURN_MAX`].
    pub(super) async fn turn(&self) -> Turn {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let (turn, mut taken) = mpsc::channel(1);
        // It is never closed.
        if let Ok(permit) = self.arrivals.clone().acquire_owned().await {
            let patience = self.patience;
            tokio::spawn(async move {
                let taking = async { while let Ok(Some(())) = tokio::time::timeout(patience, taken.recv()).await {} };
                let _ = tokio::time::timeout(TURN_MAX, taking).await;
                drop(permit);
            });
        }
        Turn(turn)
    }

    /// Takes a host's stream in, in place of an earlier one of the same host; or after how long it is to try again, because
    /// there are too many.
    pub(super) fn enter(&self, host: HostId) -> Result<Arc<Stream>, Duration> {
        let come_back = COME_BACK + COME_BACK * 3 * (host.get() % COME_BACK_STEPS) / COME_BACK_STEPS;
        if self.waiting.load(Ordering::Relaxed) >= WAITING {
            return Err(come_back);
        }
        let stream = Arc::new(Stream {
            host,
            marks: Mutex::new(Marks { rescope: true, since: Some(Instant::now()), ..Marks::default() }),
            wake: Notify::new(),
            schedule: self.schedule.clone(),
            progress: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let mut streams = self.streams.lock();
        if streams.by_host.len() >= STREAMS && !streams.by_host.contains_key(&host) {
            return Err(come_back);
        }
        if let Some(earlier) = streams.by_host.insert(host, stream.clone()) {
            let scope = earlier.progress.lock().scope.clone();
            streams.index(host, &scope, &Scope::default());
            earlier.ended.store(true, Ordering::Relaxed);
            earlier.wake.notify_one();
        }
        streams.gone.remove(&host);
        stream.wake.notify_one();
        Ok(stream)
    }

    /// Takes a stream out.
    pub(super) fn leave(&self, stream: &Arc<Stream>) {
        let mut streams = self.streams.lock();
        if streams.by_host.get(&stream.host).is_some_and(|known| Arc::ptr_eq(known, stream)) {
            streams.by_host.remove(&stream.host);
            streams.gone.insert(stream.host, Instant::now());
            let scope = stream.progress.lock().scope.clone();
            streams.index(stream.host, &scope, &Scope::default());
        }
    }

    /// Takes note of a stream's new scope, before the frame that tells the host. Whether something came into it: what of that
    /// changed since it was looked at was not marked for this stream.
    pub(super) fn rescoped(&self, stream: &Arc<Stream>, new: &Scope) -> bool {
        let mut streams = self.streams.lock();
        if !streams.by_host.get(&stream.host).is_some_and(|known| Arc::ptr_eq(known, stream)) {
            return false;
        }
        let old = {
            let mut progress = stream.progress.lock();
            // What left the scope before it was sent never will be.
            progress.of_network.retain(|id, frame| *frame != UNSENT || new.networks.contains_key(id));
            progress.of_connection.retain(|id, frame| *frame != UNSENT || new.connections.contains(id));
            std::mem::replace(&mut progress.scope, new.clone())
        };
        streams.index(stream.host, &old, new);
        let came = |id: &NetworkId| !old.networks.contains_key(id);
        new.networks.keys().any(came) || new.connections.iter().any(|id| !old.connections.contains(id))
    }

    /// A network's commit is applied: called before anybody can see it.
    pub(crate) fn touched(&self, network: NetworkId, outcome: &Outcome, rescoped: &[HostId], directory: &Directory) {
        let streams = self.streams.lock();
        if streams.by_host.is_empty() {
            return;
        }
        for host in rescoped {
            streams.wake(host, |marks| marks.rescope = true);
        }
        if outcome.core {
            for host in streams.by_network.get(&network).into_iter().flat_map(BTreeMap::keys) {
                streams.wake(host, |marks| {
                    marks.networks.insert(network);
                });
            }
            return;
        }
        let mut concerned = outcome.hosts.clone();
        for connection in directory.connections_of(network) {
            let sides = [&connection.from, &connection.to].into_iter().filter(|side| side.network == network);
            let named = |side: &netstate_model::Side| {
                side.selector.is_some() && outcome.labels.iter().any(|labels| side.matches(labels))
            };
            if sides.into_iter().any(named) {
                concerned.extend(streams.by_connection.get(&connection.id).into_iter().flatten());
            }
        }
        for host in &concerned {
            streams.wake(host, |marks| {
                marks.networks.insert(network);
            });
        }
    }

    /// A connection between these networks comes or goes: called before anybody can see it.
    pub(crate) fn rescope(&self, networks: &[NetworkId]) {
        let streams = self.streams.lock();
        let local: BTreeSet<_> = networks
            .iter()
            .flat_map(|network| streams.by_network.get(network).into_iter().flatten())
            .filter_map(|(host, local)| local.then_some(*host))
            .collect();
        for host in &local {
            streams.wake(host, |marks| marks.rescope = true);
        }
    }

    /// A host with blocks in this network is reached differently: called before anybody can see it.
    pub(crate) fn moved(&self, network: NetworkId) {
        let streams = self.streams.lock();
        for host in streams.by_network.get(&network).into_iter().flat_map(BTreeMap::keys) {
            streams.wake(host, |marks| {
                marks.whole.insert(network);
            });
        }
    }

    /// Anything may have changed.
    pub(crate) fn everything(&self) {
        self.encoded.forget();
        let streams = self.streams.lock();
        for (host, stream) in &streams.by_host {
            let held: Vec<_> = stream.progress.lock().scope.networks.keys().copied().collect();
            streams.wake(host, |marks| {
                marks.rescope = true;
                marks.whole.extend(held);
            });
        }
    }

    /// How far the hosts served here are.
    pub(crate) fn progress(&self, question: Question) -> Vec<HostProgress> {
        let streams: Vec<_> = self.streams.lock().by_host.values().cloned().collect();
        streams.iter().map(|stream| stream.progress(question)).collect()
    }

    /// Hosts served here.
    pub(crate) fn connected(&self) -> usize {
        self.streams.lock().by_host.len()
    }

    /// What this node hears and heard of hosts.
    pub(crate) fn heard(&self) -> Heard {
        let now = Instant::now();
        let (here, gone): (Vec<_>, Vec<_>) = {
            let streams = self.streams.lock();
            (streams.by_host.values().cloned().collect(), streams.gone.iter().map(|(id, at)| (*id, *at)).collect())
        };
        Heard {
            here: here.iter().map(|stream| (stream.host, stream.behind(now))).collect(),
            gone: gone.into_iter().map(|(host, at)| (host, now.saturating_duration_since(at))).collect(),
            listening: now.saturating_duration_since(self.began),
        }
    }

    /// A host that was sent away is there all the same.
    pub(super) fn sent_away(&self, host: HostId) {
        let mut streams = self.streams.lock();
        if !streams.by_host.contains_key(&host) {
            streams.gone.insert(host, Instant::now());
        }
    }

    /// A host is registered no more.
    pub(crate) fn forget(&self, host: HostId) {
        let mut streams = self.streams.lock();
        streams.gone.remove(&host);
        if let Some(stream) = streams.by_host.remove(&host) {
            let scope = stream.progress.lock().scope.clone();
            streams.index(host, &scope, &Scope::default());
            stream.ended.store(true, Ordering::Relaxed);
            stream.wake.notify_one();
        }
    }
}

impl Streams {
    fn wake(&self, host: &HostId, mark: impl FnOnce(&mut Marks)) {
        if let Some(stream) = self.by_host.get(host) {
            stream.mark(mark);
        }
    }

    fn index(&mut self, host: HostId, old: &Scope, new: &Scope) {
        for network in old.networks.keys().filter(|id| !new.networks.contains_key(id)) {
            if let Some(hosts) = self.by_network.get_mut(network) {
                hosts.remove(&host);
                if hosts.is_empty() {
                    self.by_network.remove(network);
                }
            }
        }
        for (network, local) in &new.networks {
            self.by_network.entry(*network).or_default().insert(host, *local);
        }
        for connection in old.connections.difference(&new.connections) {
            if let Some(hosts) = self.by_connection.get_mut(connection) {
                hosts.remove(&host);
                if hosts.is_empty() {
                    self.by_connection.remove(connection);
                }
            }
        }
        for connection in &new.connections {
            self.by_connection.entry(*connection).or_default().insert(host);
        }
    }
}
