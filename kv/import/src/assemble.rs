//! Turns the events of a watch into transactions of the target.
//!
//! Must hold: the transactions of a revision carry all its changes, in order; a revision that fits into one transaction is never split;
//! events that are applied already are left out, also when a connection was lost between two parts of a revision. Parts are counted in
//! events of imported keys, which a source sends in the same order each time.
//!
//! Leaves to others: sending them (`writer`), and the watch itself (`follow`).

use bytes::Bytes;
use etcd_proto::mvccpb::{Event, event::EventType};

use crate::{
    SourceRevision,
    change::{Batch, Change, TxnLimits},
    record::Stage,
};

/// One transaction of the target, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) batch: Batch,
    /// The position afterwards: all of a revision, or a part of the one after.
    pub(crate) revision: SourceRevision,
    pub(crate) part: u64,
}

impl Step {
    pub(crate) fn stage(&self) -> Stage {
        Stage::Following { revision: self.revision, part: self.part }
    }
}

/// Collects the events of the revision that is being received.
pub(crate) struct Assembler {
    prefix: Bytes,
    skip: Bytes,
    limits: TxnLimits,
    /// Everything up to here has been handed out.
    done: SourceRevision,
    /// Events of the next revision to leave out.
    part: u64,
    /// The revision being received, and how many of its events came.
    current: Option<(SourceRevision, u64)>,
    batch: Batch,
}

impl Assembler {
    /// Goes on from a position.
    pub(crate) fn new(prefix: Bytes, skip: Bytes, limits: TxnLimits, done: SourceRevision, part: u64) -> Self {
        Self { prefix, skip, limits, done, part, current: None, batch: Batch::default() }
    }

    /// Everything up to here has been handed out, or concerned other keys.
    pub(crate) fn done(&self) -> SourceRevision {
        self.done
    }

    /// Takes the events of one answer, and says which transactions they complete.
    pub(crate) fn take(&mut self, events: Vec<Event>, more_follow: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        for event in events {
            let kind = event.r#type();
            let Some(pair) = event.kv else { continue };
            let revision = SourceRevision::new(pair.mod_revision);
            if revision <= self.done {
                continue;
            }
            if self.current.is_none_or(|(current, _)| current != revision) {
                steps.extend(self.complete());
                self.current = Some((revision, 0));
                if revision != self.done.next() {
                    self.part = 0;
                }
            }
            if !pair.key.starts_with(&self.prefix) || pair.key == self.skip {
                continue;
            }
            let change = match kind {
                EventType::Put => Change::put(pair),
                EventType::Delete => Change::Delete { key: pair.key },
            };
            steps.extend(self.add(change));
        }
        if !more_follow {
            steps.extend(self.complete());
        }
        steps
    }

    /// The source says that it has sent everything up to here.
    pub(crate) fn advance(&mut self, to: SourceRevision) {
        if self.current.is_none() && to > self.done {
            (self.done, self.part) = (to, 0);
        }
    }

    fn add(&mut self, change: Change) -> Option<Step> {
        let (_, seen) = self.current.as_mut()?;
        *seen += 1;
        if *seen <= self.part {
            return None;
        }
        let before = *seen - 1;
        if self.batch.fits(&change, self.limits) {
            self.batch.push(change);
            return None;
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch.push(change);
        self.part = before;
        Some(Step { batch, revision: self.done_before_current(), part: before })
    }

    /// A part counts from the revision before the one that it is of, whatever was applied last.
    fn done_before_current(&self) -> SourceRevision {
        self.current.map_or(self.done, |(current, _)| SourceRevision::new(current.get() - 1))
    }

    fn complete(&mut self) -> Option<Step> {
        let (revision, _) = self.current.take()?;
        (self.done, self.part) = (revision, 0);
        let batch = std::mem::take(&mut self.batch);
        (!batch.is_empty()).then_some(Step { batch, revision, part: 0 })
    }
}

/// Puts up to so many whole revisions that arrived together into one transaction, where they fit.
pub(crate) fn merge(steps: Vec<Step>, revisions_max: usize, limits: TxnLimits) -> Vec<Step> {
    let mut merged: Vec<(usize, Step)> = Vec::new();
    for step in steps {
        match merged.last_mut() {
            // A revision that is split begins with a step that leads to a part, so neither is one.
            Some((revisions, last))
                if last.part == 0
                    && step.part == 0
                    && *revisions < revisions_max
                    && last.batch.len() + step.batch.len() <= limits.changes
                    && last.batch.bytes() + step.batch.bytes() <= limits.bytes =>
            {
                *revisions += 1;
                last.batch.append(step.batch);
                last.revision = step.revision;
            }
            _ => merged.push((1, step)),
        }
    }
    merged.into_iter().map(|(_, step)| step).collect()
}

#[cfg(test)]
mod tests {
    use etcd_proto::mvccpb::KeyValue;

    use super::*;

    const LIMITS: TxnLimits = TxnLimits { changes: 3, bytes: 1_000 };

    /// `5+a` puts a in revision 5, `5-a` deletes it.
    fn events(text: &str) -> Vec<Event> {
        let event = |word: &str| {
            let at = word.find(['+', '-']).unwrap();
            let kind = if &word[at..=at] == "+" { EventType::Put } else { EventType::Delete };
            let pair = KeyValue {
                key: word[at + 1..].to_owned().into(),
                mod_revision: word[..at].parse().unwrap(),
                ..Default::default()
            };
            Event { r#type: kind.into(), kv: Some(pair), prev_kv: None }
        };
        text.split_whitespace().map(event).collect()
    }

    fn assembler(done: i64, part: u64) -> Assembler {
        Assembler::new(Bytes::new(), "position".into(), LIMITS, SourceRevision::new(done), part)
    }

    fn render(steps: &[Step]) -> String {
        let step = |step: &Step| {
            let change = |change: &Change| match change {
                Change::Put { key, .. } => format!("+{}", key.escape_ascii()),
                Change::Delete { key } => format!("-{}", key.escape_ascii()),
            };
            let changes: String = step.batch.clone().into_changes().iter().map(change).collect();
            format!("{}.{}:{changes}", step.revision, step.part)
        };
        steps.iter().map(step).collect::<Vec<_>>().join(" ")
    }

    trait Escape {
        fn escape_ascii(&self) -> String;
    }

    impl Escape for Bytes {
        fn escape_ascii(&self) -> String {
            self[..].escape_ascii().to_string()
        }
    }

    #[test]
    fn each_revision_is_a_step() {
        assert_eq!(render(&assembler(4, 0).take(events("5+a 5-b 6+a 8+c"), false)), "s5.0:+a-b s6.0:+a s8.0:+c");
    }

    #[test]
    fn a_revision_in_fragments_waits_for_its_end() {
        let mut assembler = assembler(4, 0);
        assert_eq!(render(&assembler.take(events("5+a 5+b"), true)), "");
        assert_eq!(assembler.done(), SourceRevision::new(4));
        assert_eq!(render(&assembler.take(events("5+c"), false)), "s5.0:+a+b+c");
        assert_eq!(assembler.done(), SourceRevision::new(5));
    }

    #[test]
    fn what_is_applied_is_left_out() {
        assert_eq!(render(&assembler(5, 0).take(events("4+a 5+b 6+c"), false)), "s6.0:+c");
    }

    #[test]
    fn a_large_revision_is_split_and_goes_on_after_any_part() {
        let all = "9+a 9+b 9+c 9+d 9+e 9+f 9+g 11+h";
        assert_eq!(render(&assembler(4, 0).take(events(all), false)), "s8.3:+a+b+c s8.6:+d+e+f s9.0:+g s11.0:+h");
        assert_eq!(render(&assembler(8, 3).take(events(all), false)), "s8.6:+d+e+f s9.0:+g s11.0:+h");
        assert_eq!(render(&assembler(8, 6).take(events(all), false)), "s9.0:+g s11.0:+h");
    }

    #[test]
    fn other_keys_are_neither_applied_nor_counted() {
        let mut assembler = Assembler::new("k/".into(), "k/position".into(), LIMITS, SourceRevision::new(1), 0);
        let steps = assembler.take(events("2+k/a 2+x 2+k/b 2+k/position 2+k/c 2+k/d 3+x"), false);
        assert_eq!(render(&steps), "s1.3:+k/a+k/b+k/c s2.0:+k/d");
        assert_eq!(assembler.done(), SourceRevision::new(3));
    }

    #[test]
    fn bookmarks_advance_unless_a_revision_is_under_way() {
        let mut assembler = assembler(4, 0);
        assembler.advance(SourceRevision::new(7));
        assert_eq!(assembler.done(), SourceRevision::new(7));
        assembler.take(events("8+a"), true);
        assembler.advance(SourceRevision::new(9));
        assert_eq!(assembler.done(), SourceRevision::new(7));
    }

    #[test]
    fn whole_revisions_merge_up_to_the_limits() {
        let steps = assembler(4, 0).take(events("5+a 6+a 7+b 7+c 8+d 8+e 8+f 8+g 9+h"), false);
        assert_eq!(render(&merge(steps.clone(), 1, LIMITS)), render(&steps));
        assert_eq!(render(&merge(steps.clone(), 2, LIMITS)), "s6.0:+a s7.0:+b+c s7.3:+d+e+f s9.0:+g+h");
        assert_eq!(render(&merge(steps, 9, LIMITS)), "s6.0:+a s7.0:+b+c s7.3:+d+e+f s9.0:+g+h");
    }
}
