//! etcdctl, with a server of its own to ask and a second one to copy to.
//!
//! Must hold: no command is left running when this is dropped.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{Instant, timeout_at};

use crate::normalise::Known;
use crate::script::Command;
use crate::server::{ETCDCTL, Kind, Server};

/// How long a command may take. The longest, `check perf`, writes for a minute.
const COMMAND_SECONDS_MAX: u64 = 150;
/// The pause between two attempts of a command that is repeated.
const POLL: Duration = Duration::from_millis(100);

/// A command in the background.
#[derive(Debug)]
struct Background {
    child: Child,
    arguments: Vec<String>,
    lines: Lines<BufReader<ChildStdout>>,
    /// Open as long as the command runs: some end when there is nothing more to read.
    _input: ChildStdin,
}

/// etcdctl and the servers that it asks.
#[derive(Debug)]
pub struct Etcdctl {
    // Before the servers, so that it ends before them.
    background: BTreeMap<String, Background>,
    known: Known,
    member: String,
    server: Server,
    other: Server,
    directory: TempDir,
}

impl Etcdctl {
    /// Starts two servers of a kind.
    pub async fn start(kind: Kind) -> Result<Self> {
        let (server, other) = tokio::try_join!(Server::start(kind), Server::start(kind))?;
        let directory = tempfile::Builder::new().prefix("etcdctl-").tempdir().context("no temporary directory")?;
        let texts = vec![
            (server.address(), "CLIENT"),
            (server.peer_address(), "PEER"),
            (other.address(), "OTHER"),
            (directory.path().display().to_string(), "DIR"),
        ];
        let known = Known { texts, ..Known::default() };
        let member = String::new();
        let mut etcdctl = Self { background: BTreeMap::new(), known, member, server, other, directory };
        let list = etcdctl.command(&["member".into(), "list".into()]).output().await?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        etcdctl.member = list.split(',').next().context("no members are listed")?.to_owned();
        Ok(etcdctl)
    }

    /// Runs a command to its end and gives its output, and how it ended, in comparable form.
    pub async fn run(&mut self, command: &Command) -> Result<String> {
        let arguments = self.arguments(command)?;
        let mut child = self.command(&arguments).spawn().context(ETCDCTL)?;
        let mut input = child.stdin.take().context("no input")?;
        let (text, deadline) = (command.input.clone(), Instant::now() + Duration::from_secs(COMMAND_SECONDS_MAX));
        // A command that reads nothing may have ended before it is written to.
        let feed = async move { drop(input.write_all(text.as_bytes()).await) };
        let (_, ended) = timeout_at(deadline, async { tokio::join!(feed, child.wait_with_output()) })
            .await
            .with_context(|| format!("{} takes more than {COMMAND_SECONDS_MAX} s", command.text))?;
        let ended = ended?;
        let mut output = self.known.normalise(&arguments, &ended.stdout);
        output.push_str(&self.known.normalise(&["stderr".into()], &ended.stderr));
        // A check ends well or not as the machine is fast or slow.
        if !ended.status.success() && arguments.first().is_none_or(|first| first != "check") {
            output.push_str(&format!("{}\n", ended.status));
        }
        Ok(output)
    }

    /// Runs a command again and again, until it writes so many lines.
    pub async fn repeat(&mut self, command: &Command, lines: usize) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(COMMAND_SECONDS_MAX);
        loop {
            let output = self.run(command).await?;
            if output.lines().count() >= lines {
                return Ok(output);
            }
            if Instant::now() > deadline {
                bail!("{} does not come to {lines} lines; the last were:\n{output}", command.text);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts a command in the background.
    pub async fn begin(&mut self, name: &str, command: &Command) -> Result<()> {
        let arguments = self.arguments(command)?;
        let mut child = self.command(&arguments).stderr(Stdio::null()).spawn().context(ETCDCTL)?;
        let mut input = child.stdin.take().context("no input")?;
        input.write_all(command.input.as_bytes()).await?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        self.background.insert(name.to_owned(), Background { child, arguments, lines, _input: input });
        Ok(())
    }

    /// Waits until a command in the background has written so many lines, and ends it.
    pub async fn end(&mut self, name: &str, lines: usize) -> Result<String> {
        let mut background = self.background.remove(name).with_context(|| format!("nothing is called {name}"))?;
        let deadline = Instant::now() + Duration::from_secs(COMMAND_SECONDS_MAX);
        let mut output = String::new();
        for _ in 0..lines {
            let Ok(line) = timeout_at(deadline, background.lines.next_line()).await else {
                bail!("{name} does not come to {lines} lines; it wrote:\n{output}");
            };
            let line = line?.with_context(|| format!("{name} ended; it wrote:\n{output}"))?;
            output.push_str(&line);
            output.push('\n');
        }
        // As by the keyboard: it gives back its lock then, or its office.
        if let Some(id) = background.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            rustix::process::kill_process(id, Signal::INT)?;
        }
        let ended = timeout_at(deadline, background.child.wait()).await;
        ended.with_context(|| format!("{name} does not end"))??;
        Ok(self.known.normalise(&background.arguments, output.as_bytes()))
    }

    fn command(&self, arguments: &[String]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(ETCDCTL);
        command.env("ETCDCTL_API", "3").current_dir(self.directory.path()).kill_on_drop(true);
        // In front, since others' commands may follow the arguments.
        if !arguments.iter().any(|argument| argument == "--endpoints") {
            command.args(["--endpoints", &self.server.address()]);
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn arguments(&self, command: &Command) -> Result<Vec<String>> {
        command.arguments.iter().map(|argument| self.fill(argument)).collect()
    }

    fn fill(&self, argument: &str) -> Result<String> {
        let mut filled = argument
            .replace("{client}", &self.server.address())
            .replace("{other}", &self.other.address())
            .replace("{member}", &self.member)
            .replace("{dir}", &self.directory.path().display().to_string());
        while let Some((before, rest)) = filled.split_once("{id") {
            let (number, after) = rest.split_once('}').context("a brace is not closed")?;
            let id = self.known.ids.get(number.parse()?).with_context(|| format!("no identifier {number} was told"))?;
            filled = format!("{before}{id}{after}");
        }
        Ok(filled)
    }
}
