//! Reads a range of keys in order, a page at a time.
//!
//! Must hold: no more than one page is kept; a page is small enough to be answered, however large its values are.

use std::collections::VecDeque;

use bytes::Bytes;
use etcd_proto::{etcdserverpb as pb, mvccpb::KeyValue};

use crate::{
    ImportError, Options,
    change::{KeyRange, successor},
    side::Peer,
};

/// Keys in the first page, when nothing is known of their size.
const FIRST_PAGE_KEYS: usize = 16;
/// How much larger a page may be than the one before, so that a few small keys before many large ones don't mislead.
const PAGE_GROWTH: usize = 4;

/// A position in a range of keys.
pub(crate) struct Pager<'a> {
    peer: &'a Peer,
    rest: Option<KeyRange>,
    revision: i64,
    skip: Bytes,
    page: VecDeque<KeyValue>,
    limit: PageLimit,
}

impl<'a> Pager<'a> {
    /// The range at a revision of that side, or at the present one of each page (0). The position's key is left out.
    pub(crate) fn new(peer: &'a Peer, range: KeyRange, revision: i64, options: &Options) -> Self {
        Self {
            peer,
            rest: Some(range),
            revision,
            skip: options.position_key.clone(),
            page: VecDeque::new(),
            limit: PageLimit::new(options),
        }
    }

    /// Sees to it that [`Self::front`] is there, unless the range has ended.
    pub(crate) async fn fill(&mut self) -> Result<(), ImportError> {
        while self.page.is_empty()
            && let Some(range) = self.rest.clone()
        {
            let request = pb::RangeRequest {
                key: range.start.clone(),
                range_end: range.end.clone(),
                limit: i64::try_from(self.limit.keys).unwrap_or(i64::MAX),
                revision: self.revision,
                ..Default::default()
            };
            let answer = match self.peer.range("read a page of keys", request).await {
                Err(error) if error.too_large() && self.limit.halve() => continue,
                answer => answer?,
            };
            self.limit.learn(answer.kvs.len(), answer.kvs.iter().map(|pair| pair.key.len() + pair.value.len()).sum());
            self.rest = match answer.kvs.last() {
                Some(last) if answer.more => Some(KeyRange { start: successor(&last.key), end: range.end }),
                _ => None,
            };
            self.page = answer.kvs.into_iter().filter(|pair| pair.key != self.skip).collect();
        }
        Ok(())
    }

    /// The next key, once [`Self::fill`] has been called.
    pub(crate) fn front(&self) -> Option<&KeyValue> {
        self.page.front()
    }

    /// Takes the next key.
    pub(crate) fn take(&mut self) -> Option<KeyValue> {
        self.page.pop_front()
    }
}

/// How many keys to ask for.
#[derive(Debug, PartialEq, Eq)]
struct PageLimit {
    keys: usize,
    keys_max: usize,
    bytes_max: usize,
}

impl PageLimit {
    fn new(options: &Options) -> Self {
        let keys_max = usize::try_from(options.page_keys).unwrap_or(usize::MAX).max(1);
        Self { keys: FIRST_PAGE_KEYS.min(keys_max), keys_max, bytes_max: options.page_bytes }
    }

    /// A page was refused. False: it can't be smaller.
    fn halve(&mut self) -> bool {
        let smaller = self.keys > 1;
        self.keys = (self.keys / 2).max(1);
        smaller
    }

    /// A page had so many keys and bytes: the next is as large as it may be if its keys are like these.
    fn learn(&mut self, keys: usize, bytes: usize) {
        let each = (bytes / keys.max(1)).max(1);
        self.keys = (self.keys * PAGE_GROWTH).min(self.bytes_max / each).min(self.keys_max).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_to_the_limits_and_shrink_for_large_values() {
        let mut limit = PageLimit::new(&Options { page_keys: 1_000, page_bytes: 1 << 20, ..Options::default() });
        let mut seen = vec![limit.keys];
        for (keys, each) in
            [(16, 10), (64, 10), (256, 10), (1_000, 10), (1_000, 1 << 12), (256, 1 << 20), (1, 1 << 21), (1, 10)]
        {
            limit.learn(keys, keys * each);
            seen.push(limit.keys);
        }
        assert_eq!(seen, [16, 64, 256, 1_000, 1_000, 256, 1, 1, 4]);
    }

    #[test]
    fn a_refused_page_is_halved_down_to_one_key() {
        let mut limit = PageLimit { keys: 5, keys_max: 9, bytes_max: 1 };
        let halved: Vec<(bool, usize)> = (0..4).map(|_| (limit.halve(), limit.keys)).collect();
        assert_eq!(halved, [(true, 2), (true, 1), (false, 1), (false, 1)]);
    }
}
