//! Measures what keyspaces take, and has one moved when a group carries far more than the others.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use kv_core::{GroupId, Keyspace, Revision, spread};
use tokio::time::Instant;

use crate::node::Node;

/// Between two measurements. What was written in between is taken for what is going to be.
const MEASURE_EVERY: Duration = Duration::from_secs(60);

/// How often the same has to be decided, one time after the other, before it is done.
const DECIDED_TIMES: u32 = 3;

/// A keyspace that has moved stays for so long.
const SETTLES: Duration = Duration::from_secs(1800);

/// Does something while this node leads the group of moves.
pub(crate) async fn run(node: Node) {
    let mut measured: Option<(Instant, HashMap<Keyspace, Revision>)> = None;
    let mut settled: HashMap<Keyspace, Instant> = HashMap::new();
    let mut decided: Option<((Keyspace, GroupId), u32)> = None;
    loop {
        tokio::time::sleep(MEASURE_EVERY).await;
        if node.leads(node.group_of(&super::book::keyspace())).is_none() {
            (measured, decided) = (None, None);
            continue;
        }
        let now = Instant::now();
        settled.retain(|_, since| since.elapsed() < SETTLES);
        let moving: HashSet<_> = match node.book() {
            Ok(page) => page.records.into_keys().collect(),
            Err(error) => {
                tracing::warn!(%error, "what is moving cannot be read");
                continue;
            }
        };
        settled.extend(moving.iter().map(|keyspace| (keyspace.clone(), now)));
        let (heads, weights) = weigh(&node, measured.as_ref(), &settled);
        let known = measured.replace((now, heads)).is_some();
        let wanted = spread::relieve(&weights, node.groups()).filter(|_| known && moving.is_empty());
        decided = match (wanted, decided.take()) {
            (None, _) => None,
            (Some((keyspace, to)), Some((before, times))) if before == (keyspace.clone(), to) => {
                Some((before, times + 1))
            }
            (Some((keyspace, to)), _) => Some(((keyspace.clone(), to), 1)),
        };
        if let Some(((keyspace, to), _)) = decided.take_if(|(_, times)| *times >= DECIDED_TIMES) {
            tracing::info!(%keyspace, %to, "its group carries far more than the others: it is moved");
            if let Err(error) = node.move_keyspace(&keyspace, to).await {
                tracing::warn!(%keyspace, %to, %error, "it could not be moved");
            }
        }
    }
}

/// What all keyspaces take, and where they are now.
fn weigh(
    node: &Node,
    measured: Option<&(Instant, HashMap<Keyspace, Revision>)>,
    settled: &HashMap<Keyspace, Instant>,
) -> (HashMap<Keyspace, Revision>, Vec<spread::Weight>) {
    let (mut heads, mut weights) = (HashMap::new(), Vec::new());
    let seconds = measured.map_or(1, |(at, _)| at.elapsed().as_secs().max(1));
    for group in (0..node.groups()).map(GroupId::new) {
        for (keyspace, head) in node.keyspaces(group) {
            let before = measured.and_then(|(_, heads)| heads.get(&keyspace)).copied().unwrap_or_default();
            let writes = head.revision.get().saturating_sub(before.get()) / seconds;
            let (bytes, settled) = (node.usage(&keyspace).bytes, settled.contains_key(&keyspace));
            heads.insert(keyspace.clone(), head.revision);
            weights.push(spread::Weight { keyspace, group, bytes, writes, settled });
        }
    }
    (heads, weights)
}
