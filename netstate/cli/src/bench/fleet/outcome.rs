//! Everything that was measured of a fleet, for people and for programs.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{Args, changes::Changed, processes::Use};
use crate::{bench::latency::Latency, human};

/// A time in which hosts came.
pub(super) struct Arrival {
    pub(super) latency: Latency,
    pub(super) took: Duration,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) processor: Duration,
}

/// Hosts that came back, and what those who had stayed were told meanwhile.
pub(super) struct Return {
    pub(super) arrival: Arrival,
    pub(super) meanwhile: Changed,
    pub(super) before: Use,
    pub(super) after: Use,
}

/// Changes to fast hosts alone, and beside slow ones.
pub(super) struct Slow {
    pub(super) alone: Changed,
    pub(super) beside: Changed,
    pub(super) before: Use,
    pub(super) after: Use,
}

/// Everything that was measured. What is not known of processes is zero.
pub(super) struct Outcome {
    pub(super) empty: Use,
    pub(super) idle: Use,
    pub(super) arrived: Arrival,
    /// At a fifth of the rate, and at the rate.
    pub(super) calm: Changed,
    pub(super) changed: Changed,
    pub(super) saturated: Option<Changed>,
    /// What hosts had missed, and how they came back.
    pub(super) returns: Vec<(&'static str, Return)>,
    pub(super) slow: Option<Slow>,
    pub(super) killed: Option<Arrival>,
}

impl Arrival {
    fn json(&self) -> Value {
        json!({
            "all_after_ms": self.took.as_secs_f64() * 1000.0,
            "latency": self.latency.json(),
            "bytes": self.bytes,
            "streams_lost": self.lost,
            "server_seconds": self.processor.as_secs_f64(),
        })
    }

    fn text(&self) -> String {
        let each = human::bytes(self.bytes / self.latency.calls().max(1));
        let lost = match self.lost {
            0 => String::new(),
            lost => format!(", {} lost or refused", human::things(lost, "stream")),
        };
        format!("all after {:.2} s, {}; {each} a host{lost}", self.took.as_secs_f64(), self.latency.text())
    }
}

impl Return {
    /// The most that was resident beyond what was before.
    fn grew(&self) -> u64 {
        self.after.peak.saturating_sub(self.before.resident)
    }

    fn json(&self, missed: &str) -> Value {
        json!({
            "missed": missed,
            "return": self.arrival.json(),
            "server_bytes_more_at_the_peak": self.grew(),
            "others_meanwhile": self.meanwhile.json(),
        })
    }
}

impl Slow {
    fn grew(&self) -> u64 {
        self.after.peak.saturating_sub(self.before.resident)
    }
}

impl Outcome {
    fn per_host(&self, args: &Args) -> u64 {
        self.idle.resident.saturating_sub(self.empty.resident) / u64::from(args.hosts)
    }

    pub(super) fn json(&self, args: &Args) -> Value {
        json!({
            "system": if args.etcd.is_empty() { "netstate" } else { "etcd" },
            "hosts": args.hosts,
            "networks": args.networks,
            "endpoints": args.endpoints,
            "seed": args.seed,
            "server_bytes_before_hosts": self.empty.resident,
            "server_bytes_with_idle_hosts": self.idle.resident,
            "server_bytes_per_host": self.per_host(args),
            "arrive": self.arrived.json(),
            "calm": self.calm.json(),
            "change": self.changed.json(),
            "saturated": self.saturated.as_ref().map(Changed::json),
            "returns": self.returns.iter().map(|(missed, back)| back.json(missed)).collect::<Vec<_>>(),
            "slow": self.slow.as_ref().map(|slow| json!({
                "alone": slow.alone.json(),
                "beside_slow_hosts": slow.beside.json(),
                "server_bytes_more_at_the_peak": slow.grew(),
            })),
            "killed": self.killed.as_ref().map(Arrival::json),
        })
    }

    pub(super) fn text(&self, args: &Args) -> String {
        let mut text =
            format!("{} hosts arrive with nothing: {}\n", human::count(args.hosts.into()), self.arrived.text());
        if !args.pids.is_empty() {
            let (before, idle) = (human::bytes(self.empty.resident), human::bytes(self.idle.resident));
            let each = human::bytes(self.per_host(args));
            let _ = writeln!(text, "servers: {before} before, {idle} with idle hosts: {each} a host");
        }
        let (calm, changed) = (self.calm.text(), self.changed.text());
        let _ = writeln!(text, "\nat a fifth of the rate: {calm}\nat the rate: {changed}");
        if let Some(saturated) = &self.saturated {
            let _ = writeln!(text, "\nas many as can be: {}", saturated.text());
        }
        for (missed, back) in &self.returns {
            let grew = human::bytes(back.grew());
            let _ = writeln!(
                text,
                "\nhosts return, having missed {missed}: {}; servers took {grew} more\nthose who stayed: {}",
                back.arrival.text(),
                back.meanwhile.text(),
            );
        }
        if let Some(slow) = &self.slow {
            let (alone, beside) = (slow.alone.text(), slow.beside.text());
            let grew = human::bytes(slow.grew());
            let _ = writeln!(
                text,
                "\nfast hosts alone: {alone}\nbeside slow ones: {beside}\nservers took {grew} more at most"
            );
        }
        if let Some(killed) = &self.killed {
            let _ = writeln!(text, "\na server is killed: {}", killed.text());
        }
        text.truncate(text.trim_end().len());
        text
    }
}
