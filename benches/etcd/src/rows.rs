//! The rows of the table: which figures are judged, and by what.

use crate::metric::{Metric, limit_digits};
use crate::results::Results;
use crate::system::System;
use crate::workload::{
    P50, P99, Workload, get_many, leader_kill, load_txn, million_keys, put_many, watch_fanout, watchers_memory,
};

/// One judged figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) workload: Workload,
    pub(crate) metric: Metric,
    /// What etcd's figure is taken from, where it is not the same metric.
    pub(crate) against: Metric,
    pub(crate) bar: Bar,
}

/// What a figure has to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// So many times etcd's figure; more is better.
    TimesAtLeast { bar: f64, aim: f64 },
    /// So much of etcd's figure; less is better.
    TimesAtMost { bar: f64, aim: f64 },
    /// Under so much in the metric's own unit, whatever etcd's is; less is better.
    Under { bar: f64, aim: Option<f64> },
}

/// What came out of judging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    AimMet,
    Met,
    Unmet,
    /// One of the systems was not measured.
    Unknown,
}

/// A row with its medians.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    pub(crate) row: Row,
    pub(crate) etcd: Option<f64>,
    pub(crate) netstate: Option<f64>,
}

/// Throughput at least doubled, and more as the aim.
const fn doubled(aim: f64) -> Bar {
    Bar::TimesAtLeast { bar: 2.0, aim }
}

/// At most half, a quarter as the aim.
const HALVED: Bar = Bar::TimesAtMost { bar: 0.5, aim: 0.25 };
/// At most half; the aim is what corresponds to three times the throughput.
const HALF_P99: Bar = Bar::TimesAtMost { bar: 0.5, aim: 1.0 / 3.0 };
const RESTART: Bar = Bar::Under { bar: 2.0, aim: Some(1.0) };
const LISTING: Bar = Bar::Under { bar: 64.0, aim: None };
const NO_LONGER: Bar = Bar::TimesAtMost { bar: 1.0, aim: 1.0 / 3.0 };

/// All rows, in the order of the table.
pub(crate) fn rows() -> Vec<Row> {
    let row = |workload, metric, bar| Row { workload, metric, against: metric, bar };
    vec![
        row(Workload::PutMany, put_many::PUTS, doubled(3.0)),
        row(Workload::PutMany, P99, HALF_P99),
        row(Workload::PutOne, P50, Bar::TimesAtMost { bar: 0.75, aim: 0.5 }),
        row(Workload::GetMany, get_many::GETS, doubled(3.5)),
        row(Workload::LoadTxn, load_txn::KEYS, doubled(4.0)),
        row(Workload::WatchFanout, watch_fanout::FULL_EVENTS, doubled(4.0)),
        row(Workload::WatchFanout, watch_fanout::PACED_P99, HALVED),
        row(Workload::WatchersMemory, watchers_memory::PEAK_SUM, HALVED),
        row(Workload::WatchersMemory, watchers_memory::PEAK_MAX, HALVED),
        row(Workload::MillionKeys, million_keys::RESIDENT_SUM, HALVED),
        row(Workload::MillionKeys, million_keys::RESIDENT_MAX, HALVED),
        row(Workload::MillionKeys, million_keys::ONE_SERIALIZABLE, RESTART),
        row(Workload::MillionKeys, million_keys::ONE_LINEARIZABLE, RESTART),
        row(Workload::MillionKeys, million_keys::ALL_SERIALIZABLE, RESTART),
        row(Workload::MillionKeys, million_keys::ALL_LINEARIZABLE, RESTART),
        row(Workload::MillionKeys, million_keys::LIST_GROWTH, LISTING),
        // etcd 3.4 has no RangeStream; what it is compared with is its only way to list.
        Row { against: million_keys::LIST_GROWTH, ..row(Workload::MillionKeys, million_keys::STREAM_GROWTH, LISTING) },
        row(Workload::LeaderKill, leader_kill::GAP_MEDIAN, NO_LONGER),
        row(Workload::LeaderKill, leader_kill::GAP_WORST, NO_LONGER),
    ]
}

/// The rows of which anything was measured.
pub(crate) fn judge(results: &Results) -> Vec<Judged> {
    let judged = rows().into_iter().map(|row| Judged {
        row,
        etcd: results.median(row.workload, System::Etcd, row.against),
        netstate: results.median(row.workload, System::Netstate, row.metric),
    });
    judged.filter(|j| j.etcd.is_some() || j.netstate.is_some()).collect()
}

impl Judged {
    /// Netstate's figure divided by etcd's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        match (self.netstate, self.etcd) {
            (Some(netstate), Some(etcd)) if etcd > 0.0 => Some(netstate / etcd),
            _ => None,
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let Some(figure) = self.figure() else { return Verdict::Unknown };
        let reached = |limit: f64| match self.row.bar {
            Bar::TimesAtLeast { .. } => figure >= limit,
            Bar::TimesAtMost { .. } => figure <= limit,
            Bar::Under { .. } => figure < limit,
        };
        let (bar, aim) = self.row.bar.limits();
        match (reached(bar), aim.is_some_and(reached)) {
            (true, true) => Verdict::AimMet,
            (true, false) => Verdict::Met,
            (false, _) => Verdict::Unmet,
        }
    }

    /// What is held against the bar.
    fn figure(&self) -> Option<f64> {
        match self.row.bar {
            Bar::TimesAtLeast { .. } | Bar::TimesAtMost { .. } => self.ratio(),
            Bar::Under { .. } => self.netstate,
        }
    }

    /// How many times better Netstate is, and as many as bar and aim ask for: all such that more is better.
    pub(crate) fn advantage(&self) -> Option<Advantage> {
        let (ratio, etcd) = (self.ratio()?, self.etcd?);
        let (bar, aim) = self.row.bar.limits();
        let factor = |limit: f64| match self.row.bar {
            Bar::TimesAtLeast { .. } => limit,
            Bar::TimesAtMost { .. } => 1.0 / limit,
            Bar::Under { .. } => etcd / limit,
        };
        let reached = if self.row.bar.more_is_better() { ratio } else { 1.0 / ratio };
        Some(Advantage { reached, bar: factor(bar), aim: aim.map(factor) })
    }
}

/// Factors by which Netstate is, has to be and should be better than etcd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Advantage {
    /// Infinite, if Netstate needs nothing where etcd needs something.
    pub(crate) reached: f64,
    pub(crate) bar: f64,
    pub(crate) aim: Option<f64>,
}

impl Bar {
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Bar::TimesAtLeast { .. })
    }

    /// The bar and the aim.
    fn limits(self) -> (f64, Option<f64>) {
        match self {
            Bar::TimesAtLeast { bar, aim } | Bar::TimesAtMost { bar, aim } => (bar, Some(aim)),
            Bar::Under { bar, aim } => (bar, aim),
        }
    }
}

impl Row {
    /// The bar and the aim in words.
    pub(crate) fn wanted(&self) -> (String, String) {
        let show = |limit: f64| match self.bar {
            Bar::TimesAtLeast { .. } => format!("≥ {}×", limit_digits(limit)),
            Bar::TimesAtMost { .. } => format!("≤ {}×", limit_digits(limit)),
            Bar::Under { .. } => format!("< {}", self.metric.unit.attach(limit_digits(limit))),
        };
        let (bar, aim) = self.bar.limits();
        (show(bar), aim.map(show).unwrap_or_default())
    }
}

impl Verdict {
    pub(crate) fn show(self) -> &'static str {
        match self {
            Verdict::AimMet => "yes, and the aim",
            Verdict::Met => "yes",
            Verdict::Unmet => "no",
            Verdict::Unknown => "not measured",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(bar: Bar, etcd: f64, netstate: f64) -> Judged {
        let row = Row { workload: Workload::PutMany, metric: P99, against: P99, bar };
        Judged { row, etcd: Some(etcd), netstate: Some(netstate) }
    }

    #[test]
    fn verdicts() {
        let cases = [
            (doubled(3.0), 10.0, 19.9, Verdict::Unmet),
            (doubled(3.0), 10.0, 20.0, Verdict::Met),
            (doubled(3.0), 10.0, 30.0, Verdict::AimMet),
            (HALVED, 10.0, 5.1, Verdict::Unmet),
            (HALVED, 10.0, 5.0, Verdict::Met),
            (HALVED, 10.0, 2.5, Verdict::AimMet),
            (RESTART, 15.0, 2.0, Verdict::Unmet),
            (RESTART, 0.5, 1.9, Verdict::Met),
            (RESTART, 15.0, 0.9, Verdict::AimMet),
            (LISTING, 700.0, 0.0, Verdict::Met),
        ];
        for (bar, etcd, netstate, expected) in cases {
            assert_eq!(judged(bar, etcd, netstate).verdict(), expected, "{bar:?}: etcd {etcd}, netstate {netstate}");
        }
    }

    #[test]
    fn a_system_that_was_not_measured_is_not_judged() {
        let missing = Judged { etcd: None, ..judged(HALVED, 1.0, 1.0) };
        assert_eq!(missing.verdict(), Verdict::Unknown);
    }

    #[test]
    fn advantages_grow_whatever_the_figure_is() {
        let advantage = judged(HALVED, 8.0, 1.0).advantage().unwrap();
        assert_eq!((advantage.reached, advantage.bar, advantage.aim), (8.0, 2.0, Some(4.0)));
        let advantage = judged(RESTART, 16.0, 4.0).advantage().unwrap();
        assert_eq!((advantage.reached, advantage.bar, advantage.aim), (4.0, 8.0, Some(16.0)));
    }
}
