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
//! Text, so that whoever finds a directory can tell what it is. The checksum is that of all lines before it.
//!
//! Must hold: the first two lines and the last mean the same in every format.

use std::{fmt, fs, io, path::Path};

use kv_core::{ClusterId, NodeId};

use crate::{OpenError, files};

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
        let lines = format!("{TITLE}\nformat {DIRECTORY_FORMAT}\ncluster {cluster}\nnode {node}\ngroups {groups}\n");
        format!("{lines}crc32 {:08x}\n", crc32fast::hash(lines.as_bytes()))
    }

    /// Writes the file of a directory that has none.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        Ok(files::write(&dir.join(FILE), self.render().as_bytes())?)
    }

    /// Whose data a directory holds. `None`: nobody's yet.
    pub fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        let file = dir.join(FILE);
        let content = match fs::read(&file) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(files::error(&file, "reading the file", error).into()),
        };
        let damaged = |why: &str| OpenError::Damaged { file: file.clone(), why: why.into() };
        let content = String::from_utf8(content).map_err(|_| damaged("it is not text"))?;
        match parse(&content).map_err(damaged)? {
            Parsed::Known(found) => Ok(Some(found)),
            Parsed::Newer { found } => {
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
    let body = content.strip_suffix('\n').ok_or("it is cut short")?;
    let (lines, crc) = body.rsplit_once('\n').ok_or("it is cut short")?;
    let crc = crc.strip_prefix("crc32 ").and_then(|crc| u32::from_str_radix(crc, 16).ok());
    let crc = crc.ok_or("its last line is no checksum")?;
    let checked = &content[..=lines.len()];
    if crc32fast::hash(checked.as_bytes()) != crc {
        return Err("it does not match its checksum");
    }
    let mut lines = lines.lines();
    if lines.next() != Some(TITLE) {
        return Err("it is not netstate's");
    }
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let format: u32 = field("format").and_then(|format| format.parse().ok()).ok_or("it has no format")?;
    if format > DIRECTORY_FORMAT {
        return Ok(Parsed::Newer { found: format });
    }
    let cluster = field("cluster").and_then(|cluster| cluster.parse().ok()).ok_or("it has no cluster")?;
    let node = field("node").and_then(|node| node.parse().ok()).map(NodeId::new).ok_or("it has no node")?;
    let groups = field("groups").and_then(|groups| groups.parse().ok()).ok_or("it has no number of groups")?;
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
