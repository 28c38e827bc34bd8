//! Small text files that say what they are, and whether they are whole.
//!
//! ```text
//! <title>
//! …
//! crc32 89abcdef
//! ```
//!
//! Text, so that whoever finds a directory can tell what it is. The checksum is that of all lines before it.

use std::{
    fs, io,
    path::Path,
    str::{FromStr, Lines},
};

use crate::{OpenError, files};

/// A file's content: these lines, each with its end, and their checksum.
pub(crate) fn seal(lines: String) -> String {
    let crc = crc32fast::hash(lines.as_bytes());
    lines + &format!("crc32 {crc:08x}\n")
}

/// The lines behind the title, of a content that is whole.
pub(crate) fn open<'a>(content: &'a str, title: &str) -> Result<Lines<'a>, &'static str> {
    let body = content.strip_suffix('\n').ok_or("it is cut short")?;
    let (lines, crc) = body.rsplit_once('\n').ok_or("it is cut short")?;
    let crc = crc.strip_prefix("crc32 ").and_then(|crc| u32::from_str_radix(crc, 16).ok());
    let crc = crc.ok_or("its last line is no checksum")?;
    if crc32fast::hash(&content.as_bytes()[..=lines.len()]) != crc {
        return Err("it does not match its checksum");
    }
    let mut lines = lines.lines();
    if lines.next() != Some(title) {
        return Err("it is not netstate's");
    }
    Ok(lines)
}

/// The value of the next line, which starts with this name.
pub(crate) fn field<T: FromStr>(lines: &mut Lines<'_>, name: &str) -> Option<T> {
    lines.next()?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()
}

/// What a file says. `None`: there is none.
pub(crate) fn read<T>(
    file: &Path,
    parse: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, OpenError> {
    let content = match fs::read(file) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(files::error(file, "reading the file", error).into()),
    };
    let parsed = match String::from_utf8(content) {
        Ok(content) => parse(&content),
        Err(_) => Err("it is not text"),
    };
    parsed.map(Some).map_err(|why| OpenError::Damaged { file: file.into(), why: why.into() })
}
