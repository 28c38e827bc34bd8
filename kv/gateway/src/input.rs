//! The JSON values of a request body, one after another, as they arrive.
//!
//! Must hold: no more than one value is kept, and of that no more than the limit. Space between values takes nothing.
//!
//! Left to others: what the values mean.

use axum::body::Body;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tonic::Status;

use crate::{
    malformed::Malformed,
    scanner::{Scanner, Step},
};

/// Why there is no next value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("json: message larger than max ({limit_bytes} bytes)")]
    TooLong { limit_bytes: usize },
    #[error("grpc: received message larger than max ({bytes} vs. {limit_bytes})")]
    MessageTooLong { bytes: usize, limit_bytes: usize },
    #[error("the request body ended early")]
    Broken(#[source] axum::Error),
}

impl InputError {
    /// What the client of a call with a single request is told.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Malformed(_) | Self::Broken(_) => Status::invalid_argument(self.to_string()),
            Self::TooLong { .. } | Self::MessageTooLong { .. } => Status::resource_exhausted(self.to_string()),
        }
    }

    /// What the client of a call with a stream of requests is told, if it is about the first of them: as in etcd, with
    /// no code for what is malformed.
    pub(crate) fn stream_status(&self) -> Status {
        match self {
            Self::Malformed(_) | Self::Broken(_) => Status::unknown(self.to_string()),
            Self::TooLong { .. } | Self::MessageTooLong { .. } => self.status(),
        }
    }
}

/// A request body, as far as it was read.
pub(crate) struct Input {
    body: Body,
    /// Received, but not looked at.
    unread: Bytes,
    /// The beginning of a value.
    value: BytesMut,
    scanner: Scanner,
    value_bytes_max: usize,
}

impl Input {
    pub(crate) fn new(body: Body, value_bytes_max: usize) -> Self {
        Self { body, unread: Bytes::new(), value: BytesMut::new(), scanner: Scanner::new(), value_bytes_max }
    }

    /// The text of the next value; `None` at the end of the body. After an error there are no more of them.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, InputError> {
        loop {
            if let Some(value) = self.scan()? {
                return Ok(Some(value));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.unread = frame.into_data().unwrap_or_default(),
                Some(Err(cause)) => return Err(InputError::Broken(cause)),
                None if self.scanner.is_before_value() => return Ok(None),
                // The end of the body ends a number, as space does.
                None => match self.scanner.step(b' ') {
                    Ok(Step::EndedBefore) => return Ok(Some(self.value.split().freeze())),
                    _ => return Err(Malformed::BodyTruncated.into()),
                },
            }
        }
    }

    /// Looks at what is unread, up to the end of a value.
    fn scan(&mut self) -> Result<Option<Bytes>, InputError> {
        let mut taken = 0;
        while let Some(byte) = self.unread.get(taken) {
            let step = self.scanner.step(*byte)?;
            taken += usize::from(step != Step::EndedBefore);
            if step != Step::Inside {
                self.take(taken)?;
                return Ok(Some(self.value.split().freeze()));
            }
            if self.scanner.is_before_value() {
                self.unread.advance(taken);
                taken = 0;
            }
        }
        self.take(taken)?;
        Ok(None)
    }

    fn take(&mut self, bytes: usize) -> Result<(), InputError> {
        if self.value.len() + bytes > self.value_bytes_max {
            return Err(InputError::TooLong { limit_bytes: self.value_bytes_max });
        }
        self.value.extend_from_slice(&self.unread.split_to(bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;

    use super::*;

    /// The values of a body that arrives in the pieces.
    async fn read(pieces: Vec<Vec<u8>>, value_bytes_max: usize) -> Vec<Result<String, String>> {
        let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, Infallible>)));
        let (mut input, mut values) = (Input::new(body, value_bytes_max), Vec::new());
        loop {
            match input.next().await {
                Ok(Some(value)) => values.push(Ok(String::from_utf8(value.to_vec()).unwrap().trim().to_owned())),
                Ok(None) => return values,
                Err(cause) => {
                    values.push(Err(cause.to_string()));
                    return values;
                }
            }
        }
    }

    #[tokio::test]
    async fn values_are_the_same_wherever_the_body_is_cut() {
        let body = br#" {"a":"}{"} [1,2]3 "x"4"#;
        let expected = [r#"{"a":"}{"}"#, "[1,2]", "3", r#""x""#, "4"].map(|value| Ok(value.to_owned()));
        for size in 1..=body.len() {
            assert_eq!(
                read(body.chunks(size).map(<[u8]>::to_vec).collect(), 100).await,
                expected,
                "in pieces of {size}"
            );
        }
    }

    #[tokio::test]
    async fn a_body_may_end_between_values_only() {
        assert_eq!(read(vec![], 100).await, []);
        assert_eq!(read(vec![b" \n".to_vec()], 100).await, []);
        assert_eq!(read(vec![b"{}{\"a\":".to_vec()], 100).await, [Ok("{}".into()), Err("unexpected EOF".into())]);
    }

    #[tokio::test]
    async fn values_are_limited_and_space_is_not() {
        let refusal = || Err("json: message larger than max (4 bytes)".to_owned());
        assert_eq!(read(vec![b"[12]".to_vec()], 4).await, [Ok("[12]".into())]);
        assert_eq!(read(vec![b"[123]".to_vec()], 4).await, [refusal()]);
        assert_eq!(read(vec![b"[".to_vec(), b"123".to_vec(), b"4".to_vec()], 4).await, [refusal()]);
        assert_eq!(read(vec![b" ".repeat(100), b"[12]".to_vec(), b"\n".repeat(100)], 4).await, [Ok("[12]".into())]);
    }
}
