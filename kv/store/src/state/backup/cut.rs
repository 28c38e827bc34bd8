//! Where the history of a restored keyspace ends.
//!
//! Must hold: the state at that revision is there, or the keyspace is refused by name. A state whose later versions were
//! compacted is no state.

use kv_core::{GroupId, Head, Keyspace, Revision};

use super::{Point, Unreachable};
use crate::{
    StoreError,
    database::Database,
    state::{
        keys,
        records::{Chained, KeyspaceRecord},
    },
};

/// The head that a keyspace had at a point, or why nobody can take it back there.
pub(super) fn find(
    database: &Database,
    group: GroupId,
    name: &Keyspace,
    known: &KeyspaceRecord,
    point: &Point,
) -> Result<Result<Head, Unreachable>, StoreError> {
    let within = |head: &Head| match point {
        Point::Latest => true,
        Point::Time(time) => head.at <= *time,
        Point::Revisions(named) => named.get(name).is_none_or(|revision| head.revision <= *revision),
    };
    if let Point::Revisions(named) = point
        && let Some(asked) = named.get(name)
        && *asked > known.head.revision
    {
        let (limit, at) = (known.head.revision, Some(known.head.at));
        return Ok(Err(Unreachable { keyspace: name.clone(), limit, at, why: "ends in the backup with" }));
    }
    if within(&known.head) {
        return Ok(Ok(known.head));
    }
    let cut = last_within(database, group, name, known, within)?;
    // Before its first revision every keyspace was empty, whatever has been compacted since.
    let unwritten = cut.is_none() && known.forgotten == Revision::ZERO;
    if unwritten || cut.is_some_and(|cut| cut.revision >= known.floor) {
        return Ok(Ok(cut.unwrap_or_default()));
    }
    let at = stored(database, group, known, known.floor)?.map(|chained| chained.at);
    let why = "is compacted and goes back no further than";
    Ok(Err(Unreachable { keyspace: name.clone(), limit: known.floor, at, why }))
}

/// The latest record that is within the point, walking back from the head.
fn last_within(
    database: &Database,
    group: GroupId,
    name: &Keyspace,
    known: &KeyspaceRecord,
    within: impl Fn(&Head) -> bool,
) -> Result<Option<Head>, StoreError> {
    let from = keys::kind_of(group, keys::CHAIN, known.number);
    let mut cursor = database.cursor(None, &from, keys::chain(group, known.number, known.head.revision.next()));
    cursor.seek_to_last();
    while let Some((key, stored)) = cursor.item().filter(|(key, _)| key.starts_with(&from)) {
        let chained: Chained<'_> = database.open_value(key, stored)?;
        let head = chained.record.head(name);
        if within(&head) {
            return Ok(Some(head));
        }
        cursor.prev();
    }
    database.ended(&cursor)?;
    Ok(None)
}

fn stored(
    database: &Database,
    group: GroupId,
    known: &KeyspaceRecord,
    revision: Revision,
) -> Result<Option<kv_core::ChainRecord>, StoreError> {
    let key = keys::chain(group, known.number, revision);
    let Some(stored) = database.get(&key)? else { return Ok(None) };
    let chained: Chained<'_> = database.open_value(&key, &stored)?;
    Ok(Some(chained.record))
}
