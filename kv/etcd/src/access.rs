//! Which keyspace a request addresses, who sends it, and whether they may.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;
use kv_auth::{AuthError, AuthState, Credentials, Identity};
use kv_core::{Answered, Guard, Keyspace, LeaseId, Refusal, Revision, Txn};
use kv_node::{CommitError, Node};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Status, metadata::MetadataMap};

use crate::{Config, status, wire};

/// The metadata key that names a keyspace other than the listener's own.
const KEYSPACE: &str = "netstate-keyspace";

/// The metadata key that says how old what a read sees may be, in milliseconds, and the one that says how old it is at most.
const MAX_STALENESS: &str = "netstate-max-staleness-ms";
pub(crate) const STALENESS: &str = "netstate-staleness-ms";

/// Passwords hashed at a time: each takes some 20 MiB and a core.
const HASHED_AT_ONCE: usize = 2;

/// Keyspaces whose users and roles are kept in memory.
const KNOWN: usize = 1024;

/// Keyspaces in one group of the cluster beyond which no request makes another.
const KEYSPACES: usize = 16 * 1024;

/// How often a write is tried anew because users and roles changed between the check and the write.
const ATTEMPTS: usize = 16;

/// Large ranges, streamed ranges and snapshots under way on one port.
const LONG_READS: usize = 128;

/// What all services share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) node: Node,
    pub(crate) config: Config,
    pub(crate) hubs: crate::watch::Hubs,
    states: Mutex<HashMap<Keyspace, Known>>,
    hashing: Semaphore,
    long_reads: Arc<Semaphore>,
}

/// A keyspace's users and roles as they were when records had changed so often.
struct Known {
    changes: u64,
    judge: Judge,
}

/// A keyspace's users and roles, and the record that changes whenever one of them does.
#[derive(Clone)]
struct Judge {
    state: Arc<AuthState>,
    settings: Option<Bytes>,
}

/// Whose request it is, and of which keyspace.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) keyspace: Keyspace,
    pub(crate) auth: Arc<AuthState>,
    settings: Option<Bytes>,
    /// As in etcd a bad token is refused where permission is asked for, not before.
    identity: Result<Option<Identity>, AuthError>,
    own: bool,
}

impl Shared {
    pub(crate) fn new(node: Node, config: Config) -> Self {
        let hubs = crate::watch::Hubs::new(node.clone(), config.progress);
        Shared(Arc::new(Inner {
            node,
            config,
            hubs,
            states: Mutex::default(),
            hashing: Semaphore::new(HASHED_AT_ONCE),
            long_reads: Arc::new(Semaphore::new(LONG_READS)),
        }))
    }

    /// The same node, with other answers to where requests go.
    pub(crate) fn with(&self, config: Config) -> Self {
        let (node, hubs) = (self.0.node.clone(), self.0.hubs.clone());
        Shared(Arc::new(Inner {
            node,
            config,
            hubs,
            states: Mutex::default(),
            hashing: Semaphore::new(HASHED_AT_ONCE),
            long_reads: Arc::new(Semaphore::new(LONG_READS)),
        }))
    }

    pub(crate) fn node(&self) -> &Node {
        &self.0.node
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    /// The header of a response that is true of this revision.
    pub(crate) fn header(&self, keyspace: &Keyspace, at: Revision) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: wire::revision(at), ..self.plain_header(keyspace) })
    }

    /// The header of a response that has to do with no revision.
    pub(crate) fn plain_header(&self, keyspace: &Keyspace) -> pb::ResponseHeader {
        let node = self.node();
        let id = node.cluster().get();
        pb::ResponseHeader {
            cluster_id: id.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head)),
            member_id: node.id().get(),
            revision: 0,
            raft_term: node.term(node.group_of(keyspace)),
        }
    }

    /// The header of a response that is true of what the local replica has.
    pub(crate) fn header_now(&self, keyspace: &Keyspace) -> Option<pb::ResponseHeader> {
        self.header(keyspace, self.node().head(keyspace).revision)
    }

    /// Finds out who sends a request.
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.caller_of(request.metadata())
    }

    pub(crate) fn caller_of(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let keyspace = self.keyspace(metadata)?;
        let own = self.config().is_own(&keyspace);
        let Judge { state: auth, settings } = self.judge_of(&keyspace, own)?;
        let elsewhere = self.config().keyspace != self.config().administrators;
        let token = ["token", "authorization"].iter().find_map(|name| metadata.get(*name));
        let token = token.map(|value| value.to_str().map_err(|_| AuthError::InvalidToken)).transpose();
        let identity = token.and_then(|token| {
            let credentials = Credentials { token, certificate_name: None };
            auth.identify(credentials, &self.config().tokens, SystemTime::now())
        });
        let identity = if own && elsewhere && !auth.enabled() { Err(AuthError::PermissionDenied) } else { identity };
        Ok(Caller { keyspace, auth, settings, identity, own })
    }

    /// Who judges requests to a keyspace. The store's own have no users: their administrators are those of the keyspace
    /// that the client port serves.
    fn judge_of(&self, keyspace: &Keyspace, own: bool) -> Result<Judge, Status> {
        self.judge(if own { &self.config().administrators } else { keyspace })
    }

    /// The same caller, judged by the users and roles that there are now.
    pub(crate) fn again(&self, caller: &Caller) -> Result<Caller, Status> {
        let Judge { state: auth, settings } = self.judge_of(&caller.keyspace, caller.own)?;
        Ok(Caller { auth, settings, ..caller.clone() })
    }

    /// The keyspace that a request names, or the listener's own.
    pub(crate) fn keyspace(&self, metadata: &MetadataMap) -> Result<Keyspace, Status> {
        let Some(named) = metadata.get(KEYSPACE) else { return Ok(self.config().keyspace.clone()) };
        let name = named.to_str().map_err(|_| Status::invalid_argument("the keyspace's name is not text"))?;
        Keyspace::new(name).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// Returns when the local replica has what was acknowledged before, users and roles among it. Called before somebody is
    /// judged, where that has to be by what is current.
    pub(crate) async fn up_to_date(&self, keyspace: &Keyspace) -> Result<(), Status> {
        self.node().up_to_date(keyspace).await.map_err(|error| status::read(&error))
    }

    /// Returns when the local replica is as fresh as a read wants: current, unless it is serializable or names a bound. Of
    /// one that names a bound: how stale the replica may be, in milliseconds.
    pub(crate) async fn fresh(&self, metadata: &MetadataMap, serializable: bool) -> Result<Option<u64>, Status> {
        let Some(bound) = metadata.get(MAX_STALENESS) else {
            if !serializable {
                self.up_to_date(&self.keyspace(metadata)?).await?;
            }
            return Ok(None);
        };
        let bound = bound.to_str().ok().and_then(|text| text.parse().ok()).map(Duration::from_millis);
        let bound = bound.ok_or_else(|| Status::invalid_argument(format!("{MAX_STALENESS} is no whole number")))?;
        let node = self.node();
        let fresh = node.fresh_within(node.group_of(&self.keyspace(metadata)?), bound).await;
        let staleness = fresh.map_err(|error| status::read(&error))?;
        Ok(Some(u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The keys attached to a lease, in the local replica.
    pub(crate) fn attached(&self, keyspace: &Keyspace, lease: LeaseId) -> Result<Vec<Bytes>, Status> {
        self.node().lease_keys(keyspace, lease).map_err(|error| status::read(&error))
    }

    /// Runs what hashes a password beside the requests that are under way.
    pub(crate) async fn slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let _turn = self.0.hashing.acquire().await.map_err(|_| status::stopped())?;
        tokio::task::spawn_blocking(work).await.map_err(|_| status::stopped())
    }

    /// A turn to read something large: it holds a thread for as long as its client takes to receive it.
    pub(crate) fn long_read(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.0.long_reads.clone().try_acquire_owned().map_err(|_| status::too_many_requests())
    }

    /// A keyspace's users and roles, as the local replica has them.
    pub(crate) fn auth(&self, keyspace: &Keyspace) -> Result<Arc<AuthState>, Status> {
        Ok(self.judge(keyspace)?.state)
    }

    fn judge(&self, keyspace: &Keyspace) -> Result<Judge, Status> {
        let node = self.node();
        // Taken before the records are read, which are then at least as new.
        let changes = node.record_changes();
        let mut states = self.0.states.lock();
        if let Some(known) = states.get(keyspace).filter(|known| known.changes == changes) {
            return Ok(known.judge.clone());
        }
        let records = node.all_beside(keyspace, kv_auth::RECORDS).map_err(|error| status::read(&error))?;
        let plain = records.iter().map(|(key, value)| (&key[..], &value[..]));
        let state = AuthState::load(plain).map_err(|error| {
            tracing::error!(%keyspace, %error, "users and roles cannot be read");
            status::corrupt()
        })?;
        let settings = records.iter().find(|(key, _)| key == kv_auth::SETTINGS_RECORD).map(|(_, value)| value.clone());
        let judge = Judge { state: Arc::new(state), settings };
        if states.len() >= KNOWN {
            states.clear();
        }
        states.insert(keyspace.clone(), Known { changes, judge: judge.clone() });
        Ok(judge)
    }

    /// Carries out a transaction that `may` allows. Where users are asked who they are, it is written only if users and
    /// roles are still those that it was judged by, and judged again if not.
    pub(crate) async fn transact(
        &self,
        caller: &Caller,
        txn: Txn,
        may: impl Fn(&Caller) -> Result<(), Status>,
    ) -> Result<Result<Answered, CommitError>, Status> {
        let (node, keyspace) = (self.node(), &caller.keyspace);
        may(caller)?;
        if !caller.auth.enabled() || txn.guard.is_some() {
            return Ok(one(node.transact(keyspace, vec![txn]).await));
        }
        let mut caller = caller.clone();
        for _ in 0..ATTEMPTS {
            let key = Bytes::from_static(kv_auth::SETTINGS_RECORD);
            let guard = Some(Guard { key, value: caller.settings.clone() });
            match one(node.transact(keyspace, vec![Txn { guard, ..txn.clone() }]).await) {
                Err(CommitError::Refused(Refusal::Guarded)) => {}
                other => return Ok(other),
            }
            self.up_to_date(keyspace).await?;
            caller = self.again(&caller)?;
            may(&caller)?;
        }
        Err(status::too_many_requests())
    }

    /// Writes are refused once a keyspace is as large as it may be, and where it would be one too many; deletes never are.
    pub(crate) fn room(&self, keyspace: &Keyspace) -> Result<(), Status> {
        let (config, node) = (self.config(), self.node());
        if config.quota_bytes < u64::MAX && node.usage(keyspace).bytes >= config.quota_bytes {
            return Err(status::no_space());
        }
        if node.head(keyspace).revision == Revision::ZERO && node.keyspaces_in(node.group_of(keyspace)) >= KEYSPACES {
            return Err(status::too_many_keyspaces(KEYSPACES));
        }
        Ok(())
    }

    /// A request larger than one may be.
    pub(crate) fn too_large(&self, request: &impl prost::Message) -> Result<(), Status> {
        if request.encoded_len() > self.config().request_bytes {
            return Err(status::request_too_large());
        }
        Ok(())
    }
}

/// The answer to the one transaction that was sent.
fn one(answers: Result<Vec<Answered>, CommitError>) -> Result<Answered, CommitError> {
    Ok(answers?.pop().expect("each transaction has an answer"))
}

/// Finds the keys attached to a lease.
pub(crate) type Attached<'a> = &'a dyn Fn(LeaseId) -> Result<Vec<Bytes>, Status>;

impl Caller {
    pub(crate) fn who(&self) -> Result<Option<&Identity>, AuthError> {
        self.identity.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }

    /// What the record of a write says about who made it.
    pub(crate) fn actor(&self) -> String {
        self.who().ok().flatten().map_or_else(String::new, |who| who.user().to_string())
    }

    pub(crate) fn may_range(&self, key: &[u8], end: &[u8]) -> Result<(), Status> {
        self.own_readable()?;
        Ok(self.auth.check_range(self.who()?, key, end)?)
    }

    pub(crate) fn may_watch(&self, request: &pb::WatchCreateRequest) -> Result<(), Status> {
        self.own_readable()?;
        Ok(self.auth.check_watch(self.who()?, request)?)
    }

    /// Whether it may put a key, and attach it to a lease with the keys that `attached` finds.
    pub(crate) fn may_put(&self, request: &pb::PutRequest, attached: Attached<'_>) -> Result<(), Status> {
        self.writable()?;
        self.auth.check_put(self.who()?, request)?;
        self.may_attach(&[request.lease], attached)
    }

    pub(crate) fn may_delete(&self, request: &pb::DeleteRangeRequest) -> Result<(), Status> {
        self.writable()?;
        Ok(self.auth.check_delete(self.who()?, request)?)
    }

    pub(crate) fn may_txn(&self, request: &pb::TxnRequest, writes: bool, attached: Attached<'_>) -> Result<(), Status> {
        if writes {
            self.writable()?;
        } else {
            self.own_readable()?;
        }
        self.auth.check_txn(self.who()?, request)?;
        if !self.auth.enabled() {
            return Ok(());
        }
        self.may_attach(&kv_auth::leases_put(request), attached)
    }

    /// Who attaches a key to a lease may later end it, and with it the keys that it has.
    fn may_attach(&self, leases: &[i64], attached: Attached<'_>) -> Result<(), Status> {
        if !self.auth.enabled() {
            return Ok(());
        }
        for lease in leases.iter().filter_map(|lease| LeaseId::new(*lease)) {
            self.auth.check_lease_write(self.who()?, attached(lease)?)?;
        }
        Ok(())
    }

    pub(crate) fn may_administrate(&self) -> Result<(), Status> {
        Ok(self.auth.check_admin(self.who()?)?)
    }

    /// Whether it may end a lease with these keys.
    pub(crate) fn may_revoke(&self, keys: &[Bytes]) -> Result<(), Status> {
        Ok(self.auth.check_lease_write(self.who()?, keys)?)
    }

    /// Whether it may be told that a lease has these keys.
    pub(crate) fn may_list(&self, keys: &[Bytes]) -> Result<(), Status> {
        if keys.is_empty() {
            return Ok(());
        }
        Ok(self.auth.check_lease_read(self.who()?, keys)?)
    }

    /// Whether it may write what no permission guards: it need only be nobody in particular, or somebody known.
    pub(crate) fn may_propose(&self) -> Result<(), Status> {
        self.who()?;
        self.writable()
    }

    pub(crate) fn writable(&self) -> Result<(), Status> {
        if self.own { Err(status::own_keyspace(self.keyspace.as_str())) } else { Ok(()) }
    }

    fn own_readable(&self) -> Result<(), Status> {
        if self.own { self.may_administrate() } else { Ok(()) }
    }
}

/// A lease's id, or the refusal of zero.
pub(crate) fn lease_id(raw: i64) -> Result<LeaseId, Status> {
    LeaseId::new(raw).ok_or_else(status::lease_not_found)
}
