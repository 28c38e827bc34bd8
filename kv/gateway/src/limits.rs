//! What one exchange may take, and why.

/// Depth of arrays and objects in one another. Fifty transactions in one another are 150 deep, and protobuf decoders
/// refuse more of them; reading is recursive, so a deeper text would cost stack for nothing. (Go stops at 10,000.)
pub(crate) const NESTING_MAX: usize = 200;

/// JSON values in one message. Two bytes of text (`{}` or `0,`) become a value of a hundred bytes, so the length of the
/// text alone doesn't bound memory. The largest transaction in use has some ten thousand operations of a few fields.
pub(crate) const VALUES_MAX: usize = 128 * 1024;

/// Bounds on messages, in bytes, for all exchanges of a [`Gateway`](crate::Gateway).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message to the service, as protobuf. etcd's default: requests of 1.5 MiB and 0.5 MiB for the rest.
    pub request_bytes_max: usize,
    /// Longest message from the service, as protobuf; a longer one is answered as out of range. etcd has no limit here,
    /// but a range without one would be kept twice, as a message and as JSON.
    pub answer_bytes_max: usize,
}

impl Limits {
    /// Longest JSON text of one request message: base64 makes four bytes of three, and the names and spaces around the
    /// values have an eighth of the limit to themselves, or 64 KiB if that is more.
    pub(crate) fn json_bytes_max(&self) -> usize {
        let names = (self.request_bytes_max / 8).max(64 * 1024);
        (self.request_bytes_max.saturating_mul(4) / 3).saturating_add(names)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_bytes_max: 2 * 1024 * 1024, answer_bytes_max: 64 * 1024 * 1024 }
    }
}
