//! What the figures were measured on, and what was measured.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::system::{Programs, System};

const SYNCS: u32 = 200;
const SYNCED_BYTES: usize = 4 << 10;
const UNKNOWN: &str = "unknown";

/// The machine and the programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) memory: String,
    pub(crate) kernel: String,
    pub(crate) disk: String,
    pub(crate) etcd: String,
    pub(crate) netstate: String,
    /// The commit that is checked out where this program runs.
    pub(crate) commit: String,
}

impl Machine {
    /// Looks at the machine, with `dir` as a place on the disk that is used, and asks the systems for their versions.
    pub(crate) fn look(programs: &Programs, dir: &Path, systems: &[System]) -> Result<Machine> {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| UNKNOWN.into());
        let kib =
            field("/proc/meminfo", "MemTotal").and_then(|kb| kb.trim_end_matches("kB").trim().parse::<f64>().ok());
        let version = |system: System, argument: &str| match systems.contains(&system) {
            true => first_line(Command::new(system.program(programs)).arg(argument)).with_context(|| {
                format!("cannot run {}; is it built or installed?", system.program(programs).display())
            }),
            false => Ok("not measured".into()),
        };
        Ok(Machine {
            processor: format!("{model}, {cores} cores"),
            memory: kib.map_or(UNKNOWN.into(), |kib| format!("{:.0} GiB", kib / (1 << 20) as f64)),
            kernel: first_line(Command::new("uname").arg("-sr")).unwrap_or_else(|_| UNKNOWN.into()),
            disk: format!("4 KiB appended and synced: {:.2} ms on average", sync_millis(dir)?),
            etcd: version(System::Etcd, "--version")?,
            netstate: version(System::Netstate, "--version")?,
            commit: first_line(Command::new("git").args(["describe", "--always", "--dirty=, with changes"]))
                .unwrap_or_else(|_| UNKNOWN.into()),
        })
    }
}

/// What follows the first line that begins with `name` and a colon.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let (_, value) = text.lines().find(|line| line.starts_with(name))?.split_once(':')?;
    Some(value.trim().to_owned())
}

fn first_line(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "it ended with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().next().context("it printed nothing")?.trim().to_owned())
}

fn sync_millis(dir: &Path) -> Result<f64> {
    let mut file: File = tempfile::tempfile_in(dir)?;
    let start = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&[7; SYNCED_BYTES])?;
        file.sync_data()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(SYNCS))
}
