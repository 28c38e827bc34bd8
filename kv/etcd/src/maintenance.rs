//! The Maintenance service: how this member is, and what an operator does to it.

use etcd_proto::etcdserverpb::{self as pb, alarm_request::AlarmAction, maintenance_server::Maintenance};
use futures::stream::BoxStream;
use kv_core::{Keyspace, NodeId, Query, Revision};
use tonic::{Request, Response, Status};

use crate::{
    access::{Caller, Shared},
    compacted,
    snapshot::Snapshot,
    status, wire,
};

/// The version of etcd whose API this is; clients decide by it what they may use.
pub(crate) const VERSION: &str = "3.5.21";

/// Parts of a snapshot that wait for a slow reader.
const PARTS: usize = 4;

/// Keys hashed at a time.
const HASH_KEYS: usize = 10_000;

/// How long a leader may take to hand over.
const HAND_OVER: std::time::Duration = std::time::Duration::from_secs(5);

/// The Maintenance service.
#[derive(Clone)]
pub(crate) struct MaintenanceService(pub(crate) Shared);

/// As `may_administrate`, in the words that etcd has for these requests.
fn may_maintain(caller: &Caller) -> Result<(), Status> {
    caller.may_administrate().map_err(in_maintenance)
}

/// A refusal of who asks, as etcd words it here.
fn in_maintenance(refused: Status) -> Status {
    let text = refused.message().strip_prefix("etcdserver:").map(|text| format!("auth:{text}"));
    text.map_or(refused, Status::unknown)
}

impl MaintenanceService {
    /// The alarms of a keyspace: it is as large as it may be, or a replica here is damaged.
    fn alarms(&self, keyspace: &Keyspace) -> Vec<pb::AlarmMember> {
        let node = self.0.node();
        // Said before writes are refused, while there is time to do something.
        let full = node.usage(keyspace).bytes >= self.0.config().quota_bytes / 10 * 9;
        let damaged = node.problem(node.group_of(keyspace)).is_some();
        let alarm = |alarm: pb::AlarmType| pb::AlarmMember { member_id: node.id().get(), alarm: alarm.into() };
        let full = full.then(|| alarm(pb::AlarmType::Nospace));
        full.into_iter().chain(damaged.then(|| alarm(pb::AlarmType::Corrupt))).collect()
    }

    /// A hash over all keys of a keyspace at a revision, the same on every member.
    async fn hash_at(&self, keyspace: &Keyspace, at: Option<Revision>) -> Result<(u32, Revision), Status> {
        let (node, keyspace) = (self.0.node().clone(), keyspace.clone());
        let hashing = tokio::task::spawn_blocking(move || {
            let query = Query { at, ..Query::all(kv_core::KeyRange::All) };
            let mut pages = node.pages(&keyspace, &query, HASH_KEYS)?;
            let (mut hasher, mut revision) = (crc32fast::Hasher::new(), node.head(&keyspace).revision);
            while let Some(page) = pages.next()? {
                revision = page.revision;
                for kv in page.kvs {
                    hasher.update(&kv.key);
                    hasher.update(&kv.state.value);
                    for number in [kv.state.create_revision.get(), kv.state.mod_revision.get(), kv.state.version] {
                        hasher.update(&number.to_le_bytes());
                    }
                }
            }
            Ok((hasher.finalize(), revision))
        });
        let hashed: Result<_, kv_node::ReadError> = hashing.await.map_err(|_| status::stopped())?;
        hashed.map_err(|error| status::read(&error))
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        let action = AlarmAction::try_from(request.action).map_err(|_| status::invalid_alarm_action())?;
        caller.who().map_err(|refused| in_maintenance(refused.into()))?;
        if action != AlarmAction::Get {
            may_maintain(&caller)?;
        }
        // Alarms are what is so, and go when it is no more: there is none to set or to take back.
        let mut alarms = self.alarms(&caller.keyspace);
        if action == AlarmAction::Get {
            let wanted = |alarm: &pb::AlarmMember| {
                (request.alarm() == pb::AlarmType::None || request.alarm == alarm.alarm)
                    && (request.member_id == 0 || request.member_id == alarm.member_id)
            };
            alarms.retain(wanted);
        } else {
            alarms.clear();
        }
        // As in etcd, without a header.
        Ok(Response::new(pb::AlarmResponse { header: None, alarms }))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let node = self.0.node();
        let group = node.group_of(&caller.keyspace);
        let position = node.position(group);
        let usage = node.usage(&caller.keyspace);
        let errors = self
            .alarms(&caller.keyspace)
            .into_iter()
            .map(|alarm| format!("memberID:{} alarm:{} ", alarm.member_id, alarm.alarm().as_str_name()));
        let quota = self.0.config().quota_bytes;
        Ok(Response::new(pb::StatusResponse {
            header: self.0.header_now(&caller.keyspace),
            version: VERSION.into(),
            db_size: i64::try_from(node.disk_bytes()).unwrap_or(i64::MAX),
            leader: position.leader.map_or(0, NodeId::get),
            raft_index: position.last,
            raft_term: position.term,
            raft_applied_index: position.applied,
            errors: errors.chain(position.leader.is_none().then(|| "etcdserver: no leader".to_string())).collect(),
            db_size_in_use: usage.bytes.cast_signed(),
            is_learner: false,
            storage_version: String::new(),
            db_size_quota: if quota == u64::MAX { 0 } else { quota.cast_signed() },
        }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        let caller = self.0.caller(&request)?;
        may_maintain(&caller)?;
        // Space is given back while everything goes on: there is nothing to do.
        // As in etcd, without a header.
        let mut response = Response::new(pb::DefragmentResponse { header: None });
        let note = "space is given back online; there was nothing to defragment";
        response.metadata_mut().insert("netstate-note", tonic::metadata::MetadataValue::from_static(note));
        Ok(response)
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let caller = self.0.caller(&request)?;
        may_maintain(&caller)?;
        let (hash, _) = self.hash_at(&caller.keyspace, None).await?;
        Ok(Response::new(pb::HashResponse { header: self.0.header_now(&caller.keyspace), hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let caller = self.0.caller(&request)?;
        may_maintain(&caller)?;
        let at = request.get_ref().revision;
        let compacted = compacted::revision(&self.0, &caller.keyspace).map_err(|error| status::read(&error))?;
        // At the compacted revision itself, which can be read, there is no hash in etcd either.
        if at > 0 && at <= compacted {
            return Err(status::compacted());
        }
        let (hash, hashed) = self.hash_at(&caller.keyspace, (at > 0).then(|| wire::from_revision(at))).await?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.0.header_now(&caller.keyspace),
            hash,
            compact_revision: compacted,
            hash_revision: wire::revision(hashed),
        }))
    }

    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let caller = self.0.caller(&request)?;
        may_maintain(&caller)?;
        let node = self.0.node();
        self.0.up_to_date(&caller.keyspace).await?;
        let turn = self.0.long_read()?;
        let header = self.0.header_now(&caller.keyspace);
        let mut snapshot = Snapshot::of(node, &caller.keyspace).map_err(|error| status::read(&error))?;
        let (parts, stream) = tokio::sync::mpsc::channel(PARTS);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            while let Some(part) = snapshot.next() {
                let part = part.map(|blob| pb::SnapshotResponse { header, blob, ..pb::SnapshotResponse::default() });
                let last = part.is_err();
                // Whoever reads may have gone.
                if parts.blocking_send(part.map_err(|error| status::read(&error))).is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(stream))))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let caller = self.0.caller(&request)?;
        caller.may_administrate()?;
        let node = self.0.node();
        let group = node.group_of(&caller.keyspace);
        if node.leader(group) != Some(node.id()) {
            return Err(status::not_leader());
        }
        let target = NodeId::new(request.get_ref().target_id);
        if !node.members().iter().any(|member| member.id == target) {
            return Err(status::bad_transferee());
        }
        if target != node.id() {
            node.hand_over(group, target).await;
            let handed = async {
                while node.leader(group) != Some(target) {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(HAND_OVER, handed).await.map_err(|_| status::timeout())?;
        }
        // As in etcd, without a header.
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.0.caller(&request)?.may_administrate()?;
        Err(Status::unimplemented("this store's version does not follow etcd's; there is nothing to downgrade"))
    }
}
