//! A keyspace's keys as a file, for `etcdctl snapshot save`.
//!
//! The format: a line that names it, every key at one revision as a length-delimited `mvccpb.KeyValue`, ascending, zeros up
//! to a multiple of 512 bytes, and the SHA-256 of all before it: etcdctl looks for it by that. etcd's file is a copy of its
//! database, of which nothing here has the form.

use bytes::{BufMut, Bytes, BytesMut};
use kv_core::{KeyRange, Keyspace, Query};
use kv_node::{Node, ReadError};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::wire;

const NAME: &str = "netstate keyspace snapshot 1\n";

/// What the length before the hash is a multiple of.
const BLOCK_BYTES: usize = 512;

/// Keys of one part.
const PART_KEYS: usize = 500;

/// What is still to be read of a snapshot.
pub(crate) struct Snapshot {
    pages: kv_node::Pages,
    hasher: Sha256,
    /// Of the file so far.
    bytes: usize,
    begun: bool,
    ended: bool,
}

impl Snapshot {
    /// Pins what the local replica has now.
    pub(crate) fn of(node: &Node, keyspace: &Keyspace) -> Result<Self, ReadError> {
        let pages = node.pages(keyspace, &Query::all(KeyRange::All), PART_KEYS)?;
        Ok(Snapshot { pages, hasher: Sha256::new(), bytes: 0, begun: false, ended: false })
    }

    /// The next bytes of the file. Reads from disk.
    pub(crate) fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        if self.ended {
            return None;
        }
        let mut part = BytesMut::new();
        if !std::mem::replace(&mut self.begun, true) {
            part.extend_from_slice(NAME.as_bytes());
        }
        match self.pages.next() {
            Ok(Some(page)) => {
                for kv in page.kvs {
                    let kv = wire::kv(kv).encode_length_delimited_to_vec();
                    part.extend_from_slice(&kv);
                }
                self.hasher.update(&part);
            }
            Ok(None) => {
                let bytes = self.bytes + part.len();
                part.put_bytes(0, bytes.next_multiple_of(BLOCK_BYTES) - bytes);
                self.hasher.update(&part);
                part.extend_from_slice(&self.hasher.finalize_reset());
                self.ended = true;
            }
            Err(error) => {
                self.ended = true;
                return Some(Err(error));
            }
        }
        self.bytes += part.len();
        Some(Ok(part.freeze()))
    }
}
