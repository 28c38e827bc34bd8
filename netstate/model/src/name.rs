//! Names of networks, endpoints and hosts.
//!
//! Must hold: a name never reads as an id, so that whatever takes "a name or an id" is never in doubt.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{ConnectionId, EndpointId, HostId, NetworkId, limits, text::Quoted};

/// A name: 1 to 63 bytes, a letter or digit, then letters, digits, `.`, `_` and `-`. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(Arc<str>);

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing in it.
    #[error("a name is empty; give 1 to {} letters, digits, dots, underscores or dashes", limits::NAME_BYTES_MAX)]
    Empty,
    /// More than 63 bytes.
    #[error("the name {name} has {bytes} bytes, {} are allowed; shorten it", limits::NAME_BYTES_MAX)]
    TooLong {
        /// Its beginning.
        name: Quoted,
        /// Its length.
        bytes: usize,
    },
    /// A character that names don't have.
    #[error(
        "the name {name} has {character:?} at byte {at}; use letters, digits, dots, underscores and dashes, and begin \
         with a letter or digit"
    )]
    Character {
        /// The name.
        name: Quoted,
        /// The character.
        character: char,
        /// Where it is, in bytes.
        at: usize,
    },
    /// Written like an id.
    #[error("the name {name} has the form of an id, such as {form}; choose another one")]
    LikeId {
        /// The name.
        name: Quoted,
        /// What such an id looks like.
        form: &'static str,
    },
}

impl Name {
    /// Checks a text and makes a name of it.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > limits::NAME_BYTES_MAX {
            return Err(NameError::TooLong { name: Quoted::new(text), bytes: text.len() });
        }
        let fits = |at: usize, c: char| c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '.' | '_' | '-'));
        if let Some((at, character)) = text.char_indices().find(|&(at, c)| !fits(at, c)) {
            return Err(NameError::Character { name: Quoted::new(text), character, at });
        }
        if let Some(form) = id_form(text) {
            return Err(NameError::LikeId { name: Quoted::new(text), form });
        }
        Ok(Name(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The form of the id that this text is, if it is one.
fn id_form(text: &str) -> Option<&'static str> {
    // Most names end here: an id has one of four first letters and a digit at its end.
    if !matches!(text.as_bytes(), [b'n' | b'h' | b'c' | b'e', .., b'0'..=b'9']) {
        return None;
    }
    let network = text.parse::<NetworkId>().is_ok().then_some("net7");
    let host = || text.parse::<HostId>().is_ok().then_some("h3");
    let connection = || text.parse::<ConnectionId>().is_ok().then_some("c12");
    let endpoint = || text.parse::<EndpointId>().is_ok().then_some("e7.42");
    network.or_else(host).or_else(connection).or_else(endpoint)
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Name::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Name::new(&text)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
