//! Hosts that are lost: given up once they have been silent for as long as the policy says, their endpoints detached, and
//! taken back when they are heard again.
//!
//! ```text
//!  heard ──silent for long──► lost ──its endpoints are detached──► without endpoints ──heard──► taken back
//! ```
//!
//! Runs on the node that leads the directory. Must hold: that a host is lost is written down before any of its endpoints goes,
//! and whoever leads then goes on: what was decided is carried out even if the host is heard meanwhile. When most hosts fall
//! silent it is not they who are lost, and nothing is decided.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kv_core::{NodeId, Revision};
use kv_node::Node;
use netstate_model::{Directory, DirectoryCommand, Endpoint, HostId, LostHost, NetworkCommand, limits};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    execute::{Asked, Command, Done, ExecuteError, Executor},
    forward,
    keyspaces::Home,
    reconcile::own,
    view::View,
    watch::presence::{Heard, Presence, presence},
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Nobody is given up while more than one in so many hosts is silent.
const SILENT_PART: usize = 2;

/// Runs until `stop`.
pub(crate) async fn run(node: Node, view: Arc<View>, executor: Executor, stop: CancellationToken) {
    let mut warden =
        Warden { node, view, executor, members: BTreeSet::new(), changed: Instant::now(), held_back: false };
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stop.run_until_cancelled(warden.look()).await;
    }
}

struct Warden {
    node: Node,
    view: Arc<View>,
    executor: Executor,
    /// The nodes that there are, and since when.
    members: BTreeSet<NodeId>,
    changed: Instant,
    /// Most hosts were silent when it was looked last.
    held_back: bool,
}

impl Warden {
    async fn look(&mut self) {
        let members = self.node.members().iter().map(|member| member.id).collect();
        if self.members != members {
            (self.members, self.changed) = (members, Instant::now());
        }
        let directory = self.view.directory().state;
        let policy = directory.host_policy().detach_after();
        let leads = self.node.leads(self.node.group_of(&Home::Directory.keyspace())).is_some();
        if !leads || (policy.is_none() && directory.lost_hosts().len() == 0) {
            self.held_back = false;
            return;
        }
        let mut heard = forward::heard(&self.node).await;
        // Who was on a node that is no member any more was heard until then.
        heard.push(Heard::since(self.changed.elapsed()));
        let lost = policy.map(|after| to_lose(&population(&self.view, &directory, &heard), after));
        let held_back = lost == Some(None);
        if held_back && !self.held_back {
            tracing::warn!("most hosts are silent; none of them is given up");
        }
        self.held_back = held_back;
        // What was heard is true for a moment only: what can't be done now is looked at anew.
        if let Err(error) = self.carry_out(lost.flatten().unwrap_or_default(), &heard).await {
            tracing::debug!(%error, "to be taken up again");
        }
    }

    async fn carry_out(&self, lost: Vec<(HostId, Duration)>, heard: &[Heard]) -> Result<(), ExecuteError> {
        for (host, silent) in lost {
            let reason = format!("silent for {} s", silent.as_secs());
            let command = Command::Directory(DirectoryCommand::LoseHost { host, silent });
            let done = refused_is_done(self.executor.execute_here(own(command, &reason)).await)?;
            if let Some(revision) = done {
                self.view.reached(Home::Directory, revision).await;
            }
        }
        let lost: Vec<LostHost> = self.view.directory().state.lost_hosts().copied().collect();
        for lost in &lost {
            for asked in detach(&self.view, lost) {
                refused_is_done(self.executor.execute(asked).await)?;
            }
        }
        let here: Vec<_> = lost.iter().filter(|lost| matches!(presence(heard, lost.host), Presence::Up(_))).collect();
        if here.is_empty() {
            return Ok(());
        }
        // Another node may have attached, or detached, what is not seen here yet.
        let unconfirmed = |error: kv_node::ReadError| ExecuteError::Unavailable { message: error.to_string() };
        forward::catch_up(&self.node).await.map_err(unconfirmed)?;
        for lost in here {
            let endpoints = self.view.endpoints_on(lost.host);
            let command = Command::Directory(DirectoryCommand::FindHost { host: lost.host, endpoints });
            refused_is_done(self.executor.execute_here(own(command, "it is heard again")).await)?;
        }
        Ok(())
    }
}

/// A refusal is no reason to leave the rest. Otherwise: the revision that was made.
fn refused_is_done(outcome: Result<Done, ExecuteError>) -> Result<Option<Revision>, ExecuteError> {
    match outcome {
        Ok(done) => Ok(Some(done.revision)),
        Err(ExecuteError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A host that counts, how it is, and whether it is given up.
type Counted = (HostId, Presence, bool);

/// The hosts that have endpoints, or had until they were given up.
fn population(view: &View, directory: &Directory, heard: &[Heard]) -> Vec<Counted> {
    let hosts = directory.hosts().map(|host| (host.id, directory.lost_host(host.id).is_some()));
    let counted = hosts.filter(|(id, lost)| *lost || view.has_endpoints(*id));
    counted.map(|(id, lost)| (id, presence(heard, id), lost)).collect()
}

/// The hosts that are to be given up, and for how long each has been silent. `None`: most are silent, for however long.
fn to_lose(population: &[Counted], after: Duration) -> Option<Vec<(HostId, Duration)>> {
    let silent = population.iter().filter_map(|(host, presence, lost)| match presence {
        Presence::Silent(silent) => Some((*host, *silent, *lost)),
        Presence::Up(_) => None,
    });
    if silent.clone().count() * SILENT_PART > population.len() {
        return None;
    }
    let to_lose = silent.filter(|(_, silent, lost)| !lost && *silent >= after);
    Some(to_lose.map(|(host, silent, _)| (host, silent)).collect())
}

/// Detaches everything on a host.
fn detach(view: &View, lost: &LostHost) -> Vec<Asked> {
    let reason = format!("host {} is lost since {}", lost.host, lost.since);
    let mut all = Vec::new();
    for id in view.networks_on(lost.host) {
        let network = view.network(id).state;
        let numbers: Vec<_> = network.on_host(lost.host).map(Endpoint::number).collect();
        let commands = numbers.chunks(limits::DETACH_MAX).map(|part| NetworkCommand::Detach(part.to_vec()));
        all.extend(commands.map(|command| own(Command::Network(id, command), &reason)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lost_one_by_one_and_never_most_of_them() {
        const AFTER: Duration = Duration::from_secs(60);
        let lost = |silent: &[u64]| {
            let host = |(id, seconds): (u32, &u64)| {
                let seconds = Duration::from_secs(*seconds);
                let presence = if seconds.is_zero() { Presence::Up(seconds) } else { Presence::Silent(seconds) };
                (HostId::new(id), presence, seconds == Duration::from_secs(99))
            };
            let hosts: Vec<_> = (1..).zip(silent).map(host).collect();
            to_lose(&hosts, AFTER).map(|lost| lost.into_iter().map(|(_, silent)| silent.as_secs()).collect::<Vec<_>>())
        };
        assert_eq!(lost(&[]), Some(vec![]));
        assert_eq!(lost(&[0, 59, 0]), Some(vec![]));
        assert_eq!(lost(&[0, 60]), Some(vec![60]));
        assert_eq!(lost(&[0, 60, 0, 75]), Some(vec![60, 75]));
        assert_eq!(lost(&[0, 60, 0, 75, 1]), None, "the others fall silent one after the other");
        assert_eq!(lost(&[1000]), None, "there is nobody else to tell whether it is the host");
        assert_eq!(lost(&[99, 0, 60, 0]), Some(vec![60]), "one is lost already");
        assert_eq!(lost(&[99, 99, 60, 0]), None, "those that are lost were hosts as well");
    }
}
