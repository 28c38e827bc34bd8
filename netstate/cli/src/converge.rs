//! Waiting until hosts have programmed a change, with a line on the terminal that says how far they are.

use std::time::Duration;

use netstate_client::{Client, ClientError};
use netstate_proto::v1::{self as pb, convergence_request::What};
use tokio::time::{self, Instant};
use tonic::Code;

use crate::{console::Console, failure::Failure};

/// Between looks. Hosts take some milliseconds, so the first looks follow closely.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(200);
/// Hosts named in one line.
const NAMED_MAX: usize = 5;

/// What is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Awaited(What);

impl Awaited {
    /// A connection: in force if it is there, out of force if it was removed.
    pub(crate) fn connection(id: &str) -> Self {
        Awaited(What::Connection(id.to_owned()))
    }

    /// A position, on all hosts that may have to know of it.
    pub(crate) fn position(position: pb::Position) -> Self {
        Awaited(What::Position(position))
    }
}

/// What was last seen of a change, and for how long it was waited for.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) answer: pb::ConvergenceResponse,
    pub(crate) waited: Duration,
    /// Whether every host concerned has it in force.
    pub(crate) done: bool,
}

/// Waits until every host concerned reports a change programmed, or patience ends.
pub(crate) async fn wait(
    client: &Client,
    awaited: &Awaited,
    patience: Duration,
    console: Console,
) -> Result<Seen, Failure> {
    let line = console.line();
    let began = Instant::now();
    let mut pause = LOOK_FIRST;
    let mut answer = pb::ConvergenceResponse::default();
    loop {
        let reached = match look(client, awaited).await {
            Ok(seen) => {
                answer = seen;
                answer.pending == 0
            }
            // A position that is not reached yet may be reached soon.
            Err(ClientError::Refused { code: Code::FailedPrecondition, message }) => {
                line.set_message(message);
                false
            }
            Err(error) => return Err(error.into()),
        };
        let waited = began.elapsed();
        if reached || waited >= patience {
            line.finish_and_clear();
            return Ok(Seen { answer, waited, done: reached });
        }
        line.set_message(progress(&answer));
        time::sleep(pause.min(patience.saturating_sub(waited))).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// Asks once.
pub(crate) async fn look(client: &Client, awaited: &Awaited) -> Result<pb::ConvergenceResponse, ClientError> {
    client.convergence(pb::ConvergenceRequest { what: Some(awaited.0.clone()) }).await
}

impl Seen {
    /// Tells how it ended: a line when done, a failure that names who lags when not.
    pub(crate) fn conclude(&self) -> Result<String, Failure> {
        let waited = format!("{:.1} ms", self.waited.as_secs_f64() * 1000.0);
        match (self.done, self.answer.hosts.len()) {
            (true, 0) => Ok("no host is concerned".to_owned()),
            (true, 1) => Ok(format!("in force on the one host concerned after {waited}")),
            (true, hosts) => Ok(format!("in force on all {hosts} hosts concerned after {waited}")),
            (false, _) => Err(Failure::False(Some(format!("after {waited}: {}", progress(&self.answer))))),
        }
    }
}

/// How far hosts are, in words.
fn progress(answer: &pb::ConvergenceResponse) -> String {
    let pending: Vec<&pb::HostConvergence> = answer.hosts.iter().filter(|host| !host.programmed).collect();
    let name = |host: &&pb::HostConvergence| match (host.problem.as_str(), host.connected) {
        ("", true) => host.host.clone(),
        ("", false) => format!("{} (not connected)", host.host),
        (problem, _) => format!("{} ({problem})", host.host),
    };
    let mut names: Vec<String> = pending.iter().take(NAMED_MAX).map(name).collect();
    if pending.len() > NAMED_MAX {
        names.push(format!("{} more", pending.len() - NAMED_MAX));
    }
    let waiting = if names.is_empty() { String::new() } else { format!("; waiting for {}", names.join(", ")) };
    format!("in force on {} of {} hosts{waiting}", answer.programmed, answer.hosts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, programmed: bool, connected: bool, problem: &str) -> pb::HostConvergence {
        pb::HostConvergence { host: name.into(), programmed, connected, problem: problem.into() }
    }

    #[test]
    fn who_lags_is_named_with_the_reason() {
        let hosts = vec![host("a", true, true, ""), host("b", false, false, ""), host("c", false, true, "no nft")];
        let answer = pb::ConvergenceResponse { hosts, programmed: 1, pending: 2 };
        assert_eq!(progress(&answer), "in force on 1 of 3 hosts; waiting for b (not connected), c (no nft)");
        let hosts = (0..9).map(|n| host(&format!("h{n}"), false, true, "")).collect();
        let answer = pb::ConvergenceResponse { hosts, programmed: 0, pending: 9 };
        assert_eq!(progress(&answer), "in force on 0 of 9 hosts; waiting for h0, h1, h2, h3, h4, 4 more");
    }
}
