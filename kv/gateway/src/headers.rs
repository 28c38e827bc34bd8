//! Which HTTP headers become metadata of the call, and back.
//!
//! Must hold: a client sets no header that carries the call itself: a metadata key is let through by name, and never
//! one that HTTP or gRPC have a use for.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tonic::{Status, metadata::MetadataMap};

/// What the names of headers begin with that are metadata, in both directions.
const PREFIX: &str = "grpc-metadata-";

/// How long a client wants to wait, in the form of gRPC. It is not passed on: the gateway keeps it by dropping the
/// call, and two who keep it would give two answers.
const TIMEOUT: &str = "grpc-timeout";

/// Keys that belong to HTTP, besides those of gRPC.
const RESERVED: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The metadata of the call.
pub(crate) fn metadata(headers: &HeaderMap) -> MetadataMap {
    let mut metadata = HeaderMap::new();
    for token in headers.get_all(header::AUTHORIZATION) {
        metadata.append(header::AUTHORIZATION, token.clone());
    }
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(PREFIX) else { continue };
        let Ok(key) = HeaderName::try_from(key) else { continue };
        if !is_reserved(&key) {
            metadata.append(key, value.clone());
        }
    }
    MetadataMap::from_headers(metadata)
}

fn is_reserved(key: &HeaderName) -> bool {
    RESERVED.contains(key) || key.as_str().starts_with("grpc-")
}

/// How long the client wants to wait.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    match parse_timeout(value) {
        Some(timeout) => Ok(Some(timeout)),
        None => {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            Err(Status::invalid_argument(format!("invalid grpc-timeout: {value}")))
        }
    }
}

fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount.saturating_mul(60 * 60))),
        b'M' => Some(Duration::from_secs(amount.saturating_mul(60))),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Shows the client what the service sent with its answer.
pub(crate) fn show(metadata: &MetadataMap, headers: &mut HeaderMap) {
    for (key, value) in metadata.as_ref() {
        if is_reserved(key) && key != header::CONTENT_TYPE || key == header::DATE {
            continue;
        }
        if let Ok(name) = HeaderName::try_from(format!("{PREFIX}{key}")) {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn sent(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        metadata(&headers(pairs)).into_headers()
    }

    #[test]
    fn tokens_and_prefixed_headers_are_metadata() {
        let all = [("authorization", "t.1"), ("accept", "*/*"), ("grpc-metadata-x", "y"), ("grpc-timeout", "1S")];
        assert_eq!(sent(&all), headers(&[("authorization", "t.1"), ("x", "y")]));
    }

    #[test]
    fn headers_of_the_call_are_out_of_reach() {
        let all = [
            ("grpc-metadata-", ""),
            ("grpc-metadata-content-type", "x"),
            ("grpc-metadata-grpc-status", "0"),
            ("grpc-metadata-host", "x"),
            ("grpc-metadata-te", "x"),
        ];
        assert_eq!(sent(&all), HeaderMap::new());
    }

    #[test]
    fn timeouts_have_units() {
        let parse = |value| timeout(&headers(&[("grpc-timeout", value)]));
        assert_eq!(parse("90m").unwrap(), Some(Duration::from_millis(90)));
        assert_eq!(parse("2H").unwrap(), Some(Duration::from_secs(7200)));
        for value in ["", "1", "m", "1x", "-1S", "+1S", "99999999999999999999S"] {
            assert_eq!(parse(value).unwrap_err().message(), format!("invalid grpc-timeout: {value}"));
        }
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn what_the_service_sent_is_shown_with_the_prefix() {
        let metadata = MetadataMap::from_headers(headers(&[
            ("content-type", "application/grpc"),
            ("date", "today"),
            ("grpc-status", "0"),
            ("x", "y"),
        ]));
        let mut shown = HeaderMap::new();
        show(&metadata, &mut shown);
        let expected = [("grpc-metadata-content-type", "application/grpc"), ("grpc-metadata-x", "y")];
        assert_eq!(shown, headers(&expected));
    }
}
