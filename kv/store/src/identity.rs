//! Whose data a directory holds: its `IDENTITY` file.
//!
//! ```text
//! netstate data
//! format 1
//! cluster 0123456789abcdef0123456789abcdef
//! node 7
//! groups 16
//! crc32 89abcdef
//! ```
//!
//! Must hold: the first two lines and the last mean the same in every format.

use std::{fmt, path::Path};

use kv_core::{ClusterId, NodeId};

use crate::{OpenError, files, sealed};

/// The format of the whole directory: of the file itself, and which databases and files there are.
pub(crate) const DIRECTORY_FORMAT: u32 = 1;

const FILE: &str = "IDENTITY";
const TITLE: &str = "netstate data";

/// Whose data a directory holds. Fixed when the node is founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// How many groups the cluster was founded with.
    pub groups: u16,
}

/// One difference between the data directory and the node that wants to open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It belongs to another cluster.
    Cluster {
        /// The directory's.
        found: ClusterId,
        /// The node's.
        expected: ClusterId,
    },
    /// It belongs to another node.
    Node {
        /// The directory's.
        found: NodeId,
        /// The one that wants to open it.
        expected: NodeId,
    },
    /// Its cluster has another number of groups.
    Groups {
        /// The directory's.
        found: u16,
        /// The node's.
        expected: u16,
    },
    /// A later version wrote it.
    Format {
        /// The directory's.
        found: u32,
        /// The newest known here.
        known: u32,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Cluster { found, expected } => {
                write!(f, "it belongs to another cluster ({found}, this node is of {expected})")
            }
            Mismatch::Node { found, expected } => write!(f, "it belongs to node {found}, this is {expected}"),
            Mismatch::Groups { found, expected } => {
                write!(f, "its cluster was founded with {found} groups, this node is configured for {expected}")
            }
            Mismatch::Format { found, known } => {
                write!(f, "it has format {found}, and this version knows formats up to {known} (install a newer one)")
            }
        }
    }
}

impl Identity {
    fn render(&self) -> String {
        let cluster = self.cluster;
        let (node, groups) = (self.node.get(), self.groups);
        sealed::seal(format!("{TITLE}\nformat {DIRECTORY_FORMAT}\ncluster {cluster}\nnode {node}\ngroups {groups}\n"))
    }

    /// Writes the file.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        Ok(files::write(&dir.join(FILE), self.render().as_bytes())?)
    }

    /// Whose data a directory holds. `None`: nobody's yet.
    pub fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        match sealed::read(&dir.join(FILE), parse)? {
            None => Ok(None),
            Some(Parsed::Known(found)) => Ok(Some(found)),
            Some(Parsed::Newer { found }) => {
                let mismatches = vec![Mismatch::Format { found, known: DIRECTORY_FORMAT }];
                Err(OpenError::Identity { dir: dir.into(), mismatches })
            }
        }
    }

    /// Compares a directory's file with this. `false`: there is none.
    pub(crate) fn check(&self, dir: &Path) -> Result<bool, OpenError> {
        let Some(found) = Self::read(dir)? else { return Ok(false) };
        let mismatches = self.mismatches(&found);
        if mismatches.is_empty() { Ok(true) } else { Err(OpenError::Identity { dir: dir.into(), mismatches }) }
    }

    /// What a directory's identity differs in from the wanted one.
    pub fn mismatches(&self, found: &Identity) -> Vec<Mismatch> {
        let cluster = Mismatch::Cluster { found: found.cluster, expected: self.cluster };
        let node = Mismatch::Node { found: found.node, expected: self.node };
        let groups = Mismatch::Groups { found: found.groups, expected: self.groups };
        let differs = [
            (found.cluster != self.cluster, cluster),
            (found.node != self.node, node),
            (found.groups != self.groups, groups),
        ];
        differs.into_iter().filter_map(|(differs, mismatch)| differs.then_some(mismatch)).collect()
    }
}

enum Parsed {
    Known(Identity),
    Newer { found: u32 },
}

fn parse(content: &str) -> Result<Parsed, &'static str> {
    let mut lines = sealed::open(content, TITLE)?;
    let format: u32 = sealed::field(&mut lines, "format").ok_or("it has no format")?;
    if format > DIRECTORY_FORMAT {
        return Ok(Parsed::Newer { found: format });
    }
    let cluster = sealed::field(&mut lines, "cluster").ok_or("it has no cluster")?;
    let node = sealed::field(&mut lines, "node").map(NodeId::new).ok_or("it has no node")?;
    let groups = sealed::field(&mut lines, "groups").ok_or("it has no number of groups")?;
    Ok(Parsed::Known(Identity { cluster, node, groups }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { cluster: ClusterId::new([0xab; 16]), node: NodeId::new(7), groups: 16 }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let text = identity().render();
        assert!(matches!(parse(&text), Ok(Parsed::Known(found)) if found == identity()));
        for at in 0..text.len() {
            assert!(parse(&text[..at]).is_err(), "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let edited = String::from_utf8(bytes).unwrap();
            // Only the case of the checksum's digits could change without notice, and this bit is not that.
            assert!(parse(&edited).is_err(), "byte {at}");
        }
    }
}
