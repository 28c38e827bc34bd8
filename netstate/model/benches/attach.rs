//! Attaching: what it costs to decide and to make, and what an endpoint takes in memory.
#![allow(unsafe_code, reason = "counting allocated bytes takes an allocator of one's own")]
#![allow(missing_docs, reason = "a program, not a library")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, Throughput};
use netstate_model::*;

/// The system's allocator, counting the bytes that are in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(rounded(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(rounded(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Allocators give out multiples of 16 bytes.
fn rounded(size: usize) -> usize {
    size.next_multiple_of(16)
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONTEXT: Context<'static> =
    Context { now: Timestamp::from_micros(1_795_430_400_000_000), actor: "ann", reason: "" };

/// Hosts that the endpoints are spread over.
const HOSTS: usize = 200;

fn network() -> NetworkState {
    let config = NetworkConfig {
        id: NetworkId::new(1),
        name: Name::new("web").expect("a name"),
        pools: vec!["10.0.0.0/12".parse().expect("a pool")],
        block_len_v4: 26,
        block_len_v6: 122,
        retired: false,
    };
    let mut state = NetworkState::default();
    run(&mut state, NetworkCommand::Install(config));
    state
}

fn run(state: &mut NetworkState, command: NetworkCommand) {
    let changes = state.decide(command, &CONTEXT).expect("no refusal");
    changes.iter().for_each(|change| state.evolve(change));
}

/// Endpoints as they come: each with its own labels in memory, of few kinds.
fn batch(from: usize, count: usize) -> NetworkCommand {
    let one = |at: usize| Attach {
        name: Name::new(&format!("shop-{at:07}")).expect("a name"),
        host: HostId::new((at % HOSTS) as u32 + 1),
        addresses: Vec::new(),
        mac: None,
        labels: Labels::new([("app", "shop"), ("tier", ["a", "b", "c"][at % 3])]).expect("labels"),
        workload: format!("shop-{at:07}"),
        netns: None,
    };
    NetworkCommand::Attach((from..from + count).map(one).collect())
}

fn filled(endpoints: usize) -> NetworkState {
    let mut state = network();
    for from in (0..endpoints).step_by(10_000) {
        run(&mut state, batch(from, 10_000.min(endpoints - from)));
    }
    state
}

fn memory() {
    let before = IN_USE.load(Ordering::Relaxed);
    let state = filled(100_000);
    let bytes = IN_USE.load(Ordering::Relaxed) - before;
    println!("heap of a state as attached: {} bytes an endpoint", bytes / state.len());
    let records: Vec<_> =
        state.endpoints().map(|own| NetworkChange::Endpoint(own.clone().into()).to_record()).collect();
    let record_bytes: usize = records.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
    println!("record: {} bytes an endpoint", record_bytes / records.len());
    let before = IN_USE.load(Ordering::Relaxed);
    let mut read = NetworkState::default();
    read.evolve(&NetworkChange::Config(state.config().expect("settings").clone()));
    state.blocks().for_each(|(block, host)| read.evolve(&NetworkChange::Block { block, host }));
    for (key, value) in &records {
        read.evolve(&NetworkChange::from_record(key, value.as_deref()).expect("a record"));
    }
    let bytes = IN_USE.load(Ordering::Relaxed) - before;
    println!("heap of a state read from records: {} bytes an endpoint", bytes / read.len());
}

fn attach(criterion: &mut Criterion) {
    let mut state = filled(100_000);
    let mut group = criterion.benchmark_group("attach to 100000");
    for count in [10_000, 1] {
        group.throughput(Throughput::Elements(count)).sample_size(20);
        group.bench_function(count.to_string(), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| attach_and_detach(&mut state, count as usize)).sum());
        });
    }
    group.finish();
    // Somebody else holds on to the state from before: what is changed has to be copied first.
    let mut group = criterion.benchmark_group("attach to 100000, shared");
    for count in [10_000, 1] {
        group.throughput(Throughput::Elements(count)).sample_size(20);
        group.bench_function(count.to_string(), |bencher| {
            bencher.iter_batched(
                || (state.clone(), batch(10_000_000, count as usize)),
                |(mut state, command)| {
                    run(&mut state, command);
                    state
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Attaches endpoints and detaches them again; returns how long attaching took.
fn attach_and_detach(state: &mut NetworkState, count: usize) -> Duration {
    let command = batch(10_000_000, count);
    let before = state.len();
    let begin = Instant::now();
    run(state, command);
    let took = begin.elapsed();
    let numbers = state.endpoints().skip(before).map(Endpoint::number).collect();
    run(state, NetworkCommand::Detach(numbers));
    took
}

fn read(criterion: &mut Criterion) {
    let state = filled(100_000);
    let records: Vec<_> =
        state.endpoints().map(|own| NetworkChange::Endpoint(own.clone().into()).to_record()).collect();
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(100_000)).sample_size(10);
    group.bench_function("100000 records into a state", |bencher| {
        bencher.iter(|| {
            let mut read = network();
            for (key, value) in &records {
                read.evolve(&NetworkChange::from_record(key, value.as_deref()).expect("a record"));
            }
            black_box(read)
        });
    });
    group.finish();
}

fn main() {
    memory();
    let mut criterion = Criterion::default().configure_from_args();
    attach(&mut criterion);
    read(&mut criterion);
    criterion.final_summary();
}
