//! Which data directory of its node this is, and where its peers were when it joined: its `MEMBERSHIP` file.
//!
//! ```text
//! netstate membership
//! format 1
//! instance 0123456789abcdef0123456789abcdef
//! peer 1 n1 10.0.0.1:2380
//! crc32 89abcdef
//! ```
//!
//! Must hold: the instance never changes. The peers are where a node that joined finds the others until it has the
//! cluster's own list; a founder knows them from its configuration and has none here.

use std::{fs, io, path::Path};

use kv_core::{InstanceId, NodeId};

use crate::{OpenError, files};

const FILE: &str = "MEMBERSHIP";
const TITLE: &str = "netstate membership";
const FORMAT: &str = "format 1";

/// A data directory among those that its node ever had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which one it is.
    pub instance: InstanceId,
    /// The other nodes when it joined: id, name and `host:port`.
    pub peers: Vec<(NodeId, String, String)>,
}

impl Membership {
    /// A directory's. `None`: it has none yet.
    pub fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        let file = dir.join(FILE);
        let content = match fs::read(&file) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(files::error(&file, "reading the file", error).into()),
        };
        let damaged = |why: &str| OpenError::Damaged { file: file.clone(), why: why.into() };
        let content = String::from_utf8(content).map_err(|_| damaged("it is not text"))?;
        parse(&content).map(Some).map_err(damaged)
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
        let crc = crc32fast::hash(lines.as_bytes());
        lines + &format!("crc32 {crc:08x}\n")
    }
}

fn parse(content: &str) -> Result<Membership, &'static str> {
    let body = content.strip_suffix('\n').ok_or("it is cut short")?;
    let (lines, crc) = body.rsplit_once('\n').ok_or("it is cut short")?;
    let crc = crc.strip_prefix("crc32 ").and_then(|crc| u32::from_str_radix(crc, 16).ok());
    if crc != Some(crc32fast::hash(&content.as_bytes()[..=lines.len()])) {
        return Err("it does not match its checksum");
    }
    let mut lines = lines.lines();
    if lines.next() != Some(TITLE) {
        return Err("it is not netstate's");
    }
    if lines.next() != Some(FORMAT) {
        return Err("it has a format that this version does not know; install a newer one");
    }
    let instance = lines.next().and_then(|line| line.strip_prefix("instance ")?.parse().ok());
    let instance = instance.ok_or("it has no instance")?;
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
