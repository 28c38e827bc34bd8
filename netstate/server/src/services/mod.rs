//! The services of `netstate.v1`: parse, ask, answer.

mod alarms;
mod audit;
pub(crate) mod backups;
mod cluster;
mod connections;
mod endpoints;
mod hosts;
mod moves;
mod networks;
mod queries;
pub(crate) mod relays;
mod scrape;
pub(crate) mod status;

pub use alarms::ALARMS;

use std::sync::Arc;

use kv_core::NodeId;
use kv_node::{Clock, Node};
use netstate_model::{EndpointId, NetworkId, Refusal};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    execute::{Asked, Command, Done, Executor},
    forward::{self, ASK_PATIENCE, Call},
    keyspaces::Home,
    metrics::Counts,
    view::{DirectoryAt, NetworkAt, View},
    watch::{Hub, presence::Heard},
    wire,
};

/// What all services hold.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) node: Node,
    pub(crate) view: Arc<View>,
    pub(crate) executor: Executor,
    pub(crate) hub: Arc<Hub>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) own: Arc<status::Own>,
    pub(crate) etcd: kv_etcd::Services,
    pub(crate) counts: Arc<Counts>,
    pub(crate) relays: Arc<relays::Relays>,
    pub(crate) stop: CancellationToken,
}

impl Services {
    /// Carries out a command for somebody.
    async fn execute(&self, command: Command, origin: &wire::Origin) -> Result<Done, Status> {
        self.try_execute(command, origin).await.map_err(|error| wire::status(&error))
    }

    async fn try_execute(&self, command: Command, origin: &wire::Origin) -> Result<Done, crate::execute::ExecuteError> {
        let began = tokio::time::Instant::now();
        let (actor, reason) = (origin.actor.clone(), origin.reason.clone());
        let done = self.executor.execute(Asked { command, actor, reason, request: origin.request }).await;
        self.counts.commands.took(began.elapsed());
        done
    }

    /// What a request came to that has been made before: the things it names may be gone because of it. `nothing`: a
    /// command that would be refused if it were not for the request id.
    async fn repeated(&self, nothing: Command, origin: &wire::Origin) -> Option<Done> {
        self.try_execute(nothing, origin).await.ok()
    }

    /// Returns when this node has everything acknowledged so far of a keyspace.
    async fn confirm(&self, home: Home) -> Result<(), Status> {
        self.node.up_to_date(&home.keyspace()).await.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// The directory, with everything acknowledged so far.
    async fn directory(&self) -> Result<DirectoryAt, Status> {
        self.confirm(Home::Directory).await?;
        Ok(self.view.directory())
    }

    /// A network, with everything acknowledged so far.
    async fn network(&self, id: NetworkId) -> Result<NetworkAt, Status> {
        self.confirm(Home::Network(id)).await?;
        Ok(self.view.network(id))
    }

    /// Everything of all networks, with everything acknowledged so far.
    async fn confirm_all(&self) -> Result<(), Status> {
        forward::catch_up(&self.node).await.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Looks something up in the directory as it is here; only if it isn't there, in the confirmed one.
    async fn lookup<T>(&self, look: impl Fn(&DirectoryAt) -> Result<T, Status>) -> Result<T, Status> {
        match look(&self.view.directory()) {
            Ok(found) => Ok(found),
            Err(_) => look(&self.directory().await?),
        }
    }

    /// The endpoint meant by `network/name` or an id.
    async fn endpoint(&self, wanted: &str) -> Result<(EndpointId, NetworkAt), Status> {
        let (network, rest) = match (wanted.parse::<EndpointId>(), wanted.split_once('/')) {
            (Ok(id), _) => (id.network(), wanted),
            (Err(_), Some((network, name))) => {
                let resolve = |directory: &DirectoryAt| network_id(directory, network);
                (self.lookup(resolve).await?, name)
            }
            (Err(_), None) => {
                let text = format!("endpoint {}: write network/name, or an id such as e7.42", wire::quoted(wanted));
                return Err(Status::invalid_argument(text));
            }
        };
        let now = self.network(network).await?;
        let id = now.state.resolve(rest).map_err(|refusal| wire::refused(&refusal))?.id;
        Ok((id, now))
    }

    /// Puts the same question to every node. Nodes that don't answer are given with the reason.
    async fn ask_all<A: serde::de::DeserializeOwned>(&self, call: &Call) -> Vec<(NodeId, Result<A, String>)> {
        self.ask_all_within(call, ASK_PATIENCE).await
    }

    async fn ask_all_within<A: serde::de::DeserializeOwned>(
        &self,
        call: &Call,
        patience: std::time::Duration,
    ) -> Vec<(NodeId, Result<A, String>)> {
        let answers = self.ask_all_for_bytes(call, patience).await.into_iter();
        answers.map(|(node, answer)| (node, answer.and_then(|bytes| forward::decode(&bytes)))).collect()
    }

    async fn ask_all_for_bytes(
        &self,
        call: &Call,
        patience: std::time::Duration,
    ) -> Vec<(NodeId, Result<bytes::Bytes, String>)> {
        forward::ask_all(&self.node, call, patience).await
    }

    /// What all nodes hear of hosts.
    async fn heard(&self) -> Vec<Heard> {
        forward::heard(&self.node).await
    }

    fn node_name(&self, id: NodeId) -> String {
        self.node.name_of(id)
    }

    fn now(&self) -> netstate_model::Timestamp {
        netstate_model::Timestamp::from_micros(self.clock.now().micros())
    }
}

fn network_id(directory: &DirectoryAt, wanted: &str) -> Result<NetworkId, Status> {
    resolved(directory.state.resolve_network(wanted).map(|network| network.id))
}

fn resolved<T>(result: Result<T, Refusal>) -> Result<T, Status> {
    result.map_err(|refusal| wire::refused(&refusal))
}
