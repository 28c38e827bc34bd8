//! Names of network namespaces, as files below an agent's folder.
//!
//! Must hold: such a name stays below the folder; it can't climb out of it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    limits,
    text::{self, Quoted, TextError},
};

/// The file name of a network namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct NetnsName(Box<str>);

/// A text that is no file name of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetnsError {
    /// Empty, `.`, `..` or with a slash.
    #[error("{name} is no file name of a network namespace; give the bare name of a file, without a slash")]
    NotAFile {
        /// What was given.
        name: Quoted,
    },
    /// Too long, or with control characters.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl NetnsName {
    /// Checks a text and makes such a name of it.
    pub fn new(text: &str) -> Result<Self, NetnsError> {
        text::check("the name of a network namespace", text, limits::NETNS_BYTES_MAX)?;
        if matches!(text, "" | "." | "..") || text.contains('/') {
            return Err(NetnsError::NotAFile { name: Quoted::new(text) });
        }
        Ok(NetnsName(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetnsName {
    type Err = NetnsError;

    fn from_str(text: &str) -> Result<Self, NetnsError> {
        NetnsName::new(text)
    }
}

impl TryFrom<String> for NetnsName {
    type Error = NetnsError;

    fn try_from(text: String) -> Result<Self, NetnsError> {
        NetnsName::new(&text)
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
