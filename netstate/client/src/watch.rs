//! The scoped watch of one host: a stream that comes back by itself, at whichever server is there.
//!
//! ```text
//!            open with a fresh Hello                 first message
//!  Waiting ───────────────────────────▶ Opening ───────────────────────▶ Streaming
//!     ▲                                    │ refused, unreachable            │ broken
//!     └────────────────────────────────────┴─────────────────────────────────┘   (another server, after a pause)
//! ```
//!
//! A stream that goes to a better relay is kept while the next one opens, and taken up again if it does not open.
//!
//! Must hold: a Hello says what the host holds at the moment the stream opens. That is why there is no task and no queue
//! here: [`HostWatch::next`] does the work, so nothing that was received can be waiting unapplied while a Hello is made.
//! What the host is too slow to take stays on the server, held back by the stream's flow-control window.
//!
//! Left to others: what frames mean, and where the host's state is kept.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use netstate_proto::v1::{
    HostReport, ScopeFrame,
    host_report::{Ack, Hello, Report},
    hosts_client::HostsClient,
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tonic::{Status, Streaming};

use crate::{
    Client, ClientError,
    call::{Backoff, stream_error},
    connect::{MESSAGE_BYTES_MAX, Server},
    relays::Relays,
};

/// Pauses between attempts to open a stream: short at first, because enforcement is stale meanwhile.
const REOPEN_FIRST: Duration = Duration::from_millis(50);
const REOPEN_MAX: Duration = Duration::from_secs(3);

/// The least time between two acks, so that a host that is told much doesn't say as much. The first after a pause is sent at
/// once, and the one for all of a scope, which others may be waiting for.
const ACK_PAUSE: Duration = Duration::from_millis(100);

/// How long a relay may take to open a stream. The one before is not read meanwhile.
const MOVE_PATIENCE: Duration = Duration::from_secs(1);

const PUSHBACK: &str = "grpc-retry-pushback-ms";
const PUSHBACK_MAX: Duration = Duration::from_secs(60);

/// What the watch has to say.
#[derive(Debug)]
pub enum WatchEvent {
    /// The next step of the host's scope.
    Frame(ReceivedFrame),
    /// The stream was lost or could not be opened. The next call of [`HostWatch::next`] opens another, after a pause.
    Lost {
        /// Which server it was.
        address: String,
        /// What happened. A refusal with `NOT_FOUND` means that the host is not registered.
        error: ClientError,
    },
}

/// A frame and the stream that it came on.
#[derive(Debug)]
pub struct ReceivedFrame {
    /// Frames count from 1 in each stream; an ack is meant for one stream only.
    pub stream: u64,
    /// The frame.
    pub frame: ScopeFrame,
}

/// One host's scoped watch.
#[derive(Debug)]
pub struct HostWatch {
    client: Client,
    state: State,
    /// Number of the stream that is open or opening.
    stream: u64,
    /// Acks include earlier ones, so only the latest waits to be sent.
    acks: watch::Sender<Pending>,
    /// The frame of this stream with which the host has all of its scope.
    complete: Option<u64>,
    backoff: Backoff,
    relays: Relays,
    /// The stream that is kept while another one opens, not read meanwhile: a Hello says what the host holds.
    kept: Option<Kept>,
}

/// A stream that may be taken up again.
#[derive(Debug)]
struct Kept {
    server: Server,
    frames: Box<Streaming<ScopeFrame>>,
    stream: u64,
    acks: watch::Sender<Pending>,
    complete: Option<u64>,
}

/// An ack to be sent.
#[derive(Debug, Default)]
struct Pending {
    ack: Ack,
    /// As of [`HostWatch::complete`].
    complete: Option<u64>,
    /// The sender of acks was woken, and has not come for it.
    woken: AtomicBool,
}

impl Pending {
    /// Whether it says that the host has all of its scope.
    fn has_all(&self) -> bool {
        self.complete.is_some_and(|all| all <= self.ack.frame)
    }
}

enum State {
    Waiting { until: Instant },
    Opening { server: Server, open: Opening },
    Streaming { server: Server, frames: Box<Streaming<ScopeFrame>> },
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<ScopeFrame>, Status>> + Send>>;

impl Client {
    /// Watches the scope of a host. Nothing is sent before the first [`HostWatch::next`].
    pub fn watch_host(&self) -> HostWatch {
        HostWatch {
            client: self.clone(),
            state: State::Waiting { until: Instant::now() },
            stream: 0,
            acks: watch::Sender::default(),
            complete: None,
            backoff: Backoff::new(REOPEN_FIRST, REOPEN_MAX),
            relays: Relays::none_yet(self.options().find_relays_every),
            kept: None,
        }
    }
}

impl HostWatch {
    /// The next event, however long it takes. `hello` is asked what the host holds whenever a stream is opened.
    ///
    /// Cancel safe: dropped before it is done, it loses neither a frame nor an attempt to connect.
    pub async fn next(&mut self, hello: impl Fn() -> Hello) -> WatchEvent {
        loop {
            match &mut self.state {
                State::Waiting { until } => {
                    time::sleep_until(*until).await;
                    let server = self.relays.preferred().unwrap_or_else(|| self.client.preferred().clone());
                    self.open(server, hello(), self.client.options().attempt);
                }
                State::Opening { server, open } => {
                    let (server, opened) = (server.clone(), open.await);
                    match (opened, self.kept.take()) {
                        (Ok(frames), kept) => {
                            self.state = State::Streaming { server, frames: Box::new(frames) };
                            if kept.is_some() {
                                // The relay has a connection of its own.
                                self.client.close_idle();
                            }
                        }
                        (Err(_), Some(kept)) => self.take_up(kept),
                        (Err(status), None) => return self.lost(server, &status),
                    }
                }
                State::Streaming { server, frames } => {
                    let server = server.clone();
                    let received = tokio::select! {
                        biased;
                        received = frames.message() => received,
                        () = self.relays.another(&self.client, &server.address) => {
                            if let Some(relay) = self.relays.preferred() {
                                self.keep();
                                self.open(relay, hello(), MOVE_PATIENCE);
                            }
                            continue;
                        }
                    };
                    let status = match received {
                        Ok(Some(frame)) => {
                            self.backoff.reset();
                            self.relays.answered();
                            if frame.complete {
                                self.complete = Some(frame.frame);
                            }
                            return WatchEvent::Frame(ReceivedFrame { stream: self.stream, frame });
                        }
                        Ok(None) => Status::unavailable("the server ended the stream"),
                        Err(status) => status,
                    };
                    return self.lost(server, &status);
                }
            }
        }
    }

    /// Reports a frame as programmed, and with it every earlier one of its stream; or, with a problem, as not in force.
    /// Never waits. Reports on a stream that is gone are dropped: its successor's Hello says the same.
    pub fn ack(&self, stream: u64, frame: u64, problem: String) {
        let (acks, complete) = match &self.kept {
            Some(kept) if stream == kept.stream => (&kept.acks, kept.complete),
            _ if stream == self.stream && matches!(self.state, State::Streaming { .. }) => (&self.acks, self.complete),
            _ => return,
        };
        acks.send_if_modified(|pending| {
            let had_all = pending.has_all();
            (pending.ack, pending.complete) = (Ack { frame, problem }, complete);
            // What takes the place of what is pending wakes nobody, unless others may be waiting for it.
            !pending.woken.swap(true, Ordering::Relaxed) || (pending.has_all() && !had_all)
        });
    }

    /// Gives the stream up. The next call of [`HostWatch::next`] opens another, after a pause: for when a frame can't be used.
    pub fn reopen(&mut self) {
        self.kept = None;
        self.state = State::Waiting { until: Instant::now() + REOPEN_MAX };
    }

    /// Keeps the stream that is read.
    fn keep(&mut self) {
        let waiting = State::Waiting { until: Instant::now() };
        if let State::Streaming { server, frames } = std::mem::replace(&mut self.state, waiting) {
            let (stream, acks) = (self.stream, std::mem::take(&mut self.acks));
            self.kept = Some(Kept { server, frames, stream, acks, complete: self.complete });
        }
    }

    /// Reads a stream that was kept.
    fn take_up(&mut self, kept: Kept) {
        let Kept { server, frames, stream, acks, complete } = kept;
        self.relays.stays_with(&server);
        self.state = State::Streaming { server, frames };
        (self.stream, self.acks, self.complete) = (stream, acks, complete);
    }

    fn open(&mut self, server: Server, hello: Hello, limit: Duration) {
        self.stream += 1;
        // A new channel for each stream: an ack of the last stream must not be the first of this one.
        self.acks = watch::Sender::default();
        self.complete = None;
        let hello = HostReport { report: Some(Report::Hello(hello)) };
        let acks = stream::unfold((self.acks.subscribe(), None), async |(mut acks, last)| {
            let ack = next_ack(&mut acks, last, ACK_PAUSE).await?;
            let last = Some((Instant::now(), ack.frame));
            Some((HostReport { report: Some(Report::Ack(ack)) }, (acks, last)))
        });
        let reports = stream::once(async { hello }).chain(acks);
        let channel = server.channel();
        let open: Opening = Box::pin(async move {
            let mut hosts = HostsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let opened = time::timeout(limit, hosts.watch(reports)).await;
            let late = |_| Status::deadline_exceeded(format!("no stream within {} ms", limit.as_millis()));
            Ok(opened.map_err(late)??.into_inner())
        });
        self.state = State::Opening { server, open };
    }

    fn lost(&mut self, server: Server, status: &Status) -> WatchEvent {
        self.client.prefer_another(&server);
        self.relays.failed();
        let error = stream_error(&server.address, status);
        let pause = self.backoff.next().max(pushback(status));
        self.state = State::Waiting { until: Instant::now() + pause };
        WatchEvent::Lost { address: server.address, error }
    }
}

/// The latest ack, once it may be sent after the last one: when that was, and of which frame.
async fn next_ack(acks: &mut watch::Receiver<Pending>, last: Option<(Instant, u64)>, pause: Duration) -> Option<Ack> {
    acks.changed().await.ok()?;
    let (until, acked) = last.map_or((Instant::now(), 0), |(at, frame)| (at + pause, frame));
    let has_all = |pending: &Pending| pending.has_all() && pending.complete > Some(acked);
    // What comes meanwhile takes the place of what is pending; a stream that is given up has nothing to say.
    tokio::select! {
        () = time::sleep_until(until) => {}
        pending = acks.wait_for(has_all) => drop(pending.ok()?),
    }
    let pending = acks.borrow_and_update();
    pending.woken.store(false, Ordering::Relaxed);
    Some(pending.ack.clone())
}

/// How long a server asks to be left alone, in the way of gRPC's retry policy (gRFC A6).
fn pushback(status: &Status) -> Duration {
    let asked = status.metadata().get(PUSHBACK).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_millis(asked.unwrap_or(0)).min(PUSHBACK_MAX)
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Waiting { .. } => f.write_str("Waiting"),
            State::Opening { server, .. } => write!(f, "Opening({})", server.address),
            State::Streaming { server, .. } => write!(f, "Streaming({})", server.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(frame: u64, complete: Option<u64>) -> Pending {
        Pending { ack: Ack { frame, problem: String::new() }, complete, woken: AtomicBool::new(true) }
    }

    #[tokio::test]
    async fn acks_come_rarely_and_at_once_when_the_scope_is_complete() {
        const LONG: Duration = Duration::from_secs(3600);
        let acks = watch::Sender::default();
        let mut sent = acks.subscribe();
        acks.send_replace(pending(1, None));
        assert_eq!(next_ack(&mut sent, None, LONG).await.unwrap().frame, 1, "nothing was sent before it");
        let last = Some((Instant::now(), 1));
        acks.send_replace(pending(2, None));
        {
            let mut next = std::pin::pin!(next_ack(&mut sent, last, LONG));
            assert!(futures::poll!(&mut next).is_pending(), "another was sent just now");
            acks.send_replace(pending(3, None));
            assert!(futures::poll!(&mut next).is_pending());
            acks.send_replace(pending(4, Some(4)));
            assert_eq!(next.await.unwrap().frame, 4, "it has all, and includes what came before");
        }
        let last = Some((Instant::now(), 4));
        acks.send_replace(pending(5, Some(4)));
        let mut next = std::pin::pin!(next_ack(&mut sent, last, LONG));
        assert!(futures::poll!(&mut next).is_pending(), "that it has all was said");
        drop(acks);
        assert!(next.await.is_none(), "the stream was given up");
    }

    #[tokio::test]
    async fn the_latest_ack_is_sent_after_a_pause() {
        const PAUSE: Duration = Duration::from_millis(50);
        let acks = watch::Sender::default();
        let mut sent = acks.subscribe();
        let last = Instant::now();
        acks.send_replace(pending(2, None));
        let mut next = std::pin::pin!(next_ack(&mut sent, Some((last, 1)), PAUSE));
        let early = futures::poll!(&mut next);
        acks.send_replace(pending(3, None));
        let ack = match early {
            // The machine has paused for longer.
            std::task::Poll::Ready(ack) => ack.map(|ack| ack.frame + 1),
            std::task::Poll::Pending => next.await.map(|ack| ack.frame),
        };
        assert_eq!(ack, Some(3));
        assert!(last.elapsed() >= PAUSE);
    }
}
