//! Addresses and channels: how servers are reached, and how fast a dead one is noticed.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

/// A connection that takes longer is given up, and another server is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often an idle connection is probed, and how long an answer may take: a server that vanished without a word is noticed
/// after the sum.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that a server may have on its way to one stream; also what a slow reader costs the server.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// The largest message taken from a server: a list of 100,000 endpoints fits.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Servers that one client may know.
const SERVERS_MAX: usize = 64;
/// Servers remember request ids for ten minutes; a retry after that could happen twice.
const DEADLINE_MAX: Duration = Duration::from_secs(540);

/// Far longer than anybody waits, and no time that can't be added to another.
const FIND_RELAYS_EVERY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How patient a client is.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a call may take in all, retries included. Nine minutes at most, because servers remember request ids for ten.
    pub deadline: Duration,
    /// How long one attempt may take before another server is asked.
    pub attempt: Duration,
    /// The first pause after every server has failed once; doubles up to `backoff_max`, each time jittered.
    pub backoff: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// About how often a host's watch looks whether there are relays that it had better be with. A month at most.
    pub find_relays_every: Duration,
}

/// Why a list of server addresses was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The list is empty.
    #[error("no server address given; pass at least one host:port")]
    None,
    /// The list is longer than a client takes.
    #[error("{given} server addresses given, {SERVERS_MAX} at most; name only some of the servers")]
    TooMany {
        /// How many were given.
        given: usize,
    },
    /// One address is not of the form `host:port`.
    #[error("server address {address:?} is not host:port with a port from 1 to 65535")]
    Malformed {
        /// What was given.
        address: String,
    },
}

/// One server and the way to it. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) address: String,
    endpoint: Endpoint,
    channel: Arc<Mutex<Channel>>,
}

impl Server {
    /// A way to it that connects when it is used first.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.lock().clone()
    }

    /// Ends the connection as soon as nobody uses it any more. The next call makes another.
    pub(crate) fn close_idle(&self) {
        *self.channel.lock() = self.endpoint.connect_lazy();
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            deadline: Duration::from_secs(15),
            attempt: Duration::from_secs(5),
            backoff: Duration::from_millis(30),
            backoff_max: Duration::from_secs(1),
            // Each look is a call, and there may be ten thousand hosts.
            find_relays_every: Duration::from_secs(300),
        }
    }
}

impl Options {
    pub(crate) fn within_limits(mut self) -> Self {
        self.deadline = self.deadline.min(DEADLINE_MAX);
        self.backoff_max = self.backoff_max.max(Duration::from_millis(1));
        self.find_relays_every = self.find_relays_every.clamp(Duration::from_millis(1), FIND_RELAYS_EVERY_MAX);
        self
    }
}

/// Channels to these addresses. Nothing is connected yet: a channel connects at its first call and again after a failure.
pub(crate) fn servers(addresses: Vec<String>) -> Result<Vec<Server>, AddressError> {
    if addresses.is_empty() {
        return Err(AddressError::None);
    }
    if addresses.len() > SERVERS_MAX {
        return Err(AddressError::TooMany { given: addresses.len() });
    }
    addresses.into_iter().map(server).collect()
}

/// A channel to one address.
pub(crate) fn server(address: String) -> Result<Server, AddressError> {
    let endpoint = endpoint(&address).ok_or_else(|| AddressError::Malformed { address: address.clone() })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let channel = Arc::new(Mutex::new(endpoint.connect_lazy()));
    Ok(Server { address, endpoint, channel })
}

/// `host:port` only: a scheme, a path or a user would silently mean something else.
fn endpoint(address: &str) -> Option<Endpoint> {
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if port == 0 || host.is_empty() || bare_v6 || host.contains(['/', '@', '?', '#']) {
        return None;
    }
    Endpoint::from_shared(format!("http://{host}:{port}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_and_nothing_else() {
        for good in ["localhost:2379", "10.0.0.1:1", "[::1]:2379"] {
            assert!(endpoint(good).is_some(), "{good}");
        }
        for bad in ["", "localhost", ":2379", "a:0", "a:65536", "::1:2379", "http://a:1", "a/b:1", "a b:1", "u@a:1"] {
            assert!(endpoint(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_list_is_neither_empty_nor_endless() {
        assert_eq!(servers(vec![]).unwrap_err(), AddressError::None);
        assert_eq!(servers(vec!["a:1".into(); 65]).unwrap_err(), AddressError::TooMany { given: 65 });
    }
}
