//! Processes: start, feed, wait, and say what went wrong.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    process::{Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use netstate_model::NetnsName;
use tokio::{io::AsyncWriteExt, process::Command, time};

/// A process that takes longer is killed. 100,000 elements take a few seconds.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// What is kept of a process's complaints.
const COMPLAINT_BYTES_MAX: usize = 1024;
/// Processes remembered as own, so that the monitor can tell others' changes from ours. It lags by less.
const OWN_PROCESSES_MAX: usize = 64;

/// Why the kernel could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The program could not be started.
    #[error("{program} can't be run; install it, and run the agent as root")]
    Start {
        /// Which program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("{program} did not end within {} s", COMMAND_TIMEOUT.as_secs())]
    Timeout {
        /// Which program.
        program: String,
    },
    /// It failed.
    #[error("{program} refused: {complaint}")]
    Failed {
        /// Which program.
        program: String,
        /// What it wrote on standard error, shortened.
        complaint: String,
    },
    /// Its output was not understood.
    #[error(
        "{program} printed something unexpected: {problem}; this agent needs nftables 1.0.6 and iproute2 6.1 or newer"
    )]
    Output {
        /// Which program.
        program: String,
        /// What was odd.
        problem: String,
    },
}

/// Starts programs, in the agent's namespace or in a given one.
#[derive(Clone, Debug, Default)]
pub(super) struct Runner {
    netns: Option<NetnsName>,
    own: OwnProcesses,
}

/// The latest processes that were started from here.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnProcesses(Arc<Mutex<VecDeque<u32>>>);

impl OwnProcesses {
    fn add(&self, process: u32) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() == OWN_PROCESSES_MAX {
            own.pop_front();
        }
        own.push_back(process);
    }

    pub(super) fn contains(&self, process: u32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&process)
    }
}

impl Runner {
    pub(super) fn new(netns: Option<NetnsName>) -> Self {
        Runner { netns, own: OwnProcesses::default() }
    }

    pub(super) fn own(&self) -> &OwnProcesses {
        &self.own
    }

    /// A program in the host's namespace.
    pub(super) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let program = locate(program);
        let mut command = match &self.netns {
            None => Command::new(program),
            Some(netns) => {
                let mut command = Command::new(locate("ip"));
                command.args(["netns", "exec", netns.as_str()]).arg(program);
                command
            }
        };
        command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
        command
    }

    /// Runs a program to its end.
    pub(super) async fn output(&self, program: &str, arguments: &[&str], input: &str) -> Result<Output, KernelError> {
        let start = |source| KernelError::Start { program: program.to_owned(), source };
        let mut command = self.command(program, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(start)?;
        if let Some(process) = child.id() {
            self.own.add(process);
        }
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that ends without reading everything says why on its standard error.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let ended = time::timeout(COMMAND_TIMEOUT, both).await;
        ended.map_err(|_| KernelError::Timeout { program: program.to_owned() })?.map_err(start)
    }

    /// Runs a program that has to succeed, and takes what it prints.
    pub(super) async fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<Vec<u8>, KernelError> {
        let output = self.output(program, arguments, input).await?;
        if !output.status.success() {
            return Err(KernelError::Failed { program: program.to_owned(), complaint: complaint(&output) });
        }
        Ok(output.stdout)
    }
}

/// Where a program is. These live where an unprivileged user's path does not lead. Looked up here because a child with
/// another PATH can't be spawned without copying this process's page tables first, which takes longer than the program.
fn locate(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file()).unwrap_or_else(|| program.into())
}

/// What a program wrote on standard error, without line breaks and shortened.
pub(super) fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.truncate(words.floor_char_boundary(COMPLAINT_BYTES_MAX));
    if words.is_empty() { format!("no reason given ({})", output.status) } else { words }
}
