//! From JSON to protobuf, by the rules of Go's `jsonpb`.
//!
//! Must hold: what etcd's gateway takes is taken with the same meaning: both names of a field, the one of JSON before
//! the one of the proto file; numbers and enums as text or as numbers; `null` for what is not set; names that are not
//! known are skipped. Of several mistakes the first in the order of the fields is told, members of a `oneof` last.
//!
//! Left to others: whether the values make sense.

use std::{borrow::Cow, collections::HashMap, str::FromStr};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};

use crate::{
    json::{Json, unescape},
    malformed::Malformed,
    scanner,
};

/// With padding, but with any bits where the last character has more of them than the last byte, as in Go.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The message that the text of one JSON value stands for.
pub(crate) fn decode(text: &[u8], descriptor: &MessageDescriptor) -> Result<DynamicMessage, Malformed> {
    message(&Json::parse(text)?, descriptor)
}

fn message(json: &Json<'_>, descriptor: &MessageDescriptor) -> Result<DynamicMessage, Malformed> {
    let mut message = DynamicMessage::new(descriptor.clone());
    let members = match json {
        Json::Null => return Ok(message),
        Json::Object(members) => members,
        other => return mismatch(other, "map[string]json.RawMessage"),
    };
    // Of members with the same name the last one counts.
    let members: HashMap<&str, &Json<'_>> = members.iter().map(|(name, value)| (name.as_ref(), value)).collect();
    let plain = descriptor.fields().filter(|field| field.containing_oneof().is_none());
    let alternatives = descriptor.fields().filter(|field| field.containing_oneof().is_some());
    for field in plain.chain(alternatives) {
        let Some(json) = members.get(field.json_name()).or_else(|| members.get(field.name())) else { continue };
        if let Some(value) = field_value(json, &field)? {
            message.try_set_field(&field, value).map_err(|_| unsupported(&field))?;
        }
    }
    Ok(message)
}

/// The value of a field; `None` leaves it unset.
fn field_value(json: &Json<'_>, field: &FieldDescriptor) -> Result<Option<Value>, Malformed> {
    if !field.is_list() {
        return element(json, field);
    }
    let elements = match json {
        Json::Null => return Ok(None),
        Json::Array(elements) => elements,
        other => return mismatch(other, "[]json.RawMessage"),
    };
    let null = || match field.kind() {
        Kind::Message(_) => Err(Malformed::NullMessage { list: field.name().to_owned() }),
        kind => Ok(Value::default_value(&kind)),
    };
    elements
        .iter()
        .map(|json| element(json, field)?.map_or_else(null, Ok))
        .collect::<Result<_, _>>()
        .map(|values| Some(Value::List(values)))
}

/// The value of a field, or of one element of its list.
fn element(json: &Json<'_>, field: &FieldDescriptor) -> Result<Option<Value>, Malformed> {
    Ok(match field.kind() {
        Kind::Message(descriptor) if !field.is_map() => match json {
            Json::Null => None,
            json => Some(Value::Message(message(json, &descriptor)?)),
        },
        Kind::Enum(descriptor) => enum_number(json, &descriptor)?.map(Value::EnumNumber),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => number(json, "int64")?.map(Value::I64),
        Kind::Uint64 | Kind::Fixed64 => number(json, "uint64")?.map(Value::U64),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => number(json, "int32")?.map(Value::I32),
        Kind::Uint32 | Kind::Fixed32 => number(json, "uint32")?.map(Value::U32),
        Kind::Bool => match json {
            Json::Null => Some(Value::Bool(false)),
            Json::Bool(value) => Some(Value::Bool(*value)),
            other => return mismatch(other, "bool"),
        },
        Kind::String => match json {
            Json::Null => Some(Value::String(String::new())),
            Json::String(raw) => Some(Value::String(unescape(raw).into_owned())),
            other => return mismatch(other, "string"),
        },
        Kind::Bytes => Some(Value::Bytes(bytes(json)?)),
        Kind::Message(_) | Kind::Float | Kind::Double => return Err(unsupported(field)),
    })
    .map(|value| value.or_else(|| null_alternative(field)))
}

/// `null` for a number of a `oneof` chooses that one, with the value zero; elsewhere it is not set.
fn null_alternative(field: &FieldDescriptor) -> Option<Value> {
    let is_chosen = field.containing_oneof().is_some() && !matches!(field.kind(), Kind::Message(_));
    is_chosen.then(|| Value::default_value_for_field(field))
}

/// A number, in quotes or not; `None` is `null`.
fn number<N: FromStr>(json: &Json<'_>, wanted: &str) -> Result<Option<N>, Malformed> {
    let Json::String(raw) = json else { return bare_number(json, wanted) };
    scanner::check_whole(raw)?;
    bare_number(&Json::parse(raw)?, wanted)
}

fn bare_number<N: FromStr>(json: &Json<'_>, wanted: &str) -> Result<Option<N>, Malformed> {
    match json {
        Json::Null => Ok(None),
        Json::Number(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Malformed::Mismatch { found: format!("number {text}").into(), wanted: wanted.to_owned() }),
        other => mismatch(other, wanted),
    }
}

/// The number of an enum's value. Numbers without a name are let through, as the service's enum may be newer.
fn enum_number(json: &Json<'_>, descriptor: &EnumDescriptor) -> Result<Option<i32>, Malformed> {
    let Json::String(raw) = json else { return bare_number(json, &go_name(descriptor)) };
    // Names are compared as they are written: there is no name that would need escapes.
    let name = String::from_utf8_lossy(raw);
    match descriptor.get_value_by_name(&name) {
        Some(value) => Ok(Some(value.number())),
        None => Err(Malformed::EnumValue { name: name.into_owned(), of: go_name(descriptor) }),
    }
}

/// The name that Go gives to the type of an enum.
fn go_name(descriptor: &EnumDescriptor) -> String {
    let package = descriptor.package_name();
    let name = descriptor.full_name().strip_prefix(package).unwrap_or(descriptor.full_name());
    format!("{package}.{}", name.trim_start_matches('.').replace('.', "_"))
}

/// Bytes: base64, or a list of numbers.
fn bytes(json: &Json<'_>) -> Result<Bytes, Malformed> {
    match json {
        Json::Null => Ok(Bytes::new()),
        Json::String(raw) => from_base64(unescape(raw).as_bytes()),
        Json::Array(elements) => elements.iter().map(|json| Ok(bare_number(json, "uint8")?.unwrap_or(0))).collect(),
        other => mismatch(other, "[]uint8"),
    }
}

fn from_base64(text: &[u8]) -> Result<Bytes, Malformed> {
    let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let decoded = match text.iter().any(is_break) {
        true => BASE64.decode(text.iter().copied().filter(|byte| !is_break(byte)).collect::<Vec<_>>()),
        false => BASE64.decode(text),
    };
    decoded.map(Bytes::from).map_err(|_| Malformed::Base64 { at: base64_mistake(text) })
}

/// Where Go's decoder stops in a text that is not base64: at a wrong character, or at the beginning of four characters
/// that are not complete.
fn base64_mistake(text: &[u8]) -> usize {
    let mut characters = text.iter().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n'));
    let mut place = 0;
    while let Some((at, byte)) = characters.next() {
        let mut next = || characters.next();
        match (byte, place) {
            (b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/', _) => place = (place + 1) % 4,
            (b'=', 3) => return next().map_or(text.len(), |(after, _)| after),
            (b'=', 2) => {
                return match next() {
                    Some((_, b'=')) => next().map_or(text.len(), |(after, _)| after),
                    Some((instead, _)) => instead - 1,
                    None => text.len(),
                };
            }
            _ => return at,
        }
    }
    text.len() - place
}

fn mismatch<T>(found: &Json<'_>, wanted: &str) -> Result<T, Malformed> {
    let found: Cow<'static, str> = match found {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
    .into();
    Err(Malformed::Mismatch { found, wanted: wanted.to_owned() })
}

fn unsupported(field: &FieldDescriptor) -> Malformed {
    Malformed::Unsupported { field: field.full_name().to_owned() }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_reflect::DescriptorPool;

    use etcd_proto::{DESCRIPTORS, authpb, etcdserverpb as pb};

    use super::*;

    fn decoded<M: prost::Message + Default>(name: &str, json: &str) -> Result<M, String> {
        let descriptor = DescriptorPool::decode(DESCRIPTORS).unwrap().get_message_by_name(name).unwrap();
        scanner::check_whole(json.as_bytes()).map_err(|malformed| malformed.to_string())?;
        let message = decode(json.as_bytes(), &descriptor).map_err(|malformed| malformed.to_string())?;
        Ok(M::decode(message.encode_to_vec().as_slice()).unwrap())
    }

    fn range(json: &str) -> Result<pb::RangeRequest, String> {
        decoded("etcdserverpb.RangeRequest", json)
    }

    #[test]
    fn both_names_and_both_forms_are_taken() {
        let expected = pb::RangeRequest {
            key: "foo".into(),
            range_end: "fop".into(),
            limit: 3,
            sort_order: pb::range_request::SortOrder::Descend.into(),
            serializable: true,
            ..Default::default()
        };
        let cases = [
            r#"{"key":"Zm9v","range_end":"Zm9w","limit":"3","sort_order":"DESCEND","serializable":true}"#,
            r#"{"key":"Zm9v","rangeEnd":"Zm9w","limit":3,"sortOrder":2,"serializable":true}"#,
            r#"{"key":[102,111,111],"range_end":"","rangeEnd":"Zm\n9w","limit":"3","sortOrder":2,"serializable":true}"#,
            r#"{"limit":1,"\u006bey":"Zm9v","range_end":"Zm9w","limit":3,"sortOrder":2,"serializable":true,"x":[{}]}"#,
        ];
        for json in cases {
            assert_eq!(range(json).as_ref(), Ok(&expected), "{json}");
        }
    }

    #[test]
    fn null_is_not_set() {
        let json = r#"{"key":null,"limit":null,"revision":"null","sort_order":null,"serializable":null}"#;
        for json in ["null", "{}", json] {
            assert_eq!(range(json), Ok(pb::RangeRequest::default()), "{json}");
        }
        let member: pb::MemberAddRequest =
            decoded("etcdserverpb.MemberAddRequest", r#"{"peerURLs":[null,"a"],"isLearner":true}"#).unwrap();
        assert_eq!((member.peer_ur_ls, member.is_learner), (vec![String::new(), "a".to_owned()], true));
        let txn = decoded::<pb::TxnRequest>("etcdserverpb.TxnRequest", r#"{"compare":[null]}"#);
        assert_eq!(txn, Err("json: null is not a message of the list compare".to_owned()));
    }

    #[test]
    fn what_is_as_deep_as_allowed_is_read() {
        use crate::limits::NESTING_MAX;
        let transactions = NESTING_MAX / 3;
        let (open, close) = (r#"{"success":[{"request_txn":"#, "}]}");
        let json = format!("{}null{}", open.repeat(transactions), close.repeat(transactions));
        let descriptor = DescriptorPool::decode(DESCRIPTORS).unwrap().get_message_by_name("etcdserverpb.TxnRequest");
        scanner::check_whole(json.as_bytes()).unwrap();
        let message = decode(json.as_bytes(), &descriptor.unwrap()).unwrap();
        assert!(message.encoded_len() > transactions);
        let unknown = format!(r#"{{"x":{}{}}}"#, "[".repeat(NESTING_MAX - 1), "]".repeat(NESTING_MAX - 1));
        assert_eq!(range(&unknown), Ok(pb::RangeRequest::default()));
    }

    #[test]
    fn alternatives_may_be_zero() {
        let target = |json: &str| decoded::<pb::Compare>("etcdserverpb.Compare", json).unwrap().target_union;
        use pb::compare::TargetUnion::{Value as Bytes, Version};
        assert_eq!(target("{}"), None);
        assert_eq!(target(r#"{"version":0}"#), Some(Version(0)));
        assert_eq!(target(r#"{"version":null}"#), Some(Version(0)));
        assert_eq!(target(r#"{"value":""}"#), Some(Bytes("".into())));
        let operation = |json: &str| decoded::<pb::RequestOp>("etcdserverpb.RequestOp", json).unwrap().request;
        assert_eq!(operation(r#"{"request_put":null}"#), None);
        assert!(matches!(operation(r#"{"requestPut":{}}"#), Some(pb::request_op::Request::RequestPut(_))));
    }

    #[test]
    fn mistakes_are_told_as_in_go() {
        let cases = [
            (r#"[]"#, "json: cannot unmarshal array into Go value of type map[string]json.RawMessage"),
            (r#"{"key":1,"limit":"x"}"#, "json: cannot unmarshal number into Go value of type []uint8"),
            (r#"{"key":[256]}"#, "json: cannot unmarshal number 256 into Go value of type uint8"),
            (r#"{"limit":3.0}"#, "json: cannot unmarshal number 3.0 into Go value of type int64"),
            (r#"{"limit":true}"#, "json: cannot unmarshal bool into Go value of type int64"),
            (r#"{"limit":"x"}"#, "invalid character 'x' looking for beginning of value"),
            (r#"{"limit":""}"#, "unexpected end of JSON input"),
            (r#"{"limit":"5x"}"#, "invalid character 'x' after top-level value"),
            (r#"{"serializable":"true"}"#, "json: cannot unmarshal string into Go value of type bool"),
            (r#"{"sort_order":"UP"}"#, "unknown value \"UP\" for enum etcdserverpb.RangeRequest_SortOrder"),
            (
                r#"{"sort_order":[]}"#,
                "json: cannot unmarshal array into Go value of type etcdserverpb.RangeRequest_SortOrder",
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(range(json), Err(expected.to_owned()), "{json}");
        }
        let perm = decoded::<authpb::Permission>("authpb.Permission", r#"{"permType":"x"}"#);
        assert_eq!(perm, Err("unknown value \"x\" for enum authpb.Permission_Type".to_owned()));
        let alarm = decoded::<pb::AlarmRequest>("etcdserverpb.AlarmRequest", r#"{"alarm":"x"}"#);
        assert_eq!(alarm, Err("unknown value \"x\" for enum etcdserverpb.AlarmType".to_owned()));
    }

    #[test]
    fn base64_is_the_standard_one_with_padding() {
        for (text, expected) in [("", ""), ("Zg==", "f"), ("Zh==", "f"), ("Z\r\ng=\n=", "f"), ("Zm9v", "foo")] {
            assert_eq!(from_base64(text.as_bytes()), Ok(expected.into()), "{text:?}");
        }
        let mistakes = [
            ("Zg", 0),
            ("Zm9vZg", 4),
            ("Zm9v_-8=", 4),
            ("Zm9vZg=", 7),
            ("Zg=x", 2),
            ("Zg==x", 4),
            ("Zm8=x", 4),
            ("=", 0),
            ("Z===", 1),
            ("Zm\n", 1),
        ];
        for (text, at) in mistakes {
            assert_eq!(from_base64(text.as_bytes()), Err(Malformed::Base64 { at }), "{text:?}");
        }
    }
}
