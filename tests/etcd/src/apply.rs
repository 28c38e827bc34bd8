//! Sends an operation to one system and brings back its answer in comparable form.
//!
//! Must hold: the same operation means the same to both systems, whatever identifiers and tokens each has given out.
//!
//! Left to others: sending to both and comparing (see `pair`).

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use etcd_proto::etcdserverpb as pb;
use futures::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::{Request as Call, Status};

use crate::client::{CALL_SECONDS_MAX, Client};
use crate::normalise::{Normalise, normalised};
use crate::operation::{Caller, LeaseNames, Operation, Request};
use crate::response::Response;
use crate::server::{Kind, Server};

/// What is sent for a user who was given no token.
const NO_TOKEN: &str = "nobody.1";

/// A running server and what it has told so far.
#[derive(Debug)]
pub struct System {
    server: Server,
    client: Client,
    leases: LeaseNames,
    tokens: HashMap<String, String>,
}

impl System {
    /// Starts a server of this kind, empty.
    pub async fn start(kind: Kind) -> Result<Self> {
        let server = Server::start(kind).await?;
        let client = Client::new(server.address())?;
        Ok(Self { server, client, leases: LeaseNames::default(), tokens: HashMap::new() })
    }

    /// A client of the server.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the server listens.
    pub fn address(&self) -> &str {
        self.server.address()
    }

    /// The leases that the server named.
    pub fn leases(&self) -> &LeaseNames {
        &self.leases
    }

    /// Sends one operation and waits for its answer.
    pub async fn apply(&mut self, operation: &Operation) -> Response {
        let limit = Duration::from_secs(CALL_SECONDS_MAX);
        match tokio::time::timeout(limit, self.send(operation)).await {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => status.into(),
            Err(_) => Status::deadline_exceeded("no answer").into(),
        }
    }

    /// Sends a body of any bytes. Of what is answered only that something is, since these bodies are about refusals.
    pub async fn apply_raw(&mut self, path: &'static str, body: Bytes) -> Response {
        match self.client.raw(path, body).await {
            Ok(_) => Response::Answer { revision: 0, text: "answered".into() },
            Err(status) => status.into(),
        }
    }

    async fn send(&mut self, operation: &Operation) -> Result<Response, Status> {
        let mut c = self.client.clone();
        let request = operation.request.clone().with_lease_ids(&self.leases);
        let call = Signer { caller: &operation.caller, tokens: &self.tokens };
        macro_rules! unary {
            ($service:ident.$method:ident($message:expr)) => {
                self.normalised(c.$service.$method(call.sign($message)?).await?.into_inner())
            };
        }
        Ok(match request {
            Request::Range(m) => unary!(kv.range(m)),
            Request::Put(m) => unary!(kv.put(m)),
            Request::DeleteRange(m) => unary!(kv.delete_range(m)),
            Request::Txn(m) => unary!(kv.txn(m)),
            Request::Compact(m) => unary!(kv.compact(m)),
            Request::LeaseGrant(m) => {
                let chosen_by_server = m.id == 0;
                let answer = c.lease.lease_grant(call.sign(m)?).await?.into_inner();
                if chosen_by_server {
                    self.leases.learn(answer.id);
                }
                self.normalised(answer)
            }
            Request::LeaseRevoke(m) => unary!(lease.lease_revoke(m)),
            Request::LeaseKeepAlive(m) => {
                let call = call.sign(tokio_stream::once(m))?;
                self.first(c.lease.lease_keep_alive(call).await?.into_inner()).await?
            }
            Request::LeaseTimeToLive(m) => unary!(lease.lease_time_to_live(m)),
            Request::LeaseLeases(m) => unary!(lease.lease_leases(m)),
            Request::HashKv(m) => unary!(maintenance.hash_kv(m)),
            Request::Alarm(m) => unary!(maintenance.alarm(m)),
            Request::Status(m) => unary!(maintenance.status(m)),
            Request::MoveLeader(m) => unary!(maintenance.move_leader(m)),
            Request::MemberList(m) => unary!(cluster.member_list(m)),
            Request::MemberAdd(m) => unary!(cluster.member_add(m)),
            Request::MemberRemove(m) => unary!(cluster.member_remove(m)),
            Request::MemberUpdate(m) => unary!(cluster.member_update(m)),
            Request::MemberPromote(m) => unary!(cluster.member_promote(m)),
            Request::WatchCreate(m) => {
                let create = pb::watch_request::RequestUnion::CreateRequest(m);
                let create = tokio_stream::once(pb::WatchRequest { request_union: Some(create) });
                // The request stays open: at its end a server may close the stream before it answers.
                let call = call.sign(create.chain(futures::stream::pending()))?;
                self.first(c.watch.watch(call).await?.into_inner()).await?
            }
            Request::AuthEnable(m) => unary!(auth.auth_enable(m)),
            Request::AuthDisable(m) => unary!(auth.auth_disable(m)),
            Request::Authenticate(m) => {
                let name = m.name.clone();
                let answer = c.auth.authenticate(call.sign(m)?).await?.into_inner();
                self.tokens.insert(name, answer.token.clone());
                self.normalised(answer)
            }
            Request::UserAdd(m) => unary!(auth.user_add(m)),
            Request::UserGet(m) => unary!(auth.user_get(m)),
            Request::UserList(m) => unary!(auth.user_list(m)),
            Request::UserDelete(m) => unary!(auth.user_delete(m)),
            Request::UserChangePassword(m) => unary!(auth.user_change_password(m)),
            Request::UserGrantRole(m) => unary!(auth.user_grant_role(m)),
            Request::UserRevokeRole(m) => unary!(auth.user_revoke_role(m)),
            Request::RoleAdd(m) => unary!(auth.role_add(m)),
            Request::RoleGet(m) => unary!(auth.role_get(m)),
            Request::RoleList(m) => unary!(auth.role_list(m)),
            Request::RoleDelete(m) => unary!(auth.role_delete(m)),
            Request::RoleGrantPermission(m) => unary!(auth.role_grant_permission(m)),
            Request::RoleRevokePermission(m) => unary!(auth.role_revoke_permission(m)),
        })
    }

    fn normalised<M: Normalise>(&self, message: M) -> Response {
        normalised(message, &self.leases)
    }

    async fn first<M: Normalise>(&self, mut answers: tonic::Streaming<M>) -> Result<Response, Status> {
        match answers.next().await {
            Some(answer) => Ok(self.normalised(answer?)),
            None => Ok(Response::Answer { revision: 0, text: "end of stream".into() }),
        }
    }
}

/// Puts the caller's token into a call's metadata.
struct Signer<'a> {
    caller: &'a Caller,
    tokens: &'a HashMap<String, String>,
}

impl Signer<'_> {
    fn sign<M>(&self, message: M) -> Result<Call<M>, Status> {
        let mut call = Call::new(message);
        let (key, user) = match self.caller {
            Caller::Nobody => return Ok(call),
            Caller::Token(user) => ("token", user),
            Caller::Authorization(user) => ("authorization", user),
        };
        let token = self.tokens.get(user).map_or(NO_TOKEN, String::as_str);
        let value = MetadataValue::try_from(token)
            .map_err(|error| Status::internal(format!("{token:?} does not fit into metadata: {error}")))?;
        call.metadata_mut().insert(key, value);
        Ok(call)
    }
}
