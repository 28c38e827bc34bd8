//! Answers in a sentence.

use super::{Permit, Reach, Verdict, question::Question};
use crate::{Connection, Quarantine};

/// Permits that a sentence spells out; of further ones it only says how many.
const PERMITS_TOLD_MAX: usize = 3;

impl Question<'_> {
    pub(super) fn explain(&self, reach: &Reach) -> String {
        let (from, to) = (&self.from.name, &self.to.name);
        let empty = if reach.pairs_possible == 0 { ", once there are endpoints to do so," } else { "" };
        match reach.verdict {
            Verdict::Allowed => format!("{from} may reach {to}{empty} {}", told(&reach.permits)),
            Verdict::Partly if reach.pairs_possible == 0 => {
                format!("{from} may reach {to} in part{empty} {}", told(&reach.permits))
            }
            Verdict::Partly => {
                let Reach { pairs, pairs_possible, permits, .. } = reach;
                format!("{from} may reach {to} in part ({pairs} of {pairs_possible} pairs) {}", told(permits))
            }
            Verdict::Denied => format!("{from} may not reach {to}: {}", self.obstacle()),
        }
    }

    /// Why nothing is allowed.
    fn obstacle(&self) -> String {
        let (from, to) = (self.from, self.to);
        if let Some((crowd, quarantine)) = [from, to].into_iter().find_map(|own| Some((own, own.quarantine()?))) {
            return format!("{} is in quarantine{}", crowd.name, by(quarantine));
        }
        if let (Some(a), Some(b)) = (&from.endpoint, &to.endpoint)
            && a.id == b.id
        {
            return "an endpoint and itself are no pair".to_owned();
        }
        if let Some(crowd) = [from, to].into_iter().find(|own| own.total > 0 && own.active() == 0) {
            return format!("all endpoints of {} are in quarantine", crowd.name);
        }
        if from.network == to.network {
            return "there is no other endpoint on the network that is not in quarantine".to_owned();
        }
        self.missing_connection()
    }

    fn missing_connection(&self) -> String {
        let (from, to) = (self.from.network, self.to.network);
        let ids = |chosen: Vec<&Connection>| -> String {
            chosen.iter().map(|own| own.id.to_string()).collect::<Vec<_>>().join(", ")
        };
        let between =
            |a, b, live| self.directory.connections_between(a, b).filter(move |own| own.live(self.now) == live);
        let (live, over): (Vec<_>, Vec<_>) = (between(from, to, true).collect(), between(from, to, false).collect());
        let back: Vec<_> = between(to, from, true).collect();
        if !live.is_empty() {
            return format!("the labels do not meet what {} selects", ids(live));
        }
        let mut text = "no connection allows it".to_owned();
        if !over.is_empty() {
            text += &format!("; the time of {} is over", ids(over));
        }
        if !back.is_empty() {
            text += &format!("; {} only allows the other direction", ids(back));
        }
        text
    }
}

fn by(quarantine: &Quarantine) -> String {
    match quarantine.by.as_str() {
        "" => format!(": {:?}", quarantine.reason),
        by => format!(", put there by {by}: {:?}", quarantine.reason),
    }
}

fn told(permits: &[Permit]) -> String {
    let mut told: Vec<String> = permits.iter().take(PERMITS_TOLD_MAX).map(permit).collect();
    match permits.len().saturating_sub(PERMITS_TOLD_MAX) {
        0 => {}
        1 => told.push("because of one more connection".to_owned()),
        more => told.push(format!("because of {more} more connections")),
    }
    told.join("; and ")
}

fn permit(permit: &Permit) -> String {
    match permit {
        Permit::SameNetwork { .. } => "on everything because they are on the same network".to_owned(),
        Permit::Connection { connection, .. } => {
            let made = match connection.created_by.as_str() {
                "" => String::new(),
                by => format!(" made by {by}"),
            };
            let Connection { id, reason, .. } = connection;
            format!("on {} because of {id}{made}: {reason:?}", connection.traffic())
        }
    }
}
