//! Small files, written so that a crash leaves the old one or the new one.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use crate::StoreError;

/// The error of a file operation.
pub(crate) fn error(path: &Path, doing: &'static str, source: io::Error) -> StoreError {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        let dir = path.parent().unwrap_or(path).into();
        return StoreError::NoSpace { dir, source: Arc::new(source) };
    }
    StoreError::Io { path: path.into(), doing, source: Arc::new(source) }
}

/// Makes what was created, renamed or removed in a directory last.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| error(dir, "syncing the directory", source))
}

/// Writes a file whole or not at all.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("new");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|source| error(&temporary, "writing the file", source))?;
    fs::rename(&temporary, path).map_err(|source| error(path, "renaming the file", source))?;
    sync_dir(path.parent().unwrap_or(path))
}

/// Bytes of all files below a directory. Files that go meanwhile count for nothing.
pub(crate) fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() })
    });
    sizes.sum()
}
