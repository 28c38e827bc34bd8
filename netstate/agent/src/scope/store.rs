//! The last scope on disk, so that an agent that restarts with the store gone goes on enforcing.
//!
//! Must hold: the file is a whole scope or none; a damaged one is told apart from a missing one.
//!
//! ```text
//! netstate-scope <version> <crc32 of the payload, hexadecimal> <bytes of payload>\n
//! payload: postcard of HostScope
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::HostScope;

/// Raised whenever the payload's shape changes. An agent that finds another version asks for everything again.
const VERSION: u32 = 1;
const MAGIC: &str = "netstate-scope";
/// No scope is larger; a file that claims to be is damaged.
const PAYLOAD_BYTES_MAX: u64 = 1 << 30;

/// Where a host's scope is kept.
#[derive(Clone, Debug)]
pub struct ScopeFile {
    dir: PathBuf,
}

/// Why the scope on disk is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ScopeFileError {
    /// The file or its folder can't be read or written.
    #[error("{doing} {path} failed; the agent needs the folder of --state-dir to be writable", path = .path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The content is not what was written.
    #[error("{path} is damaged: {problem}; it is set aside and the scope is asked for again", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// The content is of another version of the agent.
    #[error(
        "{path} has format {found}, this agent reads {VERSION}; it is set aside and the scope is asked for again",
        path = .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl ScopeFile {
    /// The scope of the agent with this state folder.
    pub fn new(dir: &Path) -> Self {
        ScopeFile { dir: dir.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.join("scope")
    }

    /// Reads the scope; none when there is no file.
    ///
    /// # Errors
    /// When the file can't be read, is damaged, or is of another version.
    pub fn load(&self) -> Result<Option<HostScope>, ScopeFileError> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ScopeFileError::Io { doing: "reading", path, source }),
        };
        decode(&bytes).map(Some).map_err(|problem| match problem {
            Problem::Version(found) => ScopeFileError::Version { path, found },
            Problem::Damaged(problem) => ScopeFileError::Damaged { path, problem },
        })
    }

    /// Replaces the scope. After this returns, it survives a crash of the machine.
    ///
    /// # Errors
    /// When the file can't be written. The former one is still there then.
    pub fn save(&self, scope: &HostScope) -> Result<(), ScopeFileError> {
        let (path, new) = (self.path(), self.dir.join("scope.new"));
        let at = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| ScopeFileError::Io { doing, path, source }
        };
        fs::create_dir_all(&self.dir).map_err(at("making", &self.dir))?;
        let mut file = File::create(&new).map_err(at("creating", &new))?;
        file.write_all(&encode(scope)).and_then(|()| file.sync_all()).map_err(at("writing", &new))?;
        fs::rename(&new, &path).map_err(at("replacing", &path))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(at("syncing", &self.dir))
    }

    /// Moves a file that is of no use out of the way, for somebody to look at.
    ///
    /// # Errors
    /// When it can't be renamed.
    pub fn set_aside(&self) -> Result<(), ScopeFileError> {
        let path = self.path();
        let result = fs::rename(&path, self.dir.join("scope.damaged"));
        result.map_err(|source| ScopeFileError::Io { doing: "setting aside", path, source })
    }
}

enum Problem {
    Version(u32),
    Damaged(String),
}

fn encode(scope: &HostScope) -> Vec<u8> {
    let payload = postcard::to_stdvec(scope).expect("a scope is maps and numbers, which postcard encodes without fail");
    let crc = crc32fast::hash(&payload);
    let mut bytes = format!("{MAGIC} {VERSION} {crc:08x} {}\n", payload.len()).into_bytes();
    bytes.extend(payload);
    bytes
}

fn decode(bytes: &[u8]) -> Result<HostScope, Problem> {
    let damaged = |problem: &str| Problem::Damaged(problem.to_owned());
    let end = bytes.iter().take(64).position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no header"))?;
    let header = std::str::from_utf8(&bytes[..end]).map_err(|_| damaged("its header is no text"))?;
    let payload = &bytes[end + 1..];
    let fields: Vec<&str> = header.split(' ').collect();
    let (version, rest) = match fields.as_slice() {
        [MAGIC, version, rest @ ..] => (version.parse().map_err(|_| damaged("its version is no number"))?, rest),
        _ => return Err(damaged("its header is not that of a scope")),
    };
    if version != VERSION {
        return Err(Problem::Version(version));
    }
    let [crc, length] = rest else { return Err(damaged("its header is cut short")) };
    let length: u64 = length.parse().map_err(|_| damaged("its length is no number"))?;
    let crc = u32::from_str_radix(crc, 16).map_err(|_| damaged("its checksum is no number"))?;
    if length != payload.len() as u64 || length > PAYLOAD_BYTES_MAX {
        return Err(Problem::Damaged(format!(
            "it should have {length} bytes after the header and has {}",
            payload.len()
        )));
    }
    if crc32fast::hash(payload) != crc {
        return Err(damaged("its checksum does not match"));
    }
    postcard::from_bytes(payload).map_err(|error| Problem::Damaged(format!("it can't be decoded: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> HostScope {
        HostScope { directory_revision: 7, complete: true, ..HostScope::default() }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let file = ScopeFile::new(&dir.path().join("below"));
        assert_eq!(file.load().unwrap(), None);
        file.save(&scope()).unwrap();
        file.save(&scope()).unwrap();
        assert_eq!(file.load().unwrap(), Some(scope()));
    }

    #[test]
    fn any_flipped_bit_or_missing_end_is_noticed() {
        let bytes = encode(&scope());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(decode(&flipped).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn version_1_on_disk_is_read() {
        // A scope of host h3 at directory revision 7, as the first release wrote it.
        let bytes = b"netstate-scope 1 d7ee00f9 6\n\x01\x03\x07\x00\x00\x01";
        let read = decode(bytes).map_err(|_| "refused");
        assert_eq!(read, Ok(HostScope { host: Some(netstate_model::HostId::new(3)), ..scope() }));
    }
}
