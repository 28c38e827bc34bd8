//! The Auth service: users, roles and their permissions, of one keyspace each.

use std::time::SystemTime;

use etcd_proto::etcdserverpb::{self as pb, auth_server::Auth};
use kv_auth::{Command, Hashing, Password};
use kv_core::{Effect, Guard, Outcome, Refusal, Txn};
use kv_node::CommitError;
use tonic::{Request, Response, Status};

use crate::{
    access::{Caller, Shared},
    status,
};

/// How often a change is worked out anew because another one came first.
const ATTEMPTS: usize = 16;

/// The Auth service.
#[derive(Clone)]
pub(crate) struct AuthService(pub(crate) Shared);

/// Hashes of another method than this store's are of no use, and an ignored one would leave the user an empty password.
fn no_hash(hashed_password: &str) -> Result<(), Status> {
    match hashed_password {
        "" => Ok(()),
        _ => Err(Status::invalid_argument("a hashed password cannot be taken over; send the password")),
    }
}

impl AuthService {
    /// Carries out a command, on the latest users and roles.
    async fn change(&self, caller: &Caller, command: Command) -> Result<Option<pb::ResponseHeader>, Status> {
        caller.writable()?;
        let (node, keyspace) = (self.0.node(), &caller.keyspace);
        for _ in 0..ATTEMPTS {
            self.0.up_to_date(keyspace).await?;
            let key = bytes::Bytes::from_static(kv_auth::SETTINGS_RECORD);
            let known = node.beside(keyspace, &key).map_err(|error| status::read(&error))?;
            let auth = self.0.auth(keyspace)?;
            let asked = command.clone();
            let decide = move || auth.decide(&asked, &Hashing::default(), &mut rand::rng());
            let changes = self.0.slowly(decide).await??;
            if changes.is_empty() {
                return Ok(self.0.header_now(keyspace));
            }
            let effect = |change: kv_auth::RecordChange| Effect::Record { key: change.key, value: change.value };
            let txn = Txn {
                effects: changes.into_iter().map(effect).collect(),
                guard: Some(Guard { key, value: known }),
                actor: caller.actor(),
                ..Txn::default()
            };
            match node.txn(keyspace, txn).await {
                Ok(Outcome::Applied(_)) => {
                    // So that who asks here next meets what was changed.
                    self.0.up_to_date(keyspace).await?;
                    return Ok(self.0.header_now(keyspace));
                }
                Ok(_) => return Err(status::timeout()),
                Err(CommitError::Refused(Refusal::Guarded)) => {}
                Err(error) => return Err(status::commit(&error)),
            }
        }
        Err(status::too_many_requests())
    }

    /// Carries out an administrator's command.
    async fn administrate<T>(
        &self,
        request: &Request<T>,
        command: Command,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let caller = self.0.caller(request)?;
        caller.may_administrate()?;
        self.change(&caller, command).await
    }

    async fn reader<T>(&self, request: &Request<T>) -> Result<(Caller, Option<pb::ResponseHeader>), Status> {
        let keyspace = self.0.keyspace(request.metadata())?;
        self.0.up_to_date(&keyspace).await?;
        Ok((self.0.caller(request)?, self.0.header_now(&keyspace)))
    }
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let header = self.administrate(&request, Command::Enable).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let header = self.administrate(&request, Command::Disable).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let (caller, header) = self.reader(&request).await?;
        caller.may_administrate()?;
        let (enabled, auth_revision) = (caller.auth.enabled(), caller.auth.revision().get());
        Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let keyspace = self.0.keyspace(request.metadata())?;
        self.0.up_to_date(&keyspace).await?;
        let caller = self.0.caller(&request)?;
        let (auth, tokens) = (caller.auth.clone(), self.0.config().tokens.clone());
        let request = request.into_inner();
        let login = move || {
            let password = Password::new(request.password);
            auth.authenticate(&request.name, &password, &tokens, SystemTime::now())
        };
        let token = self.0.slowly(login).await??;
        caller.who()?;
        Ok(Response::new(pb::AuthenticateResponse { header: self.0.header_now(&keyspace), token }))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        no_hash(&request.get_ref().hashed_password)?;
        let header = self.administrate(&request, request.get_ref().clone().into()).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let (caller, header) = self.reader(&request).await?;
        let roles = caller.auth.user_get(caller.who()?, &request.get_ref().name)?;
        Ok(Response::new(pb::AuthUserGetResponse { header, roles }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let (caller, header) = self.reader(&request).await?;
        let users = caller.auth.user_list(caller.who()?)?;
        Ok(Response::new(pb::AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let header = self.administrate(&request, request.get_ref().clone().into()).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        no_hash(&request.get_ref().hashed_password)?;
        let header = self.administrate(&request, request.get_ref().clone().into()).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let header = self.administrate(&request, request.get_ref().clone().into()).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let header = self.administrate(&request, request.get_ref().clone().into()).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let header = self.administrate(&request, request.get_ref().clone().into()).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let (caller, header) = self.reader(&request).await?;
        let perm = caller.auth.role_get(caller.who()?, &request.get_ref().role)?;
        Ok(Response::new(pb::AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let (caller, header) = self.reader(&request).await?;
        let roles = caller.auth.role_list(caller.who()?)?;
        Ok(Response::new(pb::AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let header = self.administrate(&request, request.get_ref().clone().into()).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let header = self.administrate(&request, request.get_ref().clone().into()).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let header = self.administrate(&request, request.get_ref().clone().into()).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header }))
    }
}
