//! Up to where a keyspace is compacted, as etcd counts it.
//!
//! In etcd a store that was never compacted differs from one that was compacted at revision 0 or 1, of which nothing can
//! be read either: whoever does that a second time is refused. The store has no revision for it, so a record beside the
//! keys remembers it.

use bytes::Bytes;
use kv_core::{Effect, Guard, Keyspace, Revision, Txn};
use kv_node::ReadError;
use tonic::Status;

use crate::{access::Shared, status, wire};

const RECORD: &[u8] = b"etcd/compacted";

/// What etcd has before the first compaction.
const NEVER: i64 = -1;

/// The revision of the last compaction; -1 before the first one.
pub(crate) fn revision(shared: &Shared, keyspace: &Keyspace) -> Result<i64, ReadError> {
    let floor = shared.node().usage(keyspace).floor;
    if floor > Revision::ZERO {
        return Ok(wire::revision(floor));
    }
    let known = shared.node().beside(keyspace, RECORD)?;
    Ok(known.map_or(NEVER, |value| value.first().copied().map_or(NEVER, i64::from)))
}

/// The change that compacts up to `to`, which is refused if that was done already.
pub(crate) fn change(shared: &Shared, keyspace: &Keyspace, to: i64) -> Result<Txn, Status> {
    let now = revision(shared, keyspace).map_err(|error| status::read(&error))?;
    if to <= now {
        return Err(status::compacted());
    }
    // Nothing lies before the revision of the empty store.
    let early = u8::try_from(to).ok().filter(|to| *to <= 1);
    let (effect, guard) = match early {
        None => (Effect::Compact { to: wire::from_revision(to), records: true }, None),
        Some(to) => {
            let key = Bytes::from_static(RECORD);
            let value = shared.node().beside(keyspace, &key).map_err(|error| status::read(&error))?;
            let guard = Guard { key: key.clone(), value };
            (Effect::Record { key, value: Some(Bytes::copy_from_slice(&[to])) }, Some(guard))
        }
    };
    Ok(Txn { effects: vec![effect], guard, ..Txn::default() })
}
