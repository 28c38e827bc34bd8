//! From protobuf to JSON, as Go's `jsonpb` writes it with the names of the proto file.
//!
//! Must hold: 64-bit numbers and base64 are strings, enums are names, and fields with default values are left out, in
//! messages at every depth.

use prost_reflect::{DynamicMessage, SerializeOptions};
use serde::{Serialize, Serializer};

/// A message that serializes itself in that form.
pub(crate) struct Form<'a>(pub(crate) &'a DynamicMessage);

impl Serialize for Form<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_with_options(serializer, &SerializeOptions::new().use_proto_field_name(true))
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use etcd_proto::{DESCRIPTORS, authpb, etcdserverpb as pb, mvccpb};

    use super::*;

    fn json(name: &str, message: &impl prost::Message) -> String {
        let descriptor = DescriptorPool::decode(DESCRIPTORS).unwrap().get_message_by_name(name).unwrap();
        let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).unwrap();
        serde_json::to_string(&Form(&message)).unwrap()
    }

    #[test]
    fn defaults_are_left_out_and_large_numbers_are_strings() {
        let header = pb::ResponseHeader { cluster_id: u64::MAX, member_id: 0, revision: -1, raft_term: 7 };
        let kv = mvccpb::KeyValue { key: vec![0xff, 0xfe].into(), create_revision: i64::MIN, ..Default::default() };
        let range = pb::RangeResponse { header: Some(header), kvs: vec![kv], more: false, count: 1 };
        let expected = concat!(
            r#"{"header":{"cluster_id":"18446744073709551615","revision":"-1","raft_term":"7"},"#,
            r#""kvs":[{"key":"//4=","create_revision":"-9223372036854775808"}],"count":"1"}"#,
        );
        assert_eq!(json("etcdserverpb.RangeResponse", &range), expected);
    }

    #[test]
    fn enums_have_names_and_set_messages_stay() {
        let perm = |kind| authpb::Permission { perm_type: kind, key: "k".into(), range_end: "".into() };
        let role = pb::AuthRoleGetResponse { header: Some(Default::default()), perm: vec![perm(2), perm(9), perm(0)] };
        let expected = concat!(
            r#"{"header":{},"perm":[{"permType":"READWRITE","key":"aw=="},"#,
            r#"{"permType":9,"key":"aw=="},{"key":"aw=="}]}"#,
        );
        assert_eq!(json("etcdserverpb.AuthRoleGetResponse", &role), expected);
    }
}
