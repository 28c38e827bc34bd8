//! The table for the terminal and the page for the documentation.

use std::fmt::Write;

use crate::machine::Machine;
use crate::metric::{Unit, digits};
use crate::results::{Results, median};
use crate::rows::{Judged, Verdict, judge};
use crate::system::System;
use crate::workload::{Outcome, Workload};

const HEADINGS: [&str; 8] = ["workload", "figure", "etcd", "netstate", "ratio", "at least", "aim", "met"];
const METHOD: &str = "\
Each workload starts with a fresh cluster of three members whose data is on the disk described above and whose
acknowledged writes are synced on a majority: etcd with its defaults but for a quota of 8 GiB, Netstate with its defaults.
Both are driven by the same program over the etcd v3 API; keys are distinct, values have 256 bytes that do not compress.
Servers and client share the processor, so what the client uses is missing to the servers: its part is among the raw
figures. Rounds alternate which system goes first. Ratios are those of the medians, Netstate's divided by etcd's.

Latency to delivery counts from the moment before the put to the receipt of the event by each watcher, and includes the
events that arrive after the last put. Memory is what the kernel says is resident. A restart counts from the start of the
process, after `kill -9`, to its answer to a get of one of the keys. The growth by a listing is the highest peak of a
server above what was resident before. The time without a successful write is the longest between two acknowledged puts
of any of 12 clients, each of which asks the next member when one fails or is silent for 300 ms.

What the time goes into, and what was changed for it: [benchmarks-etcd-profile.md](benchmarks-etcd-profile.md).
";

/// A table for a terminal.
pub(crate) fn table(results: &Results) -> String {
    columns(HEADINGS, judge(results).iter().map(cells))
}

/// Lines below headings, in columns.
pub(crate) fn columns<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![headings.map(str::to_owned)];
    lines.extend(rows);
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let padded: Vec<_> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The page, with the plot of that file name in it.
pub(crate) fn page(results: &Results, plot: &str) -> String {
    let mut page = String::from("# Compared with etcd\n\nWritten by `make bench-etcd`; don't edit.\n\n");
    if results.quick {
        page.push_str("**A quick trial with shortened workloads: these figures say nothing.**\n\n");
    }
    failures(&mut page, results);
    table_of_bars(&mut page, results);
    let _ = writeln!(page, "\n![how many times better than etcd]({plot})\n");
    machine(&mut page, &results.machine, &[("client", &client(results))]);
    let _ = writeln!(page, "\n## How\n\n{METHOD}");
    let rounds: Vec<_> =
        results.orders.iter().map(|o| o.iter().map(|s| s.name()).collect::<Vec<_>>().join(", ")).collect();
    let _ = writeln!(page, "Order of the {} rounds: {}.\n", rounds.len(), rounds.join("; "));
    page.push_str("## All rounds\n\n");
    for workload in Workload::ALL {
        raw(&mut page, results, workload);
    }
    page
}

fn failures(page: &mut String, results: &Results) {
    if results.failures.is_empty() {
        return;
    }
    page.push_str("**Not everything could be measured:**\n\n");
    for failure in &results.failures {
        let _ = writeln!(page, "- {}", failure.replace('\n', " "));
    }
    page.push('\n');
}

fn table_of_bars(page: &mut String, results: &Results) {
    let _ = writeln!(page, "| {} |", HEADINGS.join(" | "));
    page.push_str("| --- | --- | ---: | ---: | ---: | --- | --- | --- |\n");
    for judged in judge(results) {
        let mut cells = cells(&judged);
        if judged.verdict() == Verdict::Unmet {
            cells[HEADINGS.len() - 1] = "**no**".into();
        }
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

fn cells(judged: &Judged) -> [String; HEADINGS.len()] {
    let row = judged.row;
    let show = |figure: Option<f64>| figure.map_or("–".into(), |f| row.metric.unit.show(f));
    let (bar, aim) = row.wanted();
    [
        row.workload.name().into(),
        row.metric.name.into(),
        show(judged.etcd),
        show(judged.netstate),
        judged.ratio().map_or("–".into(), |r| format!("{}×", digits(r))),
        bar,
        aim,
        judged.verdict().show().into(),
    ]
}

fn client(results: &Results) -> String {
    match results.client_threads {
        1 => "on one thread".to_owned(),
        threads => format!("on {threads} threads"),
    }
}

/// What it was measured on, and whatever else is to be known of it.
pub(crate) fn machine(page: &mut String, machine: &Machine, more: &[(&str, &String)]) {
    let facts = [
        ("processor", &machine.processor),
        ("memory", &machine.memory),
        ("kernel", &machine.kernel),
        ("disk", &machine.disk),
        ("etcd", &machine.etcd),
        ("Netstate", &machine.netstate),
        ("commit", &machine.commit),
    ];
    page.push_str("## The machine\n\n| | |\n| --- | --- |\n");
    for (name, fact) in facts.iter().chain(more) {
        let _ = writeln!(page, "| {name} | {fact} |");
    }
}

/// All figures of one workload, round by round.
fn raw(page: &mut String, results: &Results, workload: Workload) {
    let metrics = results.metrics(workload);
    if metrics.is_empty() {
        return;
    }
    let _ = writeln!(page, "### {}: {}\n", workload.name(), workload.about());
    page.push_str("| figure | system | rounds | median |\n| --- | --- | --- | ---: |\n");
    for (metric, unit) in metrics {
        for system in System::ALL {
            let values = results.values(workload, system, metric);
            let Some(middle) = median(values.clone()) else { continue };
            let (rounds, middle) = (list(unit, &values), unit.show(middle));
            let _ = writeln!(page, "| {metric} | {} | {rounds} | {middle} |", system.name());
        }
    }
    page.push('\n');
}

fn list(unit: Unit, values: &[f64]) -> String {
    values.iter().map(|&v| unit.show(v)).collect::<Vec<_>>().join(", ")
}

/// One workload's figures in a line.
pub(crate) fn summary(outcome: &Outcome) -> String {
    outcome.0.iter().map(|(m, v)| format!("{} {}", m.name, m.unit.show(*v))).collect::<Vec<_>>().join("; ")
}
