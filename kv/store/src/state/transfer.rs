//! What one group has of a keyspace and another lacks.
//!
//! Both lie in one database, so the two are read beside each other at one moment, and what differs is what has to be sent.
//! A copy that was interrupted is gone on with by comparing again; a last look that finds no difference says that it is
//! whole. When all that the source had at some revision is known to have come, only what changed since is looked at: the
//! chain says which keys that is, and the times of request ids which of those.
//!
//! Must hold: whatever is left out here can be missed. That are versions and records which a compaction has given up, and
//! request ids that no longer count.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use kv_core::{GroupId, Keyspace, Mark, Phase, Revision, Row, Standing, Terms, Timestamp};

use super::{
    State,
    apply::counts,
    keys::{self, Number},
    read::stored_keyspace,
    reclaim::Hold,
    records::{Chained, Remembered, Version},
    snapshot::pin,
    stored_group,
};
use crate::{
    StoreError,
    database::{Cursor, Database, Pinned},
    envelope::{FORMAT, payload},
};

/// The format of the rows that are sent.
pub const ROW_FORMAT: u8 = FORMAT;

/// Changed keys beyond which everything is compared: looking them up one by one would take as long.
const CHANGED_KEYS: usize = if cfg!(test) { 8 } else { 100_000 };

/// The differences between what two groups have of a keyspace, at one moment. May be held for long; costs the disk space
/// of what has been overwritten since.
pub struct Transfer {
    // Declared, and so dropped, before the database that it points into.
    pinned: Pinned<'static>,
    database: Arc<Database>,
    source: Side,
    target: Option<Side>,
    terms: Terms,
    standing: Standing,
    clock: Timestamp,
    /// Only what changed after this is looked at.
    since: Option<Mark>,
    spans: VecDeque<Span>,
    looked_at_bytes: u64,
    _hold: Hold,
}

#[derive(Clone, Copy)]
struct Side {
    group: GroupId,
    number: Number,
}

/// Some rows, beginning with what follows the kind in their keys.
#[derive(Clone, Debug)]
enum Span {
    /// From the first to before the second; without one to the last of their kind.
    Rows { kind: u8, from: Vec<u8>, to: Option<Vec<u8>> },
    /// The request ids remembered since some time; in the order of their times.
    Requests { from: Vec<u8> },
}

impl State {
    /// Compares what two groups have of a keyspace; `whole`: all of it, whatever is known to have come. `None`: the first
    /// has nothing of it that could be moved.
    pub fn transfer(
        &self,
        keyspace: &Keyspace,
        (from, to): (GroupId, GroupId),
        whole: bool,
    ) -> Result<Option<Transfer>, StoreError> {
        let (reading, reading_too) = (self.reading(from), self.reading(to));
        let Some(known) = self.keyspace(from, keyspace) else { return Ok(None) };
        let hold = self.0.reclaim.hold(from, known.number, known.forgotten.min(known.floor));
        let database = self.0.database.clone();
        let pinned = pin(&database);
        drop((reading, reading_too));
        let Some(known) = stored_keyspace(&database, &pinned, from, keyspace)? else { return Ok(None) };
        if !known.standing.readable() {
            return Ok(None);
        }
        let there = stored_keyspace(&database, &pinned, to, keyspace)?;
        let arriving = there.and_then(|there| match there.standing.phase {
            Phase::Arriving { mark, .. } => Some((there.number, mark)),
            _ => None,
        });
        let clock = stored_group(&database, &pinned, from)?.map(|record| record.clock).unwrap_or_default();
        let mut transfer = Transfer {
            pinned,
            database,
            source: Side { group: from, number: known.number },
            target: arriving.map(|(number, _)| Side { group: to, number }),
            terms: known.terms(),
            standing: known.standing,
            clock,
            since: None,
            spans: VecDeque::new(),
            looked_at_bytes: 0,
            _hold: hold,
        };
        transfer.plan(arriving.and_then(|(_, mark)| mark).filter(|_| !whole))?;
        Ok(Some(transfer))
    }
}

impl Transfer {
    /// What the source is beside its rows.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// How the keyspace stands in the source.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// What all differences together bring the target to.
    pub fn mark(&self) -> Mark {
        Mark { revision: self.terms.head.revision, at: self.terms.head.at }
    }

    /// Revisions that are looked at; `None`: all, and everything else.
    pub fn revisions(&self) -> Option<u64> {
        self.since.map(|since| self.terms.head.revision.since(since.revision))
    }

    /// Bytes of the source's rows that have been looked at.
    pub fn looked_at_bytes(&self) -> u64 {
        self.looked_at_bytes
    }

    /// The next differences, of about so many bytes; `None` after the last. Blocks on disk.
    pub fn next_rows(&mut self, max_bytes: usize) -> Result<Option<Vec<Row>>, StoreError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while let Some(span) = self.spans.pop_front() {
            let left = match span {
                Span::Rows { kind, from, to } => self.compare(kind, &from, to, &mut rows, &mut bytes, max_bytes)?,
                Span::Requests { from } => self.requests(&from, &mut rows, &mut bytes, max_bytes)?,
            };
            if let Some(left) = left {
                self.spans.push_front(left);
                break;
            }
        }
        Ok((!rows.is_empty()).then_some(rows))
    }

    /// Decides what has to be compared.
    fn plan(&mut self, mark: Option<Mark>) -> Result<(), StoreError> {
        let all = |kind| Span::Rows { kind, from: Vec::new(), to: None };
        let changed = match mark {
            Some(mark) => self.changed_since(mark.revision)?,
            None => None,
        };
        match (mark, changed) {
            (Some(mark), Some(changed)) => {
                self.since = Some(mark);
                let from = mark.revision.next().get().to_be_bytes().to_vec();
                for key in changed {
                    let mut behind = key.to_vec();
                    behind.push(0);
                    self.spans.push_back(Span::Rows { kind: keys::LATEST, from: key.to_vec(), to: Some(behind) });
                    let tail = |place: Vec<u8>| place[keys::NUMBERED_BYTES..].to_vec();
                    let Side { group, number } = self.source;
                    let first = tail(keys::earlier(group, number, &key, Revision::new(u64::MAX)));
                    let end = tail(keys::earlier_end(group, number, &key));
                    self.spans.push_back(Span::Rows { kind: keys::EARLIER, from: first, to: Some(end) });
                }
                self.spans.push_back(Span::Rows { kind: keys::CHAIN, from, to: None });
                let later = Timestamp::from_micros(mark.at.micros().saturating_add(1));
                self.spans.push_back(Span::Requests { from: keys::expiry_start(self.source.group, later) });
            }
            _ => self.spans.extend([keys::LATEST, keys::EARLIER, keys::CHAIN, keys::REQUEST].map(all)),
        }
        self.spans.extend([keys::LEASE, keys::BESIDE].map(all));
        Ok(())
    }

    /// The keys written after a revision. `None`: too many, or nobody knows any more.
    fn changed_since(&self, revision: Revision) -> Result<Option<BTreeSet<Bytes>>, StoreError> {
        let from = revision.next();
        if from < self.terms.forgotten {
            return Ok(None);
        }
        let key = |revision| keys::chain(self.source.group, self.source.number, revision);
        let mut changed = BTreeSet::new();
        let mut cursor = self.database.cursor(Some(&self.pinned), &key(from), key(self.terms.head.revision.next()));
        while let Some((key, stored)) = cursor.item() {
            let chained: Chained<'_> = self.database.open_value(key, stored)?;
            changed.extend(chained.keys.iter().map(|changed| Bytes::copy_from_slice(changed.key.0)));
            if changed.len() > CHANGED_KEYS {
                return Ok(None);
            }
            cursor.next();
        }
        self.database.ended(&cursor)?;
        Ok(Some(changed))
    }

    /// Compares the rows of a span. Returns what of it was not looked at for lack of room.
    fn compare(
        &mut self,
        kind: u8,
        from: &[u8],
        to: Option<Vec<u8>>,
        rows: &mut Vec<Row>,
        bytes: &mut usize,
        max_bytes: usize,
    ) -> Result<Option<Span>, StoreError> {
        let mut looked_at = 0;
        let mut ours = self.walk(Some(self.source), kind, from, to.as_deref());
        let mut theirs = self.walk(self.target, kind, from, to.as_deref());
        let left = loop {
            ours.settle(self)?;
            theirs.settle(self)?;
            let (here, there) = (ours.row(), theirs.row());
            let order = match (&here, &there) {
                (None, None) => break None,
                (Some((here, _)), Some((there, _))) => here.cmp(there),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            let row = match (here, there, order) {
                (Some((key, value)), there, std::cmp::Ordering::Less | std::cmp::Ordering::Equal) => {
                    looked_at += (key.len() + value.len()) as u64;
                    let same = order.is_eq() && there.is_some_and(|(_, there)| there == value);
                    (!same).then(|| Row {
                        kind,
                        key: Bytes::copy_from_slice(key),
                        value: Some(Bytes::copy_from_slice(value)),
                    })
                }
                // What is remembered goes by itself when its time has come.
                (_, Some((key, _)), _) if kind != keys::REQUEST => {
                    Some(Row { kind, key: Bytes::copy_from_slice(key), value: None })
                }
                _ => None,
            };
            if let Some(row) = row {
                if *bytes > 0 && *bytes + row.size() > max_bytes {
                    break Some(Span::Rows { kind, from: row.key.to_vec(), to });
                }
                *bytes += row.size();
                rows.push(row);
            }
            if order.is_le() {
                ours.next();
            }
            if order.is_ge() {
                theirs.next();
            }
        };
        drop((ours, theirs));
        self.looked_at_bytes += looked_at;
        Ok(left)
    }

    /// Compares the request ids that were remembered lately. Returns what was not looked at for lack of room.
    fn requests(
        &mut self,
        from: &[u8],
        rows: &mut Vec<Row>,
        bytes: &mut usize,
        max_bytes: usize,
    ) -> Result<Option<Span>, StoreError> {
        let Side { group, number } = self.source;
        let database = &self.database;
        let end = keys::kind_start(group, keys::EXPIRY + 1);
        let mut cursor = database.cursor(Some(&self.pinned), from, end);
        while let Some(key) = cursor.key() {
            let split = keys::split_expiry(key);
            let (_, of, request) = split.ok_or_else(|| database.damaged(key, "that is no remembered request id"))?;
            if of == number {
                let ours = self.content(&keys::request(group, number, &request))?;
                let theirs = match self.target {
                    Some(target) => self.content(&keys::request(target.group, target.number, &request))?,
                    None => None,
                };
                if ours.is_some() && ours != theirs {
                    let key = Bytes::copy_from_slice(&request.get());
                    let row = Row { kind: keys::REQUEST, key, value: ours };
                    if *bytes > 0 && *bytes + row.size() > max_bytes {
                        return Ok(Some(Span::Requests { from: key_of(&cursor) }));
                    }
                    *bytes += row.size();
                    rows.push(row);
                }
            }
            cursor.next();
        }
        database.ended(&cursor)?;
        Ok(None)
    }

    /// The content of a row.
    fn content(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let stored = self.pinned.get_pinned(key).map_err(|error| self.database.error(error))?;
        let Some(stored) = stored else { return Ok(None) };
        Ok(Some(Bytes::copy_from_slice(self.database.open_bytes(key, &stored)?)))
    }

    /// Rows of one side. There are none of a side that is not there.
    fn walk(&self, side: Option<Side>, kind: u8, from: &[u8], to: Option<&[u8]>) -> Walk<'_> {
        let Some(Side { group, number }) = side else { return Walk { kind, cursor: None } };
        let place = keys::kind_of(group, kind, number);
        let end = match to {
            Some(to) => [&place, to].concat(),
            None => keys::behind(place.clone()),
        };
        Walk { kind, cursor: Some(self.database.cursor(Some(&self.pinned), &[&place, from].concat(), end)) }
    }

    /// What to do about a row of either side.
    fn judge(&self, kind: u8, key: &[u8], content: &[u8]) -> Option<Judgement> {
        let (floor, forgotten) = (self.terms.floor, self.terms.forgotten);
        let needed = match kind {
            keys::EARLIER => {
                let version: Version<'_> = postcard::from_bytes(content).ok()?;
                // The latest comes first, so what was superseded before the mark was so from here on.
                if self.since.is_some_and(|since| version.until <= since.revision) {
                    return Some(Judgement::End);
                }
                match version.value {
                    Some(_) => version.until > floor,
                    None => version.modified >= floor,
                }
            }
            keys::CHAIN => Revision::new(u64::from_be_bytes(key.try_into().ok()?)) >= forgotten,
            keys::REQUEST => counts(&postcard::from_bytes::<Remembered>(content).ok()?, self.clock),
            _ => true,
        };
        Some(if needed { Judgement::Needed } else { Judgement::Missed })
    }
}

enum Judgement {
    Needed,
    /// It can be missed.
    Missed,
    /// So can this one, and all behind it.
    End,
}

/// The rows of one side that are needed, in order.
struct Walk<'a> {
    kind: u8,
    cursor: Option<Cursor<'a>>,
}

impl Walk<'_> {
    /// Goes on to the next row that is needed, unless it stands there.
    fn settle(&mut self, transfer: &Transfer) -> Result<(), StoreError> {
        let database = &transfer.database;
        while let Some(cursor) = &mut self.cursor {
            let Some((key, stored)) = cursor.item() else {
                database.ended(cursor)?;
                self.cursor = None;
                break;
            };
            let content = database.open_bytes(key, stored)?;
            match transfer.judge(self.kind, &key[keys::NUMBERED_BYTES..], content) {
                Some(Judgement::Needed) => break,
                Some(Judgement::Missed) => cursor.next(),
                Some(Judgement::End) => self.cursor = None,
                None => return Err(database.damaged(key, "its content makes no sense")),
            }
        }
        Ok(())
    }

    /// Key, from behind the keyspace's number, and content.
    fn row(&self) -> Option<(&[u8], &[u8])> {
        let (key, stored) = self.cursor.as_ref()?.item()?;
        Some((&key[keys::NUMBERED_BYTES..], payload(stored)))
    }

    fn next(&mut self) {
        if let Some(cursor) = &mut self.cursor {
            cursor.next();
        }
    }
}

fn key_of(cursor: &Cursor<'_>) -> Vec<u8> {
    cursor.key().map(<[u8]>::to_vec).unwrap_or_default()
}
