//! All rounds of all workloads against the systems in turn.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;

use crate::RunOptions;
use crate::cluster::Cluster;
use crate::keys::Values;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::report;
use crate::results::Results;
use crate::system::System;
use crate::workload::{Outcome, Setting, Sizes, Workload};

/// Whatever a workload does takes less, or is stuck.
const WORKLOAD_WITHIN: Duration = Duration::from_secs(900);

/// Measures everything that can be measured; what cannot is among the results' failures. `keep` gets what there is after
/// each workload, so that stopping this program doesn't cost the figures so far.
pub(crate) async fn run(options: &RunOptions, keep: impl Fn(&Results) -> Result<()>) -> Result<Results> {
    std::fs::create_dir_all(&options.dir).with_context(|| format!("cannot create {}", options.dir.display()))?;
    let programs = &options.programs;
    let systems: Vec<_> = System::ALL.into_iter().filter(|&s| options.only.is_none_or(|only| only == s)).collect();
    let chosen = |w: &Workload| options.only_workload.is_empty() || options.only_workload.contains(w);
    let workloads: Vec<_> = Workload::ALL.into_iter().filter(chosen).collect();
    let rounds = options.rounds as usize;

    let mut results = Results {
        machine: Machine::look(programs, &options.dir, &systems)?,
        quick: options.quick,
        client_threads: options.client_threads as usize,
        orders: (0..rounds).map(|round| order(round, &systems)).collect(),
        samples: Vec::new(),
        failures: Vec::new(),
    };
    let values = Values::new();
    let progress = Progress::new((rounds * workloads.len() * systems.len()) as u64);
    for round in 0..rounds {
        for &workload in &workloads {
            for system in results.orders[round].clone() {
                let number = round + 1;
                let what = format!("round {number} of {rounds}, {}, {}", workload.name(), system.name());
                progress.begin(what.clone());
                let label = format!("round{number}-{}", workload.name());
                let start = Cluster::start(system, programs, &options.dir, &label);
                let outcome = match start.await.with_context(|| format!("cannot start {}", system.name())) {
                    Ok(cluster) => measure(options, cluster, workload, &values, &progress).await,
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(outcome) => {
                        progress.end(&report::summary(&outcome));
                        results.add(number, workload, system, &outcome);
                    }
                    // The others can still be measured, and one look at all failures is better than one each.
                    Err(error) => {
                        progress.end(&format!("FAILED: {error:#}"));
                        results.failures.push(format!("{what}: {error:#}"));
                    }
                }
                keep(&results)?;
            }
        }
    }
    Ok(results)
}

/// Every other round turns the order around, so that neither system always finds the machine as the other left it.
fn order(round: usize, systems: &[System]) -> Vec<System> {
    let mut order = systems.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

async fn measure(
    options: &RunOptions,
    cluster: Cluster,
    workload: Workload,
    values: &Values,
    progress: &Progress,
) -> Result<Outcome> {
    let sizes = if options.quick { Sizes::QUICK } else { Sizes::FULL };
    let (system, logs) = (cluster.system().name(), cluster.logs());
    let mut setting = Setting { cluster, sizes, values: values.clone(), progress };
    let outcome = timeout(WORKLOAD_WITHIN, workload.run(&mut setting)).await;
    // A server that died explains more than what its clients saw of it.
    let died = setting.cluster.check_alive();
    let outcome = outcome.with_context(|| format!("it took longer than {WORKLOAD_WITHIN:?}")).flatten();
    died.and(outcome).with_context(|| format!("{} with {system} failed; logs: {logs}", workload.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_alternate() {
        let firsts: Vec<_> = (0..4).map(|round| order(round, &System::ALL)[0]).collect();
        assert_eq!(firsts, [System::Etcd, System::Netstate, System::Etcd, System::Netstate]);
        assert_eq!(order(1, &[System::Etcd]), [System::Etcd]);
    }
}
