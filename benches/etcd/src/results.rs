//! Everything that was measured, as it is kept in the JSON file.
//!
//! Must hold: the report can be written from it alone.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::metric::{Metric, Unit};
use crate::system::System;
use crate::workload::{Outcome, Workload};

/// A whole run of this program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// Shortened, to try it out: figures say nothing.
    pub(crate) quick: bool,
    /// Threads of the client.
    pub(crate) client_threads: usize,
    /// The systems in the order in which they ran, round after round.
    pub(crate) orders: Vec<Vec<System>>,
    pub(crate) samples: Vec<Sample>,
    /// Workloads that could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Counted from one.
    pub(crate) round: usize,
    pub(crate) workload: Workload,
    pub(crate) system: System,
    pub(crate) metric: String,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
}

impl Results {
    /// Adds what one workload measured.
    pub(crate) fn add(&mut self, round: usize, workload: Workload, system: System, outcome: &Outcome) {
        self.samples.extend(outcome.0.iter().map(|&(metric, value)| Sample {
            round,
            workload,
            system,
            metric: metric.name.to_owned(),
            unit: metric.unit,
            value,
        }));
    }

    /// The figures of one metric, in the order of rounds.
    pub(crate) fn values(&self, workload: Workload, system: System, metric: &str) -> Vec<f64> {
        let wanted = |s: &&Sample| s.workload == workload && s.system == system && s.metric == metric;
        self.samples.iter().filter(wanted).map(|s| s.value).collect()
    }

    /// The median over the rounds, if there is any.
    pub(crate) fn median(&self, workload: Workload, system: System, metric: Metric) -> Option<f64> {
        median(self.values(workload, system, metric.name))
    }

    /// The names and units of a workload's metrics, in the order in which they were first noted.
    pub(crate) fn metrics(&self, workload: Workload) -> Vec<(&str, Unit)> {
        let mut metrics: Vec<(&str, Unit)> = Vec::new();
        for sample in self.samples.iter().filter(|s| s.workload == workload) {
            if !metrics.iter().any(|(name, _)| *name == sample.metric) {
                metrics.push((&sample.metric, sample.unit));
            }
        }
        metrics
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub(crate) fn from_json(text: &str) -> Result<Results> {
        serde_json::from_str(text).context("this is not a results file of this program")
    }
}

/// The middle value; of an even number, the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[upper]),
        _ => Some((values[upper - 1] + values[upper]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![7.0]), Some(7.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), Some(3.0));
    }
}
