//! What every command that asks a cluster has: who asks, which servers, how patiently, and where the answer goes.

use std::time::Duration;

use netstate_client::{Client, Options};
use netstate_proto::v1 as pb;

use crate::{
    console::{Console, Format},
    failure::Failure,
    values::Span,
};

/// How long a call may take, retries included, unless `--timeout` says otherwise.
const CALL_TIMEOUT: Span = Span::seconds(15);
/// How long to wait for hosts, unless `--timeout` says otherwise.
const WAIT_TIMEOUT: Span = Span::seconds(60);
/// The longest attempt at one server: a batch of ten thousand endpoints on a busy cluster is done by then.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options of every command that asks a cluster")]
pub(crate) struct Global {
    /// Servers of the cluster, as host:port; another one is asked when one doesn't answer
    #[arg(long, global = true, value_delimiter = ',', env = "NETSTATE_SERVERS", default_value = "127.0.0.1:2379")]
    pub(crate) servers: Vec<String>,
    /// How to write data
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// How long to try: 500ms, 15s, 2m. [default: 15s, and 60s where hosts are waited for]
    #[arg(long, global = true, value_name = "SPAN")]
    pub(crate) timeout: Option<Span>,
    /// Who asks, for the audit trail [default: $USER@hostname]
    #[arg(long, global = true, env = "NETSTATE_ACTOR")]
    pub(crate) actor: Option<String>,
    /// Repeat a change whose outcome is unknown, under the id that was told then: it is not done twice
    #[arg(long, global = true, value_name = "UUID")]
    pub(crate) request_id: Option<uuid::Uuid>,
}

/// A command's way to the cluster and back to its user.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) console: Console,
    pub(crate) servers: Vec<String>,
    timeout: Option<Span>,
    actor: String,
    request_id: Option<uuid::Uuid>,
}

impl Session {
    /// Prepares to ask; connects at the first call. Must be called within the runtime.
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let servers: Vec<String> = global.servers.iter().map(|server| server.trim().to_owned()).collect();
        let deadline = global.timeout.unwrap_or(CALL_TIMEOUT).get();
        let client = Client::connect(servers.clone(), options(deadline))?;
        let actor = global.actor.filter(|actor| !actor.is_empty()).unwrap_or_else(whoami);
        let console = Console::new(global.output);
        Ok(Session { client, console, servers, timeout: global.timeout, actor, request_id: global.request_id })
    }

    /// A client of its own connections, for load that one connection can't carry.
    pub(crate) fn another_client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.servers.clone(), options(self.timeout.unwrap_or(WAIT_TIMEOUT).get()))?)
    }

    /// A client for what takes its time, and is asked for once.
    pub(crate) fn patient(&self, patience: Duration) -> Result<Client, Failure> {
        let deadline = self.timeout.map_or(patience, Span::get);
        Ok(Client::connect(self.servers.clone(), Options { deadline, attempt: deadline, ..Options::default() })?)
    }

    /// How long to wait for hosts.
    pub(crate) fn patience(&self) -> Duration {
        self.timeout.unwrap_or(WAIT_TIMEOUT).get()
    }

    /// Who makes a change, and why.
    pub(crate) fn origin(&self, reason: &str) -> Option<pb::Origin> {
        Some(pb::Origin {
            actor: self.actor.clone(),
            reason: reason.to_owned(),
            request_id: self.request_id.map(|id| id.to_string()).unwrap_or_default(),
        })
    }

    /// Refuses `--request-id` where a command makes several changes.
    pub(crate) fn without_request_id(&self, what: &str) -> Result<(), Failure> {
        match self.request_id {
            Some(_) => {
                Err(Failure::usage(format!("--request-id names one change, and {what} makes several; leave it out")))
            }
            None => Ok(()),
        }
    }
}

fn options(deadline: Duration) -> Options {
    Options { deadline, attempt: ATTEMPT.min(deadline), ..Options::default() }
}

/// `user@host`, as far as the system tells.
fn whoami() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = named("USER").or_else(|| named("LOGNAME")).or_else(account).unwrap_or_else(|| "unknown".to_owned());
    format!("{user}@{}", hostname().unwrap_or_else(|| "unknown".to_owned()))
}

/// The name of the account that this process runs under, for shells and services that set no `$USER`.
fn account() -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let id = std::fs::metadata("/proc/self").ok()?.uid();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id.to_string()).then(|| name.to_owned())
    });
    Some(named.unwrap_or_else(|| format!("uid{id}")))
}

/// The name of this machine, if the system tells it.
pub(crate) fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
