//! Labels: what selectors select by.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    limits,
    text::{self, Quoted, TextError},
};

/// Up to 64 pairs of key and value, ordered by key. Cloning shares them.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<(String, String)>", into = "Vec<(Box<str>, Box<str>)>")]
pub struct Labels(Option<Arc<Vec<Label>>>);

type Label = (Box<str>, Box<str>);

/// Pairs that are no labels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// More than 64.
    #[error("{found} labels, {} are allowed; leave some out", limits::LABELS_MAX)]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// A key without a letter.
    #[error("a label's key is empty; give it 1 to {} bytes", limits::LABEL_KEY_BYTES_MAX)]
    EmptyKey,
    /// One key twice.
    #[error("the label {key} is given twice; keep one of them")]
    Twice {
        /// The key.
        key: Quoted,
    },
    /// A key or value that is too long or has control characters.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl Labels {
    /// No labels.
    pub const NONE: Labels = Labels(None);

    /// Checks pairs and makes labels of them, whatever their order.
    pub fn new<K: Into<Box<str>>, V: Into<Box<str>>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, LabelsError> {
        let mut labels: Vec<Label> = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        if labels.len() > limits::LABELS_MAX {
            return Err(LabelsError::TooMany { found: labels.len() });
        }
        for (key, value) in &labels {
            if key.is_empty() {
                return Err(LabelsError::EmptyKey);
            }
            text::check("a label's key", key, limits::LABEL_KEY_BYTES_MAX)?;
            text::check("a label's value", value, limits::LABEL_VALUE_BYTES_MAX)?;
        }
        labels.sort();
        if let Some(twice) = labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(LabelsError::Twice { key: Quoted::new(&twice[0].0) });
        }
        labels.shrink_to_fit();
        Ok(if labels.is_empty() { Labels::NONE } else { Labels(Some(Arc::new(labels))) })
    }

    fn slice(&self) -> &[Label] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    /// The value of this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.slice().binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.slice()[at].1)
    }

    /// All pairs, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.slice().iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether both share their memory. Labels that do are equal; equal ones need not.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }
}

impl TryFrom<Vec<(String, String)>> for Labels {
    type Error = LabelsError;

    fn try_from(pairs: Vec<(String, String)>) -> Result<Self, LabelsError> {
        Labels::new(pairs)
    }
}

impl From<Labels> for Vec<Label> {
    fn from(labels: Labels) -> Self {
        labels.slice().to_vec()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
