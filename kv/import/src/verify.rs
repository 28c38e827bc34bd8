//! Compares both sides, key by key.
//!
//! Must hold: a page of each side is all that is kept, beside as many differences as were asked for.

use bytes::Bytes;

use crate::{
    ImportError, LeaseId, Options, Position, Progress, Role, Side, SourceRevision, TargetRevision,
    change::KeyRange,
    merge::{Merge, Pair},
    options::Report,
    pager::Pager,
    side::Peer,
};

/// Keys between two reports.
const KEYS_PER_REPORT: u64 = 10_000;

/// What differs under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the source has it.
    Missing {
        /// The key.
        key: Bytes,
    },
    /// Only the target has it.
    Extra {
        /// The key.
        key: Bytes,
    },
    /// The values differ; the leases may too.
    Value {
        /// The key.
        key: Bytes,
    },
    /// The values are the same, the leases differ.
    Lease {
        /// The key.
        key: Bytes,
        /// The source's lease.
        source: Option<LeaseId>,
        /// The target's lease.
        target: Option<LeaseId>,
    },
}

/// Outcome of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The revisions that were compared.
    pub at: Position,
    /// Different keys that either side has.
    pub keys: u64,
    /// How many of them differ.
    pub differing: u64,
    /// The first of those, up to [`Options::differences_max`].
    pub differences: Vec<Difference>,
}

/// Compares the keys under the prefix at a position, or at the present revision of each side.
///
/// At present only makes sense while nobody writes to the source: its revision is not on the target the moment it appears.
pub async fn verify(
    source: &Side,
    target: &Side,
    options: &Options,
    at: Option<Position>,
    report: Report<'_>,
) -> Result<Verified, ImportError> {
    let source = Peer::new(Role::Source, source, options);
    let target = Peer::new(Role::Target, target, options);
    let range = KeyRange::of_prefix(&options.prefix);
    let at = match at {
        Some(at) => at,
        None => {
            let (source, target) = tokio::try_join!(source.header(&range.start), target.header(&range.start))?;
            Position { source: SourceRevision::new(source.revision), target: TargetRevision::new(target.revision) }
        }
    };
    let mut merge = Merge {
        source: Pager::new(&source, range.clone(), at.source.get(), options),
        target: Some(Pager::new(&target, range, at.target.get(), options)),
    };
    let mut verified = Verified { at, keys: 0, differing: 0, differences: Vec::new() };
    while let Some(pair) = merge.next().await? {
        verified.keys += 1;
        if let Some(difference) = difference(pair) {
            verified.differing += 1;
            if verified.differences.len() < options.differences_max {
                verified.differences.push(difference);
            }
        }
        if verified.keys.is_multiple_of(KEYS_PER_REPORT) {
            report(Progress::Verifying { keys: verified.keys, differences: verified.differing });
        }
    }
    report(Progress::Verifying { keys: verified.keys, differences: verified.differing });
    Ok(verified)
}

fn difference(pair: Pair) -> Option<Difference> {
    match pair {
        Pair::Source(pair) => Some(Difference::Missing { key: pair.key }),
        Pair::Target(pair) => Some(Difference::Extra { key: pair.key }),
        Pair::Both { source, target } if source.value != target.value => Some(Difference::Value { key: source.key }),
        Pair::Both { source, target } if source.lease != target.lease => Some(Difference::Lease {
            key: source.key,
            source: LeaseId::new(source.lease),
            target: LeaseId::new(target.lease),
        }),
        Pair::Both { .. } => None,
    }
}
