//! Watches one round on both systems: opens the same watches on a stream each, drains what they bring, cancels some, and
//! compares what each watch was told.
//!
//! Must hold: how events are grouped into responses is not compared, but a revision is never split between two responses
//! unless the first is marked as a fragment, revisions never go back within a watch, and no header is older than the events
//! that come with it.
//!
//! Left to others: what is written meanwhile (see `run`). Both systems get exactly the same writes.

mod stream;
mod transcript;

use anyhow::{Context, Result, bail, ensure};
use etcd_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;
use pb::watch_request::RequestUnion;

use crate::generate::{Generator, KEYS};
use crate::operation::Request;
use crate::pair::Pair;
use crate::run;
use stream::Stream;

/// How many watches a round opens at most.
const WATCHES_MAX: usize = 12;
/// Twelve of them are more than one response holds, and one transaction's request never holds so much.
const LARGE_VALUE_BYTES: usize = 600_000;
/// Cancelled though no watch is ever given them.
const UNKNOWN_WATCHES: [i64; 3] = [-1, 7777, i64::MAX];

/// One round: the same watches on both systems, from open to cancelled.
pub async fn round(pair: &mut Pair, generator: &mut Generator, operations: usize) -> Result<()> {
    let creates: Vec<_> = (0..1 + generator.below(WATCHES_MAX)).map(|_| generator.watch()).collect();
    let mut streams = Streams::open(pair);
    for create in &creates {
        streams.send(RequestUnion::CreateRequest(create.clone())).await?;
    }
    for watch_id in UNKNOWN_WATCHES {
        streams.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await?;
    }
    streams.drain(|stream| stream.created() == creates.len(), pair, "watches are created").await?;

    run::operations_without_compaction(pair, generator, operations).await?;
    let compacted = generator.world.compacted;
    streams.drain_to_mark(pair, generator, &creates, "events arrive").await?;
    streams.compare(pair, compacted, &format!("watches {creates:#?}"))?;

    let cancelled: Vec<i64> = streams.reference.live().into_iter().filter(|_| generator.percent(40)).collect();
    for watch_id in &cancelled {
        // Twice, since the second cancels what is no more.
        for _ in 0..2 {
            streams.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: *watch_id })).await?;
        }
    }
    let gone = |stream: &Stream| cancelled.iter().all(|id| !stream.live().contains(id));
    streams.drain(gone, pair, "watches are cancelled").await?;
    run::operations_without_compaction(pair, generator, operations / 4).await?;
    streams.drain_to_mark(pair, generator, &creates, "later events arrive").await?;

    streams.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await?;
    streams.drain(|stream| stream.progress() > 0, pair, "progress is told").await?;
    streams.compare(pair, compacted, &format!("after cancelling {cancelled:?}, watches {creates:#?}"))
}

/// Watches a history of values so large that they fit into no single response, in fragments, and on from a stream whose
/// requests have ended.
pub async fn large_values(pair: &mut Pair, generator: &mut Generator) -> Result<()> {
    for key in KEYS {
        let put = pb::PutRequest { key: key.into(), value: vec![b'x'; LARGE_VALUE_BYTES].into(), ..Default::default() };
        run::one(pair, generator, Request::Put(put)).await?;
    }
    // With what was there before, the mark's one transaction is larger than any response.
    let all = pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 1,
        prev_kv: true,
        ..Default::default()
    };
    let creates = [all.clone(), pb::WatchCreateRequest { fragment: true, ..all.clone() }];
    let mut streams = Streams::open(pair);
    for create in &creates {
        streams.send(RequestUnion::CreateRequest(create.clone())).await?;
    }
    streams.drain(|stream| stream.created() == creates.len(), pair, "watches are created").await?;
    streams.drain_to_mark(pair, generator, &creates, "large events arrive").await?;
    let fragments =
        |stream: &Stream| stream.transcript().responses().iter().filter(|response| response.fragment).count();
    ensure!(fragments(&streams.subject) > 0, "no response was marked as a fragment");
    streams.compare(pair, 0, "watches of large values")?;

    streams.reference.end_requests();
    streams.subject.end_requests();
    streams.drain_to_mark(pair, generator, &creates, "events arrive after the end of requests").await?;
    streams.compare(pair, 0, "watches on streams whose requests have ended")
}

/// One stream to each system.
struct Streams {
    reference: Stream,
    subject: Stream,
}

impl Streams {
    fn open(pair: &Pair) -> Self {
        Self { reference: Stream::open(pair.reference.client()), subject: Stream::open(pair.subject.client()) }
    }

    async fn send(&mut self, request: RequestUnion) -> Result<()> {
        self.reference.send(request.clone()).await?;
        self.subject.send(request).await
    }

    /// Receives on both until `done`; what arrived in vain is shown if that does not come.
    async fn drain(&mut self, done: impl Fn(&Stream) -> bool, pair: &mut Pair, what: &str) -> Result<()> {
        let (reference, subject) = tokio::join!(self.reference.drain(&done), self.subject.drain(&done));
        if let Err(error) = reference {
            bail!("the reference's watches: {error:#}; waited until {what}");
        }
        if let Err(error) = subject {
            let shown = |stream: &Stream, names| stream.transcript().text(names, 0);
            let (reference, subject) =
                (shown(&self.reference, pair.reference.leases()), shown(&self.subject, pair.subject.leases()));
            pair.compare(&format!("watches ({error:#}; waited until {what})"), &reference, &subject)?;
            bail!("the subject's watches: {error:#}; waited until {what}");
        }
        Ok(())
    }

    /// Writes and deletes every key, and receives until each watch has seen as much of that as it can.
    async fn drain_to_mark(
        &mut self,
        pair: &mut Pair,
        generator: &mut Generator,
        creates: &[pb::WatchCreateRequest],
        what: &str,
    ) -> Result<()> {
        let put = |key: &&'static [u8]| Op::RequestPut(pb::PutRequest { key: (*key).into(), ..Default::default() });
        let delete = |key: &&'static [u8]| {
            Op::RequestDeleteRange(pb::DeleteRangeRequest { key: (*key).into(), ..Default::default() })
        };
        run::one(pair, generator, all_keys(put)).await?;
        let put_at = generator.world.revision;
        run::one(pair, generator, all_keys(delete)).await?;
        let deleted_at = generator.world.revision;
        ensure!(deleted_at == put_at + 1, "the deletion of all keys made no revision of its own");
        self.drain(|stream| stream.saw_mark(creates, put_at, deleted_at), pair, what).await
    }

    fn compare(&self, pair: &mut Pair, compacted: i64, what: &str) -> Result<()> {
        self.reference.transcript().check().context("the reference breaks a promise of watches")?;
        self.subject.transcript().check().context("the subject breaks a promise of watches")?;
        let reference = self.reference.transcript().text(pair.reference.leases(), compacted);
        let subject = self.subject.transcript().text(pair.subject.leases(), compacted);
        pair.compare(what, &reference, &subject)
    }
}

fn all_keys(operation: impl Fn(&&'static [u8]) -> Op) -> Request {
    let success = KEYS.iter().map(|key| pb::RequestOp { request: Some(operation(key)) }).collect();
    Request::Txn(pb::TxnRequest { success, ..Default::default() })
}
