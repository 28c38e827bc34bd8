//! Drives etcd and this store with the same load over the etcd API and compares them.
//!
//! Must hold: both systems get the same cluster size, durability, requests and client; whatever happens, no server outlives
//! the program.

mod client;
mod cluster;
mod fleet;
mod keys;
mod load;
mod machine;
mod metric;
mod plot;
mod process;
mod progress;
mod report;
mod results;
mod rows;
mod run;
mod system;
mod watchers;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::results::Results;
use crate::system::{Programs, System};
use crate::workload::Workload;

/// What the client uses is missing to the servers: with the system's allocator it uses a seventh more.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EXAMPLES: &str = "\
Examples:
  bench-etcd run                                    all workloads, three rounds, both systems; writes docs/benchmarks-etcd.*
  bench-etcd run --quick --only etcd                does everything work? seconds per workload, figures say nothing
  bench-etcd run --only-workload put-many,get-many  these in full; what is not a whole run goes to target/bench-etcd/trial.*
  bench-etcd report                                 writes the page and the plot again from docs/benchmarks-etcd.json
  bench-etcd fleet --quick                          fleets of hosts, a fiftieth of each; writes target/bench-etcd/fleet.*
";

/// Compares etcd and Netstate on this machine over the etcd v3 API.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Starts the systems in turn, measures them and writes the results.
    Run(RunOptions),
    /// Writes the page and the plot from the JSON of an earlier run.
    Report(Outputs),
    /// Plays fleets of hosts against the systems in turn and writes the results.
    Fleet(fleet::Options),
}

/// How to measure.
#[derive(Args, Clone)]
struct RunOptions {
    /// Rounds; the order of the systems alternates
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measure only this system
    #[arg(long)]
    only: Option<System>,
    /// Measure only these workloads
    #[arg(long, value_delimiter = ',')]
    only_workload: Vec<Workload>,
    /// Shorten everything to seconds, to try it out
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    programs: Programs,
    /// Where the servers keep data, removed afterwards, and logs
    #[arg(long, default_value = "target/bench-etcd")]
    dir: PathBuf,
    /// Threads of the client
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    client_threads: u32,
    #[command(flatten)]
    outputs: Outputs,
}

/// Where results go.
#[derive(Args, Clone)]
struct Outputs {
    /// Files to write, without their endings .md, .svg and .json [default: docs/benchmarks-etcd, or DIR/trial unless all is measured in full]
    #[arg(long)]
    output: Option<PathBuf>,
    /// The page [default: OUTPUT.md]
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// The plot [default: OUTPUT.svg]
    #[arg(long)]
    svg: Option<PathBuf>,
    /// All figures [default: OUTPUT.json]
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The files that are written.
struct Files {
    markdown: PathBuf,
    svg: PathBuf,
    json: PathBuf,
}

fn main() -> ExitCode {
    match start(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-etcd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<()> {
    match command.what {
        What::Report(outputs) => {
            let files = outputs.files("docs/benchmarks-etcd".into());
            let text = std::fs::read_to_string(&files.json)
                .with_context(|| format!("cannot read the results in {}", files.json.display()))?;
            files.write_report(&Results::from_json(&text)?)
        }
        What::Fleet(options) => runtime(1)?.block_on(async {
            tokio::select! {
                done = fleet::run(&options) => done,
                stopped = stopped() => Err(stopped?),
            }
        }),
        What::Run(options) => {
            let default = if options.whole() { "docs/benchmarks-etcd".into() } else { options.dir.join("trial") };
            let files = options.outputs.files(default);
            let runtime = runtime(options.client_threads)?;
            let results = runtime.block_on(async {
                tokio::select! {
                    results = run::run(&options, |so_far| files.write_json(so_far)) => results,
                    stopped = stopped() => Err(stopped?),
                }
            })?;
            files.write_report(&results)?;
            let failed = results.failures.len();
            ensure!(failed == 0, "{failed} workloads could not be measured:\n{}", results.failures.join("\n"));
            Ok(())
        }
    }
}

/// One thread uses the least processor time per operation; servers must be started on the main thread (see `cluster`), on
/// which `block_on` runs its future in either case.
fn runtime(threads: u32) -> Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads as usize);
    }
    Ok(builder.enable_all().build()?)
}

/// Returns once somebody wants this program to end. The future that runs is dropped then, and all servers with it.
async fn stopped() -> Result<anyhow::Error> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(anyhow::anyhow!("stopped by a signal; the servers were killed"))
}

impl RunOptions {
    /// Nothing is left out or shortened, so that the results may replace those in the documentation.
    fn whole(&self) -> bool {
        !self.quick && self.only.is_none() && self.only_workload.is_empty()
    }
}

impl Outputs {
    fn files(&self, default: PathBuf) -> Files {
        let base = self.output.clone().unwrap_or(default);
        let or = |given: &Option<PathBuf>, ending: &str| match given {
            Some(path) => path.clone(),
            None => PathBuf::from(format!("{}.{ending}", base.display())),
        };
        Files { markdown: or(&self.markdown, "md"), svg: or(&self.svg, "svg"), json: or(&self.json, "json") }
    }
}

impl Files {
    fn write_json(&self, results: &Results) -> Result<()> {
        write(&self.json, &results.to_json()?)
    }

    /// Writes the page and the plot, and prints the table.
    fn write_report(&self, results: &Results) -> Result<()> {
        let plot = self.svg.file_name().unwrap_or_default().to_string_lossy();
        write(&self.markdown, &report::page(results, &plot))?;
        write(&self.svg, &plot::svg(results))?;
        println!("{}", report::table(results));
        eprintln!("written: {}, {}, {}", self.markdown.display(), self.svg.display(), self.json.display());
        Ok(())
    }
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
