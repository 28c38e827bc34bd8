//! Leaders go on at once with whoever can be reached again, rather than after the pause that openraft has come to: up to a second
//! before each attempt, and once more after the first that succeeds.

use std::sync::Arc;

use crate::node::Inner;

/// Ends the pauses of all groups whenever a link comes up.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut reached = inner.links.reached();
    while reached.changed().await.is_ok() {
        for group in &inner.groups {
            // Of all other nodes: who is still out of reach is tried once more, and after 200 ms again. A group that has
            // stopped says so elsewhere.
            let _ = group.raft.trigger().reset_backoff([]).await;
        }
    }
}
