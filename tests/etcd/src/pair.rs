//! The reference and the system under test, side by side: every operation goes to both, and the answers are compared.
//!
//! Must hold: the first difference ends the run with an error that shows it, what led to it, and how to repeat it.
//!
//! Left to others: how a difference reads (see `difference`).

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use bytes::Bytes;
use tonic::Code;

use crate::allowed;
use crate::apply::System;
use crate::difference::{Difference, History};
use crate::operation::Operation;
use crate::response::Response;
use crate::server::Kind;

/// Both systems, in the same state as far as anybody has seen.
#[derive(Debug)]
pub struct Pair {
    /// Whose answers are right.
    pub reference: System,
    /// Whose answers are compared.
    pub subject: System,
    history: History,
    refusals: BTreeMap<(String, String), usize>,
    answers: usize,
}

impl Pair {
    /// Starts both, empty. The seed is shown with a difference.
    pub async fn start(seed: u64) -> Result<Self> {
        let (reference, subject) = tokio::try_join!(System::start(Kind::Etcd), System::start(Kind::subject()?))?;
        Ok(Self { reference, subject, history: History::new(seed), refusals: BTreeMap::new(), answers: 0 })
    }

    /// Sends an operation to both. Gives the reference's answer, or the difference as an error.
    pub async fn apply(&mut self, operation: impl Into<Operation>) -> Result<Response> {
        let operation = operation.into();
        let (reference, subject) = tokio::join!(self.reference.apply(&operation), self.subject.apply(&operation));
        self.settle(&operation.request.name(), &operation.to_string(), reference, &subject)
    }

    /// Sends a body of any bytes to both. Gives the reference's answer, or the difference as an error.
    pub async fn apply_raw(&mut self, path: &'static str, body: Bytes) -> Result<Response> {
        let (reference, subject) =
            tokio::join!(self.reference.apply_raw(path, body.clone()), self.subject.apply_raw(path, body.clone()));
        self.settle(path, &format!("{path} with {body:?}"), reference, &subject)
    }

    fn settle(&mut self, name: &str, what: &str, reference: Response, subject: &Response) -> Result<Response> {
        match &reference {
            Response::Answer { .. } => self.answers += 1,
            Response::Refusal { .. } => {
                *self.refusals.entry((name.to_owned(), reference.to_string())).or_default() += 1;
            }
        }
        let difference = || Difference::new(&reference.to_string(), &subject.to_string());
        if is_lost(&reference) {
            bail!("{}", self.history.report(&format!("{what}, by a reference that is gone"), &difference()));
        }
        if !allowed::same(&reference, subject) {
            bail!("{}", self.history.report(what, &difference()));
        }
        self.history.push(what, &reference);
        Ok(reference)
    }

    /// Compares two texts that were not an operation's answers, such as what watches brought.
    pub fn compare(&mut self, what: &str, reference: &str, subject: &str) -> Result<()> {
        if reference != subject {
            bail!("{}", self.history.report(what, &Difference::new(reference, subject)));
        }
        self.history.note(what);
        Ok(())
    }

    /// How many operations were carried out, and how often each refusal was met.
    pub fn summary(&self) -> String {
        let mut text = format!("{} operations answered; refusals:\n", self.answers);
        for ((request, refusal), count) in &self.refusals {
            text.push_str(&format!("  {count:5} {request}: {refusal}\n"));
        }
        text
    }

    /// How many different refusals were met. A run that met few has tested little.
    pub fn refusals(&self) -> usize {
        self.refusals.len()
    }
}

/// Whether the connection was lost rather than the operation refused: a server that ended itself has nothing to compare.
fn is_lost(response: &Response) -> bool {
    match response {
        Response::Refusal { code: Code::Unavailable | Code::Cancelled, .. } => true,
        Response::Refusal { code: Code::Unknown, message } => {
            message.contains("transport error") || message.contains("h2 ")
        }
        _ => false,
    }
}
