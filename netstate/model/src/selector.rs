//! Label selectors: which endpoints of a network a connection means.
//!
//! Must hold: a selector reads back as it is written; two that ask for the same in another order are equal.

mod parse;

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Labels, limits, text::Quoted};

/// Requirements on labels, all of which must hold: `app=web,tier!=db,env in (a,b),zone notin (c),has,!hasnt`.
///
/// `!=` and `notin` also hold where the label is missing. Keys and values of other characters than letters, digits,
/// `.`, `_`, `-` and `/` are written in double quotes, with `\"` and `\\` for these two.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector(Arc<[Requirement]>);

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Requirement {
    key: Box<str>,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Test {
    /// The value is one of these: one or more, sorted.
    In(Box<[Box<str>]>),
    NotIn(Box<[Box<str>]>),
    Present,
    Absent,
}

/// A text that is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Longer than a selector may be.
    #[error("a selector has {bytes} bytes, {} are allowed; select by fewer labels", limits::SELECTOR_BYTES_MAX)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Something else was expected at a place.
    #[error(
        "the selector {selector} has {found} at byte {at} where {expected} should be; write it as app=web,tier!=db"
    )]
    Syntax {
        /// The selector.
        selector: Quoted,
        /// Where, in bytes from the beginning.
        at: usize,
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
    /// A key or a value that no label can have.
    #[error("the selector {selector} has at byte {at} a {what} that no label can have; {what}s have up to 63 bytes")]
    Word {
        /// The selector.
        selector: Quoted,
        /// Where, in bytes from the beginning.
        at: usize,
        /// Key or value.
        what: &'static str,
    },
}

impl Selector {
    /// Whether labels meet all requirements.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            let among = |values: &[Box<str>]| value.is_some_and(|own| values.iter().any(|one| **one == *own));
            match &requirement.test {
                Test::In(values) => among(values),
                Test::NotIn(values) => !among(values),
                Test::Present => value.is_some(),
                Test::Absent => value.is_none(),
            }
        })
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        requirements.dedup();
        Selector(requirements.into())
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        parse::selector(text)
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Requirement { key, test }) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            let key = Word(key);
            match test {
                Test::In(values) if values.len() == 1 => write!(f, "{key}={}", Word(&values[0]))?,
                Test::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", Word(&values[0]))?,
                Test::In(values) => write!(f, "{key} in ({})", Words(values))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", Words(values))?,
                Test::Present => write!(f, "{key}")?,
                Test::Absent => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({self})")
    }
}

/// A key or value as it is written: bare or in quotes.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(parse::bare) {
            return f.write_str(self.0);
        }
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

struct Words<'a>(&'a [Box<str>]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, value) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}", Word(value))?;
        }
        Ok(())
    }
}
