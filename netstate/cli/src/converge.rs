//! Waiting until hosts have programmed a change, with a line on the terminal that says how far they are.

use std::time::Duration;

use netstate_client::{Client, ClientError};
use netstate_proto::v1::{self as pb, convergence_request::What};
use tokio::time::{self, Instant};
use tonic::Code;

use crate::{console::Console, failure::Failure, human, values::Span};

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

/// For how long a host may be silent before it counts as lost, unless it is said.
pub(crate) const LOST_AFTER: Span = Span::seconds(60);

/// What was last seen of a change, and for how long it was waited for.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Silent for longer than this a host was not waited for.
    except: Option<Duration>,
    pub(crate) answer: pb::ConvergenceResponse,
    pub(crate) waited: Duration,
    /// Whether every host concerned has it in force.
    pub(crate) done: bool,
}

/// Whether a host has been silent for so long.
fn is_lost(host: &pb::HostConvergence, except: Option<Duration>) -> bool {
    !host.connected && except.is_some_and(|after| human::micros(host.silent_micros) >= after)
}

/// Waits until every host concerned reports a change programmed, or patience ends. With `except`, hosts that have been silent
/// for so long are not waited for.
pub(crate) async fn wait(
    client: &Client,
    awaited: &Awaited,
    patience: Duration,
    except: Option<Duration>,
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
                answer.hosts.iter().all(|host| host.programmed || is_lost(host, except))
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
            return Ok(Seen { except, answer, waited, done: reached });
        }
        line.set_message(progress(&answer, except));
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
        if !self.done {
            return Err(Failure::False(Some(format!("after {waited}: {}", progress(&self.answer, self.except)))));
        }
        let lost = |host: &&pb::HostConvergence| !host.programmed && is_lost(host, self.except);
        let lost: Vec<_> = self.answer.hosts.iter().filter(lost).map(|host| host.host.clone()).collect();
        Ok(match (self.answer.hosts.len(), lost.len()) {
            (0, _) => "no host is concerned".to_owned(),
            (1, 0) => format!("in force on the one host concerned after {waited}"),
            (hosts, 0) => format!("in force on all {hosts} hosts concerned after {waited}"),
            (hosts, there) => {
                let force = hosts - there;
                format!("in force on {force} of {hosts} hosts concerned after {waited}; lost: {}", named(lost))
            }
        })
    }
}

/// The first names, and how many more there are.
fn named(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// How far hosts are, in words.
fn progress(answer: &pb::ConvergenceResponse, except: Option<Duration>) -> String {
    let name = |host: &pb::HostConvergence| match (host.problem.as_str(), host.connected) {
        ("", true) => host.host.clone(),
        ("", false) => format!("{} (not connected)", host.host),
        (problem, _) => format!("{} ({problem})", host.host),
    };
    let pending = answer.hosts.iter().filter(|host| !host.programmed && !is_lost(host, except));
    let names: Vec<String> = pending.map(name).collect();
    let waiting = if names.is_empty() { String::new() } else { format!("; waiting for {}", named(names)) };
    format!("in force on {} of {} hosts{waiting}", answer.programmed, answer.hosts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, programmed: bool, connected: bool, problem: &str) -> pb::HostConvergence {
        pb::HostConvergence { host: name.into(), programmed, connected, problem: problem.into(), silent_micros: 0 }
    }

    #[test]
    fn lost_hosts_are_named_and_not_waited_for() {
        let silent = |seconds: i64| pb::HostConvergence {
            silent_micros: seconds * 1_000_000,
            ..host(&format!("s{seconds}"), false, false, "")
        };
        let hosts = vec![host("a", true, true, ""), silent(5), silent(90)];
        let answer = pb::ConvergenceResponse { hosts, programmed: 1, pending: 2 };
        let except = Some(Duration::from_secs(60));
        assert_eq!(progress(&answer, except), "in force on 1 of 3 hosts; waiting for s5 (not connected)");
        let seen = Seen { except: Some(Duration::from_secs(5)), answer, waited: Duration::from_millis(3), done: true };
        assert_eq!(seen.conclude().unwrap(), "in force on 1 of 3 hosts concerned after 3.0 ms; lost: s5, s90");
    }

    #[test]
    fn who_lags_is_named_with_the_reason() {
        let hosts = vec![host("a", true, true, ""), host("b", false, false, ""), host("c", false, true, "no nft")];
        let answer = pb::ConvergenceResponse { hosts, programmed: 1, pending: 2 };
        assert_eq!(progress(&answer, None), "in force on 1 of 3 hosts; waiting for b (not connected), c (no nft)");
        let hosts = (0..9).map(|n| host(&format!("h{n}"), false, true, "")).collect();
        let answer = pb::ConvergenceResponse { hosts, programmed: 0, pending: 9 };
        assert_eq!(progress(&answer, None), "in force on 0 of 9 hosts; waiting for h0, h1, h2, h3, h4, 4 more");
    }
}
