//! Carries out moves on the node that leads their group, some at a time.

use std::{collections::HashMap, time::Duration};

use kv_core::{Keyspace, MoveId};
use tokio::task::JoinHandle;

use super::{book, carry::Carrier};
use crate::node::Node;

/// Moves carried out at a time. They share the bytes per second.
pub(super) const AT_ONCE: usize = 4;

/// Between two looks at what is to be done, when nothing tells that there is something.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A move that this node carries out. Dropping it stops that, between two steps or in one: all can be taken again.
struct Carried {
    id: MoveId,
    task: JoinHandle<()>,
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Has every move carried out that this node is to.
pub(crate) async fn run(node: Node) {
    let mut carried: HashMap<Keyspace, Carried> = HashMap::new();
    let (mut term, mut begun) = (None, 0);
    let mut watch = node.watch(&book::keyspace(), node.head(&book::keyspace()).revision);
    loop {
        tokio::select! {
            told = watch.next() => if told.is_err() {
                // What was told is only that there is something to be looked at.
                watch.seek(node.head(&book::keyspace()).revision);
                tokio::time::sleep(LOOK_AGAIN).await;
            },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        let leads = node.leads(node.group_of(&book::keyspace()));
        if leads != term {
            carried.clear();
            (term, begun) = (leads, 0);
        }
        let Some(term) = leads else { continue };
        let page = match node.book() {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "what is to be moved cannot be read");
                continue;
            }
        };
        carried.retain(|keyspace, carried| {
            page.records.get(keyspace).is_some_and(|record| record.id == carried.id) && !carried.task.is_finished()
        });
        let mut waiting: Vec<_> =
            page.records.into_iter().filter(|(keyspace, _)| !carried.contains_key(keyspace)).collect();
        waiting.sort_by_key(|(_, record)| record.id);
        for (keyspace, record) in waiting.into_iter().take(AT_ONCE.saturating_sub(carried.len())) {
            // Nobody else has the term, and in it this node counts.
            begun += 1;
            let (id, carrier) = (record.id, Carrier::new(node.clone(), keyspace.clone(), record, term, begun));
            carried.insert(keyspace, Carried { id, task: tokio::spawn(carrier.run()) });
        }
    }
}
