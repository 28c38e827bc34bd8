//! The envelope of every stored record.
//!
//! ```text
//! format  1 byte
//! crc32   4 bytes, little endian: of format, key and payload, so that a record cannot stand under another's key
//! payload
//! ```
//!
//! Must hold: the first five bytes mean the same in every format, so that a record of a later version is told from a
//! damaged one.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

/// The format written today, of all but what says otherwise.
pub(crate) const FORMAT: u8 = 1;

const HEAD_BYTES: usize = 5;

/// What is wrong with a stored record.
#[derive(Debug)]
pub(crate) enum Flaw {
    Short,
    Checksum { stored: u32, computed: u32 },
    Newer { found: u8, known: u8 },
    Payload(postcard::Error),
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Flaw::Short => write!(f, "it is shorter than any record"),
            Flaw::Checksum { stored, computed } => {
                write!(f, "its checksum is {computed:08x} and should be {stored:08x}")
            }
            Flaw::Newer { found, .. } => write!(f, "its format is {found}"),
            Flaw::Payload(error) => write!(f, "its content makes no sense ({error})"),
        }
    }
}

fn checksum(format: u8, key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[format]);
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

fn seal(format: u8, key: &[u8], mut record: Vec<u8>) -> Vec<u8> {
    let crc = checksum(format, key, &record[HEAD_BYTES..]);
    record[0] = format;
    record[1..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    record
}

/// A record of bytes.
pub(crate) fn seal_bytes(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD_BYTES + payload.len());
    record.resize(HEAD_BYTES, 0);
    record.extend_from_slice(payload);
    seal(FORMAT, key, record)
}

/// A record of a value, in a buffer that is given back.
pub(crate) fn seal_value_into<T: Serialize>(key: &[u8], value: &T, buffer: Vec<u8>) -> Vec<u8> {
    seal_format_into(FORMAT, key, value, buffer)
}

/// The same in another format.
pub(crate) fn seal_format_into<T: Serialize>(format: u8, key: &[u8], value: &T, mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.resize(HEAD_BYTES, 0);
    let record =
        postcard::to_extend(value, buffer).expect("only lengths unknown up front fail, and our types have none");
    seal(format, key, record)
}

/// The payload of a record.
pub(crate) fn open<'a>(key: &[u8], record: &'a [u8]) -> Result<&'a [u8], Flaw> {
    open_upto(FORMAT, key, record).map(|(_, payload)| payload)
}

/// The format and the payload of a record that may have a format up to this one.
pub(crate) fn open_upto<'a>(known: u8, key: &[u8], record: &'a [u8]) -> Result<(u8, &'a [u8]), Flaw> {
    let Some((head, payload)) = record.split_first_chunk::<HEAD_BYTES>() else { return Err(Flaw::Short) };
    let [format, crc @ ..] = *head;
    let (stored, computed) = (u32::from_le_bytes(crc), checksum(format, key, payload));
    if stored != computed {
        return Err(Flaw::Checksum { stored, computed });
    }
    if !(FORMAT..=known).contains(&format) {
        return Err(Flaw::Newer { found: format, known });
    }
    Ok((format, payload))
}

/// The payload of a record without its envelope's head; the checksum has been looked at, or will be.
pub(crate) fn payload(record: &[u8]) -> &[u8] {
    record.get(HEAD_BYTES..).unwrap_or_default()
}

/// The value in a record.
pub(crate) fn open_value<'a, T: Deserialize<'a>>(key: &[u8], record: &'a [u8]) -> Result<T, Flaw> {
    postcard::from_bytes(open(key, record)?).map_err(Flaw::Payload)
}

/// The value in a record whose checksum nobody looks at: only what can be missed may be decided by it.
pub(crate) fn peek_value<'a, T: Deserialize<'a>>(record: &'a [u8]) -> Option<T> {
    let (head, payload) = record.split_first_chunk::<HEAD_BYTES>()?;
    (head[0] == FORMAT).then(|| postcard::from_bytes(payload).ok())?
}

/// Bytes inside a value, neither copied nor walked byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = &'de [u8];

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<&'de [u8], E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_bytes(Borrowed).map(Raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_shows() {
        let record = seal_bytes(b"key", b"payload");
        assert_eq!(open(b"key", &record).unwrap(), b"payload");
        assert!(open(b"kez", &record).is_err(), "a record stands under its own key only");
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(b"key", &damaged), Err(Flaw::Checksum { .. })), "bit {bit}");
        }
        for len in 0..record.len() {
            assert!(open(b"key", &record[..len]).is_err());
        }
    }
}
