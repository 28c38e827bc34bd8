//! Notices when somebody else changes the agent's table, by listening to `nft monitor`.
//!
//! Each transaction is reported as its changes and then a line that names the process that made it. One that touches our
//! table and is not ours is worth a look. The monitor only hastens what the periodic comparison would find anyway, so it may
//! miss things, and while it can't be run nothing is lost but time.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout},
    time::{self, Instant},
};

use super::command::Runner;
use crate::plan::Table;

/// Before another monitor is started after one that ended.
const RESTART_PAUSE: Duration = Duration::from_secs(2);
/// A monitor needs some time until it hears everything, and does not say when it does. What is changed meanwhile is found by
/// looking once more after this.
const SETTLING: Duration = Duration::from_secs(1);
/// What is looked at of a line. The table's name and the process stand at its beginning.
const LINE_BYTES_MAX: usize = 256;

/// Listens for others' changes to the table.
#[derive(Debug)]
pub struct Monitor {
    runner: Runner,
    needle: String,
    running: Option<Running>,
    /// When to look once more.
    look_at: Option<Instant>,
    /// The transaction being reported touches the table.
    touched: bool,
    line: Vec<u8>,
}

#[derive(Debug)]
struct Running {
    lines: BufReader<ChildStdout>,
    /// Killed when dropped.
    _child: Child,
}

impl Monitor {
    pub(super) fn new(runner: Runner, table: &Table) -> Self {
        Monitor {
            runner,
            needle: format!(" {}", table.path()),
            running: None,
            look_at: None,
            touched: false,
            line: Vec::new(),
        }
    }

    /// Waits until somebody else has changed the table, or may have unseen: also when a monitor has just been started.
    ///
    /// Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            if self.running.is_none() {
                self.running = self.start();
                match self.running {
                    Some(_) => {
                        self.look_at = Some(Instant::now() + SETTLING);
                        return;
                    }
                    None => time::sleep(RESTART_PAUSE).await,
                }
            }
            let look = sleep_until(self.look_at);
            let line = tokio::select! {
                line = self.line() => line,
                () = look => {
                    self.look_at = None;
                    return;
                }
            };
            match line {
                Some(line) if self.is_foreign(&line) => return,
                Some(_) => {}
                None => {
                    time::sleep(RESTART_PAUSE).await;
                    self.running = None;
                }
            }
        }
    }

    fn start(&mut self) -> Option<Running> {
        let mut command = self.runner.command("nft", &["monitor"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let started = command.spawn().and_then(|mut child| {
            let stdout = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
            Ok(Running { lines: BufReader::new(stdout), _child: child })
        });
        started.inspect_err(|error| tracing::warn!(%error, "nft monitor can't be run; relying on comparing")).ok()
    }

    /// The beginning of the next line; none at the end.
    async fn line(&mut self) -> Option<String> {
        loop {
            let lines = &mut self.running.as_mut()?.lines;
            let available = lines.fill_buf().await.ok().filter(|available| !available.is_empty())?;
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = &available[..end.unwrap_or(available.len())];
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend(&taken[..taken.len().min(room)]);
            let consumed = end.map_or(taken.len(), |end| end + 1);
            lines.consume(consumed);
            if end.is_some() {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                return Some(line);
            }
        }
    }

    fn is_foreign(&mut self, line: &str) -> bool {
        let Some(generation) = line.strip_prefix("# new generation ") else {
            self.touched |= line.contains(&self.needle);
            return false;
        };
        let process = generation.split(' ').nth(3).and_then(|process| process.parse().ok());
        std::mem::take(&mut self.touched) && !process.is_some_and(|process| self.runner.own().contains(process))
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_others_changes_to_the_own_table_count() {
        let table = Table::new("netstate").unwrap();
        let mut monitor = Monitor::new(Runner::new(None), &table);
        let mut last = |lines: &[&str]| lines.iter().fold(None, |_, line| Some(monitor.is_foreign(line)));
        let end = "# new generation 35 by process 4294967295 (nft)";
        assert_eq!(last(&["add element inet netstate pools4 { 10.0.0.1 }", end]), Some(true));
        assert_eq!(last(&["add table ip netstate", end]), Some(false));
        assert_eq!(last(&["delete table inet netstate", "# new generation 36"]), Some(true));
        assert_eq!(last(&[end]), Some(false));
    }
}
