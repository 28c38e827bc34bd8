//! The audit trail: the commit log itself, shown and checked.

use std::{pin::Pin, time::Duration};

use futures::Stream;
use kv_core::{GroupId, Keyspace, Revision, RevisionChanges};
use netstate_model::{DirectoryChange, NetworkChange};
use netstate_proto::v1::{self as pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{Services, network_id};
use crate::{
    forward::{Call, WalkReport},
    keyspaces::Home,
};

/// Records read at a time, per keyspace.
const PAGE: usize = 256;

/// Lines shown of one record; a batch of ten thousand endpoints is summed up.
const LINES: usize = 20;

/// How long one node may take to walk one group.
const WALK_PATIENCE: Duration = Duration::from_secs(600);

type Answers<T> = Response<Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>>;

/// One keyspace's records, read page by page.
struct Trail {
    services: Services,
    home: Home,
    keyspace: Keyspace,
    after: Revision,
    page: std::collections::VecDeque<RevisionChanges>,
    ended: bool,
}

impl Trail {
    fn new(services: &Services, home: Home, after: Revision) -> Self {
        let (services, keyspace) = (services.clone(), home.keyspace());
        Trail { services, home, keyspace, after, page: std::collections::VecDeque::new(), ended: false }
    }

    async fn peek(&mut self) -> Result<Option<&RevisionChanges>, Status> {
        if self.page.is_empty() && !self.ended {
            let (node, keyspace, after) = (self.services.node.clone(), self.keyspace.clone(), self.after);
            let reading = tokio::task::spawn_blocking(move || node.records(&keyspace, after, PAGE));
            let page = reading.await.map_err(|error| Status::internal(error.to_string()))?;
            let page = page.map_err(|error| Status::unavailable(error.to_string()))?;
            self.ended = page.is_empty();
            self.after = page.last().map_or(self.after, |last| last.record.revision);
            self.page = page.into();
        }
        Ok(self.page.front())
    }

    fn take(&mut self) -> Option<pb::AuditLogResponse> {
        let RevisionChanges { record, changes } = self.page.pop_front()?;
        let changes = match changes {
            Some(changes) => describe(self.home, &changes),
            // Its reason says what it was.
            None if record.is_raise() => Vec::new(),
            None => vec!["(compacted)".into()],
        };
        Some(pb::AuditLogResponse {
            keyspace: self.keyspace.as_str().into(),
            revision: record.revision.get(),
            at: record.at.micros(),
            hash: record.hash(&self.keyspace).get().to_vec().into(),
            previous: record.previous.get().to_vec().into(),
            actor: record.actor,
            reason: record.reason,
            request_id: record.request.map(|id| uuid::Uuid::from_bytes(id.get()).to_string()).unwrap_or_default(),
            changes,
        })
    }
}

/// A record's changes, a line each. Counters are bookkeeping and left out.
fn describe(home: Home, changes: &[kv_core::Change]) -> Vec<String> {
    let line = |change: &kv_core::Change| {
        let (key, value) = (&change.key[..], change.value.as_deref());
        match home {
            Home::Directory => match DirectoryChange::from_record(key, value) {
                Ok(DirectoryChange::Counters(_)) => None,
                Ok(change) => Some(change.describe()),
                Err(error) => Some(format!("unreadable: {error}")),
            },
            Home::Network(_) => match NetworkChange::from_record(key, value) {
                Ok(NetworkChange::NextNumber(_)) => None,
                Ok(change) => Some(change.describe()),
                Err(error) => Some(format!("unreadable: {error}")),
            },
        }
    };
    let mut lines: Vec<_> = changes.iter().filter_map(line).take(LINES + 1).collect();
    if lines.len() > LINES {
        lines.truncate(LINES);
        lines.push(format!("… {} keys in all", changes.len()));
    }
    lines
}

impl Services {
    pub(super) async fn audit_log_stream(
        &self,
        request: pb::AuditLogRequest,
    ) -> Result<Answers<pb::AuditLogResponse>, Status> {
        let after = Revision::new(request.after);
        let homes = if request.all {
            self.confirm_all().await?;
            let networks = self.node_networks();
            std::iter::once(Home::Directory).chain(networks).collect()
        } else if request.network.is_empty() {
            self.confirm(Home::Directory).await?;
            vec![Home::Directory]
        } else {
            let id = self.lookup(|directory| network_id(directory, &request.network)).await?;
            self.confirm(Home::Network(id)).await?;
            vec![Home::Network(id)]
        };
        let mut trails: Vec<_> = homes.into_iter().map(|home| Trail::new(self, home, after)).collect();
        let limit = if request.limit == 0 { u32::MAX } else { request.limit };
        let (records, outgoing) = mpsc::channel(64);
        tokio::spawn(async move {
            for _ in 0..limit {
                match earliest(&mut trails).await {
                    Ok(None) => return,
                    Ok(Some(record)) => {
                        if records.send(Ok(record)).await.is_err() {
                            return;
                        }
                    }
                    Err(status) => {
                        // Whoever asked may have gone.
                        let _ = records.send(Err(status)).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    /// The networks that have a keyspace here, those removed included: their trail stays.
    fn node_networks(&self) -> Vec<Home> {
        let keyspaces = (0..self.node.groups()).flat_map(|group| self.node.keyspaces(GroupId::new(group)));
        let homes = keyspaces.filter_map(|(keyspace, _)| Home::of(&keyspace));
        homes.filter(|home| matches!(home, Home::Network(_))).collect()
    }

    pub(super) fn audit_verify_stream(&self) -> Answers<pb::AuditVerifyResponse> {
        let (answers, outgoing) = mpsc::channel(16);
        let services = self.clone();
        tokio::spawn(async move {
            for group in 0..services.node.groups() {
                let call = Call::Verify(GroupId::new(group));
                for (node, walked) in services.ask_all_within::<WalkReport>(&call, WALK_PATIENCE).await {
                    let answer = verdict(services.node_name(node), group, walked);
                    if answers.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Response::new(Box::pin(ReceiverStream::new(outgoing)))
    }
}

fn verdict(node: String, group: u16, walked: Result<WalkReport, String>) -> pb::AuditVerifyResponse {
    let base = pb::AuditVerifyResponse { node, group: group.into(), ..pb::AuditVerifyResponse::default() };
    match walked {
        Ok(report) => pb::AuditVerifyResponse {
            keyspaces: report.keyspaces,
            records: report.records,
            sound: report.problem.is_none(),
            problem: report.problem.unwrap_or_default(),
            fold: report.fold.get().to_vec().into(),
            applied: report.applied,
            ..base
        },
        Err(reason) => pb::AuditVerifyResponse { problem: format!("not verified: {reason}"), ..base },
    }
}

/// The earliest record of all trails that has not been taken.
async fn earliest(trails: &mut [Trail]) -> Result<Option<pb::AuditLogResponse>, Status> {
    let mut first: Option<(usize, kv_core::Timestamp)> = None;
    for (at, trail) in trails.iter_mut().enumerate() {
        if let Some(record) = trail.peek().await? {
            let time = record.record.at;
            if first.is_none_or(|(_, earliest)| time < earliest) {
                first = Some((at, time));
            }
        }
    }
    Ok(first.and_then(|(at, _)| trails[at].take()))
}
