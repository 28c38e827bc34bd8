//! Which keyspace holds what.

use kv_core::Keyspace;
use netstate_model::NetworkId;

const DIRECTORY: &str = "netstate/directory";
const NETWORK: &str = "netstate/net/";

/// What a keyspace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Home {
    /// Networks, connections, hosts.
    Directory,
    /// One network's endpoints.
    Network(NetworkId),
}

impl Home {
    /// What a keyspace of this name holds; `None`: nothing of ours.
    pub(crate) fn of(keyspace: &Keyspace) -> Option<Self> {
        let name = keyspace.as_str();
        if name == DIRECTORY {
            return Some(Home::Directory);
        }
        let number = name.strip_prefix(NETWORK)?.parse().ok()?;
        let home = Home::Network(NetworkId::new(number));
        (home.keyspace().as_str() == name).then_some(home)
    }

    /// The keyspace's name.
    pub(crate) fn keyspace(self) -> Keyspace {
        let name = match self {
            Home::Directory => DIRECTORY.to_string(),
            Home::Network(id) => format!("{NETWORK}{}", id.get()),
        };
        Keyspace::new(&name).expect("made of allowed characters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_written() {
        for home in [Home::Directory, Home::Network(NetworkId::new(0)), Home::Network(NetworkId::new(4_000_000_000))] {
            assert_eq!(Home::of(&home.keyspace()), Some(home));
        }
        for other in ["netstate/net/", "netstate/net/+7", "netstate/net/07", "netstate/net/99999999999", "default"] {
            assert_eq!(
                Home::of(&Keyspace::new(other).unwrap_or_else(|_| Keyspace::new("x").unwrap())),
                None,
                "{other}"
            );
        }
    }
}
