//! The checks themselves: recordings that are right are accepted, and each kind of damage is refused by name.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_histories::history::{
    Action, Answer, At, ClientId, Freshness, Guard, History, KeyRange, LeaseId, Life, Operation, Outcome, Request,
    Revision,
};
use etcd_histories::linear::{self, Linearization, Refusal};
use etcd_histories::model::State;
use etcd_histories::serial;
use etcd_histories::watch::{self, Frame, Kinds, Marks, SeenEvent, Wanted, WatchRecord};
use proptest::prelude::*;

const LEASE: LeaseId = LeaseId(7);

fn at(ms: u64) -> At {
    At(Duration::from_millis(ms))
}

fn put(key: &'static str, value: &'static str) -> Request {
    Request::One(Action::Put { key: key.into(), value: value.into(), lease: None, prev_kv: false })
}

fn put_leased(key: &'static str, value: &'static str) -> Request {
    Request::One(Action::Put { key: key.into(), value: value.into(), lease: Some(LEASE), prev_kv: true })
}

fn get(key: &'static str) -> Request {
    Request::One(Action::Range(KeyRange::one(key)))
}

fn delete(key: &'static str) -> Request {
    Request::One(Action::Delete { range: KeyRange::one(key), prev_kv: true })
}

fn swap(key: &'static str, at: Option<u64>, value: &'static str) -> Request {
    let guards = vec![Guard::Modified { key: key.into(), at: at.map(Revision::new) }];
    let then = vec![Action::Put { key: key.into(), value: value.into(), lease: None, prev_kv: false }];
    Request::Txn { guards, then, otherwise: vec![Action::Range(KeyRange::one(key))] }
}

fn both(value: &'static str) -> Request {
    let put = |key: &'static str| Action::Put { key: key.into(), value: value.into(), lease: None, prev_kv: false };
    Request::Txn { guards: Vec::new(), then: vec![put("a"), put("b")], otherwise: Vec::new() }
}

/// Operations one after another, the nth from 10n to 10n+5 ms, answered as the model answers.
fn sequential(requests: &[Request]) -> History {
    let mut state = State::default();
    let operations = requests.iter().enumerate().map(|(index, request)| {
        let start = 10 * index as u64;
        let (answer, _) = state.apply(request);
        Operation {
            client: ClientId(u32::try_from(index % 3).unwrap()),
            invoked: at(start),
            request: request.clone(),
            freshness: Freshness::Linearizable,
            outcome: Outcome::Answered { at: at(start + 5), answer },
        }
    });
    operations.collect()
}

fn answer_of(operation: &mut Operation) -> &mut Answer {
    match &mut operation.outcome {
        Outcome::Answered { answer, .. } => answer,
        other => panic!("{other:?}"),
    }
}

fn answered_at(operation: &mut Operation, new: At) {
    match &mut operation.outcome {
        Outcome::Answered { at, .. } => *at = new,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(history: &[Operation], starts: &str, names: &str) {
    let refusal = linear::check(history, &[]).expect_err("the history must be refused").to_string();
    assert!(refusal.starts_with(starts) && refusal.contains(names), "{refusal}");
}

#[test]
fn a_sequential_history_is_accepted() {
    let requests =
        [put("a", "1"), get("a"), swap("a", Some(2), "2"), swap("a", Some(2), "3"), delete("a"), delete("a"), get("a")];
    let truth = linear::check(&sequential(&requests), &[]).unwrap();
    assert_eq!(truth.revision(), Revision::new(4));
}

#[test]
fn a_stale_read_is_refused() {
    let mut history = sequential(&[put("a", "1"), put("a", "2"), get("a")]);
    let (old, _) = {
        let mut state = State::default();
        state.apply(&put("a", "1"));
        state.apply(&get("a"))
    };
    *answer_of(&mut history[2]) = old;
    refused(&history, "stale: (#2 c2 get a", "(#1 c1 put a=2");
    // The same read is right if it was asked before the second write was answered.
    history[2].invoked = at(15);
    linear::check(&history, &[]).unwrap();
}

#[test]
fn an_old_value_at_a_new_revision_is_refused() {
    let mut history = sequential(&[put("a", "1"), put("a", "2"), get("a")]);
    let mut state = State::default();
    state.apply(&put("a", "1"));
    answer_of(&mut history[2]).found = state.apply(&get("a")).0.found;
    refused(&history, "wrong answer: (#2 c2 get a", "a=2@r3");
}

#[test]
fn a_lost_write_is_refused() {
    let mut history = sequential(&[put("a", "1"), put("b", "2"), get("a")]);
    history.remove(1);
    refused(&history, "unexplained revision r3", "#1 c2 get a");
    let mut history = sequential(&[put("a", "1"), put("b", "2"), get("b")]);
    answer_of(&mut history[2]).found = vec![etcd_histories::history::Found::Range(Vec::new())];
    refused(&history, "wrong answer: (#2 c2 get b", "b=2@r3");
}

#[test]
fn a_split_revision_is_refused() {
    let mut history = sequential(&[put("a", "1"), put("b", "2")]);
    answer_of(&mut history[1]).revision = Revision::new(2);
    refused(&history, "split revision r2: it was given to both (#0 c0 put a=1", "(#1 c1 put b=2");
}

#[test]
fn a_swap_that_succeeds_twice_is_refused() {
    let mut history = sequential(&[swap("a", None, "1"), put("b", "2"), swap("a", None, "3")]);
    let mut state = State::default();
    state.apply(&put("b", "0"));
    state.apply(&put("b", "2"));
    *answer_of(&mut history[2]) = state.apply(&swap("a", None, "3")).0;
    refused(&history, "wrong answer: (#2 c2 if [no a]", "else: read [a=1@r2");
}

#[test]
fn unknown_writes_happen_only_where_something_shows_them() {
    let mut history = sequential(&[put("a", "1"), put("a", "2"), put("b", "3"), get("a")]);
    history[1].outcome = Outcome::Unknown;
    assert_eq!(linear::check(&history, &[]).unwrap().commits.len(), 3);
    // It cannot have happened before it was asked for.
    history[1].invoked = at(100);
    refused(&history, "unexplained revision r3", "#2 c2 put b=3");
    // And need not have happened at all.
    let mut history = sequential(&[put("a", "1"), get("a"), put("a", "2")]);
    history[2].outcome = Outcome::Unknown;
    assert_eq!(linear::check(&history, &[]).unwrap().commits.len(), 1);
}

#[test]
fn expiry_is_a_revocation_of_unknown_time() {
    let mut history = sequential(&[put_leased("a", "1"), Request::Revoke(LEASE), get("a"), put("b", "1")]);
    assert_eq!(linear::check(&history, &[]).unwrap().commits.len(), 3);
    history[1].outcome = Outcome::Unknown;
    assert_eq!(linear::check(&history, &[]).unwrap().commits.len(), 3);
    let history = sequential(&[put_leased("a", "1"), Request::Revoke(LEASE), put_leased("a", "2")]);
    refused(&history, "dead lease: (#2 c2 put a=2 with l7", "(#1 c1 revoke l7");
}

#[test]
fn a_search_gives_up_at_its_limit() {
    let mut history = sequential(&[put("a", "1"), put("b", "2"), put("c", "3"), get("a")]);
    for operation in &mut history[..3] {
        operation.outcome = Outcome::Unknown;
    }
    let gave_up = linear::check_within(&history, &[], 2).unwrap_err();
    assert_eq!(gave_up, Refusal::GaveUp { revision: Revision::new(3), states: 2 });
    assert!(linear::check_within(&history, &[], 100).is_ok());
}

#[test]
fn local_reads_may_be_old_but_not_wrong() {
    let mut history = sequential(&[put("a", "1"), put("a", "2"), get("a"), get("a")]);
    let life = Some(Life { member: 0, count: 1 });
    for read in &mut history[2..] {
        read.client = ClientId(9);
        read.freshness = Freshness::Serializable { life };
    }
    let mut state = State::default();
    state.apply(&put("a", "1"));
    let old = state.apply(&get("a")).0;
    let truth = linear::check(&history, &[]).unwrap();
    serial::check(&history, &truth).unwrap();

    let mut older_first = history.clone();
    *answer_of(&mut older_first[2]) = old.clone();
    serial::check(&older_first, &truth).unwrap();

    let mut backwards = history.clone();
    *answer_of(&mut backwards[3]) = old.clone();
    let refusal = serial::check(&backwards, &truth).unwrap_err().to_string();
    assert!(refusal.starts_with("local reads went back: (#3 c9 locally get a"), "{refusal}");

    let mut wrong = history.clone();
    answer_of(&mut wrong[3]).found = old.found;
    let misled = linear::check(&wrong, &[]).unwrap();
    assert!(matches!(misled.unexplained, Some(Refusal::Wrong { .. })), "{:?}", misled.unexplained);
    let refusal = serial::check(&wrong, &misled).unwrap_err().to_string();
    assert!(refusal.starts_with("wrong local read: (#3 c9 locally get a"), "{refusal}");

    let mut early = history;
    early[2].invoked = at(6);
    answered_at(&mut early[2], at(8));
    let refusal = serial::check(&early, &truth).unwrap_err().to_string();
    assert!(refusal.starts_with("local read of the future: (#2 c9 locally get a"), "{refusal}");
}

#[test]
fn local_reads_tell_which_unknown_write_happened() {
    let puts = [put("a", "1"), put("a", "2")];
    for happened in [0, 1] {
        let mut history = sequential(&[puts[happened].clone(), put("b", "3"), get("a")]);
        history[0].outcome = Outcome::Unknown;
        history[2].freshness = Freshness::Serializable { life: None };
        let other = Operation { request: puts[1 - happened].clone(), ..history[0].clone() };
        history.insert(happened, other);
        let truth = linear::check(&history, &[]).unwrap();
        serial::check(&history, &truth).unwrap();
    }
}

#[test]
fn local_reads_tell_when_unknown_writes_happened() {
    // Nobody was told of either put; a local read shows which was the later one, or which of others came first.
    let requests = [put("a", "1"), put("b", "2"), get("a"), put("c", "3")];
    let mut both_to_a = requests.clone();
    both_to_a[1] = put("a", "2");
    for (requests, other) in [(both_to_a.clone(), None), (requests, Some(put("a", "4")))] {
        let mut history = sequential(&requests);
        history[2].freshness = Freshness::Serializable { life: None };
        for unknown in &mut history[..2] {
            unknown.outcome = Outcome::Unknown;
            unknown.invoked = at(0);
        }
        history.extend(other.map(|request| Operation { request, ..history[0].clone() }));
        for _ in 0..history.len() {
            history.rotate_left(1);
            let truth = linear::check(&history, &[]).unwrap();
            serial::check(&history, &truth).unwrap();
        }
    }
}

#[test]
fn watchers_tell_which_unknown_write_happened() {
    let all = Request::One(Action::Delete { range: KeyRange::between("a", "z"), prev_kv: false });
    let overwritten = [put("a", "1"), put("b", "2"), delete("a"), put("b", "3")];
    let mut history = sequential(&overwritten);
    history[2].outcome = Outcome::Unknown;
    let seen = watched(&linear::check(&sequential(&overwritten), &[]).unwrap(), everything());
    // It may have happened at that time, too, and what it did to the other key does not show in any answer.
    history.push(Operation { request: all, client: ClientId(9), ..history[2].clone() });
    let truth = linear::check(&history, std::slice::from_ref(&seen)).unwrap();
    watch::check(&seen, &truth, Marks::All).unwrap();
}

#[test]
fn who_lies_is_told_from_who_does_not() {
    let mut history = sequential(&[put("a", "1"), put("b", "2")]);
    let honest = watched(&linear::check(&history, &[]).unwrap(), everything());
    history[0].outcome = Outcome::Unknown;
    history.push(Operation { request: put("a", "5"), client: ClientId(9), ..history[0].clone() });
    let truth = linear::check(&history, std::slice::from_ref(&honest)).unwrap();
    assert_eq!(truth.unexplained, None);
    let mut liar = WatchRecord { name: "liar".into(), ..honest.clone() };
    events(&mut liar, 0)[0].state.modified = Revision::new(3);
    let both = [honest, liar];
    let truth = linear::check(&history, &both).unwrap();
    watch::check(&both[0], &truth, Marks::All).unwrap();
    let refusal = watch::check(&both[1], &truth, Marks::All).unwrap_err().to_string();
    assert!(refusal.starts_with("watch liar "), "{refusal}");
}

#[test]
fn what_no_watcher_was_shown_was_done_elsewhere() {
    let requests = [put("a", "1"), put("~", "2"), delete("a"), put("b", "3")];
    let mut history = sequential(&requests);
    let seen = watched(&linear::check(&history, &[]).unwrap(), everything());
    // Nobody watches the key of the second, and no answer tells which of the two came first.
    for unknown in [1, 2] {
        history[unknown].outcome = Outcome::Unknown;
        history[unknown].invoked = at(10);
    }
    let truth = linear::check(&history, std::slice::from_ref(&seen)).unwrap();
    watch::check(&seen, &truth, Marks::All).unwrap();
}

/// A watch of everything, from the first write on, one response for each revision.
fn watched(truth: &Linearization, wanted: Wanted) -> WatchRecord {
    let commits = truth.commits.iter().filter(|commit| wanted.start.is_none_or(|start| start <= commit.revision));
    let frames = commits.filter_map(|commit| {
        let events = commit.events.iter().map(|event| SeenEvent::of(event, wanted.prev_kv));
        let events: Vec<_> = events.filter(|event| wanted.wants(&event.state.key, event.is_put)).collect();
        (!events.is_empty()).then(|| (at(commit.revision.get()), Frame::Events { events, more: false }))
    });
    let frames = frames.collect();
    let created = Some(Revision::EMPTY);
    WatchRecord { name: "w".into(), wanted, created, frames, until: Some(truth.revision()), ended: String::new() }
}

fn everything() -> Wanted {
    Wanted {
        range: KeyRange::between("a", "z"),
        start: Some(Revision::new(2)),
        kinds: Kinds::All,
        prev_kv: true,
        fragment: true,
        progress_notify: true,
    }
}

/// r2 puts a, r3 puts a and b, r4 deletes a, r5 puts b with a lease, r6 puts a.
fn story() -> Linearization {
    let requests = [put("a", "1"), both("2"), delete("a"), put_leased("b", "3"), put("a", "4")];
    linear::check(&sequential(&requests), &[]).unwrap()
}

fn mark(revision: u64) -> (At, Frame) {
    (at(0), Frame::Progress { revision: Revision::new(revision), asked: false })
}

fn events(record: &mut WatchRecord, frame: usize) -> &mut Vec<SeenEvent> {
    match &mut record.frames[frame].1 {
        Frame::Events { events, .. } => events,
        Frame::Progress { .. } => panic!("frame {frame} is a mark"),
    }
}

/// Checks the watch of the story after `damage`, which must be refused with `message`.
#[track_caller]
fn broken(wanted: Wanted, damage: impl FnOnce(&mut WatchRecord), message: &str) {
    let truth = story();
    let mut record = watched(&truth, wanted);
    watch::check(&record, &truth, Marks::All).unwrap();
    damage(&mut record);
    let refusal = watch::check(&record, &truth, Marks::All).expect_err("the watch must be refused").to_string();
    assert!(refusal.starts_with("watch w ") && refusal.contains(message), "{refusal}");
}

#[test]
fn a_duplicated_event_is_refused() {
    let again = |record: &mut WatchRecord| record.frames.insert(1, record.frames[0].clone());
    broken(everything(), again, "not unique: (put a=1@r2");
    let within = |record: &mut WatchRecord| {
        let first = events(record, 1)[0].clone();
        events(record, 1).push(first);
    };
    broken(everything(), within, "not unique: (put a=2@r3");
}

#[test]
fn reordered_events_are_refused() {
    broken(everything(), |record| record.frames.swap(2, 3), "not reliable: (delete a@r4");
    let within = |record: &mut WatchRecord| {
        let mut all: Vec<_> = record.events().cloned().collect();
        let last = all.len() - 1;
        all.swap(last, last - 1);
        record.frames = vec![(at(0), Frame::Events { events: all, more: false })];
    };
    broken(everything(), within, "not ordered: (put b=3@r5");
}

#[test]
fn gaps_are_refused() {
    let gap = |record: &mut WatchRecord| drop(record.frames.remove(2));
    broken(everything(), gap, "not reliable: (delete a@r4 over a=2@r3");
    let first = |record: &mut WatchRecord| drop(record.frames.remove(0));
    broken(everything(), first, "not resumable: (put a=1@r2");
    let last = |record: &mut WatchRecord| drop(record.frames.pop());
    broken(everything(), last, "not reliable: (put a=4@r6");
    let half = |record: &mut WatchRecord| drop(events(record, 1).pop());
    broken(everything(), half, "not reliable: (put b=2@r3");
    let all = |record: &mut WatchRecord| record.frames.clear();
    broken(Wanted { start: None, ..everything() }, all, "not resumable: (put a=1@r2");
}

#[test]
fn a_split_response_is_refused_unless_it_is_a_fragment() {
    let split = |record: &mut WatchRecord, more: bool| {
        let rest = events(record, 1).split_off(1);
        record.frames.insert(2, (at(3), Frame::Events { events: rest, more: false }));
        let Frame::Events { more: goes_on, .. } = &mut record.frames[1].1 else { panic!() };
        *goes_on = more;
    };
    broken(everything(), |record| split(record, false), "not atomic: (put a=2@r3");
    let truth = story();
    let mut record = watched(&truth, everything());
    split(&mut record, true);
    watch::check(&record, &truth, Marks::All).unwrap();
}

#[test]
fn progress_marks_must_not_come_early_nor_go_back() {
    broken(everything(), |record| record.frames.insert(2, mark(4)), "not bookmarkable: (delete a@r4");
    broken(everything(), |record| record.frames.insert(2, mark(2)), "not ordered: the progress mark r2");
    let back = |record: &mut WatchRecord| record.frames.extend([mark(8), mark(7)]);
    broken(everything(), back, "not ordered: the progress mark r7 came behind the mark r8");
    let truth = story();
    let mut record = watched(&truth, everything());
    record.frames.insert(2, mark(3));
    watch::check(&record, &truth, Marks::All).unwrap();
}

#[test]
fn marks_on_request_may_be_disbelieved() {
    let truth = story();
    let mut record = watched(&truth, everything());
    record.frames.insert(0, (at(0), Frame::Progress { revision: Revision::new(6), asked: true }));
    watch::check(&record, &truth, Marks::Unasked).unwrap();
    watch::check(&record, &truth, Marks::All).unwrap_err();
}

#[test]
fn wrong_fields_are_refused() {
    let prev_kv = |record: &mut WatchRecord| events(record, 2)[0].before.as_mut().unwrap().value = "1".into();
    broken(everything(), prev_kv, "not faithful: (delete a@r4 over a=1@r3");
    let no_prev_kv = |record: &mut WatchRecord| events(record, 2)[0].before = None;
    broken(everything(), no_prev_kv, "not faithful: (delete a@r4) should have been (delete a@r4 over");
    let created = |record: &mut WatchRecord| events(record, 4)[0].state.created = Revision::new(2);
    broken(everything(), created, "not faithful: (put a=4@r6 (created r2");
    let version = |record: &mut WatchRecord| events(record, 3)[0].state.version = 1;
    broken(everything(), version, "not faithful: (put b=3@r5 (created r3, version 1");
    let lease = |record: &mut WatchRecord| events(record, 3)[0].state.lease = None;
    broken(everything(), lease, "not faithful: (put b=3@r5");
    let invented = |record: &mut WatchRecord| events(record, 4)[0].state.modified = Revision::new(9);
    broken(everything(), invented, "was never written");
}

#[test]
fn filters_and_ranges_are_exact() {
    let stray = watched(&story(), everything());
    let (_, foreign) = &stray.frames[3];
    let only_a = Wanted { range: KeyRange::one("a"), ..everything() };
    broken(only_a, |record| record.frames.insert(3, (at(5), foreign.clone())), "not filtered: (put b=3@r5");
    let (_, deletion) = &stray.frames[2];
    let puts = Wanted { kinds: Kinds::Puts, ..everything() };
    broken(puts, |record| record.frames.insert(2, (at(5), deletion.clone())), "not filtered: (delete a@r4");
    let (_, first) = &stray.frames[0];
    let late = Wanted { start: Some(Revision::new(4)), ..everything() };
    broken(late, |record| record.frames.insert(0, (at(5), first.clone())), "not filtered: (put a=1@r2");
    let deletes = Wanted { kinds: Kinds::Deletes, prev_kv: false, ..everything() };
    broken(deletes, |record| record.frames.clear(), "not resumable: (delete a@r4)");
}

/// What a random request is made of.
#[derive(Clone, Debug)]
struct Draw {
    kind: u8,
    key: usize,
    /// How long before and after its effect it was asked and answered.
    before: u64,
    after: u64,
    unknown: bool,
    happens: bool,
}

fn draws(most: usize) -> impl Strategy<Value = Vec<Draw>> {
    let draw = (0..8_u8, 0..3_usize, 0..40_u64, 0..40_u64, prop::bool::weighted(0.15), any::<bool>());
    let draw = draw.prop_map(|(kind, key, before, after, unknown, happens)| Draw {
        kind,
        key,
        before,
        after,
        unknown,
        happens,
    });
    prop::collection::vec(draw, 1..most)
}

/// Executes the draws in order on the model, at 10, 20, 30, … ms, and lets them overlap.
fn concurrent(draws: &[Draw]) -> History {
    let mut state = State::default();
    let keys = ["a", "b", "c"];
    let mut history = History::new();
    // A lease that was revoked is not used again.
    let mut lease = LEASE;
    for (index, draw) in draws.iter().enumerate() {
        let key = keys[draw.key];
        let value = Bytes::from(format!("v{index}"));
        let write = Action::Put { key: key.into(), value, lease: (draw.kind == 7).then_some(lease), prev_kv: true };
        let request = match draw.kind {
            0 | 1 | 7 => Request::One(write),
            2 => get(key),
            3 => delete(key),
            4 => {
                lease = LeaseId(lease.0 + 1);
                Request::Revoke(LeaseId(lease.0 - 1))
            }
            5 => Request::One(Action::Range(KeyRange::between("a", "z"))),
            _ => {
                let seen = state.range(&KeyRange::one(key)).first().map(|state| state.modified);
                let guards = vec![Guard::Modified { key: key.into(), at: seen.filter(|_| draw.happens) }];
                Request::Txn { guards, then: vec![write], otherwise: vec![Action::Range(KeyRange::one(key))] }
            }
        };
        let moment = 10 * index as u64 + 50;
        let outcome = match draw.unknown {
            true => {
                if draw.happens {
                    state.apply(&request);
                }
                Outcome::Unknown
            }
            false => Outcome::Answered { at: at(moment + draw.after), answer: state.apply(&request).0 },
        };
        let client = ClientId(u32::try_from(index).unwrap());
        let invoked = at(moment - draw.before);
        history.push(Operation { client, invoked, request, freshness: Freshness::Linearizable, outcome });
    }
    history
}

/// Tries every order: exponential, and too simple to be wrong.
fn brute_force(history: &[Operation], done: u32, state: &State) -> bool {
    let left = |index: usize| done & (1 << index) == 0;
    let returned = |op: &Operation| match op.outcome {
        Outcome::Answered { at, .. } => Some(at),
        _ => None,
    };
    let open = history.iter().enumerate().filter(|(index, _)| left(*index));
    let Some(first_return) = open.clone().filter_map(|(_, op)| returned(op)).min() else { return true };
    open.filter(|(_, op)| op.invoked <= first_return).any(|(index, op)| {
        let mut next = state.clone();
        let (answer, _) = next.apply(&op.request);
        let fits = match &op.outcome {
            Outcome::Answered { answer: told, .. } => *told == answer,
            _ => true,
        };
        fits && brute_force(history, done | 1 << index, &next)
    })
}

fn without_dead_leases(history: &[Operation]) -> bool {
    !matches!(linear::check(history, &[]), Err(Refusal::DeadLease { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_sequential_model_did_is_accepted(draws in draws(60)) {
        let history = concurrent(&draws);
        let truth = linear::check(&history, &[]);
        prop_assert!(truth.is_ok(), "{truth:?}");
    }

    #[test]
    fn the_search_agrees_with_trying_every_order(
        draws in draws(9), victim in any::<prop::sample::Index>(), donor in any::<prop::sample::Index>(), damage in 0..4,
    ) {
        let mut history = concurrent(&draws);
        let (victim, donor) = (victim.index(history.len()), donor.index(history.len()));
        let given = history[donor].outcome.clone();
        match (damage, &given, &mut history[victim].outcome) {
            (0, Outcome::Answered { answer: given, .. }, Outcome::Answered { answer, .. }) => *answer = given.clone(),
            (1, Outcome::Answered { answer: given, .. }, Outcome::Answered { answer, .. }) => {
                answer.revision = given.revision;
            }
            (2, _, _) => drop(history.remove(victim)),
            (3, _, Outcome::Answered { at: end, .. }) => {
                *end = at(20);
                history[victim].invoked = at(0);
            }
            _ => {}
        }
        prop_assume!(without_dead_leases(&history));
        let found = linear::check(&history, &[]);
        prop_assert_eq!(found.is_ok(), brute_force(&history, 0, &State::default()), "{:?}", found);
    }
}

#[test]
fn ten_thousand_operations_are_checked_in_seconds() {
    let draw = |n: usize| Draw {
        kind: [0, 1, 2, 3, 4, 5, 6, 7, 7, 7][n % 10],
        key: n * 5 % 3,
        before: (n * 37 % 40) as u64,
        after: (n * 31 % 40) as u64,
        unknown: n.is_multiple_of(51),
        happens: n.is_multiple_of(2),
    };
    let history = concurrent(&(0..10_000).map(draw).collect::<Vec<_>>());
    let began = Instant::now();
    let result = linear::check(&history, &[]);
    let took = began.elapsed();
    assert!(result.is_ok() && took < Duration::from_secs(5), "{took:?} {:?}", result.err());
    eprintln!("checked in {took:?}");
}
