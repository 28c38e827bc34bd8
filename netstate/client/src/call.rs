//! The core of every call: choose a server, fail over, retry until the deadline.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use netstate_proto::v1::Origin;
use rand::{RngExt as _, seq::SliceRandom as _};
use tokio::time::{self, Instant};
use tonic::{Response, Status, Streaming, transport::Channel};

use crate::{
    ClientError, Options, Tried,
    connect::{self, Server},
    error::{Failure, classify, reason},
};

/// A handle on a cluster. Cheap to clone; clones share connections and the choice of server.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    servers: Vec<Server>,
    /// Index of the server that answered last. Sticking to it keeps one connection busy instead of several half idle.
    preferred: AtomicUsize,
    options: Options,
}

impl Client {
    /// A client of the cluster that these servers (`host:port`) belong to. Connects at the first call, not now.
    ///
    /// # Errors
    /// [`ClientError::Address`] when the list is empty, too long, or holds something that is not `host:port`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect(addresses: Vec<String>, options: Options) -> Result<Self, ClientError> {
        let mut servers = connect::servers(addresses).map_err(ClientError::Address)?;
        // Clients go through the servers in different orders: a fleet spreads by itself, also when it loses a server.
        servers.shuffle(&mut rand::rng());
        let (preferred, options) = (AtomicUsize::new(0), options.within_limits());
        Ok(Client { shared: Arc::new(Shared { servers, preferred, options }) })
    }

    /// Asks something that changes nothing, of one server after another until one answers or the deadline passes. `ask` is
    /// called once for each attempt.
    ///
    /// # Errors
    /// [`ClientError::Refused`] as soon as a server refuses; [`ClientError::Unreachable`] when none answered in time.
    pub async fn call<T, F, Fut>(&self, ask: F) -> Result<T, ClientError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.run(None, ask).await
    }

    /// Makes a change, under a request id that every attempt carries: `origin` gets one when it has none. `ask` is called once
    /// for each attempt and must pass that origin on.
    ///
    /// # Errors
    /// As [`Client::call`], and [`ClientError::Unknown`] when an attempt was sent whose outcome was never heard.
    pub async fn change<T, F, Fut>(&self, origin: &mut Option<Origin>, ask: F) -> Result<T, ClientError>
    where
        F: Fn(Channel, Origin) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let origin = origin.get_or_insert_default();
        if origin.request_id.is_empty() {
            origin.request_id = uuid::Uuid::now_v7().to_string();
        }
        let origin = &*origin;
        self.run(Some(&origin.request_id), |channel| ask(channel, origin.clone())).await
    }

    async fn run<T, F, Fut>(&self, request_id: Option<&str>, ask: F) -> Result<T, ClientError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let Options { deadline, attempt, backoff, backoff_max, .. } = self.shared.options;
        let end = Instant::now() + deadline;
        let mut pause = Backoff::new(backoff, backoff_max);
        let (mut tried, mut unheard) = (Vec::new(), false);
        for round in 0.. {
            let server = self.preferred();
            let limit = attempt.min(end.saturating_duration_since(Instant::now()));
            let status = match time::timeout(limit, ask(server.channel())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {} ms", limit.as_millis())),
            };
            let failure = classify(&status);
            if failure == Failure::Refused {
                return Err(ClientError::Refused { code: status.code(), message: status.message().to_owned() });
            }
            unheard |= failure == Failure::Unheard;
            remember(&mut tried, &server.address, reason(&status));
            self.prefer_another(server);
            // The other servers are asked at once; only a whole round of failures is worth waiting after.
            let wait = if (round + 1) % self.shared.servers.len() == 0 { pause.next() } else { Duration::ZERO };
            if Instant::now() + wait >= end {
                break;
            }
            time::sleep(wait).await;
        }
        Err(match request_id {
            Some(request_id) if unheard => ClientError::Unknown { request_id: request_id.to_owned(), tried },
            _ => ClientError::Unreachable { tried },
        })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(crate) fn preferred(&self) -> &Server {
        let servers = &self.shared.servers;
        &servers[self.shared.preferred.load(Ordering::Relaxed) % servers.len()]
    }

    /// Ends the connections that nobody uses just now.
    pub(crate) fn close_idle(&self) {
        self.shared.servers.iter().for_each(Server::close_idle);
    }

    /// Moves on from a server that failed, unless another call has done so already.
    pub(crate) fn prefer_another(&self, failed: &Server) {
        let at = self.shared.preferred.load(Ordering::Relaxed);
        if self.shared.servers[at % self.shared.servers.len()].address == failed.address {
            let next = (at + 1) % self.shared.servers.len();
            let _ = self.shared.preferred.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Keeps the last failure of each server: bounded by the number of servers, whatever the number of attempts.
fn remember(tried: &mut Vec<Tried>, address: &str, reason: String) {
    tried.retain(|earlier| earlier.address != address);
    tried.push(Tried { address: address.to_owned(), reason });
}

/// Pauses that double up to a limit, each drawn from its upper half so that clients don't return in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Backoff { first, next: first, max }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next.min(self.max);
        self.next = (self.next * 2).min(self.max);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A server's stream of answers. Not resumed when it breaks: whoever asked knows what it has got.
#[derive(Debug)]
pub struct Answers<T> {
    stream: Streaming<T>,
}

impl<T> Answers<T> {
    pub(crate) fn new(stream: Streaming<T>) -> Self {
        Answers { stream }
    }

    /// The next message; none after the last.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the server ends the stream with a refusal, [`ClientError::Unreachable`] when it breaks.
    pub async fn message(&mut self) -> Result<Option<T>, ClientError> {
        self.next().await.transpose()
    }
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.stream.poll_next_unpin(context);
        polled.map(|item| item.map(|message| message.map_err(|status| stream_error("the stream's server", &status))))
    }
}

/// What ended a stream.
pub(crate) fn stream_error(address: &str, status: &Status) -> ClientError {
    match classify(status) {
        Failure::Refused => ClientError::Refused { code: status.code(), message: status.message().to_owned() },
        Failure::NotDone | Failure::Unheard => {
            ClientError::Unreachable { tried: vec![Tried { address: address.to_owned(), reason: reason(status) }] }
        }
    }
}
