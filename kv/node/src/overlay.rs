//! What the keys of a group will be once everything in flight has been applied.
//!
//! A leader works out a transaction against the state that it will meet, which includes the transactions proposed before it
//! and not applied yet. This is the difference between that and the state on disk, and nothing more: an entry leaves when
//! its commit has been applied.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use kv_core::{Change, Commit, Effect, Head, KeyRange, KeyState, Keyspace, LeaseId, RequestId, Revision, Timestamp};

/// Maps on the way of every write; never iterated where order counts.
pub(crate) type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// In-flight writes of all keyspaces of a group.
#[derive(Default)]
pub(crate) struct Overlay {
    keyspaces: FastMap<Keyspace, InFlight>,
}

#[derive(Default)]
struct InFlight {
    /// The revision that the last one in flight will make.
    revision: Revision,
    at: Timestamp,
    commits: usize,
    /// Writes per key, oldest first.
    keys: FastMap<Bytes, VecDeque<(Revision, Option<Written>)>>,
    requests: HashMap<RequestId, usize>,
    /// Oldest first.
    effects: VecDeque<Effect>,
}

#[derive(Clone)]
struct Written {
    value: Bytes,
    lease: Option<LeaseId>,
}

impl Overlay {
    /// The revision and time that the next commit of the keyspace builds on.
    pub(crate) fn base(&self, keyspace: &Keyspace, applied: &Head) -> (Revision, Timestamp) {
        match self.keyspaces.get(keyspace) {
            Some(in_flight) => (in_flight.revision.max(applied.revision), in_flight.at.max(applied.at)),
            None => (applied.revision, applied.at),
        }
    }

    /// Whether a transaction with this id is in flight.
    pub(crate) fn repeats(&self, keyspace: &Keyspace, request: &RequestId) -> bool {
        self.keyspaces.get(keyspace).is_some_and(|in_flight| in_flight.requests.contains_key(request))
    }

    /// A key's state, given what is on disk.
    pub(crate) fn state(&self, keyspace: &Keyspace, key: &[u8], stored: Option<KeyState>) -> Option<KeyState> {
        self.state_at(keyspace, key, stored, Revision::new(u64::MAX))
    }

    /// A key's state at a revision, given what is on disk of it at that revision.
    pub(crate) fn state_at(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        stored: Option<KeyState>,
        at: Revision,
    ) -> Option<KeyState> {
        let Some(writes) = self.keyspaces.get(keyspace).and_then(|in_flight| in_flight.keys.get(key)) else {
            return stored;
        };
        let known = stored.as_ref().map_or(Revision::ZERO, |state| state.mod_revision);
        let writes = writes.iter().filter(|(revision, _)| *revision > known && *revision <= at);
        writes.fold(stored, |state, (revision, written)| {
            let Written { value, lease } = written.clone()?;
            Some(KeyState {
                value,
                create_revision: state.as_ref().map_or(*revision, |state| state.create_revision),
                mod_revision: *revision,
                version: state.map_or(0, |state| state.version) + 1,
                lease,
            })
        })
    }

    /// Keys of a range written by what is in flight.
    pub(crate) fn keys<'a>(
        &'a self,
        keyspace: &Keyspace,
        range: &'a KeyRange,
    ) -> impl Iterator<Item = &'a Bytes> + use<'a> {
        let keys = self.keyspaces.get(keyspace).into_iter().flat_map(|in_flight| in_flight.keys.keys());
        keys.filter(|key| range.contains(key))
    }

    /// Whether a lease is there once everything in flight is applied, given whether it is on disk.
    pub(crate) fn lease(&self, keyspace: &Keyspace, wanted: LeaseId, stored: bool) -> bool {
        self.effects(keyspace).fold(stored, |there, effect| match effect {
            Effect::Grant { lease, .. } if *lease == wanted => true,
            Effect::Revoke { lease } if *lease == wanted => false,
            _ => there,
        })
    }

    /// A record beside the keys once everything in flight is applied, given what is on disk.
    pub(crate) fn beside(&self, keyspace: &Keyspace, wanted: &[u8], stored: Option<Bytes>) -> Option<Bytes> {
        self.effects(keyspace).fold(stored, |there, effect| match effect {
            Effect::Record { key, value } if key == wanted => value.clone(),
            _ => there,
        })
    }

    fn effects(&self, keyspace: &Keyspace) -> impl Iterator<Item = &Effect> {
        self.keyspaces.get(keyspace).into_iter().flat_map(|in_flight| &in_flight.effects)
    }

    /// A commit is about to be proposed.
    pub(crate) fn push(&mut self, commit: &Commit) {
        let in_flight = self.keyspaces.entry(commit.keyspace.clone()).or_default();
        in_flight.commits += 1;
        in_flight.at = in_flight.at.max(commit.at);
        if let Some(request) = commit.request {
            *in_flight.requests.entry(request).or_default() += 1;
        }
        in_flight.effects.extend(commit.effects.iter().cloned());
        if commit.changes.is_empty() {
            in_flight.revision = in_flight.revision.max(commit.base);
            return;
        }
        let revision = commit.base.next();
        in_flight.revision = revision;
        for Change { key, value, lease } in &commit.changes {
            let written = value.clone().map(|value| Written { value, lease: *lease });
            in_flight.keys.entry(key.clone()).or_default().push_back((revision, written));
        }
    }

    /// A commit that was pushed has been applied: the oldest one of its keyspace.
    pub(crate) fn pop(&mut self, commit: &Commit) {
        let Some(in_flight) = self.keyspaces.get_mut(&commit.keyspace) else { return };
        in_flight.effects.drain(..commit.effects.len().min(in_flight.effects.len()));
        self.remove(commit, |written, revision| written > revision);
    }

    /// A commit that was pushed will not be proposed: the newest one of its keyspace.
    pub(crate) fn take_back(&mut self, commit: &Commit) {
        let Some(in_flight) = self.keyspaces.get_mut(&commit.keyspace) else { return };
        in_flight.effects.truncate(in_flight.effects.len().saturating_sub(commit.effects.len()));
        in_flight.revision = commit.base;
        self.remove(commit, |written, revision| written != revision);
    }

    fn remove(&mut self, commit: &Commit, stays: impl Fn(Revision, Revision) -> bool) {
        let Some(in_flight) = self.keyspaces.get_mut(&commit.keyspace) else { return };
        let revision = commit.base.next();
        for Change { key, .. } in &commit.changes {
            if let Some(writes) = in_flight.keys.get_mut(key) {
                writes.retain(|(written, _)| stays(*written, revision));
                if writes.is_empty() {
                    in_flight.keys.remove(key);
                }
            }
        }
        if let Some(request) = &commit.request
            && let Some(count) = in_flight.requests.get_mut(request)
        {
            *count -= 1;
            if *count == 0 {
                in_flight.requests.remove(request);
            }
        }
        in_flight.commits -= 1;
        if in_flight.commits == 0 {
            self.keyspaces.remove(&commit.keyspace);
        }
    }

    /// Forgets everything: what was in flight may or may not be applied.
    pub(crate) fn clear(&mut self) {
        self.keyspaces.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(base: u64, key: &'static str, value: Option<&'static str>) -> Commit {
        Commit {
            keyspace: Keyspace::new("k").unwrap(),
            base: Revision::new(base),
            at: Timestamp::from_micros(base as i64),
            actor: String::new(),
            reason: String::new(),
            request: None,
            succeeded: true,
            changes: vec![Change { key: key.into(), value: value.map(Into::into), lease: None }],
            effects: Vec::new(),
        }
    }

    #[test]
    fn in_flight_writes_are_seen_in_order_and_leave_one_by_one() {
        let keyspace = Keyspace::new("k").unwrap();
        let mut overlay = Overlay::default();
        let (one, two, three) = (commit(4, "a", Some("x")), commit(5, "a", None), commit(6, "a", Some("y")));
        overlay.push(&one);
        let state = overlay.state(&keyspace, b"a", None).unwrap();
        assert_eq!((state.create_revision.get(), state.mod_revision.get(), state.version), (5, 5, 1));
        overlay.push(&two);
        assert_eq!(overlay.state(&keyspace, b"a", None), None);
        overlay.push(&three);
        let state = overlay.state(&keyspace, b"a", None).unwrap();
        assert_eq!((state.create_revision.get(), state.version, &state.value[..]), (7, 1, &b"y"[..]));
        assert_eq!(overlay.base(&keyspace, &Head::default()).0, Revision::new(7));

        // The first one reached the disk before we were told: it is not counted twice.
        let stored = Some(overlay.state(&keyspace, b"a", None).unwrap());
        assert_eq!(overlay.state(&keyspace, b"a", stored.clone()), stored);
        for commit in [&one, &two, &three] {
            overlay.pop(commit);
        }
        assert_eq!(overlay.keys(&keyspace, &KeyRange::All).count(), 0);
        assert_eq!(overlay.base(&keyspace, &Head::default()).0, Revision::ZERO);
    }
}
