//! Between the recording's types and the messages of the API.
//!
//! Must hold: an answer that lacks what the API promises is an error here, and never becomes a recording.
//!
//! Left to others: sending.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;
use etcd_proto::mvccpb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;
use pb::response_op::Response as Done;
use pb::watch_create_request::FilterType;

use crate::history::{Action, Answer, Found, Guard, KeyRange, KeyState, LeaseId, Revision};
use crate::watch::{Kinds, SeenEvent, Wanted};

fn end(range: &KeyRange) -> Bytes {
    range.end.clone().unwrap_or_default()
}

fn lease(id: Option<LeaseId>) -> i64 {
    id.map_or(0, |id| id.0)
}

pub(crate) fn range(range: &KeyRange, serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest { key: range.start.clone(), range_end: end(range), serializable, ..Default::default() }
}

pub(crate) fn op(action: &Action) -> Op {
    match action {
        Action::Range(keys) => Op::RequestRange(range(keys, false)),
        Action::Put { key, value, lease: id, prev_kv } => Op::RequestPut(pb::PutRequest {
            key: key.clone(),
            value: value.clone(),
            lease: lease(*id),
            prev_kv: *prev_kv,
            ..Default::default()
        }),
        Action::Delete { range, prev_kv } => Op::RequestDeleteRange(pb::DeleteRangeRequest {
            key: range.start.clone(),
            range_end: end(range),
            prev_kv: *prev_kv,
        }),
    }
}

fn compare(guard: &Guard) -> pb::Compare {
    let (key, target, union) = match guard {
        Guard::Modified { key, at } => {
            let revision = at.map_or(0, |at| at.get().cast_signed());
            (key, CompareTarget::Mod, TargetUnion::ModRevision(revision))
        }
        Guard::Value { key, value } => (key, CompareTarget::Value, TargetUnion::Value(value.clone())),
    };
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.clone(),
        target_union: Some(union),
        ..Default::default()
    }
}

pub(crate) fn txn(guards: &[Guard], then: &[Action], otherwise: &[Action]) -> pb::TxnRequest {
    let ops = |actions: &[Action]| actions.iter().map(|action| pb::RequestOp { request: Some(op(action)) }).collect();
    pb::TxnRequest { compare: guards.iter().map(compare).collect(), success: ops(then), failure: ops(otherwise) }
}

pub(crate) fn watch(wanted: &Wanted, watch_id: i64) -> pb::WatchCreateRequest {
    let filters = match wanted.kinds {
        Kinds::All => Vec::new(),
        Kinds::Puts => vec![FilterType::Nodelete.into()],
        Kinds::Deletes => vec![FilterType::Noput.into()],
    };
    pb::WatchCreateRequest {
        key: wanted.range.start.clone(),
        range_end: end(&wanted.range),
        start_revision: wanted.start.map_or(0, |start| start.get().cast_signed()),
        progress_notify: wanted.progress_notify,
        filters,
        prev_kv: wanted.prev_kv,
        watch_id,
        fragment: wanted.fragment,
    }
}

/// Counters are never negative.
fn count(raw: i64) -> Result<u64> {
    u64::try_from(raw).with_context(|| format!("the answer holds the negative count {raw}"))
}

pub(crate) fn revision(header: Option<&pb::ResponseHeader>) -> Result<Revision> {
    let header = header.context("the answer has no header")?;
    ensure!(header.revision > 0, "the answer's header has revision {}", header.revision);
    Ok(Revision::new(count(header.revision)?))
}

fn key_state(kv: mvccpb::KeyValue) -> Result<KeyState> {
    Ok(KeyState {
        created: Revision::new(count(kv.create_revision)?),
        modified: Revision::new(count(kv.mod_revision)?),
        version: count(kv.version)?,
        lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
        key: kv.key,
        value: kv.value,
    })
}

pub(crate) fn ranged(answer: pb::RangeResponse) -> Result<Found> {
    ensure!(!answer.more, "a range without limit was cut");
    ensure!(count(answer.count)? == answer.kvs.len() as u64, "a range counts {} keys wrongly", answer.count);
    Ok(Found::Range(answer.kvs.into_iter().map(key_state).collect::<Result<_>>()?))
}

pub(crate) fn put(answer: pb::PutResponse) -> Result<Found> {
    Ok(Found::Put(answer.prev_kv.map(key_state).transpose()?))
}

pub(crate) fn deleted(answer: pb::DeleteRangeResponse) -> Result<Found> {
    let previous = answer.prev_kvs.into_iter().map(key_state).collect::<Result<_>>()?;
    Ok(Found::Deleted { count: count(answer.deleted)?, previous })
}

pub(crate) fn txn_answer(answer: pb::TxnResponse) -> Result<Answer> {
    let done = |op: pb::ResponseOp| match op.response.context("a step of a transaction has no answer")? {
        Done::ResponseRange(answer) => ranged(answer),
        Done::ResponsePut(answer) => put(answer),
        Done::ResponseDeleteRange(answer) => deleted(answer),
        Done::ResponseTxn(_) => bail!("a step was answered as a nested transaction, which was not asked for"),
    };
    Ok(Answer {
        revision: revision(answer.header.as_ref())?,
        succeeded: answer.succeeded,
        found: answer.responses.into_iter().map(done).collect::<Result<_>>()?,
    })
}

pub(crate) fn event(event: mvccpb::Event) -> Result<SeenEvent> {
    let is_put = event.r#type() == mvccpb::event::EventType::Put;
    let state = key_state(event.kv.context("an event names no key")?)?;
    Ok(SeenEvent { is_put, state, before: event.prev_kv.map(key_state).transpose()? })
}
