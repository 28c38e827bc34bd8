//! Walks through both sides in key order at once.

use bytes::Bytes;
use etcd_proto::mvccpb::KeyValue;

use crate::{ImportError, pager::Pager};

/// What the sides have under one key.
#[derive(Clone, Debug)]
pub(crate) enum Pair {
    Source(KeyValue),
    Target(KeyValue),
    Both { source: KeyValue, target: KeyValue },
}

impl Pair {
    pub(crate) fn key(&self) -> &Bytes {
        match self {
            Self::Source(pair) | Self::Target(pair) | Self::Both { source: pair, .. } => &pair.key,
        }
    }
}

/// Both sides in key order; without a target, the source alone.
pub(crate) struct Merge<'a> {
    pub(crate) source: Pager<'a>,
    pub(crate) target: Option<Pager<'a>>,
}

impl Merge<'_> {
    pub(crate) async fn next(&mut self) -> Result<Option<Pair>, ImportError> {
        let Self { source, target } = self;
        let Some(target) = target else {
            source.fill().await?;
            return Ok(source.take().map(Pair::Source));
        };
        tokio::try_join!(source.fill(), target.fill())?;
        let order = match (source.front(), target.front()) {
            (Some(left), Some(right)) => left.key.cmp(&right.key),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, _) => std::cmp::Ordering::Greater,
        };
        Ok(match order {
            std::cmp::Ordering::Less => source.take().map(Pair::Source),
            std::cmp::Ordering::Greater => target.take().map(Pair::Target),
            std::cmp::Ordering::Equal => {
                source.take().zip(target.take()).map(|(source, target)| Pair::Both { source, target })
            }
        })
    }
}
