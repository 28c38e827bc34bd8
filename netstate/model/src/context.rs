//! What surrounds a command: when, who, why.

use crate::{Refusal, Timestamp, limits, text};

/// When a command is decided, who gave it and why.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time of the decision.
    pub now: Timestamp,
    /// Who asks. May be empty: nobody said.
    pub actor: &'a str,
    /// Why. May be empty where the operation requires no reason.
    pub reason: &'a str,
}

impl Context<'_> {
    /// Actor and reason go into records and onto terminals, so they are checked whatever the command.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        text::check("the actor", self.actor, limits::ACTOR_BYTES_MAX)?;
        text::check("the reason", self.reason, limits::REASON_BYTES_MAX)?;
        Ok(())
    }

    /// The reason, where the operation requires one.
    pub(crate) fn required_reason(&self, operation: &'static str) -> Result<&str, Refusal> {
        let reason = self.reason.trim();
        if reason.is_empty() { Err(Refusal::ReasonMissing { operation }) } else { Ok(reason) }
    }
}
