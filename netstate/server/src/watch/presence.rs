//! Which hosts a node hears, how long ago it heard the others, and how far behind they are.
//!
//! Nothing of it is stored. A node that was started again knows of no host that was there before, and says so by how long it
//! has been listening: no host is said to have been silent for longer than somebody listened for it.

use std::{collections::BTreeMap, time::Duration};

use netstate_model::HostId;
use serde::{Deserialize, Serialize};

/// What one node heard of hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heard {
    /// Hosts that have a stream here, and for how long they have not had in force all that lies in their scope.
    pub(crate) here: BTreeMap<HostId, Duration>,
    /// Hosts that had one, and how long ago it ended.
    pub(crate) gone: BTreeMap<HostId, Duration>,
    /// How long this node has listened.
    pub(crate) listening: Duration,
}

impl Heard {
    /// What is known of a node that can't be asked, and whose link has been down for so long.
    pub(crate) fn since(down: Duration) -> Self {
        Heard { listening: down, ..Heard::default() }
    }
}

/// How a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It has a stream, and for so long it has not had in force all that lies in its scope.
    Up(Duration),
    /// It has none, for so long.
    Silent(Duration),
}

impl Presence {
    /// As it is told to clients, in microseconds: how long silent, and how long behind.
    pub(crate) fn to_proto(self) -> (i64, i64) {
        // A host that fell silent just now isn't there either.
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        match self {
            Presence::Up(behind) => (0, micros(behind)),
            Presence::Silent(since) => (micros(since).max(1), 0),
        }
    }
}

/// How a host is, by what all nodes that could be asked heard of it.
pub(crate) fn presence(heard: &[Heard], host: HostId) -> Presence {
    if let Some(behind) = heard.iter().filter_map(|node| node.here.get(&host)).min() {
        return Presence::Up(*behind);
    }
    let silent = |node: &Heard| node.gone.get(&host).copied().unwrap_or(node.listening);
    Presence::Silent(heard.iter().map(silent).min().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_silent_for_longer_than_somebody_listened() {
        let [one, two, three] = [1, 2, 3].map(HostId::new);
        let seconds = Duration::from_secs;
        let old = Heard {
            here: BTreeMap::from([(one, seconds(2))]),
            gone: BTreeMap::from([(two, seconds(30))]),
            listening: seconds(100),
        };
        let new = Heard { gone: BTreeMap::from([(one, seconds(1))]), listening: seconds(60), ..Heard::default() };
        let heard = [old, new];
        assert_eq!(presence(&heard, one), Presence::Up(seconds(2)));
        assert_eq!(presence(&heard, two), Presence::Silent(seconds(30)));
        assert_eq!(presence(&heard, three), Presence::Silent(seconds(60)));
        assert_eq!(presence(&heard[..1], three), Presence::Silent(seconds(100)));
        // A node that died a moment ago may have heard it until then.
        let [old, _] = heard;
        assert_eq!(presence(&[old, Heard::since(seconds(3))], three), Presence::Silent(seconds(3)));
        assert_eq!(Presence::Silent(Duration::ZERO).to_proto(), (1, 0));
    }
}
