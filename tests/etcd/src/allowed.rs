//! The differences from etcd that are wanted, each with its reason. Every other difference fails a test.
//!
//! Must hold: an entry is as narrow as its reason.

use etcd_proto::etcdserverpb as pb;
use tonic::Code;

use crate::response::Response;

/// Hashes are taken over what a store keeps on disk, which is no part of the API. etcd 3.4 does not tell the hashed revision.
pub(crate) fn erase_hash_kv(response: &mut pb::HashKvResponse) {
    response.hash = 0;
    response.hash_revision = 0;
}

/// As for [`erase_hash_kv`].
pub(crate) fn erase_hash(response: &mut pb::HashResponse) {
    response.hash = 0;
}

/// Sizes are those of another store, and the version says which version of the API is meant. The fields that etcd 3.4 does
/// not have yet are filled in by later versions.
pub(crate) fn erase_status(response: &mut pb::StatusResponse) {
    response.version = "a version".into();
    response.db_size = response.db_size.min(1);
    response.db_size_in_use = 0;
    response.storage_version.clear();
    response.db_size_quota = 0;
}

/// A wanted difference.
#[derive(Debug)]
pub struct Allowed {
    /// Why it is wanted.
    pub reason: &'static str,
    /// Whether these two answers, the reference's first, differ in this way.
    pub matches: fn(&Response, &Response) -> bool,
}

/// All wanted differences between two answers.
pub const ALLOWED: &[Allowed] = &[
    Allowed {
        reason: "the text is of etcd's gRPC library, not of etcd: clients match on the code alone",
        matches: |reference, subject| match (reference, subject) {
            (Response::Refusal { code, message }, Response::Refusal { code: subject, .. }) => {
                code == subject && is_library_text(*code, message)
            }
            _ => false,
        },
    },
    Allowed {
        reason: "members are changed by this store's own command, which places replicas",
        matches: |_, subject| {
            let text = "members are not changed through the etcd API; use `netstate cluster`";
            *subject == Response::Refusal { code: Code::Unimplemented, message: text.into() }
        },
    },
    Allowed {
        reason: "members are numbered from one here, so a small number may name one",
        matches: |reference, subject| {
            let refusal = |code, text: &str| Response::Refusal { code, message: format!("etcdserver: {text}") };
            *reference == refusal(Code::NotFound, "member not found")
                && *subject == refusal(Code::FailedPrecondition, "can only promote a learner member")
        },
    },
    Allowed {
        reason: "members are numbered from one here: a small number may name the leader, which has nothing to do then",
        matches: |reference, subject| {
            let text = "etcdserver: bad leader transferee".to_owned();
            *reference == Response::Refusal { code: Code::FailedPrecondition, message: text }
                && matches!(subject, Response::Answer { text, .. } if text.starts_with("MoveLeaderResponse"))
        },
    },
    Allowed {
        reason: "whoever moves a leader has to be an administrator; etcd lets anybody",
        matches: |reference, subject| match (reference, subject) {
            (Response::Refusal { message, .. }, Response::Refusal { code, .. }) => {
                message == "etcdserver: bad leader transferee"
                    && matches!(code, Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument)
            }
            _ => false,
        },
    },
    Allowed {
        reason: "a lease's keys are told to those who may read them; etcd 3.4 tells everybody, later versions don't",
        matches: |reference, subject| match (reference, subject) {
            (Response::Answer { text, .. }, Response::Refusal { code, .. }) => {
                text.starts_with("LeaseTimeToLiveResponse")
                    && matches!(code, Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument)
            }
            _ => false,
        },
    },
];

/// Whether the text was written by grpc-go.
fn is_library_text(code: Code, message: &str) -> bool {
    message.starts_with("grpc: ") || (code == Code::Unimplemented && message.starts_with("unknown "))
}

/// Whether two answers are the same, or differ as wanted.
pub fn same(reference: &Response, subject: &Response) -> bool {
    reference == subject || ALLOWED.iter().any(|allowed| (allowed.matches)(reference, subject))
}
