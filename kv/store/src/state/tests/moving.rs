//! A keyspace moves from one group to another, with everything that it has.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_core::{
    Change, Commit, Effect, GroupId, KeyRange, LeaseId, MoveId, MoveStep, Outcome, Phase, RequestId, Revision, Stepped,
    Timestamp,
};

use crate::{
    Options, State, Store,
    state::keys,
    testkit::{G0, G1, IDENTITY, apply, commit, keyspace, open},
};

/// It begins in `G0`.
const NAME: &str = "d";

/// Two groups' logs.
struct Logs<'a> {
    state: &'a State,
    indexes: BTreeMap<GroupId, u64>,
}

impl<'a> Logs<'a> {
    fn new(state: &'a State) -> Self {
        Logs { state, indexes: BTreeMap::new() }
    }

    fn apply(&mut self, group: GroupId, commits: Vec<Commit>) -> Vec<Outcome> {
        let index = self.indexes.entry(group).or_default();
        *index += 1;
        apply(self.state, group, *index, commits).outcomes
    }

    /// Takes a step; whether it was taken.
    fn step(&mut self, group: GroupId, id: u64, step: MoveStep) -> bool {
        let effects = vec![Effect::Move { id: MoveId::new(id), step }];
        let [outcome] = self.apply(group, vec![Commit { effects, ..commit(NAME, 0, &[]) }])[..] else { panic!() };
        match outcome {
            Outcome::Applied(done) => done.succeeded,
            other => panic!("{other:?}"),
        }
    }

    /// Sends what differs, in small pieces. Returns how many rows that were.
    fn round(&mut self, id: u64, filler: &mut Filler, (from, to): (GroupId, GroupId)) -> usize {
        let mut transfer = self.state.transfer(&keyspace(NAME), (from, to), false).unwrap().unwrap();
        let mut sent = 0;
        let mut next = transfer.next_rows(64).unwrap();
        loop {
            let rows = next.take().unwrap_or_default();
            sent += rows.len();
            next = transfer.next_rows(64).unwrap();
            let mark = next.is_none().then(|| transfer.mark());
            assert!(self.step(to, id, filler.fill(from, crate::ROW_FORMAT, mark, rows)));
            if next.is_none() {
                return sent;
            }
        }
    }

    fn adopt(&mut self, id: u64, filler: &Filler, (from, to): (GroupId, GroupId)) -> bool {
        let transfer = self.state.transfer(&keyspace(NAME), (from, to), false).unwrap().unwrap();
        assert!(matches!(transfer.standing().phase, Phase::Sealed { .. }));
        let step = MoveStep::Adopt { epoch: filler.epoch, number: filler.next - 1, terms: transfer.terms() };
        self.step(to, id, step)
    }

    fn verify(&self) {
        for group in [G0, G1] {
            let verified = self.state.verify(group).unwrap();
            assert_eq!(verified.fold, self.state.fold(group));
        }
    }
}

/// Who fills.
struct Filler {
    epoch: u64,
    next: u64,
}

impl Filler {
    fn new(epoch: u64) -> Self {
        Filler { epoch, next: 0 }
    }

    fn fill(&mut self, from: GroupId, format: u8, mark: Option<kv_core::Mark>, rows: Vec<kv_core::Row>) -> MoveStep {
        let number = self.next;
        self.next += 1;
        MoveStep::Fill { from, epoch: self.epoch, number, format, mark, rows }
    }
}

fn lease(raw: i64) -> LeaseId {
    LeaseId::new(raw).unwrap()
}

/// Everything that can be read of the keyspace in a group.
fn picture(state: &State, group: GroupId) -> String {
    let name = keyspace(NAME);
    let head = state.head(group, &name);
    let mut text = format!("{head:?} {:?}\n", state.usage(group, &name));
    let floor = state.usage(group, &name).floor.get();
    for at in floor.max(1)..=head.revision.get() {
        let read = state.range(group, &name, &KeyRange::All, Some(Revision::new(at)), 1000).unwrap();
        text += &format!("{at} {read:?}\n");
    }
    text += &format!("{:?}\n", state.range(group, &name, &KeyRange::All, None, 1000).unwrap());
    text += &format!("{:?}\n", state.records(group, &name, Revision::ZERO, 1000).unwrap());
    for request in 0..=255 {
        if let Some(outcome) = state.outcome(group, &name, &RequestId::new([request; 16])).unwrap() {
            text += &format!("{request} {outcome:?}\n");
        }
    }
    for id in 1..20 {
        let attached = state.attached(group, &name, lease(id), 1000).unwrap();
        text += &format!("{:?} {attached:?}\n", state.lease(group, &name, lease(id)));
    }
    text += &format!("{:?}\n", state.all_beside(group, &name, b"").unwrap());
    text
}

/// Shows where two pictures differ, and no more.
fn same(one: &str, two: &str, seed: u64) {
    let differing = one.lines().zip(two.lines()).find(|(one, two)| one != two);
    assert!(differing.is_none() && one.len() == two.len(), "{seed}: {differing:?}");
}

/// Draws what happens to the keyspace.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A commit on top of what a group has.
    fn commit(&mut self, state: &State, group: GroupId, at: i64) -> Commit {
        let head = state.head(group, &keyspace(NAME)).revision;
        let mut made = commit(NAME, head.get(), &[]);
        made.at = Timestamp::from_micros(at);
        if self.below(3) > 0 {
            made.request = Some(RequestId::new([self.below(256) as u8; 16]));
        }
        match self.below(9) {
            0 => {
                let lease = lease(self.below(19) as i64 + 1);
                made.effects.push(Effect::Grant { lease, ttl: 60 });
            }
            1 => {
                let lease = lease(self.below(19) as i64 + 1);
                let attached = state.attached(group, &keyspace(NAME), lease, 1000).unwrap();
                made.changes = attached.into_iter().map(Change::removal).collect();
                made.effects.push(Effect::Revoke { lease });
            }
            2 => {
                let (lease, remaining) = (lease(self.below(19) as i64 + 1), Some(self.below(60)));
                made.effects.push(Effect::Checkpoint { lease, remaining });
            }
            3 => {
                let value = (self.below(3) > 0).then(|| Bytes::from(vec![7; self.below(9) as usize]));
                made.effects.push(Effect::Record { key: vec![self.below(4) as u8].into(), value });
            }
            4 if head > Revision::ZERO && self.below(3) == 0 => {
                let to = Revision::new(1 + self.below(head.get()));
                made.effects.push(Effect::Compact { to, records: self.below(2) == 0 });
            }
            _ => {
                let mut changes = BTreeMap::new();
                for _ in 0..=self.below(3) {
                    let key = Bytes::from(vec![self.below(30) as u8, 0]);
                    let granted = lease(self.below(19) as i64 + 1);
                    let attach = state.lease(group, &keyspace(NAME), granted).is_some() && self.below(2) == 0;
                    let value = (self.below(4) > 0).then(|| Bytes::from(vec![1; self.below(40) as usize]));
                    let lease = Some(granted).filter(|_| attach && value.is_some());
                    changes.insert(key.clone(), Change { key, value, lease });
                }
                made.changes = changes.into_values().collect();
            }
        }
        made
    }
}

/// Whatever is written while it is copied, whoever goes on with the copying, and wherever it goes next: it is the same.
#[test]
fn it_is_the_same_afterwards() {
    for seed in 0..60 {
        let (mut draw, store) = (Draw(seed), Store::open_temporary(&IDENTITY, &Options::default()).unwrap());
        let state = store.state();
        let mut logs = Logs::new(state);
        let mut at = 1_000;
        let mut write = |logs: &mut Logs<'_>, draw: &mut Draw, group, times| {
            for _ in 0..times {
                at += 1 + draw.below(1000) as i64;
                let made = draw.commit(state, group, at);
                logs.apply(group, vec![made]);
            }
        };
        // Neighbours, which nothing here may touch.
        for group in [G0, G1] {
            logs.apply(group, vec![commit("j", 0, &[(b"x", Some(b"1"))]), commit("l", 0, &[(b"x", Some(b"2"))])]);
        }
        let mut ways = [(G0, G1), (G1, G0)].into_iter().cycle();
        let first = draw.below(60);
        write(&mut logs, &mut draw, G0, first);
        for id in 1..=3 {
            let way = ways.next().unwrap();
            let (from, to) = way;
            if state.standing(from, &keyspace(NAME)).is_none() {
                break;
            }
            let mut filler = Filler::new(10);
            for _ in 0..draw.below(4) {
                logs.round(id, &mut filler, way);
                assert_eq!(state.head(to, &keyspace(NAME)), kv_core::Head::default(), "it is not there yet");
                let times = draw.below(12);
                write(&mut logs, &mut draw, from, times);
                if draw.below(3) == 0 {
                    filler = Filler::new(filler.epoch + 1);
                }
                logs.verify();
            }
            assert!(logs.step(from, id, MoveStep::Seal { to }));
            let before = picture(state, from);
            logs.round(id, &mut filler, way);
            assert_eq!(logs.round(id, &mut filler, way), 0, "seed {seed}: there is nothing left to send");
            if draw.below(4) == 0 {
                // Nothing is left when everything is compared, either.
                let mut again = Filler::new(filler.epoch + 1);
                assert!(logs.step(to, id, again.fill(from, 1, None, Vec::new())));
                let whole = state.transfer(&keyspace(NAME), way, true).unwrap().unwrap().next_rows(64).unwrap();
                assert!(whole.is_none(), "seed {seed}: {whole:?}");
                filler = again;
            }
            assert!(logs.adopt(id, &filler, way), "seed {seed}: {:?}", state.standing(to, &keyspace(NAME)));
            logs.verify();
            same(&picture(state, to), &before, seed);
            // It is read in both for a while.
            same(&picture(state, from), &before, seed);
            assert!(logs.step(from, id, MoveStep::Drop));
            logs.verify();
            assert_eq!(state.head(from, &keyspace(NAME)), kv_core::Head::default());
            same(&picture(state, to), &before, seed);
            let times = draw.below(20);
            write(&mut logs, &mut draw, to, times);
            logs.verify();
        }
        for (name, value) in [("j", "1"), ("l", "2")] {
            for group in [G0, G1] {
                assert_eq!(state.get(group, &keyspace(name), b"x", None).unwrap().unwrap().value, value);
            }
        }
    }
}

/// Its rows go before the cache is told. Who reads the history in between is told that there is nothing, not of damage.
#[test]
fn a_history_that_leaves_is_not_damaged() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    let (state, name) = (store.state(), keyspace(NAME));
    let mut logs = Logs::new(state);
    logs.apply(G0, vec![commit(NAME, 0, &[(b"a", Some(b"1"))]), commit(NAME, 1, &[(b"a", Some(b"2"))])]);
    let known = state.group(G0).cache.read().keyspaces[&name];
    let way = (G0, G1);
    assert!(logs.step(G0, 1, MoveStep::Seal { to: G1 }));
    let mut filler = Filler::new(1);
    logs.round(1, &mut filler, way);
    assert!(logs.adopt(1, &filler, way));
    assert!(logs.step(G0, 1, MoveStep::Drop));

    state.group(G0).cache.write().keyspaces.insert(name.clone(), known);
    let limits = (10, usize::MAX);
    assert_eq!(state.events(G0, &name, &KeyRange::All, Revision::ZERO, false, limits).unwrap(), []);
    assert_eq!(state.changes(G0, &name, Revision::ZERO, 10, usize::MAX).unwrap(), []);
    assert_eq!(state.records(G0, &name, Revision::ZERO, 10).unwrap(), []);
    assert_eq!(state.changes(G1, &name, Revision::ZERO, 10, usize::MAX).unwrap().len(), 2);
}

/// A log entry may hold several steps, and writes behind them.
#[test]
fn steps_and_writes_in_one_entry() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    let state = store.state();
    let mut logs = Logs::new(state);
    logs.apply(G0, vec![commit(NAME, 0, &[(b"a", Some(b"1"))])]);
    let step = |step| Commit { effects: vec![Effect::Move { id: MoveId::new(1), step }], ..commit(NAME, 0, &[]) };
    let outcomes = logs.apply(
        G0,
        vec![
            commit(NAME, 1, &[(b"a", Some(b"2"))]),
            step(MoveStep::Seal { to: G1 }),
            commit(NAME, 2, &[(b"a", Some(b"3"))]),
        ],
    );
    assert!(matches!(outcomes[..], [Outcome::Applied(_), Outcome::Applied(_), Outcome::Elsewhere { to: G1 }]));
    let mut transfer = state.transfer(&keyspace(NAME), (G0, G1), false).unwrap().unwrap();
    let rows = transfer.next_rows(1 << 20).unwrap().unwrap();
    let mut filler = Filler::new(1);
    let (fill, terms) = (filler.fill(G0, crate::ROW_FORMAT, None, rows), transfer.terms());
    let outcomes = logs.apply(
        G1,
        vec![
            commit(NAME, 0, &[(b"a", Some(b"not here"))]),
            step(fill),
            commit(NAME, 0, &[(b"a", Some(b"not yet"))]),
            step(MoveStep::Adopt { epoch: 1, number: 0, terms }),
            commit(NAME, 2, &[(b"a", Some(b"3"))]),
        ],
    );
    // Nobody had moved anything there when the first came.
    assert!(matches!(outcomes[0], Outcome::Applied(_)));
    assert!(matches!(outcomes[1], Outcome::Applied(done) if !done.succeeded), "it is there under its name");
    drop(store);

    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    let state = store.state();
    let mut logs = Logs::new(state);
    let two = [commit(NAME, 0, &[(b"a", Some(b"1"))]), commit(NAME, 1, &[(b"a", Some(b"2"))])];
    logs.apply(G0, [&two[..], &[step(MoveStep::Seal { to: G1 })]].concat());
    let mut transfer = state.transfer(&keyspace(NAME), (G0, G1), false).unwrap().unwrap();
    let rows = transfer.next_rows(1 << 20).unwrap().unwrap();
    let fill = Filler::new(1).fill(G0, crate::ROW_FORMAT, None, rows);
    let outcomes = logs.apply(
        G1,
        vec![
            step(fill),
            commit(NAME, 0, &[(b"a", Some(b"not yet"))]),
            step(MoveStep::Adopt { epoch: 1, number: 0, terms: transfer.terms() }),
            commit(NAME, 2, &[(b"a", Some(b"3"))]),
        ],
    );
    assert!(matches!(outcomes[1], Outcome::Elsewhere { to: G0 }));
    assert!(matches!(outcomes[3], Outcome::Applied(done) if done.revision == Revision::new(3)), "{outcomes:?}");
    let history = state.records(G1, &keyspace(NAME), Revision::ZERO, 9).unwrap();
    assert_eq!(history.len(), 3);
    logs.verify();
    // Emptied in the entry that fills it.
    let outcomes = logs.apply(
        G1,
        vec![
            step_of("m", 2, MoveStep::Fill { from: G0, epoch: 1, number: 0, format: 1, mark: None, rows: some_rows() }),
            step_of("m", 2, MoveStep::Discard { from: G0 }),
        ],
    );
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied(done) if done.succeeded)));
    logs.verify();
}

fn step_of(name: &str, id: u64, step: MoveStep) -> Commit {
    Commit { effects: vec![Effect::Move { id: MoveId::new(id), step }], ..commit(name, 0, &[]) }
}

/// A lease and a record beside the keys, which count in a group's fold as soon as they come.
fn some_rows() -> Vec<kv_core::Row> {
    let row = |kind, key: &[u8], value: &[u8]| kv_core::Row {
        kind,
        key: Bytes::copy_from_slice(key),
        value: Some(Bytes::copy_from_slice(value)),
    };
    vec![row(keys::LEASE, &7i64.to_be_bytes(), &[60, 0]), row(keys::BESIDE, b"x", b"y")]
}

/// Rows that make no sense, or of another version, are refused whole.
#[test]
fn senseless_rows_are_refused() {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    let mut logs = Logs::new(store.state());
    let fill = |number, format, rows| MoveStep::Fill { from: G0, epoch: 1, number, format, mark: None, rows };
    assert!(logs.step(G1, 1, fill(0, 1, some_rows())));
    let fold = store.state().fold(G1);
    for kind in 0..=255 {
        for (key, value) in [(&b"key"[..], Some(&[0xff; 40][..])), (&[][..], Some(&[][..])), (&[9; 16][..], Some(b"x"))]
        {
            if kind == keys::BESIDE {
                continue;
            }
            let (key, value) = (Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
            let row = kv_core::Row { kind, key, value };
            let rows = [some_rows(), vec![row]].concat();
            assert!(!logs.step(G1, 1, fill(1, 1, rows)), "kind {kind}");
        }
    }
    assert!(!logs.step(G1, 1, fill(1, 2, some_rows())));
    assert_eq!(store.state().fold(G1), fold);
    logs.verify();
}

/// A store in which the keyspace stands so in G1; the other group is G0.
fn standing_so(phase: &str) -> (Store, BTreeMap<GroupId, u64>) {
    let store = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
    let state = store.state();
    let mut logs = Logs::new(state);
    let mut draw = Draw(4);
    let home = if matches!(phase, "live" | "sealed" | "gone") { G1 } else { G0 };
    for at in 1..40 {
        let made = draw.commit(state, home, 1000 * at);
        logs.apply(home, vec![made]);
    }
    match phase {
        "nothing" | "live" => {}
        "sealed" => assert!(logs.step(G1, 6, MoveStep::Seal { to: G0 })),
        "gone" => {
            assert!(logs.step(G1, 6, MoveStep::Seal { to: G0 }));
            assert!(logs.step(G1, 6, MoveStep::Drop));
        }
        "arriving" => assert!(logs.round(6, &mut Filler::new(5), (G0, G1)) > 0),
        "absent" => {
            logs.round(6, &mut Filler::new(5), (G0, G1));
            assert!(logs.step(G1, 6, MoveStep::Discard { from: G0 }));
        }
        other => panic!("{other}"),
    }
    let indexes = logs.indexes;
    (store, indexes)
}

/// Each step in each phase does to the rows what is decided, folds and chains hold, a repetition changes nothing, and a
/// snapshot or a restart carries it over.
#[test]
fn every_step_in_every_phase() {
    let fill = |epoch, number| MoveStep::Fill { from: G0, epoch, number, format: 1, mark: None, rows: some_rows() };
    let steps = || {
        let adopt = MoveStep::Adopt { epoch: 5, number: 1, terms: kv_core::Terms::default() };
        let seal = MoveStep::Seal { to: G0 };
        [seal, MoveStep::Unseal, fill(6, 0), fill(5, 9), adopt, MoveStep::Drop, MoveStep::Discard { from: G0 }]
    };
    for phase in ["nothing", "live", "sealed", "arriving", "gone", "absent"] {
        for id in [5, 6, 7] {
            for (at, step) in steps().into_iter().enumerate() {
                let (store, indexes) = standing_so(phase);
                let state = store.state();
                let mut logs = Logs { state, indexes };
                let name = keyspace(NAME);
                let (now, usage) = (state.standing(G1, &name), state.usage(G1, &name));
                let fold = state.fold(G1);
                let decided = step.decide(MoveId::new(id), now, (usage.keys, usage.bytes));
                let taken = logs.step(G1, id, step.clone());
                let told = format!("{phase}, move {id}, step {at}: {decided:?}");
                assert_eq!(taken, decided != Stepped::Refused, "{told}");
                let after = state.standing(G1, &name);
                match decided {
                    Stepped::Before | Stepped::Refused => {
                        assert_eq!((after, state.fold(G1)), (now, fold), "{told}");
                    }
                    Stepped::Now(standing) | Stepped::Emptied(standing) | Stepped::Adopted(standing) => {
                        assert_eq!(after, Some(standing), "{told}");
                    }
                    Stepped::Filled { standing, .. } => assert_eq!(after, Some(standing), "{told}"),
                }
                logs.verify();
                let (fold, picture_then) = (state.fold(G1), picture(state, G1));
                logs.step(G1, id, step);
                assert_eq!((state.standing(G1, &name), state.fold(G1)), (after, fold), "{told} again");
                logs.verify();
                let other = Store::open_temporary(&IDENTITY, &Options::default()).unwrap();
                let mut receiver = other.state().receive(G1).unwrap();
                let Ok(mut snapshot) = state.snapshot(G1) else { continue };
                while let Some(chunk) = snapshot.next_chunk(1 << 16).unwrap() {
                    receiver.chunk(&chunk).unwrap();
                }
                other.state().install(receiver.finish().unwrap()).unwrap();
                assert_eq!(other.state().standing(G1, &name), after, "{told}");
                assert_eq!(other.state().verify(G1).unwrap(), state.verify(G1).unwrap());
                same(&picture(other.state(), G1), &picture_then, at as u64);
                if after.is_some_and(|after| after != kv_core::Standing::default()) {
                    assert_eq!(other.state().residence(&name), only(state, G1, &name), "{told}");
                }
            }
        }
    }
}

/// Where a group alone says that a keyspace is.
fn only(state: &State, group: GroupId, name: &kv_core::Keyspace) -> crate::Residence {
    let standing = state.standing(group, name).unwrap_or_default();
    let moving = match standing.phase {
        Phase::Sealed { to } => Some((to, standing.last)),
        _ => None,
    };
    let came = matches!(standing.phase, Phase::Arriving { .. } | Phase::Absent { .. });
    crate::Residence { group: standing.place(group), readable: standing.readable() || came, moving }
}

/// It is found where it can be read, at each step, and so it is after a restart.
#[test]
fn it_is_found_at_each_step() {
    let dir = tempfile::tempdir().unwrap();
    let name = keyspace(NAME);
    let mut indexes = BTreeMap::new();
    let mut reopened = |step: &dyn Fn(&mut Logs<'_>), expected: (GroupId, bool)| {
        let store = open(dir.path());
        let mut logs = Logs { state: store.state(), indexes: indexes.clone() };
        step(&mut logs);
        indexes = logs.indexes;
        let place = |store: &Store| {
            let found = store.state().residence(&name);
            (found.group, found.moving.is_some())
        };
        assert_eq!(place(&store), expected);
        store.state().flush().unwrap();
        drop(store);
        assert_eq!(place(&open(dir.path())), expected);
    };
    reopened(&|logs| drop(logs.apply(G0, vec![commit(NAME, 0, &[(b"a", Some(b"1"))])])), (G0, false));
    reopened(&|logs| assert!(logs.round(1, &mut Filler::new(1), (G0, G1)) > 0), (G0, false));
    reopened(&|logs| assert!(logs.step(G0, 1, MoveStep::Seal { to: G1 })), (G0, true));
    let adopt = |logs: &mut Logs<'_>, epoch| {
        let (from, to) = if logs.state.residence(&name).group == G0 { (G0, G1) } else { (G1, G0) };
        let mut filler = Filler::new(epoch);
        logs.round(epoch, &mut filler, (from, to));
        assert!(logs.adopt(epoch, &filler, (from, to)));
    };
    // The epoch has to be a later one than before.
    reopened(
        &|logs| {
            let mut filler = Filler::new(2);
            logs.round(1, &mut filler, (G0, G1));
            assert!(logs.adopt(1, &filler, (G0, G1)));
        },
        (G1, false),
    );
    reopened(&|logs| assert!(logs.step(G0, 1, MoveStep::Drop)), (G1, false));
    reopened(&|logs| assert!(logs.step(G1, 2, MoveStep::Seal { to: G0 })), (G1, true));
    reopened(&|logs| adopt(logs, 2), (G0, false));
    reopened(&|logs| assert!(logs.step(G1, 2, MoveStep::Drop)), (G0, false));
}
