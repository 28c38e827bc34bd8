//! Which data directory of its node this is, and who the members of its cluster are: its `MEMBERSHIP` file.
//!
//! ```text
//! netstate membership
//! format 1
//! instance 0123456789abcdef0123456789abcdef
//! peer 1 n1 10.0.0.1:2380
//! crc32 89abcdef
//! ```
//!
//! Must hold: the instance never changes. The peers are where a node finds the others until it has the cluster's own list;
//! a founder that never had that knows them from its configuration and has none here.

use std::{fs, path::Path};

use kv_core::{InstanceId, NodeId};

use crate::{OpenError, files, sealed};

const FILE: &str = "MEMBERSHIP";
const TITLE: &str = "netstate membership";
const FORMAT: &str = "format 1";

/// A data directory among those that its node ever had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which one it is.
    pub instance: InstanceId,
    /// The members when that was noted last: id, name and `host:port`.
    pub peers: Vec<(NodeId, String, String)>,
}

impl Membership {
    /// A directory's. `None`: it has none yet.
    pub fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        sealed::read(&dir.join(FILE), parse)
    }

    /// Writes it into a directory, which is made if it is not there.
    pub fn write(&self, dir: &Path) -> Result<(), OpenError> {
        fs::create_dir_all(dir).map_err(|error| files::error(dir, "creating the directory", error))?;
        Ok(files::write(&dir.join(FILE), self.render().as_bytes())?)
    }

    fn render(&self) -> String {
        let mut lines = format!("{TITLE}\n{FORMAT}\ninstance {}\n", self.instance);
        for (node, name, peer) in &self.peers {
            lines += &format!("peer {} {name} {peer}\n", node.get());
        }
        sealed::seal(lines)
    }
}

fn parse(content: &str) -> Result<Membership, &'static str> {
    let mut lines = sealed::open(content, TITLE)?;
    if lines.next() != Some(FORMAT) {
        return Err("it has a format that this version does not know; install a newer one");
    }
    let instance = sealed::field(&mut lines, "instance").ok_or("it has no instance")?;
    let peer = |line: &str| {
        let mut words = line.strip_prefix("peer ")?.splitn(3, ' ');
        let node = NodeId::new(words.next()?.parse().ok()?);
        Some((node, words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let peers = lines.map(peer).collect::<Option<_>>().ok_or("it has a peer that makes no sense")?;
    Ok(Membership { instance, peers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let peers = vec![(NodeId::new(1), "n1".to_owned(), "10.0.0.1:2380".to_owned())];
        let membership = Membership { instance: InstanceId::new([0xab; 16]), peers };
        let text = membership.render();
        assert_eq!(parse(&text), Ok(membership));
        for at in 0..text.len() {
            assert!(parse(&text[..at]).is_err(), "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(parse(&String::from_utf8(bytes).unwrap()).is_err(), "byte {at}");
        }
    }
}
