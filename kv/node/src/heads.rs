//! Replicas compare their heads, all the time.
//!
//! Each node tells the others, for every group, how far it has applied and what the heads fold to there. Two replicas with
//! different folds at the same index have different histories. The one that is not with the majority goes out of service.
//!
//! Left to others: repairing it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kv_core::{Fold, GroupId, NodeId};
use kv_proto::peer::v1::Kind;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    node::Inner,
    raft::{decode, encode},
};

/// How long a peer's last verdict counts, and how long a report may wait for this replica to get as far.
const FRESH: Duration = Duration::from_secs(10);

/// One replica's word: after this index, this fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) fold: Fold,
}

struct Heard {
    /// Not compared yet: this replica has not got as far.
    pending: Option<(Report, Instant)>,
    agrees: Option<(bool, Instant)>,
}

/// What the other replicas said.
#[derive(Default)]
pub(crate) struct Heads(Mutex<HashMap<(GroupId, NodeId), Heard>>);

/// What follows from what all replicas of a group said.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    /// These differ, and they are the minority.
    OthersDiffer(Vec<NodeId>),
    /// Not all that could speak have spoken.
    Undecided,
    /// This one is not with the majority.
    OwnDiffers(Vec<NodeId>),
}

/// Decides from each other replica's word: `Some(agrees)`, or `None` from one that is up and has not spoken. Those that are
/// down are left out. `members`: all replicas, this one included.
fn judge(words: &[(NodeId, Option<bool>)], members: usize) -> Verdict {
    let differ: Vec<_> = words.iter().filter(|(_, word)| *word == Some(false)).map(|(node, _)| *node).collect();
    let agree = 1 + words.iter().filter(|(_, word)| *word == Some(true)).count();
    if differ.is_empty() {
        Verdict::Sound
    } else if agree > members / 2 {
        Verdict::OthersDiffer(differ)
    } else if words.iter().any(|(_, word)| word.is_none()) {
        Verdict::Undecided
    } else {
        Verdict::OwnDiffers(differ)
    }
}

impl Heads {
    /// Takes another node's reports.
    pub(crate) fn hear(&self, inner: &Inner, from: NodeId, payload: &[u8]) -> Result<(), String> {
        let reports: Vec<Report> = decode(payload).map_err(|error| format!("malformed heads: {error}"))?;
        let now = Instant::now();
        let mut heard = self.0.lock();
        for report in reports {
            let Some(group) = inner.group(report.group) else { continue };
            let entry = heard.entry((report.group, from)).or_insert(Heard { pending: None, agrees: None });
            let waits = entry.pending.is_some_and(|(_, since)| now - since < FRESH);
            if let Some(own) = group.published.fold_at(report.index) {
                entry.agrees = Some((own == report.fold, now));
                entry.pending = None;
            } else if report.index > group.published.index() && !waits {
                entry.pending = Some((report, now));
            }
        }
        Ok(())
    }

    /// Compares what could not be compared before, and decides about one group.
    fn decide(&self, inner: &Inner, id: GroupId) -> Verdict {
        let Some(group) = inner.group(id) else { return Verdict::Sound };
        let now = Instant::now();
        let mut heard = self.0.lock();
        let words: Vec<_> = inner
            .links
            .nodes()
            .into_iter()
            .filter(|node| inner.links.up(*node))
            .map(|node| {
                let entry = heard.entry((id, node)).or_insert(Heard { pending: None, agrees: None });
                if let Some((report, _)) = entry.pending
                    && let Some(own) = group.published.fold_at(report.index)
                {
                    entry.agrees = Some((own == report.fold, now));
                    entry.pending = None;
                }
                let fresh = entry.agrees.filter(|(_, at)| now - *at < FRESH);
                (node, fresh.map(|(agrees, _)| agrees))
            })
            .collect();
        judge(&words, inner.catalog.members().len())
    }
}

/// Tells and compares.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.timing.compare_heads);
    let mut warned: HashMap<GroupId, Vec<NodeId>> = HashMap::new();
    loop {
        ticks.tick().await;
        tell(&inner).await;
        for group in &inner.groups {
            if group.leadership.problem().is_some() {
                continue;
            }
            match inner.heads.decide(&inner, group.id) {
                Verdict::Sound | Verdict::Undecided => {
                    warned.remove(&group.id);
                }
                Verdict::OthersDiffer(nodes) => {
                    if warned.insert(group.id, nodes.clone()).as_ref() != Some(&nodes) {
                        tracing::error!(group = %group.id, ?nodes, "replicas differ from the majority's history");
                    }
                }
                Verdict::OwnDiffers(nodes) => {
                    let others = nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    group.leadership.quarantine.enter(&format!(
                        "its history differs from that of {others}; `netstate cluster repair` fetches theirs"
                    ));
                }
            }
        }
    }
}

async fn tell(inner: &Arc<Inner>) {
    let reports: Vec<_> = inner
        .groups
        .iter()
        .filter(|group| group.leadership.problem().is_none())
        .filter_map(|group| {
            let index = group.published.index();
            Some(Report { group: group.id, index, fold: group.published.fold_at(index)? })
        })
        .collect();
    let payload = encode(&reports);
    for node in inner.links.nodes().into_iter().filter(|node| inner.links.up(*node)) {
        let (links, payload, patience) = (inner.links.clone(), payload.clone(), inner.timing.compare_heads);
        tokio::spawn(async move {
            // Whoever does not hear this hears the next one.
            let began = Instant::now();
            if links.request(node, Kind::Heads, GroupId::new(0), payload, patience).await.is_ok() {
                links.took(node, began.elapsed());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minority_goes_and_nobody_decides_too_early() {
        let n = NodeId::new;
        let (yes, no, silent) = (Some(true), Some(false), None);
        assert_eq!(judge(&[(n(2), yes), (n(3), yes)], 3), Verdict::Sound);
        assert_eq!(judge(&[(n(2), silent), (n(3), silent)], 3), Verdict::Sound);
        assert_eq!(judge(&[(n(2), yes), (n(3), no)], 3), Verdict::OthersDiffer(vec![n(3)]));
        assert_eq!(judge(&[(n(2), silent), (n(3), no)], 3), Verdict::Undecided);
        assert_eq!(judge(&[(n(2), no), (n(3), no)], 3), Verdict::OwnDiffers(vec![n(2), n(3)]));
        // One of three is down: nobody can tell who is right, so neither serves.
        assert_eq!(judge(&[(n(2), no)], 3), Verdict::OwnDiffers(vec![n(2)]));
    }
}
