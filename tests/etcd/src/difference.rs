//! Shows where two answers differ, what led to it, and how to repeat it.

use std::collections::VecDeque;
use std::fmt;

use crate::response::Response;

/// How many operations are shown before the one that was answered differently.
const HISTORY_OPERATIONS_MAX: usize = 40;
/// How many equal lines are shown before the first that differs.
const CONTEXT_LINES: usize = 6;
/// How many lines are shown of each answer from the first that differs.
const DIFFERING_LINES_MAX: usize = 24;

/// The last operations of a run.
#[derive(Debug)]
pub(crate) struct History {
    seed: u64,
    count: usize,
    last: VecDeque<String>,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, count: 0, last: VecDeque::new() }
    }

    /// Notes an operation and, in brief, what became of it.
    pub(crate) fn push(&mut self, what: &str, response: &Response) {
        let outcome = match response {
            Response::Answer { revision, .. } => format!("ok at revision {revision}"),
            refusal @ Response::Refusal { .. } => refusal.to_string(),
        };
        self.note(&format!("{what}\n        {outcome}"));
    }

    /// Notes anything else that happened.
    pub(crate) fn note(&mut self, what: &str) {
        self.count += 1;
        self.last.push_back(format!("{:6}. {what}", self.count));
        if self.last.len() > HISTORY_OPERATIONS_MAX {
            self.last.pop_front();
        }
    }

    /// The whole story of a difference.
    pub(crate) fn report(&self, what: &str, difference: &Difference) -> String {
        let mut text = String::from("the last operations and the reference's answers:\n");
        for line in &self.last {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&format!("\nanswered differently: {what}\n{difference}\n"));
        text.push_str(&format!("repeat with ETCD_TESTS_SEED={}\n", self.seed));
        text
    }
}

/// Where two texts differ, line by line.
#[derive(Debug)]
pub struct Difference {
    common: Vec<String>,
    reference: Vec<String>,
    subject: Vec<String>,
}

impl Difference {
    /// The first difference between what the reference and what the subject said.
    pub fn new(reference: &str, subject: &str) -> Self {
        let (reference, subject): (Vec<_>, Vec<_>) = (reference.lines().collect(), subject.lines().collect());
        let equal = reference.iter().zip(&subject).take_while(|(left, right)| left == right).count();
        let shown = |lines: &[&str], from: usize, to: usize| {
            lines[from.min(lines.len())..to.min(lines.len())].iter().map(ToString::to_string).collect()
        };
        Self {
            common: shown(&reference, equal.saturating_sub(CONTEXT_LINES), equal),
            reference: shown(&reference, equal, equal + DIFFERING_LINES_MAX),
            subject: shown(&subject, equal, equal + DIFFERING_LINES_MAX),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mark, lines) in [("  both", &self.common), ("  etcd", &self.reference), ("  this", &self.subject)] {
            for line in lines {
                writeln!(f, "{mark} | {line}")?;
            }
            if lines.is_empty() && mark != "  both" {
                writeln!(f, "{mark} | (nothing more)")?;
            }
        }
        Ok(())
    }
}
