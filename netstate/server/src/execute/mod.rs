//! Commands, carried out: on the node that leads the keyspace, decided one after the other, committed together.
//!
//! ```text
//!  execute ──► leads here? ──► the keyspace's task: decide a batch ──► commit ──► changes
//!                  │ no
//!                  └──► the leader's node, over the link (`forward`)
//! ```
//!
//! Must hold: a command is decided against everything committed before it; its request id makes it happen once, however
//! often it is sent; what it changed is the answer, the first time and every time it is repeated.

mod task;

pub(crate) use task::records;

use std::{collections::HashMap, sync::Arc, time::Duration};

use kv_core::{Keyspace, RequestId, Revision};
use kv_node::{CallError, Clock, CommitError, Node};
use netstate_model::{
    DirectoryChange, DirectoryCommand, NetworkChange, NetworkCommand, NetworkId, Refusal, RefusalKind,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    forward::{self, Call},
    keyspaces::Home,
    view::View,
};

/// Commands that wait for one keyspace.
const QUEUE_COMMANDS: usize = 1024;

/// How long a command may take before its outcome is called unknown. Longer than an election.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts to find the leader.
const PAUSE: Duration = Duration::from_millis(10);

/// A command to one of the two kinds of keyspace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Directory(DirectoryCommand),
    Network(NetworkId, NetworkCommand),
}

/// A command, who gives it, why, and under which id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) command: Command,
    pub(crate) actor: String,
    pub(crate) reason: String,
    pub(crate) request: RequestId,
}

/// Changes of one of the two kinds of keyspace.
#[derive(Clone, Debug)]
pub(crate) enum Changes {
    Directory(Vec<DirectoryChange>),
    Network(Vec<NetworkChange>),
}

/// What a command came to.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// The revision that it made, or the one at which it had nothing to change.
    pub(crate) revision: Revision,
    pub(crate) changes: Changes,
}

/// Why a command did not come to anything.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum ExecuteError {
    /// Refused; nothing was changed.
    #[error("{message}")]
    Refused { kind: Kind, message: String },
    /// Nothing was changed: this node does not lead the keyspace.
    #[error("the keyspace is led elsewhere")]
    NotLeader,
    /// Nothing was changed: not possible now.
    #[error("{message}")]
    Unavailable { message: String },
    /// Nothing was changed: no room, or too much at once.
    #[error("{message}")]
    Exhausted { message: String },
    /// It may have been done or be done yet.
    #[error("outcome unknown: no answer in time; repeat with the same request id to learn it")]
    Unknown,
}

/// [`RefusalKind`], as sent between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Invalid,
    NotFound,
    AlreadyExists,
    Precondition,
    Exhausted,
    NotReady,
}

impl From<&Refusal> for ExecuteError {
    fn from(refusal: &Refusal) -> Self {
        let kind = match refusal.kind() {
            RefusalKind::Invalid => Kind::Invalid,
            RefusalKind::NotFound => Kind::NotFound,
            RefusalKind::AlreadyExists => Kind::AlreadyExists,
            RefusalKind::Precondition => Kind::Precondition,
            RefusalKind::Exhausted => Kind::Exhausted,
            RefusalKind::NotReady => Kind::NotReady,
        };
        ExecuteError::Refused { kind, message: refusal.to_string() }
    }
}

impl From<CommitError> for ExecuteError {
    fn from(error: CommitError) -> Self {
        match error {
            // Where it moves to, somebody else may lead.
            CommitError::NotLeader { .. } | CommitError::Moving { .. } => ExecuteError::NotLeader,
            CommitError::Unknown { .. } => ExecuteError::Unknown,
            CommitError::Overloaded { .. } | CommitError::DiskFull { .. } | CommitError::TooLarge { .. } => {
                ExecuteError::Exhausted { message: error.to_string() }
            }
            CommitError::KeyTwice { .. } | CommitError::Refused(_) | CommitError::OutOfService { .. } => {
                ExecuteError::Unavailable { message: error.to_string() }
            }
        }
    }
}

impl Command {
    /// Where it is decided.
    pub(crate) fn home(&self) -> Home {
        match self {
            Command::Directory(_) => Home::Directory,
            Command::Network(id, _) => Home::Network(*id),
        }
    }
}

struct Job {
    asked: Asked,
    answer: oneshot::Sender<Result<Done, ExecuteError>>,
}

/// Carries out commands. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Executor(Arc<Inner>);

struct Inner {
    node: Node,
    view: Arc<View>,
    clock: Arc<dyn Clock>,
    /// The keyspaces that have had something to do lately.
    queues: Mutex<HashMap<Keyspace, mpsc::Sender<Job>>>,
}

impl Executor {
    pub(crate) fn new(node: Node, view: Arc<View>, clock: Arc<dyn Clock>) -> Self {
        Executor(Arc::new(Inner { node, view, clock, queues: Mutex::default() }))
    }

    /// Carries out a command, wherever it is decided.
    pub(crate) async fn execute(&self, asked: Asked) -> Result<Done, ExecuteError> {
        let home = asked.command.home();
        let keyspace = home.keyspace();
        let deadline = Instant::now() + PATIENCE;
        // Nobody was found to carry it out, so far; or it is not known what became of it.
        let message = format!("{} has no leader now; try again in a moment", self.0.node.group_of(&keyspace));
        let mut end = ExecuteError::Unavailable { message };
        while Instant::now() < deadline {
            // It may move meanwhile.
            let group = self.0.node.group_of(&keyspace);
            let attempt = match self.0.node.leader(group) {
                None => Err(ExecuteError::NotLeader),
                Some(leader) if leader == self.0.node.id() => {
                    timeout_at(deadline, self.execute_here(asked.clone())).await.unwrap_or(Err(ExecuteError::Unknown))
                }
                Some(leader) => self.forward(leader, &asked, deadline).await,
            };
            match attempt {
                Err(ExecuteError::NotLeader) => {}
                // The request id makes it safe to ask again, and asking again tells.
                Err(ExecuteError::Unknown) => end = ExecuteError::Unknown,
                other => return other,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(end)
    }

    async fn forward(&self, leader: kv_core::NodeId, asked: &Asked, deadline: Instant) -> Result<Done, ExecuteError> {
        let call = forward::encode(&Call::Execute(asked.clone()));
        let patience = deadline.saturating_duration_since(Instant::now());
        match self.0.node.call(leader, call, patience).await {
            Ok(answer) => forward::decode_done(asked.command.home(), &answer),
            Err(CallError::Unreachable { .. }) => Err(ExecuteError::NotLeader),
            Err(CallError::Timeout { .. }) => Err(ExecuteError::Unknown),
            Err(CallError::Refused { reason, .. }) => Err(ExecuteError::Unavailable { message: reason }),
        }
    }

    /// Carries out a command if this node leads its keyspace.
    pub(crate) async fn execute_here(&self, asked: Asked) -> Result<Done, ExecuteError> {
        let home = asked.command.home();
        let (answer, answered) = oneshot::channel();
        let mut job = Job { asked, answer };
        loop {
            let queue = self.queue(home);
            match queue.try_send(job) {
                Ok(()) => break,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    let message = format!("{QUEUE_COMMANDS} commands wait for {}; try again", home.keyspace());
                    return Err(ExecuteError::Exhausted { message });
                }
                // The task had nothing to do and ended just now.
                Err(mpsc::error::TrySendError::Closed(back)) => {
                    self.0.queues.lock().remove(&home.keyspace());
                    job = back;
                }
            }
        }
        answered.await.unwrap_or(Err(ExecuteError::Unknown))
    }

    fn queue(&self, home: Home) -> mpsc::Sender<Job> {
        let keyspace = home.keyspace();
        let mut queues = self.0.queues.lock();
        let known = queues.get(&keyspace).filter(|queue| !queue.is_closed());
        if let Some(queue) = known {
            return queue.clone();
        }
        let (queue, jobs) = mpsc::channel(QUEUE_COMMANDS);
        tokio::spawn(task::run(self.0.clone(), home, jobs));
        queues.insert(keyspace, queue.clone());
        queue
    }
}
