//! The binary `netstate`: parses a command line, runs one command, and says by its exit code how it ended.
//!
//! Must hold: data goes to standard output and talk to standard error; nothing that a user types, a file holds or a
//! closed pipe does can make it panic; the exit code is 0 when done, 1 when refused or false, 2 for wrong usage, 3 when no
//! server could be reached.
//!
//! Left to others: everything that is not about a terminal. The server, the agent and the client are libraries.

mod bench;
mod cli;
mod commands;
mod console;
mod converge;
mod descriptors;
mod failure;
mod human;
mod json;
mod moment;
#[cfg(feature = "otel")]
mod otel;
mod session;
mod settings;
mod values;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{cli::Cli, failure::Failure};

/// A server makes and drops many small values on many threads; the system's allocator keeps far more memory for that.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Cores without a thread that runs tasks. The log's thread, those of the database and the system's own work for the
/// network take about that, and each further thread is one more to be woken on a request's way: on two cores, one
/// thread for tasks serves a single writer an eighth faster than four, and a tenth more watchers.
const CORES_LEFT: usize = 1;

/// Tasks run by a thread until it looks whether something has come from the network. By default it looks after 61: while
/// hosts come in their thousands, a commit would wait for so many of them at each of its ways between nodes.
const LOOK_AROUND: u32 = 7;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. A closed pipe is no reason to complain.
            let _ = error.print();
            return if error.use_stderr() { failure::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get() - CORES_LEFT.min(cores.get() - 1));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.worker_threads(workers).event_interval(LOOK_AROUND).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::refused(anyhow::Error::new(error).context("no threads to be had")).report(),
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
