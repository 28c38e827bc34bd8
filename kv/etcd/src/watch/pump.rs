//! Brings the watchers of one stream up to date: those that begin in the past, and those that were too slow.

use std::{sync::Arc, time::Duration};

use kv_core::{KeyRange, Revision};
use kv_node::{ReadError, RevisionEvents, WatchError};

use super::{hub::Hub, index::Place, outbox::Outbox};
use crate::{status, wire};

/// Up to so many watchers read the history each for their own keys; more share one reading of all keys.
const READ_APART: usize = 4;

/// Between two looks whether a keyspace that moves has come.
const ARRIVAL: Duration = Duration::from_millis(20);

/// Runs until nobody lags on this stream.
pub(super) async fn run(hub: Arc<Hub>, outbox: Arc<Outbox>) {
    loop {
        while !outbox.roomy() {
            outbox.room.notified().await;
        }
        let places = outbox.take_lagging();
        if places.is_empty() {
            hub.caught_up(&outbox);
            return;
        }
        let (hub, outbox) = (hub.clone(), outbox.clone());
        // The history may have to be read from disk.
        let round = tokio::task::spawn_blocking(move || round(&hub, &outbox, &places));
        match round.await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(ARRIVAL).await,
            Err(_) => return,
        }
    }
}

/// Gives each of these watchers some of what it has missed. `false`: it could not be read yet.
fn round(hub: &Arc<Hub>, outbox: &Arc<Outbox>, places: &[Place]) -> bool {
    let mut behind = hub.positions(outbox, places);
    behind.sort_by_key(|(_, after, ..)| *after);
    if behind.len() <= READ_APART {
        return behind.into_iter().fold(true, |all, (place, after, range, previous)| {
            let read = hub.history().read(&range, after, previous);
            give(hub, outbox, &[(place, after)], read) && all
        });
    }
    let Some((_, first, ..)) = behind.first() else { return true };
    let previous = behind.iter().any(|(.., previous)| *previous);
    let read = hub.history().read(&KeyRange::All, *first, previous);
    let all: Vec<_> = behind.iter().map(|(place, after, ..)| (*place, *after)).collect();
    give(hub, outbox, &all, read)
}

/// Gives watchers what was read. All was read from the first one's position on. `false`: nothing could be read yet.
fn give(
    hub: &Arc<Hub>,
    outbox: &Arc<Outbox>,
    watchers: &[(Place, Revision)],
    read: Result<Vec<Arc<RevisionEvents>>, WatchError>,
) -> bool {
    let revisions = match read {
        Ok(revisions) => revisions,
        Err(WatchError::Compacted { floor, .. }) => {
            // Others may be further: they read again from where they are.
            for (place, after) in watchers {
                if after.next() < floor {
                    hub.cancel_compacted(outbox, *place, wire::revision(floor));
                } else {
                    outbox.lag(*place);
                }
            }
            return true;
        }
        // It moves, and this node has not heard yet that it has come.
        Err(WatchError::Read(ReadError::Unconfirmed { .. })) => {
            for (place, _) in watchers {
                outbox.lag(*place);
            }
            return false;
        }
        Err(error) => {
            outbox.fail(status::watch(&error));
            return true;
        }
    };
    let read_to = revisions.last().map(|last| last.revision);
    for (place, after) in watchers {
        // One that begins later than what was read waits for its turn.
        let begins_later = read_to.is_some_and(|to| *after >= to);
        if begins_later || hub.bring_up(outbox, *place, &revisions) {
            outbox.lag(*place);
        }
    }
    true
}
