//! Answers that tell of a failure, in the forms of grpc-gateway.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use tonic::{Code, Status};

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The failure of a call with one answer.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    code: i32,
}

/// The failure of a call with a stream of answers.
#[derive(Serialize)]
struct Chunk<'a> {
    error: InStream<'a>,
}

#[derive(Serialize)]
struct InStream<'a> {
    grpc_code: i32,
    http_code: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    http_status: &'a str,
}

/// The HTTP status of a gRPC code, as etcd 3.4 has it.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer of a call that has one answer, or that failed before it began.
pub(crate) fn whole(status: &Status) -> Response {
    let (message, code) = (status.message(), status.code());
    answer(http_status(code), json(&Whole { error: message, message, code: code.into() }))
}

/// The answer of a call with a stream of answers that failed before the first of them.
pub(crate) fn stream(status: &Status) -> Response {
    answer(http_status(status.code()), chunk(status))
}

/// The end of a stream of answers.
pub(crate) fn chunk(status: &Status) -> Bytes {
    let http = http_status(status.code());
    let error = InStream {
        grpc_code: status.code().into(),
        http_code: http.as_u16(),
        message: status.message(),
        http_status: http.canonical_reason().unwrap_or_default(),
    };
    json(&Chunk { error })
}

/// The answer to what is not a call: only the status, in words.
pub(crate) fn not_a_call(status: StatusCode) -> Response {
    const NO_SNIFFING: (HeaderName, HeaderValue) =
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let mut response = Response::new(Body::from(format!("{}\n", status.canonical_reason().unwrap_or_default())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().extend([NO_SNIFFING]);
    response
}

fn answer(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn json(failure: &impl Serialize) -> Bytes {
    // Strings and numbers always have a JSON form; a failure without a text would still be one.
    serde_json::to_vec(failure).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_statuses_of_etcd() {
        let expected = [200, 408, 500, 400, 504, 404, 409, 403, 429, 412, 409, 400, 501, 500, 503, 500, 401];
        let actual: Vec<u16> = (0..17).map(|code| http_status(Code::from_i32(code)).as_u16()).collect();
        assert_eq!(actual, expected);
    }

    #[test]
    fn failures_in_a_stream_name_both_codes() {
        let expected = concat!(
            r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","#,
            r#""http_status":"Service Unavailable"}}"#,
        );
        assert_eq!(chunk(&Status::unavailable("etcdserver: no leader")), expected);
    }
}
