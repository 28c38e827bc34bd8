//! What the store's hot paths cost.

use std::{hint::black_box, sync::Arc, time::Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kv_core::{Batch, Change, ClusterId, Commit, GroupId, KeyRange, Keyspace, NodeId, Revision, Timestamp};
use kv_store::{EntryToApply, Identity, Options, Store};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinSet};

const IDENTITY: Identity = Identity { cluster: ClusterId::new([1; 16]), node: NodeId::new(1), groups: 16 };
const GROUP: GroupId = GroupId::new(0);
const PUTS: u64 = 100;

fn keyspace() -> Keyspace {
    Keyspace::new("netstate/net/7").expect("a valid name")
}

fn store() -> Store {
    Store::open_temporary(&IDENTITY, &Options::default()).expect("a store in a temporary directory")
}

/// A commit of a hundred new keys with values of 200 bytes.
fn commit(base: u64) -> Commit {
    let change = |n: u64| Change {
        key: format!("endpoint/{:016x}", base * PUTS + n).into(),
        value: Some(Bytes::from(vec![n as u8; 200])),
        lease: None,
    };
    Commit {
        keyspace: keyspace(),
        base: Revision::new(base),
        at: Timestamp::from_micros(base as i64),
        actor: "bench".into(),
        reason: "to measure".into(),
        request: None,
        succeeded: true,
        changes: (0..PUTS).map(change).collect(),
        effects: Vec::new(),
    }
}

fn apply_one(store: &Store, base: u64, batch: &Batch) {
    let log_id = Bytes::copy_from_slice(&base.to_le_bytes());
    let entry = EntryToApply { index: base + 1, log_id, membership: None, batch: Some(batch) };
    store.state().apply(GROUP, &[entry]).expect("applied");
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(PUTS));
    group.bench_function("commits of 100 new keys", |b| {
        let store = store();
        let mut base = 0;
        b.iter_custom(|iterations| {
            let batches: Vec<_> = (base..base + iterations).map(|base| Batch { commits: vec![commit(base)] }).collect();
            let start = Instant::now();
            for batch in &batches {
                apply_one(&store, base, batch);
                base += 1;
            }
            start.elapsed()
        });
    });
    group.finish();
}

async fn append(store: &Store, group: GroupId, index: u64, entry: Bytes) {
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result| drop(tell.send(result)));
    store.log().append(group, vec![(index, entry)], done).await;
    told.await.expect("told").expect("written");
}

fn log(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("log");
    for appenders in [1u16, 16, 128] {
        group.throughput(Throughput::Elements(appenders.into()));
        group.bench_function(BenchmarkId::new("durable appends of 256 bytes", appenders), |b| {
            let store = Store::open_temporary(&Identity { groups: appenders, ..IDENTITY }, &Options::default());
            let store = Arc::new(store.expect("a store in a temporary directory"));
            let mut index = 0;
            b.iter_custom(|iterations| {
                let start = Instant::now();
                runtime.block_on(async {
                    let mut tasks = JoinSet::new();
                    for appender in 0..appenders {
                        let store = store.clone();
                        tasks.spawn(async move {
                            for at in index + 1..=index + iterations {
                                append(&store, GroupId::new(appender), at, Bytes::from_static(&[7; 256])).await;
                            }
                        });
                    }
                    tasks.join_all().await;
                });
                index += iterations;
                start.elapsed()
            });
        });
    }
    group.finish();
}

fn range(c: &mut Criterion) {
    let store = store();
    for base in 0..200 {
        apply_one(&store, base, &Batch { commits: vec![commit(base)] });
    }
    let mut group = c.benchmark_group("range");
    group.throughput(Throughput::Elements(1000));
    let middle = Bytes::from(format!("endpoint/{:016x}", 5_000));
    let range = KeyRange::Span(middle, "f".into());
    for (name, at) in [("1,000 latest keys", None), ("1,000 keys at an earlier revision", Some(Revision::new(150)))] {
        group.bench_function(name, |b| {
            b.iter(|| black_box(store.state().range(GROUP, &keyspace(), &range, at, 1000).expect("read")));
        });
    }
    group.finish();
}

criterion_group!(benches, apply, log, range);
criterion_main!(benches);
