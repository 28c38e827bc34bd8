//! The loop: frames, expiries, others' changes and retries in; one step of enforcement after another out.

use std::time::Duration;

use futures::FutureExt as _;
use netstate_client::{Client, ClientError, Options, ReceivedFrame};
use netstate_model::Timestamp;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{AgentConfig, ConfigError},
    enforce::{Enforcer, Outcome},
    kernel::{Kernel, Monitor},
    plan,
    scope::{
        FrameError, HostScope, Step,
        store::{ScopeFile, ScopeFileError},
    },
    source::{Registration, ScopeSource, Watch},
};

/// Frames that are applied before the kernel is told. More wait on the server.
const FRAMES_AT_ONCE_MAX: usize = 64;
/// Before what failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Others' changes come in bursts; one look answers them all.
const REPAIR_PAUSE: Duration = Duration::from_millis(20);

/// Why an agent did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its options were refused.
    #[error("{}", list(.0))]
    Config(Vec<ConfigError>),
    /// The servers' addresses were refused.
    #[error("server list refused")]
    Servers(#[source] ClientError),
    /// The scope could not be kept on disk, so nothing newer than what is there may be enforced.
    #[error("the host's scope can't be kept")]
    State(#[source] ScopeFileError),
}

/// One host's agent.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    file: ScopeFile,
    scope: HostScope,
    enforcer: Enforcer,
    /// Elements are left as they were found until the scope is complete: see [`Enforcer::hold`].
    holding: bool,
    /// The last frame applied, and whether it has been acknowledged without a problem.
    last: Option<(u64, u64)>,
    settled: bool,
    retry_at: Option<Instant>,
    compare_at: Instant,
    said: Vec<String>,
}

enum Event {
    Frame(ReceivedFrame),
    Expiry,
    Compare,
    Changed,
    Retry,
    Shutdown,
}

/// Runs an agent until `shutdown`. What it enforces stays in force afterwards.
///
/// # Errors
/// When options are refused or the state folder can't be used. Losing the servers, or a kernel that refuses something, is
/// not a reason to end.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    let client = Client::connect(config.servers.clone(), Options::default()).map_err(AgentError::Servers)?;
    let registration =
        Registration { host: config.host.clone(), underlay: config.underlay, labels: config.labels.clone() };
    let mut agent = Agent::new(config)?;
    agent.run(&mut Watch::new(client, registration), shutdown).await
}

impl Agent {
    /// An agent with the scope that is on disk. Touches nothing yet.
    ///
    /// # Errors
    /// When options are refused or the state folder can't be read. A damaged scope is set aside, not an error.
    pub fn new(config: AgentConfig) -> Result<Self, AgentError> {
        let table = config.check().map_err(AgentError::Config)?;
        let kernel = match config.dry_run {
            true => Kernel::printed(table),
            false => Kernel::real(table, config.host_netns.clone()),
        };
        let file = ScopeFile::new(&config.state_dir);
        let scope = match file.load() {
            Ok(scope) => scope.unwrap_or_default(),
            Err(error @ (ScopeFileError::Damaged { .. } | ScopeFileError::Version { .. })) => {
                tracing::error!(%error, "scope on disk is of no use");
                if !config.dry_run {
                    file.set_aside().map_err(AgentError::State)?;
                }
                HostScope::default()
            }
            Err(error) => return Err(AgentError::State(error)),
        };
        let enforcer = Enforcer::new(kernel, config.underlay);
        let (holding, last, settled) = (false, None, true);
        let (retry_at, compare_at, said) = (None, Instant::now() + config.compare_every, Vec::new());
        Ok(Agent { config, file, scope, enforcer, holding, last, settled, retry_at, compare_at, said })
    }

    /// What the agent holds.
    pub fn scope(&self) -> &HostScope {
        &self.scope
    }

    /// Enforces what is on disk, then follows the source until `shutdown`.
    ///
    /// # Errors
    /// When the scope can't be kept on disk.
    pub async fn run(&mut self, source: &mut impl ScopeSource, shutdown: CancellationToken) -> Result<(), AgentError> {
        self.start().await;
        let mut monitor = self.enforcer.kernel().monitor();
        loop {
            match self.event(source, &mut monitor, &shutdown).await {
                Event::Shutdown => return Ok(()),
                Event::Frame(frame) => self.frames(source, frame).await?,
                Event::Expiry | Event::Retry => self.step(source, false).await,
                Event::Compare => self.step(source, true).await,
                Event::Changed => {
                    time::sleep(REPAIR_PAUSE).await;
                    self.step(source, true).await;
                }
            }
        }
    }

    async fn start(&mut self) {
        // Without a whole scope, a table of an earlier run says more than this agent knows.
        self.holding = !self.scope.complete && self.enforcer.table_exists().await.unwrap_or(true);
        let outcome = self.enforce(true).await;
        self.report(&outcome);
    }

    async fn event(
        &self,
        source: &mut impl ScopeSource,
        monitor: &mut Option<Monitor>,
        shutdown: &CancellationToken,
    ) -> Event {
        let expiry = self.scope.next_expiry(now()).map(|at| Instant::now() + until(at));
        let changed = async {
            match monitor {
                Some(monitor) => monitor.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => Event::Shutdown,
            () = at(expiry) => Event::Expiry,
            () = changed => Event::Changed,
            frame = source.next(&self.scope) => Event::Frame(frame),
            () = at(self.retry_at) => Event::Retry,
            () = time::sleep_until(self.compare_at) => Event::Compare,
        }
    }

    /// Applies a frame and those that wait behind it, then brings the kernel along once.
    async fn frames(&mut self, source: &mut impl ScopeSource, first: ReceivedFrame) -> Result<(), AgentError> {
        let mut next = Some(first);
        for _ in 0..FRAMES_AT_ONCE_MAX {
            let Some(received) = next else { break };
            let number = received.frame.frame;
            if let Err(error) = self.apply(received.frame) {
                tracing::error!(%error, "frame refused; beginning a new stream");
                source.ack(received.stream, number, error.to_string());
                source.reopen();
                break;
            }
            self.last = Some((received.stream, number));
            self.settled = false;
            next = source.next(&self.scope).now_or_never();
        }
        // On disk first: a restart must not go back to what this revokes.
        if !self.config.dry_run {
            let (file, scope) = (self.file.clone(), self.scope.clone());
            let saved = tokio::task::spawn_blocking(move || file.save(&scope)).await;
            saved.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())).map_err(AgentError::State)?;
        }
        self.step(source, false).await;
        Ok(())
    }

    fn apply(&mut self, frame: netstate_proto::v1::ScopeFrame) -> Result<(), FrameError> {
        self.scope.apply(Step::try_from(frame)?)
    }

    async fn step(&mut self, source: &mut impl ScopeSource, thorough: bool) {
        if self.scope.complete {
            self.holding = false;
        }
        if thorough {
            self.compare_at = Instant::now() + self.config.compare_every;
        }
        let outcome = self.enforce(thorough).await;
        self.report(&outcome);
        if let Some((stream, frame)) = self.last
            && !self.settled
            && !self.holding
        {
            let problem = match (&outcome.problem, self.config.dry_run) {
                (Some(problem), _) => problem.clone(),
                (None, true) => "this agent only prints what it would do (--dry-run)".to_owned(),
                (None, false) => String::new(),
            };
            self.settled = problem.is_empty();
            source.ack(stream, frame, problem);
        }
        // Nobody waits for this: the flows are stopped already.
        if let Err(error) = self.enforcer.kernel().forget(&outcome.flows).await {
            tracing::warn!(%error, "stopped flows stay known to connection tracking until they time out");
        }
    }

    async fn enforce(&mut self, thorough: bool) -> Outcome {
        if self.holding {
            return self.enforcer.hold().await;
        }
        let wanted = plan::wanted(&self.scope, &self.config.netns_dir, now());
        self.enforcer.enforce(&wanted, thorough).await
    }

    /// Says what is new, and arranges for another attempt.
    fn report(&mut self, outcome: &Outcome) {
        if outcome.repaired {
            tracing::warn!(table = %self.enforcer.kernel().table().as_str(), "somebody else changed the table; put right");
        }
        let said: Vec<String> = outcome.problem.iter().chain(&outcome.notes).cloned().collect();
        for new in said.iter().filter(|new| !self.said.contains(new)) {
            tracing::warn!("{new}");
        }
        self.retry_at = (!said.is_empty()).then(|| Instant::now() + RETRY_PAUSE);
        self.said = said;
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Connections expire by the host's own clock, so that they do with the store gone.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn until(then: Timestamp) -> Duration {
    Duration::from_micros(then.micros().saturating_sub(now().micros()).max(0).unsigned_abs())
}

fn list(errors: &[ConfigError]) -> String {
    let one = |error: &ConfigError| match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    errors.iter().map(one).collect::<Vec<_>>().join("; ")
}
