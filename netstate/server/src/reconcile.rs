//! What commands begin and time ends, brought to its end: networks made and retired in both their keyspaces, connections
//! that expire.
//!
//! Runs on the node that leads the directory. Every step is a command that changes nothing where it was done before, so it
//! may be interrupted anywhere and taken up by another node.

use std::{sync::Arc, time::Duration};

use kv_core::{RequestId, Revision};
use kv_node::{Clock, Node};
use netstate_model::{Directory, DirectoryCommand, NetworkCommand, NetworkConfig, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::{
    execute::{Asked, Command, ExecuteError, Executor},
    keyspaces::Home,
    view::{DirectoryAt, View},
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

const ACTOR: &str = "netstate";

/// Makes a command of this node's own.
pub(crate) fn own(command: Command, reason: &str) -> Asked {
    let request = RequestId::new(uuid::Uuid::now_v7().into_bytes());
    Asked { command, actor: ACTOR.into(), reason: reason.into(), request }
}

/// Runs until `stop`.
pub(crate) async fn run(
    node: Node,
    view: Arc<View>,
    executor: Executor,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let directory = Home::Directory.keyspace();
    let mut rest = None;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if node.leads(node.group_of(&directory)).is_none() {
            rest = None;
            continue;
        }
        let (directory, now) = (view.directory(), Timestamp::from_micros(clock.now().micros()));
        if rest.as_ref().is_some_and(|rest: &Rest| rest.lasts(&directory, now)) {
            continue;
        }
        let due = due(&view, &directory.state, now);
        rest = due.is_empty().then(|| Rest::of(&directory));
        for asked in due {
            step(&executor, asked).await;
        }
    }
}

/// Nothing is to be done until the directory changes, or a connection's time is over.
struct Rest {
    directory: Revision,
    until: Option<Timestamp>,
}

impl Rest {
    fn of(directory: &DirectoryAt) -> Self {
        let until = directory.state.connections().filter_map(|connection| connection.expires_at).min();
        Rest { directory: directory.revision, until }
    }

    fn lasts(&self, directory: &DirectoryAt, now: Timestamp) -> bool {
        directory.revision == self.directory && self.until.is_none_or(|until| now < until)
    }
}

/// What there is to do.
fn due(view: &View, directory: &Directory, now: Timestamp) -> Vec<Asked> {
    let mut due = Vec::new();
    for network in directory.networks() {
        if network.retiring {
            due.push(own(Command::Network(network.id, NetworkCommand::Retire), "the network is removed"));
        } else if view.network(network.id).state.config().is_none() {
            let install = NetworkCommand::Install(NetworkConfig::of(network));
            due.push(own(Command::Network(network.id, install), "the network is new"));
        }
    }
    for connection in directory.connections().filter(|connection| !connection.live(now)) {
        let command = DirectoryCommand::Expire { connection: connection.id };
        due.push(own(Command::Directory(command), "its time is over"));
    }
    due
}

async fn step(executor: &Executor, asked: Asked) {
    let retired = match &asked.command {
        Command::Network(id, NetworkCommand::Retire) => Some(*id),
        _ => None,
    };
    let outcome = executor.execute(asked).await;
    let next = match (retired, outcome) {
        (Some(network), Ok(_)) => DirectoryCommand::RemoveNetwork { network },
        (Some(network), Err(ExecuteError::Refused { .. })) => DirectoryCommand::KeepNetwork { network },
        (None, Err(error)) => return tracing::debug!(%error, "to be taken up again"),
        _ => return,
    };
    if let Err(error) = executor.execute(own(Command::Directory(next), "the network is removed")).await {
        tracing::debug!(%error, "to be taken up again");
    }
}
