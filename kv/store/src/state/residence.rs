//! Where keyspaces are that took part in a move.
//!
//! All groups' states lie in one database, and each says what it has of a keyspace. They are not of one moment, for each
//! group is applied by itself; but moves of a keyspace are numbered, so that the latest word is known from earlier ones.
//!
//! Must hold: a keyspace that this says is in a group can be read there. It is told before the rows go, and after they
//! are all there.

use std::collections::HashMap;

use kv_core::{GroupId, Keyspace, MoveId, Phase, Standing};
use parking_lot::RwLock;

use super::{Cache, State};

/// Where a keyspace is, as far as this node has applied its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residence {
    /// The group.
    pub group: GroupId,
    /// Whether it can be read here. It is not where this node has not applied yet that it has come.
    pub readable: bool,
    /// It takes no writes: it moves to this group, and may be there by now.
    pub moving: Option<(GroupId, MoveId)>,
}

/// Only of keyspaces that took part in a move.
#[derive(Default)]
pub(super) struct Residences(RwLock<HashMap<Keyspace, Vec<(GroupId, Standing)>>>);

impl Residences {
    /// Rows are about to go, or have come.
    pub(super) fn tell<'a>(&self, group: GroupId, standings: impl Iterator<Item = (&'a Keyspace, Standing)>) {
        let mut standings = standings.peekable();
        if standings.peek().is_none() {
            return;
        }
        let mut known = self.0.write();
        for (keyspace, standing) in standings {
            let places = known.entry(keyspace.clone()).or_default();
            places.retain(|(of, _)| *of != group);
            if standing != Standing::default() {
                places.push((group, standing));
            }
        }
    }

    /// A group's state is another one.
    pub(super) fn replace(&self, group: GroupId, cache: &Cache) {
        let mut known = self.0.write();
        known.values_mut().for_each(|places| places.retain(|(of, _)| *of != group));
        for (keyspace, record) in &cache.keyspaces {
            if record.standing != Standing::default() {
                known.entry(keyspace.clone()).or_default().push((group, record.standing));
            }
        }
        known.retain(|_, places| !places.is_empty());
    }

    fn find(&self, keyspace: &Keyspace, home: GroupId) -> Residence {
        let at_home = Residence { group: home, readable: true, moving: None };
        let known = self.0.read();
        if known.is_empty() {
            return at_home;
        }
        let Some(places) = known.get(keyspace) else { return at_home };
        let Some((of, most)) = places.iter().max_by_key(|(_, standing)| standing.weight()) else { return at_home };
        let group = most.place(*of);
        let there = places.iter().find(|(of, _)| *of == group).map(|(_, standing)| *standing).unwrap_or_default();
        // A group that says nothing has it if that is where it has always been.
        let silent = there == Standing::default();
        let never_left = matches!(most.phase, Phase::Arriving { .. } | Phase::Absent { .. });
        let readable = if silent { never_left } else { there.readable() };
        let moving = match there.phase {
            Phase::Sealed { to } => Some((to, there.last)),
            _ => None,
        };
        Residence { group, readable, moving }
    }
}

impl State {
    /// Where a keyspace is.
    pub fn residence(&self, keyspace: &Keyspace) -> Residence {
        let groups = u16::try_from(self.0.groups.len()).expect("opened with a u16 of them");
        self.0.residences.find(keyspace, keyspace.group(groups))
    }

    /// Whether a keyspace is in another group than this, which has something of it or had.
    pub fn is_elsewhere(&self, keyspace: &Keyspace, group: GroupId) -> bool {
        let known = self.0.residences.0.read();
        let most = known.get(keyspace).and_then(|places| places.iter().max_by_key(|(_, standing)| standing.weight()));
        most.is_some_and(|(of, most)| most.place(*of) != group)
    }

    /// What a group has of a keyspace; `None`: nothing, nor ever had.
    pub fn standing(&self, group: GroupId, keyspace: &Keyspace) -> Option<Standing> {
        self.group(group).cache.read().keyspaces.get(keyspace).map(|known| known.standing)
    }
}
