//! Files whose checksums are all right and whose content nearly makes sense: verified or refused, and restored or refused,
//! without a panic.
//!
//! The corpus is the fixture.

use std::{fs, io::Write as _};

use mutation::Told;

use super::{fixture::FILE, restore_to};
use crate::{
    envelope,
    state::backup::{
        Point,
        frame::{self, BODY_BYTES_MAX, CRC_BYTES, HEAD_BYTES},
        verify,
    },
};

const LINES: &[u8] = b"netstate backup\nformat 1\n";

/// Bytes of a chunk before its body, and after; of a record before its content.
const CHUNK: (usize, usize) = (8, 4);
const RECORD_HEAD_BYTES: usize = 5;

/// One in so many of those that are taken is restored, which takes a hundred times as long.
const RESTORED_OF: u32 = 32;

/// The bodies of a file's frames.
fn frames(file: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut rest, mut frames) = (&file[LINES.len()..], Vec::new());
    while let Some((head, tail)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let [kind, length @ ..] = *head;
        let length = u32::from_le_bytes(length) as usize;
        frames.push((kind, tail[..length].to_vec()));
        rest = &tail[length + CRC_BYTES..];
    }
    frames
}

/// A file of these frames, with checksums that are right.
fn sealed(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut file = LINES.to_vec();
    for (kind, body) in frames.iter().filter(|(kind, body)| *kind != frame::END && body.len() <= BODY_BYTES_MAX) {
        file.extend(frame::frame(*kind, body));
    }
    let digest = blake3::hash(&file);
    file.extend(frame::frame(frame::END, digest.as_bytes()));
    file
}

/// The records of a group's stream.
fn records(stream: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut rest, mut parts) = (stream, Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (part, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        parts.push(part.to_vec());
        rest = tail;
    }
    parts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

/// The two chunks of a group's stream.
fn chunks(group: u16, records: &[(Vec<u8>, Vec<u8>)]) -> [(u8, Vec<u8>); 2] {
    let mut stream = Vec::new();
    for part in records.iter().flat_map(|(key, record)| [key, record]) {
        stream.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
        stream.extend(part);
    }
    let end = [&(stream.len() as u64).to_le_bytes()[..], &crc32fast::hash(&stream).to_le_bytes()].concat();
    let chunk = |sequence: u32, kind: u8, body: &[u8]| {
        let mut chunk = vec![1, kind];
        chunk.extend(group.to_le_bytes());
        chunk.extend(sequence.to_le_bytes());
        chunk.extend(body);
        chunk.extend(crc32fast::hash(&chunk).to_le_bytes());
        (frame::CHUNK, chunk)
    };
    [chunk(0, 1, &stream), chunk(1, 2, &end)]
}

#[test]
fn files_that_nearly_make_sense_are_taken_or_refused() {
    let corpus = frames(&fs::read(FILE).unwrap());
    // Of each group: the first chunk has all its records, the second only ends them.
    let groups: Vec<_> = (0..corpus.len())
        .filter(|at| corpus[*at].0 == frame::CHUNK && corpus[*at].1[1] == 1)
        .map(|at| (at, records(&corpus[at].1[CHUNK.0..corpus[at].1.len() - CHUNK.1])))
        .collect();
    assert_eq!(groups.len(), 2);
    let dir = tempfile::tempdir().unwrap();
    let mut taken = 0u32;
    mutation::run(|mutator| {
        let mut changed = corpus.clone();
        let (at, known) = mutator.pick(&groups);
        let mut known = known.clone();
        let which = *mutator.pick(&(0..known.len()).collect::<Vec<_>>());
        let (other_key, other) = mutator.pick(&known).clone();
        let (key, record) = &mut known[which];
        match mutator.pick(&[0, 1, 2, 3]) {
            0 => *key = mutator.mutate(key, &other_key),
            1 => *record = mutator.mutate(record, &other),
            2 => {
                let group = [corpus[*at].1[3], corpus[*at].1[2]];
                let content = mutator.mutate(&record[RECORD_HEAD_BYTES..], &other[RECORD_HEAD_BYTES..]);
                *record = envelope::seal_bytes(&[&group[..], key].concat(), &content);
            }
            _ => {
                let which = *mutator.pick(&(0..corpus.len()).collect::<Vec<_>>());
                let (kind, body) = &mut changed[which];
                if *kind != frame::CHUNK {
                    *body = mutator.mutate(&body.clone(), &other);
                }
            }
        }
        let group = u16::from_le_bytes([corpus[*at].1[2], corpus[*at].1[3]]);
        changed[*at..*at + 2].clone_from_slice(&chunks(group, &known));
        let content = sealed(&changed);
        let _told = Told(&content);
        let mut file = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        file.write_all(&content).unwrap();
        if verify(file.path(), &mut |_| {}).is_ok_and(|contents| contents.header.groups == 4) {
            taken += 1;
            let to = dir.path().join("data");
            if taken.is_multiple_of(RESTORED_OF)
                && restore_to(file.path(), &to, &Point::Time(kv_core::Timestamp::from_micros(1_005))).is_ok()
            {
                fs::remove_dir_all(&to).unwrap();
            }
        }
    });
    // Changes of what nothing else depends on: the time of a request id, say.
    assert!(taken > 0, "nothing got past the checksums");
}
