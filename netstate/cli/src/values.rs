//! What people write on command lines: spans of time, traffic, labels, positions.
//!
//! Must hold: what is accepted here means one thing only; what is refused is repeated with what to write instead.

use std::{fmt, str::FromStr, time::Duration};

use netstate_model::{Ports, PortsError, Protocol};
use netstate_proto::v1 as pb;

/// Characters of a wrong value that are repeated.
const SHOWN_MAX: usize = 60;

/// A span of time: `500ms`, `90s`, `15m`, `2h`, `7d`, `1w`, or several of them: `1h30m`. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(Duration);

/// A text that is no span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpanError {
    #[error("{0:?} is no span of time; write a number and a unit, such as 90s, 15m, 2h, 7d or 1h30m")]
    Form(String),
    #[error("a span of nothing; give more than zero")]
    Zero,
    #[error("{0:?} is longer than a span may be")]
    TooLong(String),
}

impl Span {
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Span(Duration::from_secs(seconds))
    }

    pub(crate) fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let form = || SpanError::Form(shown(text));
        let too_long = || SpanError::TooLong(shown(text));
        let (mut rest, mut millis, mut smallest) = (text, 0_u64, u64::MAX);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(form)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let unit = match unit {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                "w" => 604_800_000,
                _ => return Err(form()),
            };
            if number.is_empty() || unit >= smallest {
                return Err(form());
            }
            let number: u64 = number.parse().map_err(|_| too_long())?;
            millis = number.checked_mul(unit).and_then(|more| millis.checked_add(more)).ok_or_else(too_long)?;
            (rest, smallest) = (tail, unit);
        }
        match (text.is_empty(), millis) {
            (true, _) => Err(form()),
            (_, 0) => Err(SpanError::Zero),
            _ => Ok(Span(Duration::from_millis(millis))),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::human::span(self.0).replace(' ', ""))
    }
}

/// One `--port`: `tcp/443`, `tcp/80,8000-8080`, `udp/53`, `tcp`, `icmp`, `any`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    protocol: Protocol,
    /// Empty: all ports.
    ranges: Vec<Ports>,
}

/// All `--port`s together: what one connection lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) protocol: Protocol,
    pub(crate) ranges: Vec<Ports>,
}

/// What is no traffic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrafficError {
    #[error(transparent)]
    Ports(#[from] PortsError),
    #[error("{0:?} names a port and no protocol; write tcp/{0} or udp/{0}")]
    NoProtocol(String),
    #[error("{protocol} has no ports; write --port {protocol}")]
    Portless { protocol: Protocol },
    #[error("a connection carries one protocol, not {first} and {second}; connect once for each")]
    Protocols { first: Protocol, second: Protocol },
    #[error("{protocol} without a port means all ports; leave the others out, or leave it out")]
    AllAndSome { protocol: Protocol },
}

impl FromStr for Port {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(TrafficError::NoProtocol(shown(text)));
        }
        let (protocol, ports) = match text.split_once('/') {
            Some((protocol, ports)) => (protocol.parse::<Protocol>()?, Some(ports)),
            None => (text.parse::<Protocol>()?, None),
        };
        let ranges = match ports {
            Some(_) if !protocol.has_ports() => return Err(TrafficError::Portless { protocol }),
            Some(ports) => ports.split(',').map(str::parse).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        Ok(Port { protocol, ranges })
    }
}

impl Traffic {
    /// Puts several `--port`s together. There must be at least one.
    pub(crate) fn of(ports: &[Port]) -> Result<Self, TrafficError> {
        let protocol = ports.first().map_or(Protocol::Any, |port| port.protocol);
        if let Some(other) = ports.iter().find(|port| port.protocol != protocol) {
            return Err(TrafficError::Protocols { first: protocol, second: other.protocol });
        }
        let ranges: Vec<Ports> = ports.iter().flat_map(|port| port.ranges.iter().copied()).collect();
        if !ranges.is_empty() && ports.iter().any(|port| port.ranges.is_empty()) {
            return Err(TrafficError::AllAndSome { protocol });
        }
        Ok(Traffic { protocol, ranges: Ports::merged(ranges) })
    }

    pub(crate) fn protocol_to_proto(&self) -> i32 {
        let protocol = match self.protocol {
            Protocol::Any => pb::Protocol::Any,
            Protocol::Tcp => pb::Protocol::Tcp,
            Protocol::Udp => pb::Protocol::Udp,
            Protocol::Icmp => pb::Protocol::Icmp,
            Protocol::Sctp => pb::Protocol::Sctp,
        };
        protocol.into()
    }

    pub(crate) fn ports_to_proto(&self) -> Vec<pb::PortRange> {
        let range = |ports: &Ports| pb::PortRange { first: ports.first().into(), last: ports.last().into() };
        self.ranges.iter().map(range).collect()
    }
}

/// What a connection lets through, as it is written on the command line.
pub(crate) fn traffic(connection: &pb::Connection) -> String {
    let name = protocol(connection.protocol);
    if connection.ports.is_empty() {
        return name.to_owned();
    }
    let range = |range: &pb::PortRange| match range.first == range.last {
        true => range.first.to_string(),
        false => format!("{}-{}", range.first, range.last),
    };
    format!("{name}/{}", connection.ports.iter().map(range).collect::<Vec<_>>().join(","))
}

pub(crate) fn protocol(protocol: i32) -> &'static str {
    match pb::Protocol::try_from(protocol) {
        Ok(pb::Protocol::Any) => "any",
        Ok(pb::Protocol::Tcp) => "tcp",
        Ok(pb::Protocol::Udp) => "udp",
        Ok(pb::Protocol::Icmp) => "icmp",
        Ok(pb::Protocol::Sctp) => "sctp",
        Ok(pb::Protocol::Unspecified) | Err(_) => "unknown",
    }
}

/// One label: `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Label { key: key.to_owned(), value: value.to_owned() }),
            _ => Err(format!("{:?} is no label; write key=value", shown(text))),
        }
    }
}

/// A map of labels, in which no key stands twice.
pub(crate) fn labels<M: FromIterator<(String, String)>>(labels: &[Label]) -> Result<M, String> {
    for (at, label) in labels.iter().enumerate() {
        if labels[..at].iter().any(|before| before.key == label.key) {
            return Err(format!("label {:?} is given twice; give it once", shown(&label.key)));
        }
    }
    Ok(labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect())
}

/// A position: `netstate/directory@17`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) keyspace: String,
    pub(crate) revision: u64,
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.rsplit_once('@').and_then(|(keyspace, revision)| {
            let revision = revision.strip_prefix('r').unwrap_or(revision).parse().ok()?;
            (!keyspace.is_empty()).then(|| At { keyspace: keyspace.to_owned(), revision })
        });
        parsed.ok_or_else(|| {
            format!("{:?} is no position; write KEYSPACE@REVISION, such as netstate/directory@17", shown(text))
        })
    }
}

fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(SHOWN_MAX).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_written() {
        let good = [("500ms", 500), ("90s", 90_000), ("15m", 900_000), ("2h", 7_200_000), ("1h30m", 5_400_000)];
        for (text, millis) in good {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for bad in
            ["", "h", "2", "2 h", "-2h", "2h3", "1m1h", "1h1h", "2y", "٣h", "99999999999999999999s", "0s", "0h0m"]
        {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    fn check(ports: &[&str], expected: &str) {
        let parsed = ports.iter().map(|port| port.parse::<Port>()).collect::<Result<Vec<_>, _>>();
        let found = match parsed.and_then(|ports| Traffic::of(&ports)) {
            Ok(traffic) => {
                let (protocol, ports) = (traffic.protocol_to_proto(), traffic.ports_to_proto());
                super::traffic(&pb::Connection { protocol, ports, ..pb::Connection::default() })
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{ports:?}");
    }

    #[test]
    fn traffic_reads_as_written() {
        check(&["tcp/443"], "tcp/443");
        check(&["tcp/8000-8080", "tcp/80,443"], "tcp/80,443,8000-8080");
        check(&["udp"], "udp");
        check(&["icmp"], "icmp");
        check(&["any"], "any");
        check(&["443"], "\"443\" names a port and no protocol; write tcp/443 or udp/443");
        check(&["tcp/0"], "port 0 does not exist; ports are 1 to 65535");
        check(&["tcp/65536"], "port 65536 does not exist; ports are 1 to 65535");
        check(&["tcp/20-10"], "the port range 20-10 is reversed; write 10-20");
        check(&["icmp/8"], "icmp has no ports; write --port icmp");
        check(&["tcp/80", "udp/53"], "a connection carries one protocol, not tcp and udp; connect once for each");
        check(&["tcp", "tcp/53"], "tcp without a port means all ports; leave the others out, or leave it out");
        for bad in ["", "/", "tcp/", "tcp/x", "http/80", "tcp/80,", "TCP/80"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_have_a_key_that_stands_once() {
        let parse = |texts: &[&str]| -> Result<std::collections::BTreeMap<String, String>, String> {
            labels(&texts.iter().map(|text| text.parse()).collect::<Result<Vec<Label>, _>>()?)
        };
        assert_eq!(parse(&["app=web", "tier="]).unwrap().len(), 2);
        assert_eq!(parse(&["a=b=c"]).unwrap()["a"], "b=c");
        for bad in [&["app"][..], &["=web"], &[""], &["a=1", "a=2"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn positions_read_as_written() {
        let directory = At { keyspace: "netstate/directory".into(), revision: 17 };
        assert_eq!("netstate/directory@17".parse(), Ok(directory.clone()));
        assert_eq!("netstate/directory@r17".parse(), Ok(directory));
        for bad in ["", "@1", "x@", "x@-1", "17"] {
            assert!(bad.parse::<At>().is_err(), "{bad}");
        }
    }
}
