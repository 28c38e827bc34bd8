//! Answering whether one may reach the other.

use super::{Permit, Reach, Verdict, cover, crowd::Crowd};
use crate::{Connection, Directory, Timestamp};

pub(super) struct Question<'a> {
    pub(super) directory: &'a Directory,
    pub(super) from: &'a Crowd,
    pub(super) to: &'a Crowd,
    pub(super) now: Timestamp,
}

impl Question<'_> {
    pub(super) fn within_network(&self) -> Reach {
        let (from, to) = (self.from, self.to);
        let distinct = matches!((&from.endpoint, &to.endpoint), (Some(a), Some(b)) if a.id != b.id);
        // Of an endpoint with itself, as often as both sides have it.
        let selves = |a: u64, b: u64| if distinct { 0 } else { a.min(b) };
        let (active_from, active_to) = (from.active(), to.active());
        let pairs = active_from * active_to - selves(active_from, active_to);
        let pairs_possible = from.total * to.total - selves(from.total, to.total);
        let permits = if pairs > 0 || (pairs_possible == 0 && from.endpoint.is_none() && to.endpoint.is_none()) {
            vec![Permit::SameNetwork { pairs }]
        } else {
            Vec::new()
        };
        self.answer(permits, pairs, pairs_possible, true)
    }

    pub(super) fn across_networks(&self) -> Reach {
        let (from, to) = (self.from, self.to);
        let between = self.directory.connections_between(from.network, to.network);
        let connections: Vec<&Connection> = between.filter(|connection| connection.live(self.now)).collect();
        let pairs_possible = from.total * to.total;
        let mut permits = Vec::new();
        for connection in &connections {
            let pairs = from.selected(&connection.from) * to.selected(&connection.to);
            // Without endpoints to count, what would be permitted is of interest.
            if pairs > 0 || (pairs_possible == 0 && self.selects_subjects(connection)) {
                permits.push(Permit::Connection { connection: (*connection).clone(), pairs });
            }
        }
        let unselective =
            |connection: &&Connection| connection.from.selector.is_none() && connection.to.selector.is_none();
        let whole = connections.iter().any(unselective);
        self.answer(permits, cover::pairs(from, to, &connections), pairs_possible, whole)
    }

    /// Whether a connection means the subjects, as far as they are single endpoints out of quarantine.
    fn selects_subjects(&self, connection: &Connection) -> bool {
        let sides = [(self.from, &connection.from), (self.to, &connection.to)];
        sides.into_iter().all(|(crowd, side)| crowd.endpoint.is_none() || crowd.selected(side) > 0)
    }

    /// `whole`: where there are no pairs, whether all pairs would be allowed.
    fn answer(&self, permits: Vec<Permit>, pairs: u64, pairs_possible: u64, whole: bool) -> Reach {
        let verdict = match pairs {
            0 if pairs_possible > 0 || permits.is_empty() => Verdict::Denied,
            0 if whole => Verdict::Allowed,
            _ if pairs < pairs_possible || pairs_possible == 0 => Verdict::Partly,
            _ => Verdict::Allowed,
        };
        let mut reach = Reach { verdict, permits, pairs, pairs_possible, explanation: String::new() };
        reach.explanation = self.explain(&reach);
        reach
    }
}
