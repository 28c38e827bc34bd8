//! Plays all rows of the table of faults in turn, for as long as it is told, and writes `docs/reliability.md`.
//!
//! Must hold: it ends with an error as soon as something does not hold, and when a figure exceeds its limit; what was
//! mounted and made is removed in every case, an interrupt included.
//!
//! Left to others: the rows (`etcd_histories::chaos`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use etcd_histories::chaos::figures::Played;
use etcd_histories::chaos::report::{Circumstances, render};
use etcd_histories::chaos::stage::Length;
use etcd_histories::chaos::{Ended, Row, rows};

/// From one round's seed to the next one's.
const NEXT_ROUND: u64 = 0x9E37_79B9_7F4A_7C15;

/// Plays faults against a cluster under load, checks what clients saw, and measures
#[derive(Debug, Parser)]
struct Args {
    /// How long to go on: all rows are played once at least, unless --only says which
    #[arg(long, env = "CHAOS_MINUTES", default_value_t = 60)]
    minutes: u64,
    /// What everything is drawn from [default: drawn itself]
    #[arg(long, env = "CHAOS_SEED")]
    seed: Option<u64>,
    /// Only the rows whose names begin so
    #[arg(long, value_name = "ROW")]
    only: Option<String>,
    /// Play rows as briefly as the tests do
    #[arg(long)]
    short: bool,
    /// Say which rows there are, and end
    #[arg(long)]
    list: bool,
    /// Where the page is written [default: nowhere with --only or --short, otherwise docs/reliability.md]
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

/// What has been played so far.
#[derive(Default)]
struct Results {
    played: BTreeMap<&'static str, Played>,
    skipped: BTreeMap<&'static str, String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let only = args.only.clone().unwrap_or_default();
    let rows: Vec<_> = rows().into_iter().filter(|row| row.name.starts_with(&only)).collect();
    ensure!(!rows.is_empty(), "no row begins with {only:?}; --list says which there are");
    if args.list {
        rows.iter().for_each(|row| println!("{:<18} {}", row.name, row.does));
        return Ok(());
    }
    let seed = args.seed.unwrap_or_else(rand::random);
    eprintln!("CHAOS_SEED={seed}, {} rows for {} minutes", rows.len(), args.minutes);
    let (began, mut results) = (Instant::now(), Results::default());
    let ended = tokio::select! {
        ended = play(&args, &rows, seed, &mut results) => ended,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted");
            Ok(())
        }
    };
    let page = args.page.clone().or_else(|| {
        let all = args.only.is_none() && !args.short && ended.is_ok();
        all.then(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reliability.md")))
    });
    let exceeded = tell(&rows, &results);
    if let Some(page) = page {
        let text = page_text(&args, &rows, &results, seed, began.elapsed());
        std::fs::write(&page, text).with_context(|| format!("{} cannot be written", page.display()))?;
        eprintln!("wrote {}", page.display());
    }
    ended?;
    ensure!(args.short || exceeded.is_empty(), "slower than it must be:\n{}", exceeded.join("\n"));
    Ok(())
}

/// Round by round until the time is over. Every round has a seed of its own, the first one that which was given.
async fn play(args: &Args, rows: &[Row], seed: u64, results: &mut Results) -> Result<()> {
    let length = if args.short { Length::Short } else { Length::Full };
    let end = Instant::now() + Duration::from_secs(args.minutes * 60);
    for round in 0_u64.. {
        let seed = seed.wrapping_add(round.wrapping_mul(NEXT_ROUND));
        for row in rows {
            if round > 0 && Instant::now() >= end {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            eprintln!("round {}, {}, CHAOS_SEED={seed}, {} min left", round + 1, row.name, left.as_secs().div_ceil(60));
            // Boxed: a row is a long story, and would lie in the future of the whole program.
            match Box::pin(row.run(length, seed)).await? {
                Ended::Played(played) => results.played.entry(row.name).or_default().add(&played),
                Ended::Skipped(why) => {
                    eprintln!("skipped: {}: {why}", row.name);
                    results.skipped.insert(row.name, why);
                }
            }
        }
        ensure!(!results.played.is_empty(), "no row can be played here");
    }
    Ok(())
}

/// Tells what came of every row, and returns the figures that exceed their limits.
fn tell(rows: &[Row], results: &Results) -> Vec<String> {
    let mut exceeded = Vec::new();
    for row in rows {
        let Some(played) = results.played.get(row.name) else { continue };
        let faults: usize = played.faults.values().sum();
        eprintln!("{:<18} {} runs, {faults} faults, {:?}", row.name, played.runs, played.checked);
        exceeded.extend(played.exceeded().into_iter().map(|words| format!("{}: {words}", row.name)));
    }
    exceeded
}

fn page_text(args: &Args, rows: &[Row], results: &Results, seed: u64, took: Duration) -> String {
    let only = args.only.as_ref().map_or_else(String::new, |only| format!(" ONLY={only}"));
    let circumstances = Circumstances {
        date: first_line("date", &["+%Y-%m-%d"]),
        machine: machine(),
        command: format!("CHAOS_SEED={seed} CHAOS_MINUTES={} make chaos{only}", args.minutes),
        seed,
        took,
        skipped: results.skipped.iter().map(|(row, why)| (*row, why.clone())).collect(),
    };
    let played = rows.iter().filter_map(|row| Some((*row, results.played.get(row.name)?.clone())));
    render(&circumstances, &played.collect::<Vec<_>>())
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let gib = kib.unwrap_or(0_u64).div_ceil(1 << 20);
    format!("{cores} cores of {}, {gib} GiB, {}", model.unwrap_or("unknown"), first_line("uname", &["-sr"]))
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
