//! Compaction that nobody asks for: of what is older than an age, or further back than a number of revisions.

use std::{collections::HashMap, time::Duration};

use kv_core::{Effect, GroupId, Keyspace, Revision, Txn};
use tokio_util::sync::CancellationToken;

use crate::{AutoCompaction, access::Shared};

/// Between two looks, at most.
const LOOK: Duration = Duration::from_secs(300);

/// Looks for each age: what is compacted is older than it by a tenth of it at most.
const LOOKS_PER_AGE: u32 = 10;

/// Runs until `stop`, for the keyspaces whose groups this node leads.
pub(crate) async fn run(shared: Shared, stop: CancellationToken) {
    let policy = shared.config().auto_compaction;
    let pause = match policy {
        AutoCompaction::Off => return,
        AutoCompaction::Age(age) => (age / LOOKS_PER_AGE).clamp(Duration::from_secs(1), LOOK),
        AutoCompaction::Revisions(_) => LOOK,
    };
    // Where each keyspace was at each look, oldest first.
    let mut seen: HashMap<Keyspace, std::collections::VecDeque<Revision>> = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        let node = shared.node();
        for group in (0..node.groups()).map(GroupId::new) {
            for (keyspace, head) in node.keyspaces(group) {
                if shared.config().is_own(&keyspace) {
                    continue;
                }
                let heads = seen.entry(keyspace.clone()).or_default();
                heads.push_back(head.revision);
                let to = match policy {
                    AutoCompaction::Off => None,
                    AutoCompaction::Age(_) if heads.len() > LOOKS_PER_AGE as usize => heads.pop_front(),
                    AutoCompaction::Age(_) => None,
                    AutoCompaction::Revisions(kept) => {
                        heads.clear();
                        head.revision.get().checked_sub(kept).map(Revision::new)
                    }
                };
                let floor = node.usage(&keyspace).floor;
                if let Some(to) = to.filter(|to| *to > floor)
                    && node.leads(group).is_some()
                {
                    compact(&shared, &keyspace, to).await;
                }
            }
        }
    }
}

async fn compact(shared: &Shared, keyspace: &Keyspace, to: Revision) {
    let effects = vec![Effect::Compact { to, records: true }];
    let txn = Txn { effects, actor: "compaction".into(), ..Txn::default() };
    match shared.node().txns_here(keyspace, vec![txn]).await {
        Ok(_) => tracing::info!(%keyspace, %to, "compacted"),
        // The next look comes soon, and somebody may have compacted further meanwhile.
        Err(error) => tracing::debug!(%keyspace, %error, "not compacted"),
    }
}
