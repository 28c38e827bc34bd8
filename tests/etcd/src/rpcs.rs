//! Every RPC of etcd 3.4 by its path, and bodies that no client would send.
//!
//! Left to others: RPCs that came after 3.4, which the reference does not know (RangeStream, AuthStatus, Downgrade).

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::generate::Generator;

/// An RPC, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rpc {
    /// Service and method, as in the request's path.
    pub path: &'static str,
    /// Which well-formed bodies may be drawn for it.
    pub drawn: Drawn,
}

/// Which bodies with random fields an RPC takes without harm to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// Any fields.
    Any,
    /// Any fields, if what has a length is ASCII: a field may be a string, and etcd takes strings that are not UTF-8,
    /// which protobuf forbids.
    Ascii,
    /// As for `Ascii`, of fields below this number: from it on later versions have fields that mean something, and that
    /// etcd 3.4 skips.
    AsciiBelow(u32),
    /// None, since what etcd does then depends on time or ends the process.
    None,
}

macro_rules! rpcs {
    ($($service:literal: $($method:ident $drawn:ident $(($below:literal))?),*;)*) => {
        /// All of them.
        pub const RPCS: &[Rpc] = &[$($(
            Rpc { path: concat!("/etcdserverpb.", $service, "/", stringify!($method)), drawn: Drawn::$drawn$(($below))? },
        )*)*];
    };
}

rpcs! {
    // etcd 3.4 ends itself when it is to sort by what does not exist.
    "KV": Range None, Put Any, DeleteRange Any, Txn None, Compact Any;
    // A stream of watches stays open after its requests have ended: there is no end to wait for.
    "Watch": Watch None;
    // A short lease expires at a time of each system's own.
    "Lease": LeaseGrant None, LeaseRevoke Any, LeaseKeepAlive Any, LeaseTimeToLive Any, LeaseLeases Any;
    "Cluster": MemberAdd Ascii, MemberRemove Ascii, MemberUpdate Ascii, MemberList AsciiBelow(1), MemberPromote Ascii;
    // An alarm, once raised, changes the answers of everything else.
    "Maintenance": Alarm None, Status Ascii, Defragment Ascii, Hash Ascii, HashKV Ascii, Snapshot Ascii;
    // Members are numbered from one here, and at random there: a small number means a member here only.
    "Maintenance": MoveLeader None;
    "Auth": AuthEnable Ascii, AuthDisable Ascii, Authenticate Ascii, UserAdd AsciiBelow(4), UserGet Ascii,
        UserList Ascii, UserDelete Ascii, UserChangePassword AsciiBelow(3), UserGrantRole Ascii, UserRevokeRole Ascii,
        RoleAdd Ascii, RoleGet Ascii, RoleList Ascii, RoleDelete Ascii, RoleRevokePermission Ascii;
    // etcd 3.4 ends itself when it gets no permission for a role that exists.
    "Auth": RoleGrantPermission None;
}

/// Bodies that are no protobuf message, with what is wrong with each.
pub const MALFORMED: [(&str, &[u8]); 6] = [
    ("field number zero", &[0x00, 0x01]),
    ("a wire type that does not exist", &[0x0f, 0x01]),
    ("a length beyond the end", &[0x0a, 0x7f, b'x']),
    ("a number without end", &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ("the end of a group that never began", &[0x0c]),
    ("a tag cut off", &[0x80]),
];

/// A body whose first field is longer than any memory. etcd 3.4 ends itself on it.
pub const LONGER_THAN_MEMORY: &[u8] = &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];

/// Numbers at the edges of what a field can hold.
const EDGES: [u64; 8] = [0, 1, 2, 5, u64::MAX, i64::MAX as u64, i64::MIN as u64, u32::MAX as u64];
/// How many fields are drawn.
const FIELDS_MAX: usize = 5;
/// The highest field number drawn: that of every request, and some that none has.
const FIELD_NUMBER_MAX: u32 = 13;
/// How deep drawn messages lie in each other.
const NESTING_MAX: usize = 2;

impl Generator {
    /// A well-formed message of random fields, right for no RPC in particular.
    pub fn body(&mut self, drawn: Drawn) -> Bytes {
        self.nested_body(drawn, 0).freeze()
    }

    fn nested_body(&mut self, drawn: Drawn, depth: usize) -> BytesMut {
        let mut body = BytesMut::new();
        let numbers = match drawn {
            Drawn::AsciiBelow(end) => end.saturating_sub(1),
            Drawn::Any | Drawn::Ascii | Drawn::None => FIELD_NUMBER_MAX,
        };
        if numbers == 0 {
            return body;
        }
        for _ in 0..self.below(FIELDS_MAX + 1) {
            let number = 1 + u32::try_from(self.below(numbers as usize)).unwrap_or(0);
            if self.percent(50) {
                encode_key(number, WireType::Varint, &mut body);
                let edge = EDGES[self.below(EDGES.len())];
                encode_varint(edge, &mut body);
                continue;
            }
            encode_key(number, WireType::LengthDelimited, &mut body);
            let content = if drawn == Drawn::Any && depth < NESTING_MAX && self.percent(50) {
                self.nested_body(drawn, depth + 1)
            } else {
                BytesMut::from(&b"nonsense"[..self.below(9)])
            };
            encode_varint(content.len() as u64, &mut body);
            body.put(content);
        }
        body
    }
}
