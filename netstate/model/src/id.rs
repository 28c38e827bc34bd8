//! Ids. Drawn from counters in the state and never used twice.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A network. Written `net7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkId(u32);

/// An endpoint: its network and its number in it. Written `e7.42`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId {
    network: NetworkId,
    number: u32,
}

/// A host. Written `h3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostId(u32);

/// A connection. Written `c12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(u32);

/// A text that is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {form}")]
pub struct IdError {
    /// What such an id looks like.
    pub form: &'static str,
}

macro_rules! numbered {
    ($name:ident, $prefix:literal, $form:literal) => {
        impl $name {
            /// The id with this number.
            pub const fn new(raw: u32) -> Self {
                $name(raw)
            }

            /// The bare number.
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let number = text.strip_prefix($prefix).and_then(number);
                number.map($name).ok_or(IdError { form: $form })
            }
        }
    };
}

numbered!(NetworkId, "net", "net7");
numbered!(HostId, "h", "h3");
numbered!(ConnectionId, "c", "c12");

/// Digits only, as `Display` writes them: neither a sign nor leading zeros.
fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    plain.then(|| digits.parse().ok()).flatten()
}

impl EndpointId {
    /// The endpoint of this network with this number.
    pub const fn new(network: NetworkId, number: u32) -> Self {
        EndpointId { network, number }
    }

    /// Its network.
    pub const fn network(self) -> NetworkId {
        self.network
    }

    /// Its number within the network.
    pub const fn number(self) -> u32 {
        self.number
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.network.0, self.number)
    }
}

impl FromStr for EndpointId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let parts = text.strip_prefix('e').and_then(|rest| rest.split_once('.'));
        let id = parts.and_then(|(network, own)| Some(EndpointId::new(NetworkId(number(network)?), number(own)?)));
        id.ok_or(IdError { form: "e7.42" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_written() {
        let id = EndpointId::new(NetworkId::new(7), 42);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("net7".parse(), Ok(NetworkId::new(7)));
        for bad in ["", "net", "net+7", "net07", "7", "net99999999999", "e7", "e7.", "e.7"] {
            assert!(bad.parse::<NetworkId>().is_err() && bad.parse::<EndpointId>().is_err(), "{bad}");
        }
    }
}
