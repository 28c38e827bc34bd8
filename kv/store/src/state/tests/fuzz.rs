//! Records that nearly make sense are decoded or refused, without a panic.
//!
//! The corpus is the fixture of stored records. A finding goes into [`FOUND`], as hexadecimal digits.

use mutation::Told;

use super::fixture::fixture;
use crate::{
    envelope,
    state::{
        keys,
        records::{Chained, GroupRecord, KeyspaceRecord, LeaseRecord, Remembered, Version},
    },
};

/// Inputs that once went wrong: a key and a record.
const FOUND: &[(&str, &str)] = &[];

/// Bytes before a record's content.
const HEAD_BYTES: usize = 5;

#[test]
fn stored_records_are_decoded_or_refused() {
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let kept = fixture().into_iter().filter(|(of, ..)| of != "chunk").map(|(_, key, record)| (key, record));
    let corpus: Vec<_> = kept.chain(FOUND.iter().map(|(key, record)| (bytes(key), bytes(record)))).collect();
    corpus.iter().for_each(|(key, record)| decode(key, record));
    mutation::run(|mutator| {
        let ((key, record), (other_key, other)) = (mutator.pick(&corpus), mutator.pick(&corpus));
        let changed = mutator.mutate(key, other_key);
        decode(&changed, record);
        decode(key, &mutator.mutate(record, other));
        // With a checksum that is right the content itself is looked at.
        let content = mutator.mutate(&record[HEAD_BYTES..], &other[HEAD_BYTES..]);
        decode(key, &envelope::seal_bytes(key, &content));
    });
}

/// Reads a record as everything that it could be.
fn decode(key: &[u8], record: &[u8]) {
    let (_key, _record) = (Told(key), Told(record));
    crate::log::fuzz(record);
    keys::render(key);
    keys::split_earlier(key);
    if key.len() >= 3 {
        keys::split_expiry(key);
        keys::split_lease(key);
    }
    let _ = envelope::open(key, record);
    let _ = envelope::open_value::<GroupRecord>(key, record);
    let _ = KeyspaceRecord::open(key, record);
    let _ = envelope::open_value::<LeaseRecord>(key, record);
    let _ = envelope::open_value::<Remembered>(key, record);
    let _ = envelope::open_value::<Chained<'_>>(key, record);
    if let Ok(version) = envelope::open_value::<Version<'_>>(key, record) {
        version.state();
    }
}
