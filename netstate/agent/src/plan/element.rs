//! What the table's sets hold. `Display` is nft's notation.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use netstate_model::{EndpointId, Mac};

use crate::scope::Ports;

/// The kernel's limit on an interface's name.
const NAME_BYTES_MAX: usize = 15;

/// The host's side of an endpoint's interface.
///
/// Its name tells the endpoint, and any name that begins with [`Device::PREFIX`] is treated as an endpoint's, known or not:
/// what is not known may not talk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    bytes: [u8; NAME_BYTES_MAX],
    len: u8,
}

/// One element of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// One address.
    Address(IpAddr),
    /// A range of addresses.
    Range(IpNet),
    /// Who may send from which interface.
    Source {
        /// The interface.
        device: Device,
        /// The link-layer address.
        mac: Mac,
        /// The address.
        address: IpAddr,
    },
    /// Any traffic of these two.
    Pair {
        /// Who may begin.
        from: IpNet,
        /// Who may be talked to.
        to: IpNet,
    },
    /// Some traffic of these two.
    Port {
        /// Who may begin.
        from: IpNet,
        /// Who may be talked to.
        to: IpNet,
        /// On what.
        on: PortMatch,
    },
}

/// A protocol and its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    /// The number of the protocol.
    pub protocol: u8,
    /// Which ports; all of them for a protocol that has none.
    pub ports: Ports,
}

impl Device {
    /// What the names of all endpoints' interfaces begin with.
    pub const PREFIX: &str = "nse";

    /// The interface of an endpoint: `nse7-42`, or a denser form when the numbers are too long for that.
    pub fn of(id: EndpointId) -> Self {
        let (network, number) = (id.network().get(), id.number());
        let readable = format!("{}{network}-{number}", Device::PREFIX);
        Device::named(&readable).unwrap_or_else(|| {
            let dense = format!("{}_{}", Device::PREFIX, base62(u64::from(network) << 32 | u64::from(number)));
            Device::named(&dense).expect("three letters, a mark and eleven digits fit")
        })
    }

    /// A name that may be one of an endpoint's interface.
    pub fn named(name: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.len() > NAME_BYTES_MAX || !name.starts_with(Device::PREFIX) || !name.bytes().all(plain) {
            return None;
        }
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Device { bytes, len: name.len() as u8 })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("made of ASCII letters and digits")
    }
}

fn base62(mut number: u64) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::new();
    while number > 0 || digits.is_empty() {
        digits.push(char::from(DIGITS[(number % 62) as usize]));
        number /= 62;
    }
    digits.iter().rev().collect()
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Address(address) => write!(f, "{address}"),
            Element::Range(net) => write!(f, "{}", Net(*net)),
            Element::Source { device, mac, address } => write!(f, "\"{device}\" . {mac} . {address}"),
            Element::Pair { from, to } => write!(f, "{} . {}", Net(*from), Net(*to)),
            Element::Port { from, to, on } => {
                write!(f, "{} . {} . {} . {}", Net(*from), Net(*to), on.protocol, PortsText(on.ports))
            }
        }
    }
}

/// A single address without its prefix length, as nft lists it.
struct Net(IpNet);

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

struct PortsText(Ports);

impl fmt::Display for PortsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ports { first, last } = self.0;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

#[cfg(test)]
mod tests {
    use netstate_model::NetworkId;

    use super::*;

    #[test]
    fn every_endpoint_has_a_device_of_its_own_within_the_kernels_limit() {
        let id = |network, number| Device::of(EndpointId::new(NetworkId::new(network), number)).to_string();
        assert_eq!(id(7, 42), "nse7-42");
        assert_eq!(id(12345, 123456), "nse12345-123456");
        assert_eq!(id(12345, 1234567), "nse_F3TCVcMp");
        assert_eq!(id(u32::MAX, u32::MAX), "nse_LygHa16AHYF");
    }

    #[test]
    fn a_device_is_never_a_text_that_could_end_a_word() {
        for bad in ["eth0", "nse7-42;", "nse 1", "nse\"", "nse7-42-and-longer"] {
            assert!(Device::named(bad).is_none(), "{bad}");
        }
    }
}
