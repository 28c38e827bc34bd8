//! Hosts of this store: each with a connection of its own and the client that agents have.
//!
//! Must hold: a frame counts when it has been taken whole, and every frame is acknowledged.
//!
//! Left to others: programming a kernel; a simulated host has none, acknowledges at once, and reads of a network only what
//! it has to say when it comes back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use netstate_client::{Client, ClientError, HostWatch, WatchEvent};
use netstate_proto::v1::{
    self as pb, ScopeFrame, ScopeMembers,
    host_report::{Have, Hello},
};
use parking_lot::Mutex;
use prost::{Message as _, bytes::Bytes};
use tokio::time;
use tonic::Code;

use super::{
    system::{Place, System},
    tally::{Delivered, Order, Orders, Tally, Wholeness},
};
use crate::{
    bench::{plan::Plan, prepare},
    failure::Failure,
    session::Session,
};

/// Connections for changes; hosts have their own.
const CLIENTS: usize = 16;
/// Calls of a churn under way at a time, and endpoints in each.
const CHURN_CALLS: usize = 8;
const CHURN_BATCH: u64 = 500;
const LABEL: (&str, &str) = ("bench", "fleet");

/// A cluster of Netstate.
#[derive(Clone)]
pub(super) struct Netstate {
    session: Session,
    prefix: String,
    clients: Arc<Vec<Client>>,
    plan: Arc<Plan>,
    /// Of endpoints that are attached.
    ids: Arc<Mutex<HashMap<u64, String>>>,
}

impl Netstate {
    pub(super) fn new(session: &Session, prefix: &str, plan: Arc<Plan>) -> Result<Self, Failure> {
        let clients = (0..CLIENTS).map(|_| session.another_client()).collect::<Result<_, _>>()?;
        let (session, prefix) = (session.clone(), prefix.to_owned());
        Ok(Netstate { session, prefix, clients: Arc::new(clients), plan, ids: Arc::default() })
    }

    fn client(&self, number: u64) -> &Client {
        &self.clients[number as usize % self.clients.len()]
    }

    fn item(&self, network: &str, name: String, host: u32, labels: &[(&str, &str)]) -> pb::AttachItem {
        pb::AttachItem {
            network: network.to_owned(),
            name,
            host: prepare::host_name(&self.prefix, host),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<HashMap<_, _>>(),
            ..pb::AttachItem::default()
        }
    }

    async fn attach_all(&self, number: u64, endpoints: Vec<pb::AttachItem>) -> Result<Vec<pb::AttachResult>, Failure> {
        let request = pb::AttachRequest { origin: self.session.origin(prepare::REASON), endpoints };
        let answer = self.client(number).attach(request).await?;
        match answer.results.iter().find_map(|result| result.refusal.as_ref()) {
            Some(refusal) => Err(Failure::because(refusal.message.clone())),
            None => Ok(answer.results),
        }
    }

    async fn detach_all(&self, number: u64, endpoints: Vec<pb::DetachItem>) -> Result<(), Failure> {
        let request = pb::DetachRequest { origin: self.session.origin(prepare::REASON), endpoints };
        let answer = self.client(number).detach(request).await?;
        match answer.results.into_iter().find_map(|result| result.refusal) {
            Some(refusal) => Err(Failure::because(refusal.message)),
            None => Ok(()),
        }
    }
}

fn name(number: u64) -> String {
    format!("fleet-{number}")
}

impl System for Netstate {
    /// One connection a place, whose source are the endpoints that come and go.
    async fn prepare(&self, places: &[Place]) -> Result<(), Failure> {
        for place in places {
            let side = |network: &str, selector: &str| {
                Some(pb::Side { network: network.to_owned(), selector: selector.to_owned() })
            };
            let request = pb::ConnectRequest {
                origin: self.session.origin(prepare::REASON),
                from: side(&place.network.name, &format!("{}={}", LABEL.0, LABEL.1)),
                to: side(&place.other.name, ""),
                protocol: pb::Protocol::Tcp.into(),
                ports: vec![pb::PortRange { first: 1024, last: 1024 }],
                ..pb::ConnectRequest::default()
            };
            match self.session.client.open_connection(request).await {
                // It is there from an earlier run.
                Ok(_) | Err(ClientError::Refused { code: Code::AlreadyExists, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn live(&self, host: u32, orders: Orders, tally: Arc<Tally>) -> impl Future<Output = ()> + Send + 'static {
        let name = prepare::host_name(&self.prefix, host);
        let session = self.session.clone();
        // A client of the same servers was made before.
        let watch = move || session.another_client().ok().map(|client| client.watch_host());
        async move {
            if let Some(stream) = watch() {
                live(stream, &watch, host, name, orders, tally).await;
            }
        }
    }

    async fn attach(&self, place: &Place, number: u64) -> Result<String, Failure> {
        let item = self.item(&place.network.name, name(number), place.host(number), &[LABEL]);
        let results = self.attach_all(number, vec![item]).await?;
        let made = results.into_iter().flat_map(|result| result.endpoints).next();
        let id = made.ok_or_else(|| Failure::because("an attach was answered without an endpoint"))?.id;
        self.ids.lock().insert(number, id.clone());
        Ok(id)
    }

    async fn detach(&self, place: &Place, number: u64) -> Result<String, Failure> {
        let id = self.ids.lock().remove(&number).ok_or_else(|| Failure::because("it was not attached"))?;
        let item = pb::DetachItem { network: place.network.name.clone(), name: id.clone() };
        self.detach_all(number, vec![item]).await?;
        Ok(id)
    }

    async fn churn(&self, endpoints: u64) -> Result<(), Failure> {
        let batches = (0..endpoints.div_ceil(CHURN_BATCH)).map(|batch| async move {
            let numbers = batch * CHURN_BATCH..endpoints.min((batch + 1) * CHURN_BATCH);
            let (mut there, mut gone) = (Vec::new(), Vec::new());
            for number in numbers {
                let (network, host) = self.plan.anywhere(number);
                let name = format!("churn-{number}");
                gone.push(pb::DetachItem { network: network.name.clone(), name: name.clone() });
                there.push(self.item(&network.name, name, host, &[]));
            }
            self.attach_all(batch, there).await?;
            self.detach_all(batch, gone).await
        });
        stream::iter(batches).buffer_unordered(CHURN_CALLS).try_collect().await
    }
}

/// What a host holds: as much as it has to say of it.
#[derive(Default)]
struct Held {
    directory_revision: u64,
    networks: BTreeMap<String, (u64, bool)>,
    connections: BTreeSet<String>,
}

/// Of a [`pb::ScopeNetwork`] what a host has to say when it comes back.
#[derive(Clone, PartialEq, prost::Message)]
struct NetworkMark {
    #[prost(string, tag = "1")]
    network_id: String,
    #[prost(uint64, tag = "3")]
    revision: u64,
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
            let network = NetworkMark::decode(network.clone())?;
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

/// `watch` makes a stream that will have a connection of its own, so that the one before is closed when it is left.
async fn live(
    mut stream: HostWatch,
    watch: impl Fn() -> Option<HostWatch>,
    host: u32,
    name: String,
    mut orders: Orders,
    tally: Arc<Tally>,
) {
    let mut held = Held::default();
    let mut whole = Wholeness::none_yet(&tally);
    let (mut away, mut pace, mut last_stream) = (false, None, 0);
    loop {
        let event = tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
                match *orders.borrow_and_update() {
                    Order::Stay => pace = None,
                    order @ (Order::Crawl(_) | Order::Leave) => {
                        let Some(another) = watch() else { return };
                        stream = another;
                        whole.lost();
                        match order {
                            Order::Crawl(bytes) => (held, pace) = (Held::default(), Some(bytes)),
                            _ => away = true,
                        }
                    }
                    Order::Come { with_nothing } => {
                        away = false;
                        if with_nothing {
                            held = Held::default();
                        }
                    }
                }
                continue;
            }
            event = stream.next(|| held.hello(&name)), if !away => event,
        };
        let WatchEvent::Frame(received) = event else {
            tally.lost.fetch_add(1, Ordering::Relaxed);
            whole.lost();
            continue;
        };
        if received.stream != last_stream {
            // It may have gone to a relay without being lost.
            last_stream = received.stream;
            whole.lost();
        }
        let (at, frame) = (Instant::now(), received.frame);
        let Ok(members) = held.apply(&frame).and_then(|()| members(&frame.members)) else {
            // Nothing of it can be used: begun again, as an agent would.
            tally.lost.fetch_add(1, Ordering::Relaxed);
            whole.lost();
            stream.reopen();
            continue;
        };
        stream.ack(received.stream, frame.frame, String::new());
        let bytes = frame.encoded_len() as u64;
        tally.frames.fetch_add(1, Ordering::Relaxed);
        tally.bytes.fetch_add(bytes, Ordering::Relaxed);
        if frame.complete {
            whole.reached(at);
        }
        // What comes whole is what was there before.
        let told = members.iter().filter(|part| !part.full).flat_map(|part| {
            let came = part.members.iter().map(|member| (&member.endpoint_id, false));
            came.chain(part.members_gone.iter().map(|id| (id, true)))
        });
        tally.delivered(told.map(|(id, gone)| Delivered { endpoint: tally.key(id.as_bytes()), gone, host, at }));
        if let Some(pace) = pace {
            tokio::select! {
                () = time::sleep(Duration::from_secs_f64(bytes as f64 / pace as f64)) => {}
                changed = orders.changed() => if changed.is_ok() { orders.mark_changed() },
            }
        }
    }
}

fn members(parts: &[Bytes]) -> Result<Vec<ScopeMembers>, prost::DecodeError> {
    parts.iter().map(|part| ScopeMembers::decode(part.clone())).collect()
}

#[cfg(test)]
mod tests {
    use netstate_proto::v1::{ScopeConnection, ScopeEndpoint, ScopeLocal, ScopeNetwork};

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
