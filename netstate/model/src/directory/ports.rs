//! Protocols and ports.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::text::Quoted;

/// What a connection lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// All protocols.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Whether it has ports.
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::Tcp | Protocol::Udp | Protocol::Sctp)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Any => "any",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// A range of ports, both ends included: 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct Ports {
    first: u16,
    last: u16,
}

/// What is no protocol, port or range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// A number that is no port.
    #[error("port {port} does not exist; ports are 1 to 65535")]
    NoPort {
        /// The number.
        port: u32,
    },
    /// The last port before the first.
    #[error("the port range {first}-{last} is reversed; write {last}-{first}")]
    Reversed {
        /// The first port.
        first: u32,
        /// The last port.
        last: u32,
    },
    /// Not written as ports.
    #[error("{text} is no port or range of ports; write 443 or 8000-8080")]
    Form {
        /// What was written.
        text: Quoted,
    },
    /// Not the name of a protocol.
    #[error("there is no protocol {text}; choose any, tcp, udp, icmp or sctp")]
    Protocol {
        /// What was written.
        text: Quoted,
    },
}

impl FromStr for Protocol {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let all = [Protocol::Any, Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Sctp];
        let named = all.into_iter().find(|protocol| protocol.to_string() == text);
        named.ok_or_else(|| PortsError::Protocol { text: Quoted::new(text) })
    }
}

impl Ports {
    /// The ports from `first` to `last`. Takes larger numbers than there are ports so that callers need not cut them.
    pub fn new(first: u32, last: u32) -> Result<Self, PortsError> {
        let port = |port: u32| u16::try_from(port).ok().filter(|&port| port > 0).ok_or(PortsError::NoPort { port });
        let ports = Ports { first: port(first)?, last: port(last)? };
        if first > last { Err(PortsError::Reversed { first, last }) } else { Ok(ports) }
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Sorts ranges and merges those that overlap or touch.
    pub fn merged(mut ranges: Vec<Ports>) -> Vec<Ports> {
        ranges.sort();
        let mut merged: Vec<Ports> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        merged
    }

    /// Whether merged ranges contain this one.
    pub(crate) fn within(self, merged: &[Ports]) -> bool {
        merged.iter().any(|range| range.first <= self.first && self.last <= range.last)
    }
}

impl TryFrom<(u16, u16)> for Ports {
    type Error = PortsError;

    fn try_from((first, last): (u16, u16)) -> Result<Self, PortsError> {
        Ports::new(first.into(), last.into())
    }
}

impl From<Ports> for (u16, u16) {
    fn from(ports: Ports) -> Self {
        (ports.first, ports.last)
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u32>().ok()).flatten()
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (number(first), number(last)) {
            (Some(first), Some(last)) => Ports::new(first, last),
            _ => Err(PortsError::Form { text: Quoted::new(text) }),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Protocol and ports as people write them.
pub(crate) struct Traffic<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) ports: &'a [Ports],
}

impl fmt::Display for Traffic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Any {
            return f.write_str("everything");
        }
        write!(f, "{}", self.protocol)?;
        for (at, ports) in self.ports.iter().enumerate() {
            let before = if at == 0 { "/" } else { "," };
            write!(f, "{before}{ports}")?;
        }
        Ok(())
    }
}
