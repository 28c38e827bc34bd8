//! What version 1 of the protocol between nodes looks like, byte by byte: `testdata/wire-1.txt`.
//!
//! Today's code must write the same, and read it. `UPDATE=1` rewrites it, which is right only before version 1 is released;
//! afterwards a change takes a new version, and code that still speaks this one (`link::PROTOCOL_OLDEST`).

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use bytes::Bytes;
use kv_core::{
    Answered, Attach, Batch, Change, Commit, Compare, Digest, Done, Effect, Fold, GroupId, Guard, Head, KeyRange,
    KeyState, KeyValue, Keyspace, LeaseId, Mark, MoveId, MoveStep, NodeId, Operand, Operation, Outcome, Put, Query,
    RangeResult, Refusal, Relation, RequestId, Revision, Row, Terms, Timestamp, Txn, TxnOutcome, placement::Step,
};
use openraft::{
    EntryPayload,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
    },
    vote::{RaftLeaderId, RaftVote},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    CommitError,
    forward::Forwarded,
    govern::{Led, Survey, Surveyed},
    heads::Report,
    leases::{LeaseAnswer, LeaseCall, LeaseState},
    proposer::Answer,
    raft::{
        Applied, Entry, LogId, MemberNode, Membership, Proposal, SnapshotMeta, StoredMembership, Types, Vote, decode,
        encode,
    },
    repair::{Fetch, Fetched},
    rest::Claim,
    snapshot::{Part, PartAnswer},
};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/wire-1.txt");

/// A message by its name, and what reading and writing it again comes to.
struct Sample {
    name: &'static str,
    bytes: Bytes,
    again: fn(&[u8]) -> Result<Bytes, postcard::Error>,
}

fn sample<T: Serialize + DeserializeOwned>(name: &'static str, message: &T) -> Sample {
    let again = |bytes: &[u8]| decode::<T>(bytes).map(|read| encode(&read));
    Sample { name, bytes: encode(message), again }
}

fn group() -> GroupId {
    GroupId::new(7)
}

fn keyspace() -> Keyspace {
    Keyspace::new("tenant/a").unwrap()
}

fn lease() -> LeaseId {
    LeaseId::new(0x1234).unwrap()
}

fn vote() -> Vote {
    Vote::from_leader_id(RaftLeaderId::new(300, 2), true)
}

fn log_id(index: u64) -> LogId {
    LogId::new_term_index(300, index)
}

fn members() -> Membership {
    let node = |n: u64| (n, MemberNode { name: format!("n{n}"), peer: format!("10.0.0.{n}:2380") });
    Membership::new(vec![[1, 2].into(), [2, 3].into()], (1..=3).map(node).collect::<BTreeMap<_, _>>()).unwrap()
}

/// At least one message of each kind, and each of its variants that this crate itself defines.
fn samples() -> Vec<Sample> {
    let mut samples = raft();
    samples.extend(transactions());
    samples.extend(others());
    samples
}

fn moves() -> [MoveStep; 6] {
    let head = Head { revision: Revision::new(9), hash: Digest::default(), at: Timestamp::from_micros(1) };
    let row = Row { kind: 1, key: "k".into(), value: Some("v".into()) };
    let mark = Mark { revision: head.revision, at: head.at };
    let terms = Terms { head, floor: Revision::new(2), forgotten: Revision::new(1), keys: 3, bytes: 4 };
    [
        MoveStep::Seal { to: group() },
        MoveStep::Unseal,
        MoveStep::Fill { from: group(), epoch: 6, number: 0, format: 1, mark: Some(mark), rows: vec![row] },
        MoveStep::Adopt { epoch: 6, number: 0, terms },
        MoveStep::Drop,
        MoveStep::Discard { from: group() },
    ]
}

fn raft() -> Vec<Sample> {
    let commit = Commit {
        keyspace: keyspace(),
        base: Revision::new(41),
        at: Timestamp::from_micros(1_700_000_000_000_000),
        actor: "ann".into(),
        reason: "why".into(),
        request: Some(RequestId::new([9; 16])),
        succeeded: true,
        changes: vec![Change { lease: Some(lease()), ..Change::put("k", "v") }, Change::removal("gone")],
        effects: vec![
            Effect::Grant { lease: lease(), ttl: 60 },
            Effect::Checkpoint { lease: lease(), remaining: Some(9) },
            Effect::Revoke { lease: lease() },
            Effect::Compact { to: Revision::new(3), records: true },
            Effect::Record { key: "beside".into(), value: None },
        ],
    };
    let id = MoveId::new(5);
    let steps = moves().into_iter().map(|step| Effect::Move { id, step }).collect();
    let moving = Commit { changes: Vec::new(), effects: steps, ..commit.clone() };
    let batch = encode(&Batch { commits: vec![commit, moving] });
    let entries = vec![
        Entry { log_id: log_id(5), payload: EntryPayload::Blank },
        Entry { log_id: log_id(6), payload: EntryPayload::Normal(Proposal(batch)) },
        Entry { log_id: log_id(7), payload: EntryPayload::Membership(members()) },
    ];
    let append =
        AppendEntriesRequest::<Types> { vote: vote(), prev_log_id: Some(log_id(4)), leader_commit: None, entries };
    let done = TxnOutcome { succeeded: true, revision: Revision::new(42) };
    let outcomes = vec![
        Outcome::Applied(done),
        Outcome::Repeated(done),
        Outcome::Stale { head: Revision::new(43) },
        Outcome::Elsewhere { to: group() },
    ];
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(9)),
        last_membership: StoredMembership::new(Some(log_id(7)), members()),
    };
    vec![
        sample("append", &append),
        sample("append-success", &AppendEntriesResponse::<Types>::Success),
        sample("append-partial", &AppendEntriesResponse::<Types>::PartialSuccess(Some(log_id(5)))),
        sample("append-conflict", &AppendEntriesResponse::<Types>::Conflict),
        sample("append-higher-vote", &AppendEntriesResponse::<Types>::HigherVote(vote())),
        sample("applied", &Applied(outcomes)),
        sample("vote", &VoteRequest::<Types>::new(vote(), Some(log_id(7)))),
        sample("vote-answer", &VoteResponse::<Types>::new(vote(), None, true)),
        sample("transfer-leader", &TransferLeaderRequest::<Types>::new(vote(), 3, Some(log_id(7)))),
        sample("snapshot-first", &Part::First),
        sample("snapshot-chunk", &Part::Chunk("chunk".into())),
        sample("snapshot-last", &Part::Last(Box::new((vote(), meta)))),
        sample("snapshot-resume", &Part::Resume),
        sample("snapshot-next", &PartAnswer::Next),
        sample("snapshot-installed", &PartAnswer::Installed(SnapshotResponse::new(vote()))),
        sample("snapshot-at", &PartAnswer::At(300)),
        sample("read-index", &300_u64),
    ]
}

fn transactions() -> Vec<Sample> {
    let compare =
        Compare { range: KeyRange::Key("k".into()), relation: Relation::Equal, operand: Operand::Value("v".into()) };
    let put = Put { key: "k".into(), value: Some("v".into()), lease: Attach::To(lease()), previous: true };
    let txn = Txn {
        base: Some(Revision::new(41)),
        compares: vec![compare],
        then: vec![Operation::Put(put), Operation::delete(KeyRange::Key("gone".into()))],
        otherwise: vec![Operation::Range(Query { limit: Some(10), ..Query::all(KeyRange::Prefix("k".into())) })],
        effects: vec![Effect::Revoke { lease: lease() }],
        guard: Some(Guard { key: "beside".into(), value: Some("v".into()) }),
        term: Some(300),
        actor: "ann".into(),
        reason: "why".into(),
        request: Some(RequestId::new([9; 16])),
        at: Some(Timestamp::from_micros(1)),
    };
    let state = KeyState {
        value: "v".into(),
        create_revision: Revision::new(40),
        mod_revision: Revision::new(41),
        version: 2,
        lease: Some(lease()),
    };
    let kv = KeyValue { key: "k".into(), state: state.clone() };
    let read = RangeResult { kvs: vec![kv.clone()], more: true, count: 3, revision: Revision::new(42) };
    let answered = Answered {
        outcome: Outcome::Applied(TxnOutcome { succeeded: true, revision: Revision::new(42) }),
        done: vec![
            Done::Put { revision: Revision::new(42), previous: Some(state) },
            Done::Delete { revision: Revision::new(42), deleted: 1, previous: vec![kv] },
            Done::Range(read),
        ],
    };
    let answers: Vec<Answer> = vec![
        Ok(vec![answered]),
        Err(CommitError::NotLeader { group: group(), leader: Some(NodeId::new(2)) }),
        Err(CommitError::Overloaded { group: group(), limit: 1024 }),
        Err(CommitError::DiskFull { folder: "/data".into(), free_bytes: 1, reserve_bytes: 2 }),
        Err(CommitError::TooLarge { size: 4, unit: "bytes".into(), limit: 3 }),
        Err(CommitError::KeyTwice { key: "k".into() }),
        Err(CommitError::Refused(Refusal::KeyMissing { key: "k".into() })),
        Err(CommitError::Unknown { group: group() }),
        Err(CommitError::OutOfService { group: group(), reason: "damaged".into() }),
        Err(CommitError::Moving { to: group() }),
    ];
    vec![
        sample("txn", &vec![Forwarded { keyspace: keyspace(), txns: vec![txn] }]),
        sample("txn-answers", &answers),
        sample("lease-renew", &LeaseCall::Renew(keyspace(), lease())),
        sample("lease-remaining", &LeaseCall::Remaining(keyspace(), lease())),
        sample("lease-answer", &LeaseAnswer::Ok(Some(LeaseState { ttl: 60, left: Duration::from_millis(1500) }))),
        sample("lease-nobody", &LeaseAnswer::Err(())),
    ]
}

fn others() -> Vec<Sample> {
    let (n, node) = (NodeId::new, group());
    let led = Led {
        term: 300,
        voters: [n(1), n(2)].into(),
        learners: [n(3)].into(),
        joint: false,
        last: 7,
        matched: [(n(2), Some(7)), (n(3), None)].into(),
    };
    let survey = Survey {
        full: true,
        groups: vec![
            Surveyed { group: node, broken: false, led: Some(led) },
            Surveyed { group: GroupId::new(8), broken: true, led: None },
        ],
    };
    let steps = [
        Step::AddLearner { group: node, node: n(3) },
        Step::ChangeVoters { group: node, add: [n(3)].into(), remove: [n(1)].into() },
        Step::RemoveLearner { group: node, node: n(1) },
        Step::TransferLeader { group: node, from: n(1), to: n(2) },
    ];
    vec![
        sample("heads", &vec![Report { group: node, index: 7, fold: Fold::default() }]),
        sample("survey", &survey),
        sample("steps", &steps.to_vec()),
        sample("rest", &vec![Claim { group: node, term: 300, index: 7 }]),
        sample("rest-granted", &vec![node]),
        sample("fetch", &vec![Fetch::First, Fetch::Next]),
        sample("fetched", &vec![Fetched::Chunk("chunk".into()), Fetched::End, Fetched::Nothing]),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn version_1_is_written_and_read() {
    assert_eq!(crate::link::PROTOCOL, 1, "a new version takes a fixture of its own");
    let samples = samples();
    let lines: Vec<_> = samples.iter().map(|sample| format!("{} {}", sample.name, hex(&sample.bytes))).collect();
    let today = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(FIXTURE, &today).unwrap();
    }
    let fixture = std::fs::read_to_string(FIXTURE).unwrap();
    for (line, sample) in fixture.lines().zip(&samples) {
        let (name, stored) = line.split_once(' ').unwrap();
        assert_eq!((name, stored), (sample.name, hex(&sample.bytes).as_str()), "what is written has changed");
        assert_eq!((sample.again)(&bytes(stored)).unwrap(), sample.bytes, "{name} is read as something else");
    }
    assert_eq!(fixture, today);
}
