//! Who is who.

use std::{fmt, num::NonZeroI64};

use serde::{Deserialize, Serialize};

/// A `netstate server` process's identity. Never used again once its node has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(u64);

/// One Raft group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(u16);

/// What tells one cluster's data from another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterId([u8; 16]);

/// What tells one data directory of a node from another: drawn when the directory is made, so that a node whose disk was
/// lost or exchanged is not taken for itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InstanceId([u8; 16]);

/// Chosen by a client for one transaction, so that a retry is recognised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId([u8; 16]);

/// A lease of one keyspace: keys attached to it go when it ends. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(NonZeroI64);

impl LeaseId {
    /// A lease id from its number; zero is none.
    pub const fn new(raw: i64) -> Option<Self> {
        match NonZeroI64::new(raw) {
            Some(raw) => Some(LeaseId(raw)),
            None => None,
        }
    }

    /// The bare number.
    pub const fn get(self) -> i64 {
        self.0.get()
    }
}

impl NodeId {
    /// A node id from its number.
    pub const fn new(raw: u64) -> Self {
        NodeId(raw)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl GroupId {
    /// A group id from its number.
    pub const fn new(raw: u16) -> Self {
        GroupId(raw)
    }

    /// The bare number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl ClusterId {
    /// A cluster id from its 16 bytes.
    pub const fn new(raw: [u8; 16]) -> Self {
        ClusterId(raw)
    }

    /// The id that every node of a cluster founded with this member list derives by itself.
    pub fn of_founders(initial_cluster: &str) -> Self {
        let hash = blake3::derive_key("netstate cluster id v1", initial_cluster.as_bytes());
        ClusterId(hash[..16].try_into().expect("16 of 32 bytes"))
    }

    /// The id of a cluster that is restored from a backup: of these founders, that backup's checksum, and everything else
    /// that makes one restored cluster another than the next.
    pub fn of_restore(initial_cluster: &str, backup: &[u8; 32], how: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("netstate restored cluster id v1");
        for part in [initial_cluster.as_bytes(), backup, how.as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        ClusterId(hasher.finalize().as_bytes()[..16].try_into().expect("16 of 32 bytes"))
    }

    /// The 16 bytes.
    pub const fn get(self) -> [u8; 16] {
        self.0
    }
}

impl InstanceId {
    /// An instance id from its 16 random bytes.
    pub const fn new(raw: [u8; 16]) -> Self {
        InstanceId(raw)
    }

    /// The 16 bytes.
    pub const fn get(self) -> [u8; 16] {
        self.0
    }
}

impl RequestId {
    /// A request id from its 16 bytes, those of a UUID.
    pub const fn new(raw: [u8; 16]) -> Self {
        RequestId(raw)
    }

    /// The 16 bytes.
    pub const fn get(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The 16 bytes that 32 hexadecimal digits stand for.
fn unhex(text: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(text, 16).ok()?;
    (text.len() == 32 && !text.starts_with('+')).then(|| number.to_be_bytes())
}

impl std::str::FromStr for ClusterId {
    type Err = NotHex;

    fn from_str(text: &str) -> Result<Self, NotHex> {
        unhex(text).map(ClusterId).ok_or(NotHex)
    }
}

impl std::str::FromStr for InstanceId {
    type Err = NotHex;

    fn from_str(text: &str) -> Result<Self, NotHex> {
        unhex(text).map(InstanceId).ok_or(NotHex)
    }
}

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hexadecimal digits")]
pub struct NotHex;

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}
