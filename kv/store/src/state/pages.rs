//! A range read page by page, all of it as it was at one moment.

use std::sync::Arc;

use bytes::Bytes;
use kv_core::{GroupId, KeyRange, Keyspace, Query, RangeResult};

use super::{
    State,
    read::{Reader, wanted},
    reclaim::Hold,
    records::KeyspaceRecord,
    snapshot::pin,
};
use crate::{
    ReadError, StoreError,
    database::{Database, Pinned},
};

/// Bytes of keys and values after which a page takes no more.
const PAGE_BYTES: usize = 1024 * 1024;

/// A range being read page by page. May be held for long; costs the disk space of what has been overwritten since.
pub struct Pages {
    // Declared, and so dropped, before the database that it points into.
    pinned: Option<Pinned<'static>>,
    database: Arc<Database>,
    group: GroupId,
    known: KeyspaceRecord,
    query: Query,
    page_keys: usize,
    /// Keys to come at most.
    left: usize,
    /// Where the next page starts; `None`: there is none.
    next: Option<Bytes>,
    _hold: Option<Hold>,
}

impl State {
    /// Reads a range by key, ascending and without filters, in pages of at most so many keys.
    pub fn pages(
        &self,
        group: GroupId,
        keyspace: &Keyspace,
        query: &Query,
        page_keys: usize,
    ) -> Result<Pages, ReadError> {
        let reading = self.reading(group);
        let found = self.known_at(group, keyspace, query.at)?;
        let database = self.0.database.clone();
        let pinned = found.as_ref().map(|_| pin(&database));
        drop(reading);
        let (known, hold) = found.unzip();
        let known = match &pinned {
            Some(pinned) => super::read::stored_keyspace(&database, pinned, group, keyspace)?.or(known),
            None => None,
        };
        let mut pages = Pages {
            next: None,
            known: known.unwrap_or_default(),
            pinned,
            database,
            group,
            query: query.clone(),
            page_keys: page_keys.max(1),
            left: 0,
            _hold: hold.flatten(),
        };
        pages.rewind();
        Ok(pages)
    }
}

impl Pages {
    /// Begins again with the first page, as it was.
    pub fn rewind(&mut self) {
        self.next = Some(Bytes::copy_from_slice(self.query.range.start()));
        self.left = self.query.limit.unwrap_or(usize::MAX);
    }

    /// The next page, `more` in all but the last; `None` after that. Blocks on disk.
    pub fn next_page(&mut self) -> Result<Option<RangeResult>, StoreError> {
        let (Some(from), Some(pinned)) = (self.next.take(), &self.pinned) else { return Ok(None) };
        let range = match self.query.range.end() {
            _ if matches!(self.query.range, KeyRange::Key(_)) => self.query.range.clone(),
            Some(end) => KeyRange::Span(from, end),
            None => KeyRange::From(from),
        };
        let number = self.known.number;
        let reader = Reader { database: &self.database, group: self.group, number, pinned: Some(pinned) };
        let revision = self.query.at.unwrap_or(self.known.head.revision);
        let mut page = RangeResult { revision, ..RangeResult::default() };
        let (limit, mut bytes, mut next) = (self.page_keys.min(self.left), 0, None);
        reader.walk(&range, self.query.at, |key, version| {
            let Some(kv) = wanted(&self.query, key, &version) else { return true };
            if page.kvs.len() == limit || bytes > PAGE_BYTES {
                next = Some(kv.key);
                return false;
            }
            bytes += kv.key.len() + kv.state.value.len();
            page.kvs.push(kv);
            true
        })?;
        self.left -= page.kvs.len();
        page.count = page.kvs.len() as u64;
        page.more = next.is_some();
        self.next = next.filter(|_| self.left > 0);
        Ok(Some(page))
    }
}
