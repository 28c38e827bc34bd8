//! One simulated host: a connection of its own, the real client, and what it would have to say if it came back.
//!
//! Must hold: a frame counts when it has been taken whole, and every frame is acknowledged.
//!
//! Left to others: programming a kernel; a simulated host has none, and acknowledges at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use netstate_client::{Client, WatchEvent};
use netstate_proto::v1::{
    ScopeFrame, ScopeNetwork,
    host_report::{Have, Hello},
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;

/// A connection that came to a host, or left it.
#[derive(Clone, Debug)]
pub(super) struct Delivered {
    pub(super) connection: String,
    pub(super) gone: bool,
    pub(super) at: Instant,
}

/// What all hosts of a fleet count together.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) frames: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Streams that were lost or could not be opened.
    pub(super) lost: AtomicU64,
    /// When each host of the present round had all of its scope.
    pub(super) complete: Mutex<Vec<Instant>>,
    pub(super) delivered: Mutex<Vec<Delivered>>,
}

/// What a host holds: as much as it has to say of it.
#[derive(Default)]
struct Held {
    directory_revision: u64,
    networks: BTreeMap<String, (u64, bool)>,
    connections: BTreeSet<String>,
}

impl Held {
    fn hello(&self, host: &str) -> Hello {
        let have = |(id, (revision, local)): (&String, &(u64, bool))| Have {
            network_id: id.clone(),
            revision: *revision,
            local: *local,
        };
        Hello {
            host: host.to_owned(),
            directory_revision: self.directory_revision,
            networks: self.networks.iter().map(have).collect(),
            connections: self.connections.iter().cloned().collect(),
        }
    }

    fn apply(&mut self, frame: &ScopeFrame) -> Result<(), prost::DecodeError> {
        self.directory_revision = frame.directory_revision;
        for id in &frame.networks_gone {
            self.networks.remove(id);
        }
        for id in &frame.connections_gone {
            self.connections.remove(id);
        }
        self.connections.extend(frame.connections.iter().map(|connection| connection.id.clone()));
        for network in &frame.networks {
            let network = ScopeNetwork::decode(network.clone())?;
            self.networks.entry(network.network_id).or_default().0 = network.revision;
        }
        for local in &frame.locals {
            let held = self.networks.entry(local.network_id.clone()).or_default();
            // A network that is local no more is told so by a whole list without anything in it.
            *held = (held.0.max(local.revision), !local.full || !local.endpoints.is_empty());
        }
        Ok(())
    }
}

/// Lives until the fleet's rounds end. With each of them it drops its stream and comes back.
pub(super) async fn live(client: Client, name: String, mut rounds: watch::Receiver<()>, tally: Arc<Tally>) {
    let (mut held, mut stream) = (Held::default(), client.watch_host());
    loop {
        let event = tokio::select! {
            changed = rounds.changed() => {
                if changed.is_err() {
                    return;
                }
                stream = client.watch_host();
                continue;
            }
            event = stream.next(|| held.hello(&name)) => event,
        };
        let WatchEvent::Frame(received) = event else {
            tally.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (at, frame) = (Instant::now(), received.frame);
        if held.apply(&frame).is_err() {
            // Nothing of it can be used: begun again, as an agent would.
            tally.lost.fetch_add(1, Ordering::Relaxed);
            stream.reopen();
            continue;
        }
        stream.ack(received.stream, frame.frame, String::new());
        tally.frames.fetch_add(1, Ordering::Relaxed);
        tally.bytes.fetch_add(frame.encoded_len() as u64, Ordering::Relaxed);
        if frame.complete {
            tally.complete.lock().push(at);
        } else if !frame.connections.is_empty() || !frame.connections_gone.is_empty() {
            let came = frame.connections.into_iter().map(|connection| (connection.id, false));
            let left = frame.connections_gone.into_iter().map(|id| (id, true));
            let told = came.chain(left).map(|(connection, gone)| Delivered { connection, gone, at });
            tally.delivered.lock().extend(told);
        }
    }
}

#[cfg(test)]
mod tests {
    use netstate_proto::v1::{ScopeConnection, ScopeEndpoint, ScopeLocal};

    use super::*;

    #[test]
    fn a_host_says_what_it_was_given() {
        let network = ScopeNetwork { network_id: "net1".into(), revision: 7, full: true, ..ScopeNetwork::default() };
        let local = ScopeLocal {
            network_id: "net1".into(),
            revision: 7,
            full: true,
            endpoints: vec![ScopeEndpoint::default()],
            ..ScopeLocal::default()
        };
        let connection = |id: &str| ScopeConnection { id: id.into(), ..ScopeConnection::default() };
        let first = ScopeFrame {
            directory_revision: 3,
            networks: vec![network.encode_to_vec().into()],
            locals: vec![local.clone()],
            connections: vec![connection("c1"), connection("c2")],
            ..ScopeFrame::default()
        };
        let mut held = Held::default();
        held.apply(&first).unwrap();
        let hello = held.hello("h");
        assert_eq!((hello.directory_revision, hello.connections.len()), (3, 2));
        assert_eq!((hello.networks[0].revision, hello.networks[0].local), (7, true));
        let second = ScopeFrame {
            directory_revision: 4,
            connections_gone: vec!["c1".into()],
            locals: vec![ScopeLocal { endpoints: Vec::new(), ..local }],
            ..ScopeFrame::default()
        };
        held.apply(&second).unwrap();
        let hello = held.hello("h");
        assert_eq!(hello.connections, ["c2"]);
        assert!(!hello.networks[0].local);
        held.apply(&ScopeFrame { networks_gone: vec!["net1".into()], ..ScopeFrame::default() }).unwrap();
        assert!(held.hello("h").networks.is_empty());
    }
}
