//! What a stream of watches has brought, and its comparable form.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use etcd_proto::{etcdserverpb as pb, mvccpb};

use crate::normalise;
use crate::operation::LeaseNames;

/// All responses of a stream, in order.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    responses: Vec<pb::WatchResponse>,
}

impl Transcript {
    pub(super) fn push(&mut self, response: pb::WatchResponse) {
        self.responses.push(response);
    }

    pub(super) fn responses(&self) -> &[pb::WatchResponse] {
        &self.responses
    }

    /// The answers to requests that create a watch, in their order, which is that of the requests.
    pub(super) fn created(&self) -> Vec<&pb::WatchResponse> {
        self.responses.iter().filter(|response| response.created).collect()
    }

    /// The revision of the last event of a watch.
    pub(super) fn last_revision(&self, watch_id: i64) -> i64 {
        let of_watch = self.responses.iter().filter(|response| response.watch_id == watch_id);
        of_watch.flat_map(|response| &response.events).map(revision).max().unwrap_or(0)
    }

    /// Checks what must hold of the grouping of events, which is not compared.
    pub(super) fn check(&self) -> Result<()> {
        let mut last: BTreeMap<i64, (i64, bool)> = BTreeMap::new();
        for response in self.responses.iter().filter(|response| !response.events.is_empty()) {
            let header = response.header.as_ref().map_or(0, |header| header.revision);
            let (mut at, mut may_continue) = last.get(&response.watch_id).copied().unwrap_or((0, true));
            for event in &response.events {
                let revision = revision(event);
                ensure!(revision <= header, "an event of revision {revision} under a header of {header}");
                ensure!(revision >= at, "revision {revision} after {at} on watch {}", response.watch_id);
                ensure!(revision > at || may_continue, "revision {at} is split on watch {}", response.watch_id);
                (at, may_continue) = (revision, true);
            }
            last.insert(response.watch_id, (at, response.fragment));
        }
        Ok(())
    }

    /// What each watch was told, in order, without how its events were grouped.
    ///
    /// Events at the compacted revision itself are left out: whether a deletion there can still be read depends on whether
    /// etcd's compaction, which goes on in the background, has come past it.
    pub(super) fn text(&self, leases: &LeaseNames, compacted: i64) -> String {
        let mut watches: BTreeMap<i64, String> = BTreeMap::new();
        for response in &self.responses {
            let text = watches.entry(response.watch_id).or_default();
            if response.events.is_empty() {
                text.push_str(&control(response));
            }
            for event in response.events.iter().filter(|event| revision(event) != compacted) {
                text.push_str(&event_text(event.clone(), leases));
            }
        }
        watches.iter().map(|(id, text)| format!("watch {id}:\n{text}")).collect()
    }
}

fn revision(event: &mvccpb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn event_text(mut event: mvccpb::Event, leases: &LeaseNames) -> String {
    for kv in event.kv.iter_mut().chain(&mut event.prev_kv) {
        normalise::key_value(kv, leases);
    }
    let kind = if event.r#type == 0 { "put" } else { "delete" };
    format!("  {kind} {:?}\n    before {:?}\n", event.kv, event.prev_kv)
}

/// A response without events.
fn control(response: &pb::WatchResponse) -> String {
    let mut response = response.clone();
    response.header.as_mut().map(normalise::plain_header);
    format!("  {response:?}\n")
}
