//! One host's stream: its reports come in, frames go out.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use kv_core::Revision;
use netstate_model::{ConnectionId, NetworkId};
use netstate_proto::v1::{self as pb, host_report::Report};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming};

use super::{
    frame::{self, Held, HeldNetwork, Next},
    hub::{Hub, Marks, Progress, Stream, Turn, UNSENT},
};
use crate::{keyspaces::Home, view::View};

const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Frames whose times are remembered until they are acknowledged. Later ones count as one with the last of them.
const UNACKED: usize = 16;

/// How long a host may take for its first report.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// Networks and connections that a hello may name.
const HAVE_MAX: usize = 1_000_000;

/// Timers are late by up to so much.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// What goes out. Each frame is made when the transport has room for it: while it is busy, marks gather and the frame grows.
pub(crate) type Frames = Pin<Box<dyn futures::Stream<Item = Result<pb::ScopeFrame, Status>> + Send>>;

/// Takes a host's stream in.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    view: Arc<View>,
    mut reports: Streaming<pb::HostReport>,
    stop: CancellationToken,
) -> Result<Frames, Status> {
    let first = tokio::time::timeout(HELLO_PATIENCE, reports.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello in time; send one first"))??;
    let Some(Report::Hello(hello)) = first.and_then(|report| report.report) else {
        return Err(Status::invalid_argument("the first report has to be a hello that says which host this is"));
    };
    let host = view
        .directory()
        .state
        .resolve_host(&hello.host)
        .map(|host| host.id)
        .map_err(|refusal| Status::not_found(format!("{refusal}; register the host first")))?;
    let mut held = parse_hello(&hello)?;
    if held.is_empty() {
        // What it is sent is as of now at least, and it may say so if it comes back before it has everything.
        held.directory = view.directory_revision();
    } else if held.directory < view.floor(Home::Directory) {
        // It comes from before a restore: neither its revisions nor the ids that it knows mean here what they did there.
        held.start_over();
    }
    // What the host has seen, this node must have: it would otherwise be taken back in time.
    let caught_up = async {
        view.reached(Home::Directory, held.directory).await;
        for (id, network) in &held.networks {
            view.reached(Home::Network(*id), network.revision.unwrap_or_default()).await;
        }
    };
    if tokio::time::timeout(HELLO_PATIENCE, caught_up).await.is_err() {
        hub.sent_away(host);
        return Err(Status::unavailable("this node has not got as far as what the host has seen; try another one"));
    }
    let stream = hub.enter(host).map_err(|after| {
        hub.sent_away(host);
        too_many(after)
    })?;
    Ok(Serving::new(hub, view, stream, held, reports, stop).frames().boxed())
}

/// Sends a host away, and says in the way of gRPC's retry policy (gRFC A6) when it may come back.
fn too_many(after: Duration) -> Status {
    let mut status =
        Status::resource_exhausted("this node has as many hosts as it can serve at present; try another one");
    status.metadata_mut().insert(PUSHBACK, u32::try_from(after.as_millis()).unwrap_or(u32::MAX).into());
    status
}

/// What the host says that it holds.
fn parse_hello(hello: &pb::host_report::Hello) -> Result<Held, Status> {
    if hello.networks.len() + hello.connections.len() > HAVE_MAX {
        return Err(Status::invalid_argument(format!("a hello names at most {HAVE_MAX} networks and connections")));
    }
    let mut held = Held { directory: Revision::new(hello.directory_revision), ..Held::default() };
    for have in &hello.networks {
        let id: NetworkId = have.network_id.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let revision = Some(Revision::new(have.revision));
        let locals = revision.filter(|_| have.local);
        held.networks.insert(id, HeldNetwork { given: true, revision, local: have.local, locals });
    }
    for id in &hello.connections {
        let id: ConnectionId = id.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        held.connections.insert(id, [None, None]);
    }
    Ok(held)
}

/// Takes note of what the host has in force.
pub(super) fn acknowledge(hub: &Hub, stream: &Stream, ack: &pb::host_report::Ack) {
    let mut progress = stream.progress.lock();
    if ack.frame > progress.last_frame || ack.frame < progress.acked {
        return;
    }
    progress.problem = ack.problem.chars().take(1000).collect();
    if progress.problem.is_empty() {
        progress.acked = ack.frame;
        let Progress { acked, arrived, unacked, of_network, of_connection, .. } = &mut *progress;
        while let Some((frame, since)) = unacked.pop_front_if(|(frame, _)| *frame <= *acked) {
            if *arrived != 0 && frame > *arrived {
                hub.programmed.took(since.elapsed());
            }
        }
        of_network.retain(|_, frame| *frame > *acked);
        of_connection.retain(|_, frame| *frame > *acked);
    }
}

/// A host's stream while it is there.
pub(super) struct Serving<R> {
    hub: Arc<Hub>,
    view: Arc<View>,
    stream: Arc<Stream>,
    held: Held,
    arriving: Arriving,
    /// Others wait for it to be given its scope.
    turn: Option<Turn>,
    reports: R,
    stop: CancellationToken,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<R> Drop for Serving<R> {
    fn drop(&mut self) {
        self.hub.leave(&self.stream);
    }
}

impl<R: futures::Stream<Item = Result<pb::HostReport, Status>> + Unpin> Serving<R> {
    pub(super) fn new(
        hub: Arc<Hub>,
        view: Arc<View>,
        stream: Arc<Stream>,
        held: Held,
        reports: R,
        stop: CancellationToken,
    ) -> Self {
        let stopped = Box::pin(stop.clone().cancelled_owned());
        Serving { hub, view, stream, held, arriving: Arriving::Begins, turn: None, reports, stop, stopped }
    }

    /// Frames until the host goes or is sent away.
    pub(super) fn frames(self) -> impl futures::Stream<Item = Result<pb::ScopeFrame, Status>> {
        stream::unfold(Some(self), |serving| async {
            let mut serving = serving?;
            match serving.next().await? {
                Ok(frame) => Some((Ok(frame), Some(serving))),
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Option<Result<pb::ScopeFrame, Status>> {
        match self.arriving {
            Arriving::Begins => self.turn = Some(self.hub.turn().await),
            Arriving::GoesOn => self.turn.iter().for_each(Turn::goes_on),
            // Transports take what hosts have not: it has what it has acknowledged.
            Arriving::Complete => {}
        }
        let asked = Instant::now();
        loop {
            tokio::select! {
                // There are no more acks than frames, so they hold nothing up.
                biased;
                report = self.reports.next() => match report?.ok()?.report? {
                    Report::Ack(ack) => {
                        acknowledge(&self.hub, &self.stream, &ack);
                        // In force or not, it has all.
                        if self.arriving == Arriving::Complete && ack.frame >= self.stream.progress.lock().arrived {
                            self.turn = None;
                        }
                    }
                    // Whoever sends a second one is not what we serve.
                    Report::Hello(_) => return None,
                },
                () = self.stream.wake.notified() => {
                    if self.stop.is_cancelled() {
                        return Some(Err(stopping()));
                    }
                    if self.stream.ended.load(Ordering::Relaxed) {
                        return Some(Err(Status::aborted("the host has opened another stream, or was removed")));
                    }
                    if let Some(frame) = self.advance(asked) {
                        return Some(Ok(frame));
                    }
                }
                () = &mut self.stopped => return Some(Err(stopping())),
            }
        }
    }

    /// The next frame, for a transport that has asked for one.
    fn advance(&mut self, asked: Instant) -> Option<pb::ScopeFrame> {
        // Marks first, then what they stand for: what is marked meanwhile is looked at again.
        let marks = self.stream.take_marks(self.hub.pace.apart());
        if let Some(due) = marks.due().filter(|due| asked <= *due && self.arriving == Arriving::Complete) {
            self.hub.pace.was_late((due + TIMER_STEP).elapsed());
        }
        let frame = advance(&self.hub, &self.view, &self.stream, &mut self.held, marks, &mut self.arriving);
        self.stream.made(frame.is_some());
        self.hub.frames.fetch_add(u64::from(frame.is_some()), Ordering::Relaxed);
        frame
    }
}

/// The host learns it and goes elsewhere.
fn stopping() -> Status {
    Status::unavailable("this node is shutting down; go to another one")
}

/// How far a host is with the scope that it came for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arriving {
    /// It has been sent nothing.
    Begins,
    /// A part of it.
    GoesOn,
    /// All of it.
    Complete,
}

/// Marks what a host has to be told that comes with something held.
fn resume(view: &View, held: &Held, marks: &mut Marks) {
    marks.rescope = true;
    marks.networks.extend(held.networks.keys());
    if held.directory < view.directory_revisions().1 {
        marks.whole.extend(held.networks.keys());
    }
}

/// The next frame, if there is something to be told, with everything noted that others ask about.
pub(super) fn advance(
    hub: &Arc<Hub>,
    view: &View,
    stream: &Arc<Stream>,
    held: &mut Held,
    mut marks: Marks,
    arriving: &mut Arriving,
) -> Option<pb::ScopeFrame> {
    let was = *arriving;
    if was == Arriving::Begins {
        resume(view, held, &mut marks);
    } else if marks.is_empty() {
        return None;
    }
    let mut next = frame::next(view, &hub.encoded, stream.host, held, &marks, hub.frame_bytes);
    let came = next.scope.as_ref().is_some_and(|scope| hub.rescoped(stream, scope));
    mark_again(view, stream, held, &next, came, marks.since);
    if was == Arriving::Begins {
        next.frame.host_id = stream.host.to_string();
        *arriving = Arriving::GoesOn;
    }
    if was != Arriving::Complete && next.left.is_empty() {
        next.frame.complete = true;
        *arriving = Arriving::Complete;
    }
    let mut progress = stream.progress.lock();
    let says = !next.says_nothing() || was != *arriving;
    progress.last_frame += u64::from(says);
    note(&mut progress, &next);
    if !says {
        return None;
    }
    let number = progress.last_frame;
    if next.frame.complete {
        progress.arrived = number;
    }
    if let Some(since) = marks.since {
        if progress.unacked.len() < UNACKED {
            progress.unacked.push_back((number, since));
        } else if let Some((last, _)) = progress.unacked.back_mut() {
            *last = number;
        }
    }
    next.frame.frame = number;
    Some(next.frame)
}

/// Marks what the frame did not take in, and what may have changed without being marked for this stream.
fn mark_again(view: &View, stream: &Arc<Stream>, held: &Held, next: &Next, came: bool, since: Option<Instant>) {
    let newer = |id: &&NetworkId| {
        held.networks.get(*id).and_then(|network| network.revision) < Some(view.revision(Home::Network(**id)))
    };
    let looked_at: Vec<_> = if came { held.networks.keys().collect() } else { next.networks.iter().collect() };
    let missed: Vec<_> = looked_at.into_iter().filter(newer).copied().collect();
    let (directory, last_moved) = view.directory_revisions();
    let moved = last_moved > next.moved;
    let rescope = directory > held.directory || !next.left.is_empty();
    if !rescope && !moved && missed.is_empty() {
        return;
    }
    let mark = |marks: &mut Marks| {
        marks.rescope |= rescope;
        marks.networks.extend(missed);
        marks.networks.extend(&next.left.networks);
        if moved {
            marks.whole.extend(held.networks.keys());
        }
    };
    if next.left.is_empty() {
        stream.mark(mark);
    } else {
        // It has been waiting for as long as what was sent, and a full frame gains nothing by waiting.
        stream.mark_at_once(|marks| {
            mark(marks);
            marks.since = since;
        });
    }
}

/// Notes in which frame something was said of what: the last one, or one that is still to be made.
fn note(progress: &mut Progress, next: &Next) {
    let number = progress.last_frame;
    let left = &next.left;
    progress.of_network.extend(next.networks.iter().map(|id| (*id, number)));
    progress.of_connection.extend(next.connections.iter().map(|id| (*id, number)));
    // What was left before and isn't any more has been said, or there was nothing to be said of it.
    for frame in progress.of_network.values_mut().chain(progress.of_connection.values_mut()) {
        *frame = if *frame == UNSENT { number } else { *frame };
    }
    progress.of_network.extend(left.networks.iter().map(|id| (*id, UNSENT)));
    progress.of_connection.extend(left.connections.iter().map(|id| (*id, UNSENT)));
}
