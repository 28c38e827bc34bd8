//! Users, roles, permissions, and operations in their names.

use bytes::Bytes;
use etcd_proto::{authpb, etcdserverpb as pb};

use super::Generator;
use crate::operation::{Caller, Operation, Request};

const USERS: [&str; 4] = ["root", "alice", "bob", "carol"];
const ROLES: [&str; 4] = ["root", "reader", "writer", "other"];
const PASSWORDS: [&str; 6] = ["right", "right", "right", "right", "right", "wrong"];

impl Generator {
    /// One operation of the test for users and roles: on these, or on keys, in somebody's name.
    pub fn auth_operation(&mut self) -> Operation {
        let request = match self.below(100) {
            0..45 => self.auth_request(),
            45..55 => {
                let user = self.user();
                self.authentication(user)
            }
            55..98 => self.guarded_request(),
            _ => return self.switch(),
        };
        let caller = self.caller(&request);
        Operation { caller, request }
    }

    /// Requests that lead to a working set of users with authentication switched on.
    pub fn auth_preparation(&mut self) -> Vec<Request> {
        self.forward = true;
        let mut requests = Vec::new();
        for name in USERS {
            requests.push(user_add(name, "right"));
            requests
                .push(Request::Authenticate(pb::AuthenticateRequest { name: name.into(), password: "right".into() }));
        }
        for name in ROLES {
            requests.push(Request::RoleAdd(pb::AuthRoleAddRequest { name: name.into() }));
        }
        requests.push(Request::AuthEnable(pb::AuthEnableRequest {}));
        for (user, role) in [("root", "root"), ("alice", "reader"), ("bob", "writer")] {
            let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
            requests.push(Request::UserGrantRole(grant));
        }
        requests.push(Request::AuthEnable(pb::AuthEnableRequest {}));
        for name in USERS {
            requests
                .push(Request::Authenticate(pb::AuthenticateRequest { name: name.into(), password: "right".into() }));
        }
        requests
    }

    fn caller(&mut self, request: &Request) -> Caller {
        let administers = matches!(
            request,
            Request::UserAdd(_)
                | Request::UserGrantRole(_)
                | Request::RoleAdd(_)
                | Request::RoleGrantPermission(_)
                | Request::UserChangePassword(_)
        );
        if administers && self.percent(60) {
            return Caller::Token("root".into());
        }
        match self.below(20) {
            0 => Caller::Nobody,
            1 => Caller::Token("unknown".into()),
            2..6 => Caller::Authorization(self.user()),
            _ => Caller::Token(self.user()),
        }
    }

    fn switch(&mut self) -> Operation {
        let request = if self.percent(70) {
            Request::AuthEnable(pb::AuthEnableRequest {})
        } else {
            Request::AuthDisable(pb::AuthDisableRequest {})
        };
        let caller = if self.percent(50) { Caller::Token("root".into()) } else { self.caller(&request) };
        Operation { caller, request }
    }

    /// A request for a token, with a password that is mostly right.
    pub fn authentication(&mut self, name: String) -> Request {
        let password = self.pick(&PASSWORDS).into();
        Request::Authenticate(pb::AuthenticateRequest { name, password })
    }

    fn user(&mut self) -> String {
        if self.percent(3) { self.pick(&["", "nobody"]).into() } else { self.pick(&USERS).into() }
    }

    fn role(&mut self) -> String {
        if self.percent(5) { self.pick(&["", "none"]).into() } else { self.pick(&ROLES).into() }
    }

    fn auth_request(&mut self) -> Request {
        let (name, role, password) = (self.user(), self.role(), self.pick(&PASSWORDS).to_owned());
        match self.below(32) {
            0..3 => user_add(&name, &password),
            3 => Request::UserAdd(pb::AuthUserAddRequest {
                name,
                password,
                options: Some(authpb::UserAddOptions { no_password: true }),
                ..Default::default()
            }),
            4..6 => Request::UserGet(pb::AuthUserGetRequest { name }),
            6 => Request::UserList(pb::AuthUserListRequest {}),
            7 => Request::UserDelete(pb::AuthUserDeleteRequest { name }),
            8..10 => {
                Request::UserChangePassword(pb::AuthUserChangePasswordRequest { name, password, ..Default::default() })
            }
            10..15 => Request::UserGrantRole(pb::AuthUserGrantRoleRequest { user: name, role }),
            15..17 => Request::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name, role }),
            17..19 => Request::RoleAdd(pb::AuthRoleAddRequest { name: role }),
            19..21 => Request::RoleGet(pb::AuthRoleGetRequest { role }),
            21 => Request::RoleList(pb::AuthRoleListRequest {}),
            22 => Request::RoleDelete(pb::AuthRoleDeleteRequest { role }),
            23..29 => {
                // Without a permission etcd 3.4 ends with a nil pointer: nothing to compare with.
                let perm = Some(self.permission());
                Request::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name: role, perm })
            }
            _ => {
                let authpb::Permission { key, range_end, .. } = self.permission();
                Request::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest { role, key, range_end })
            }
        }
    }

    /// For a range that has keys: etcd 3.4 grants others too, later versions refuse them.
    fn permission(&mut self) -> authpb::Permission {
        let key = self.existing_key();
        // Few different ranges, so that they are granted again and revoked.
        let range_end = if self.percent(50) { Bytes::new() } else { self.key_range().1 };
        let range_end = if range_end[..] == [0] || range_end > key { range_end } else { Bytes::new() };
        authpb::Permission { perm_type: self.pick(&[0, 1, 2]), key, range_end }
    }

    /// Not of all keys from one on: etcd 3.4 allows that to whoever may read the first.
    fn guarded_watch(&mut self) -> pb::WatchCreateRequest {
        let watch = self.watch();
        let range_end = if watch.range_end[..] == [0] { Bytes::new() } else { watch.range_end };
        pb::WatchCreateRequest { start_revision: 0, range_end, ..watch }
    }

    fn last_lease_request(&mut self) -> Request {
        self.lease_requests().pop().unwrap_or(Request::LeaseLeases(pb::LeaseLeasesRequest {}))
    }

    /// A request that permissions guard.
    fn guarded_request(&mut self) -> Request {
        match self.below(100) {
            0..25 => Request::Range(self.range()),
            25..50 => Request::Put(self.put()),
            50..60 => Request::DeleteRange(self.delete_range()),
            60..75 => Request::Txn(self.flat_txn()),
            75..77 => Request::Compact(self.compact()),
            // The last of several is a revocation: a short lease is not granted here, where something comes between.
            77..87 => self.last_lease_request(),
            87..92 => Request::WatchCreate(self.guarded_watch()),
            92..94 => Request::Status(pb::StatusRequest {}),
            94..96 => Request::MemberList(pb::MemberListRequest { linearizable: false }),
            96 => self.alarm(),
            97 => self.hash_kv(),
            98 => Request::MemberRemove(pb::MemberRemoveRequest { id: 12345 }),
            _ => Request::MoveLeader(pb::MoveLeaderRequest { target_id: 12345 }),
        }
    }
}

fn user_add(name: &str, password: &str) -> Request {
    Request::UserAdd(pb::AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() })
}
