//! What is going on, on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Often enough for a clock, seldom enough not to be measured.
const TICK: Duration = Duration::from_millis(500);

/// A line that changes, below lines that stay. Without a terminal only the latter are shown.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// For that many runs of a workload.
    pub(crate) fn new(runs: u64) -> Progress {
        let bar = ProgressBar::new(runs);
        let template = "{spinner} {pos}/{len} done, {elapsed_precise} │ {prefix}: {msg}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(TICK);
        Progress(bar)
    }

    /// Begins a run.
    pub(crate) fn begin(&self, what: String) {
        self.0.set_prefix(what);
        self.doing("starting the members");
    }

    /// Ends a run, with what it came to.
    pub(crate) fn end(&self, summary: &str) {
        self.0.inc(1);
        self.say(&format!("{}: {summary}", self.0.prefix()));
    }

    pub(crate) fn doing(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    pub(crate) fn doing_part(&self, what: &str, done: u64, all: u64) {
        self.0.set_message(format!("{what}, {done} of {all}"));
    }

    fn say(&self, line: &str) {
        if self.0.is_hidden() {
            eprintln!("{line}");
        } else {
            self.0.println(line);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
