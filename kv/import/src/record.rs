//! The position as it is kept on the target: one line of text, so that a person can read it there.
//!
//! Must hold: what is written can be read back, and two steps of an import never write the same. The latter is how a transaction whose
//! outcome got lost is recognised.
//!
//! ```text
//! netstate-import 1 session=5f0c… source=cdf8181e3b2c4a17 prefix=2f72656769737472792f copying revision=812 next=2f72… sweep=false
//! netstate-import 1 session=5f0c… source=cdf8181e3b2c4a17 prefix=2f72656769737472792f following revision=815 part=0
//! ```

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::Bytes;

use crate::SourceRevision;

const MAGIC: &str = "netstate-import 1";

/// Whose position this is, and the position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Drawn by each run of an import.
    pub(crate) session: u64,
    /// The source's cluster id.
    pub(crate) source: u64,
    pub(crate) prefix: Bytes,
    pub(crate) stage: Stage,
}

/// ```text
///            last key                  compacted
/// Copying ───────────────▶ Following ─────────────▶ Copying with sweep
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Keys before `next` are as they were at `revision`. A revision of zero hasn't been chosen yet.
    Copying {
        revision: SourceRevision,
        next: Bytes,
        /// Whether the target may have keys that the source lacks.
        sweep: bool,
    },
    /// All keys are as they were at `revision`, except that the first `part` changes of the next revision are applied too.
    Following { revision: SourceRevision, part: u64 },
}

impl Record {
    pub(crate) fn encode(&self) -> Bytes {
        let Self { session, source, prefix, stage } = self;
        let mut text = format!("{MAGIC} session={session:016x} source={source:016x} prefix={} ", hex(prefix));
        text += &match stage {
            Stage::Copying { revision, next, sweep } => {
                format!("copying revision={} next={} sweep={sweep}", revision.get(), hex(next))
            }
            Stage::Following { revision, part } => format!("following revision={} part={part}", revision.get()),
        };
        text.into()
    }

    /// Nothing if the text is not a record of this version.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.strip_prefix(MAGIC)?;
        let (mut fields, mut stage) = (BTreeMap::new(), None);
        for word in text.split_ascii_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => drop(fields.insert(name, value)),
                None => stage = Some(word),
            }
        }
        let field = |name| fields.get(name).copied();
        let revision = SourceRevision::new(field("revision")?.parse().ok()?);
        let stage = match stage? {
            "copying" => {
                Stage::Copying { revision, next: unhex(field("next")?)?, sweep: field("sweep")?.parse().ok()? }
            }
            "following" => Stage::Following { revision, part: field("part")?.parse().ok()? },
            _ => return None,
        };
        let number = |name| u64::from_str_radix(field(name)?, 16).ok();
        Some(Self { session: number("session")?, source: number("source")?, prefix: unhex(field("prefix")?)?, stage })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Bytes> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_written() {
        let stages = [
            Stage::Copying { revision: SourceRevision::new(0), next: Bytes::new(), sweep: true },
            Stage::Copying {
                revision: SourceRevision::new(812),
                next: Bytes::from_static(b"/a=b \0\xff"),
                sweep: false,
            },
            Stage::Following { revision: SourceRevision::new(i64::MAX), part: 7 },
        ];
        for stage in stages {
            for prefix in [&b""[..], b"/registry/ \n="] {
                let record = Record { session: u64::MAX, source: 3, prefix: prefix.into(), stage: stage.clone() };
                assert_eq!(Record::parse(&record.encode()), Some(record));
            }
        }
    }

    #[test]
    fn anything_else_is_no_record() {
        for text in [
            "",
            "hello",
            MAGIC,
            "netstate-import 2 session=1",
            "netstate-import 1 session=1 source=1 prefix=abc following revision=1 part=0",
            "netstate-import 1 session=1 source=1 prefix= following revision=x part=0",
            "netstate-import 1 session=1 source=1 prefix= resting revision=1",
        ] {
            assert_eq!(Record::parse(text.as_bytes()), None, "{text}");
        }
    }
}
