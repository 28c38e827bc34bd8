//! Link-layer addresses of endpoints.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{EndpointId, text::Quoted};

/// A MAC address that an endpoint may have: neither a group address nor all zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "[u8; 6]", into = "[u8; 6]")]
pub struct Mac([u8; 6]);

/// What is no MAC address for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not written as one.
    #[error("{text} is no MAC address; write six bytes as 02:00:5e:10:00:01, or leave it out to have one derived")]
    Form {
        /// What was written.
        text: Quoted,
    },
    /// A multicast or broadcast address, or all zeros.
    #[error("{mac} can't be an endpoint's MAC address; the first byte must be even, and not all bytes zero")]
    NotUnicast {
        /// The address as written.
        mac: String,
    },
}

impl Mac {
    /// A MAC address from its bytes.
    pub fn new(bytes: [u8; 6]) -> Result<Self, MacError> {
        let mac = Mac(bytes);
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(MacError::NotUnicast { mac: mac.to_string() });
        }
        Ok(mac)
    }

    /// The address of an endpoint that asked for none: locally administered, distinct within a network always and
    /// across the first 16,384 networks.
    pub fn derived(id: EndpointId) -> Self {
        let network = id.network().get();
        let [a, b, c, d] = id.number().to_be_bytes();
        let high = (((network >> 8) & 0x3f) << 2) as u8 | 0x02;
        Mac([high, network as u8, a, b, c, d])
    }

    /// The bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<[u8; 6]> for Mac {
    type Error = MacError;

    fn try_from(bytes: [u8; 6]) -> Result<Self, MacError> {
        Mac::new(bytes)
    }
}

impl From<Mac> for [u8; 6] {
    fn from(mac: Mac) -> Self {
        mac.0
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let form = || MacError::Form { text: Quoted::new(text) };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(form)?;
        }
        if parts.next().is_some() {
            return Err(form());
        }
        Mac::new(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetworkId;

    #[test]
    fn derived_addresses_are_distinct_and_possible() {
        let networks = [1, 2, 255, 256, 0x3fff];
        let numbers = [1, 2, 255, 65536, u32::MAX];
        let ids =
            networks.into_iter().flat_map(|own| numbers.map(|number| EndpointId::new(NetworkId::new(own), number)));
        let mut derived: Vec<Mac> = ids.map(Mac::derived).collect();
        for mac in &derived {
            assert_eq!(Mac::new(mac.bytes()).as_ref(), Ok(mac));
            assert_eq!(mac.bytes()[0] & 0x02, 0x02, "locally administered");
        }
        derived.sort();
        derived.dedup();
        assert_eq!(derived.len(), networks.len() * numbers.len());
    }
}
