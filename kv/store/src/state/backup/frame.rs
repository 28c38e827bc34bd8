//! The frames that a backup is made of.

use serde::Serialize;

pub(super) const TITLE: &str = "netstate backup\n";

/// Longest second line: "format " and a number.
pub(super) const FORMAT_LINE_BYTES: usize = 32;

pub(super) const HEADER: u8 = 1;
pub(super) const CHUNK: u8 = 2;
pub(super) const KEYSPACE: u8 = 3;
pub(super) const END: u8 = 4;

/// Bytes before a frame's body, and after.
pub(super) const HEAD_BYTES: usize = 5;
pub(super) const CRC_BYTES: usize = 4;

/// Largest body: several times what is written, so that later versions may write larger ones.
pub(super) const BODY_BYTES_MAX: usize = 4 << 20;

/// Bytes of a chunk in a backup.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

const _: () = assert!(CHUNK_BYTES <= BODY_BYTES_MAX, "what is written can be read");

/// A frame of bytes.
pub(super) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("bodies are far smaller");
    let mut frame = Vec::with_capacity(HEAD_BYTES + body.len() + CRC_BYTES);
    frame.push(kind);
    frame.extend(length.to_le_bytes());
    frame.extend(body);
    frame.extend(crc32fast::hash(&frame).to_le_bytes());
    frame
}

/// A frame of a value.
pub(super) fn value_frame<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
    let body = postcard::to_allocvec(value).expect("only lengths unknown up front fail, and our types have none");
    frame(kind, &body)
}
