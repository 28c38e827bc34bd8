//! What running any suite takes: fetching it, running a command to its end, and telling what came out.
//!
//! Left to others: how each suite names its tests and tells its results (see the tests).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long compiling or running a suite may take.
const MINUTES_MAX: u64 = 15;

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it ended well.
    pub success: bool,
    /// What it wrote to both outputs, standard output first.
    pub text: String,
    /// What it wrote to standard output.
    pub stdout: String,
}

impl Output {
    /// What was written to standard output, unless the command failed.
    pub fn ok(self, what: &str) -> Result<String> {
        if !self.success {
            bail!("{what} failed:\n{}", self.text);
        }
        Ok(self.stdout)
    }
}

/// Runs a command to its end, or kills it when that takes too long.
pub async fn run(mut command: Command) -> Result<Output> {
    command.stdin(Stdio::null());
    let what = format!("{command:?}");
    let ended = tokio::process::Command::from(command).kill_on_drop(true).output();
    let Ok(ended) = tokio::time::timeout(Duration::from_secs(60 * MINUTES_MAX), ended).await else {
        bail!("{what} takes more than {MINUTES_MAX} minutes");
    };
    let ended = ended.with_context(|| format!("{what} does not start"))?;
    let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
    let text = format!("{stdout}{}", String::from_utf8_lossy(&ended.stderr));
    Ok(Output { success: ended.status.success(), text, stdout })
}

/// The folder of a suite's sources, downloaded unless it has been.
pub async fn fetch(suite: &str) -> Result<PathBuf> {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("fetch"));
    command.arg(suite);
    let folder = run(command).await?.ok(&format!("fetching {suite}"))?;
    Ok(PathBuf::from(folder.trim()))
}

/// The number before a word in a runner's summary, as in "3 passed"; 0 if it is not told.
pub fn count(text: &str, word: &str) -> usize {
    let words: Vec<&str> = text.split([' ', '\n', ';', ',']).filter(|word| !word.is_empty()).collect();
    let numbers = words.windows(2).filter(|pair| pair[1] == word).filter_map(|pair| pair[0].parse::<usize>().ok());
    numbers.sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn summaries_are_read() {
        let text = "test result: ok. 3 passed; 0 failed; 2 ignored\n== 4 passed, 1 skipped in 0.1s ==\n";
        let counts = ["passed", "failed", "ignored", "skipped", "filtered"].map(|word| super::count(text, word));
        assert_eq!(counts, [7, 0, 2, 1, 0]);
    }
}
