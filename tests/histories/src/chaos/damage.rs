//! Damage to files: a bit flipped, an end cut off, found by a value that is known to stand there.
//!
//! Must hold: what was damaged can be put back as it was.
//!
//! Left to others: what the store says about it (the rows).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A place in a file.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub at: usize,
}

/// A file as it was before it was damaged.
pub struct Undamaged {
    file: PathBuf,
    content: Vec<u8>,
}

/// The last place where `value` stands in a file of the folder with this ending, in the middle of the value.
pub fn find(folder: &Path, ending: &str, value: &[u8]) -> Result<Option<Place>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let file = entry?.path();
        if file.extension().is_some_and(|found| found == ending) {
            files.push(file);
        }
    }
    files.sort();
    for file in files.into_iter().rev() {
        let content = match std::fs::read(&file) {
            // A running store removes files.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            content => content?,
        };
        if let Some(at) = content.windows(value.len()).rposition(|window| window == value) {
            return Ok(Some(Place { file, at: at + value.len() / 2 }));
        }
    }
    Ok(None)
}

impl Place {
    /// Flips one bit.
    pub fn flip(&self) -> Result<Undamaged> {
        let before = Undamaged::read(&self.file)?;
        let mut damaged = before.content[self.at];
        damaged ^= 0x10;
        write_at(&self.file, &[damaged], self.at)?;
        Ok(before)
    }

    /// Cuts the file off here.
    pub fn cut_off(&self) -> Result<Undamaged> {
        let before = Undamaged::read(&self.file)?;
        let file = std::fs::File::options().write(true).open(&self.file)?;
        file.set_len(self.at as u64)?;
        Ok(before)
    }
}

impl Undamaged {
    fn read(file: &Path) -> Result<Self> {
        Ok(Undamaged { file: file.into(), content: std::fs::read(file).with_context(|| file.display().to_string())? })
    }

    /// Puts everything back. A store that has removed the file meanwhile has no use for it.
    pub fn put_back(self) -> Result<()> {
        if self.file.exists() {
            write_at(&self.file, &self.content, 0)?;
        }
        Ok(())
    }
}

/// In place: a store that has the file open sees it.
fn write_at(file: &Path, bytes: &[u8], at: usize) -> Result<()> {
    let open = std::fs::File::options().write(true).open(file)?;
    std::os::unix::fs::FileExt::write_all_at(&open, bytes, at as u64).with_context(|| file.display().to_string())?;
    Ok(open.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_done_where_the_value_stands_and_can_be_undone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("1.seg"), b"..value..value..").unwrap();
        std::fs::write(folder.path().join("2.other"), b"value").unwrap();
        let place = find(folder.path(), "seg", b"value").unwrap().unwrap();
        assert_eq!(place.at, 11);
        let before = place.flip().unwrap();
        assert_eq!(std::fs::read(&place.file).unwrap(), b"..value..va|ue..");
        assert!(find(folder.path(), "seg", b"other").unwrap().is_none());
        before.put_back().unwrap();
        let before = place.cut_off().unwrap();
        assert_eq!(std::fs::read(&place.file).unwrap(), b"..value..va");
        before.put_back().unwrap();
        assert_eq!(std::fs::read(&place.file).unwrap(), b"..value..value..");
    }
}
