//! `docs/reliability.md`, from what was played.
//!
//! Must hold: everything that the page says of a run was counted or measured in it.
//!
//! Left to others: writing the file.

use std::fmt::Write;
use std::time::Duration;

use crate::chaos::figures::{Limit, Played, percentile};
use crate::chaos::{Needs, Row};

/// What was run, where and when.
pub struct Circumstances {
    /// The day.
    pub date: String,
    /// The machine, in words.
    pub machine: String,
    /// What repeats it.
    pub command: String,
    /// Everything was drawn from it.
    pub seed: u64,
    /// How long it took.
    pub took: Duration,
    /// What was not played, and why.
    pub skipped: Vec<(&'static str, String)>,
}

/// The page.
pub fn render(circumstances: &Circumstances, rows: &[(Row, Played)]) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = intro(&mut page, circumstances, rows);
    let _ = what(&mut page, rows);
    let _ = checked(&mut page, rows);
    let _ = measured(&mut page, rows);
    page
}

fn intro(page: &mut String, circumstances: &Circumstances, rows: &[(Row, Played)]) -> std::fmt::Result {
    let Circumstances { date, machine, command, seed, took, skipped } = circumstances;
    let runs: usize = rows.iter().map(|(_, played)| played.runs).sum();
    writeln!(page, "# Reliability\n")?;
    writeln!(
        page,
        "What is done to a cluster of three nodes under load, what must hold, and what was measured. Clients write, read and \
         watch a few keys all the time; everything that they see is recorded, and every recording is checked afterwards: one \
         order of all writes must explain every answer (linearizability), and every watch must have been told everything it \
         asked for, once, in order. `tests/histories` is the code; `make test` plays each row once and briefly, `make chaos` \
         plays all of them in turn and writes this page.\n"
    )?;
    writeln!(page, "| | |\n| --- | --- |")?;
    writeln!(page, "| when | {date}, {} minutes, {runs} runs |", took.as_secs().div_ceil(60))?;
    writeln!(page, "| where | {machine} |")?;
    writeln!(page, "| command | `{command}` |")?;
    writeln!(page, "| seed | {seed} |")?;
    for (row, why) in skipped {
        writeln!(page, "| not played | {row}: {why} |")?;
    }
    writeln!(page)
}

fn what(page: &mut String, rows: &[(Row, Played)]) -> std::fmt::Result {
    writeln!(page, "## What is done, and what must hold\n")?;
    writeln!(page, "| row | what is done | what must hold beside every history | needs |\n| --- | --- | --- | --- |")?;
    for (row, _) in rows {
        let needs = if row.needs == Needs::Root { "root" } else { "" };
        writeln!(page, "| {} | {} | {} | {needs} |", row.name, row.does, row.holds)?;
    }
    writeln!(page)
}

fn checked(page: &mut String, rows: &[(Row, Played)]) -> std::fmt::Result {
    writeln!(page, "## What was checked\n")?;
    writeln!(
        page,
        "Every run held. *Unknown* are operations without an answer, which may or may not have been done: the check finds out \
         which were.\n"
    )?;
    writeln!(page, "| row | runs | faults | operations | unknown | writes | watches | events |")?;
    writeln!(page, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
    let mut all = Played::default();
    for (row, played) in rows {
        all.add(played);
        let faults: Vec<_> = played.faults.iter().map(|(kind, times)| format!("{times} × {kind}")).collect();
        line(page, row.name, played, &faults.join(", "))?;
    }
    let faults: usize = all.faults.values().sum();
    line(page, "all", &all, &faults.to_string())?;
    writeln!(page)
}

fn line(page: &mut String, name: &str, played: &Played, faults: &str) -> std::fmt::Result {
    let checked = &played.checked;
    let numbers = [checked.operations, checked.unknown, checked.writes, checked.watches, checked.events];
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    writeln!(page, "| {name} | {} | {faults} | {} |", played.runs, numbers.join(" | "))
}

fn measured(page: &mut String, rows: &[(Row, Played)]) -> std::fmt::Result {
    writeln!(page, "## What was measured\n")?;
    writeln!(
        page,
        "*Without writes* is the longest time between two answered writes of any client, from the fault on. *Limit* is what \
         makes `make chaos` fail.\n"
    )?;
    writeln!(page, "| row | figure | times | p50 | p99 | max | limit |\n| --- | --- | --- | --- | --- | --- | --- |")?;
    for (row, played) in rows {
        for (name, (limit, values)) in &played.figures {
            let at = |percent| percentile(values, percent).map_or_else(String::new, show);
            let limit = match limit {
                Limit::None => String::new(),
                Limit::P99(limit) => format!("p99 {}", show(*limit)),
                Limit::Max(limit) => format!("max {}", show(*limit)),
            };
            let (p50, p99, max) = (at(50), at(99), at(100));
            writeln!(page, "| {} | {name} | {} | {p50} | {p99} | {max} | {limit} |", row.name, values.len())?;
        }
    }
    Ok(())
}

fn show(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
