//! Which relays hosts may go to, and how many each of them has.
//!
//! Must hold: however many hosts ask, relays are asked once in a while.

use std::time::Duration;

use kv_core::NodeId;
use kv_node::{Node, Standing};
use netstate_proto::v1 as pb;
use tokio::{sync::Mutex, time::Instant};

use super::status::Report;
use crate::forward::{self, ASK_PATIENCE, Call};

/// How long an answer is given again.
const KEPT: Duration = Duration::from_secs(2);

/// The last answer, and when it was had.
#[derive(Default)]
pub(crate) struct Relays(Mutex<Option<(Instant, Vec<pb::Relay>)>>);

impl Relays {
    /// The relays that answer, if all of them say where they are reached.
    pub(crate) async fn now(&self, node: &Node) -> Vec<pb::Relay> {
        let mut last = self.0.lock().await;
        if let Some((_, relays)) = last.as_ref().filter(|(at, _)| at.elapsed() < KEPT) {
            return relays.clone();
        }
        let asked = relays(node).into_iter().map(async |id| relay(node, id).await);
        let mut relays: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        if relays.iter().any(|relay| relay.address.is_empty()) {
            // It is of a release before this. All hosts would go to the others.
            relays.clear();
        }
        *last = Some((Instant::now(), relays.clone()));
        relays
    }
}

/// The nodes that are there to serve hosts and are not to go.
fn relays(node: &Node) -> Vec<NodeId> {
    let nodes = node.catalog().map(|catalog| catalog.nodes.clone()).unwrap_or_default();
    let relays = nodes.iter().filter(|(_, record)| record.relay && record.standing == Standing::Member);
    relays.map(|(id, _)| *id).collect()
}

async fn relay(node: &Node, id: NodeId) -> Option<pb::Relay> {
    let answer = node.call(id, forward::encode(&Call::Status), ASK_PATIENCE).await.ok()?;
    let report: Report = serde_json::from_slice(&answer).ok()?;
    Some(pb::Relay { address: report.client_address, hosts: report.watching_hosts })
}
