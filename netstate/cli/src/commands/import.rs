//! `netstate import etcd`.

use std::{
    future::Future,
    sync::Mutex,
    time::{Duration, Instant},
};

use etcd_proto::etcdserverpb::{
    AuthenticateRequest, StatusRequest, auth_client::AuthClient, maintenance_client::MaintenanceClient,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kv_import::{Advice, Difference, ImportError, Options, Position, Progress, Side, Verified};
use netstate_client::{ClientError, Tried};
use serde_json::json;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    commands::signals::Ends,
    console::{Console, talk},
    failure::Failure,
    session::Global,
};

/// How long a server may take to accept a connection, and between two signs of life on one that is idle.
const CONNECT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Between two lines of progress where nothing that moves can be shown.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Copy another store into a keyspace while it is in use
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Copy a live etcd into a keyspace, and follow its changes until told to switch
    ///
    /// Every key is copied as it is at one revision, then every later revision is repeated in order, as one transaction
    /// each. To switch: stop the writers of etcd, press ctrl-c here, and point them to this store once it says that all is
    /// over. Killed or cut off it goes on where it was when started again.
    #[command(after_help = "Examples:
  netstate import etcd --from 10.0.0.1:2379,10.0.0.2:2379
  netstate import etcd --from 10.0.0.1:2379 --prefix /registry/ --keyspace kubernetes --verify
  netstate import etcd --from 10.0.0.1:2379 --once --verify -o json")]
    Etcd(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Members of the etcd, as host:port
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    from: Vec<String>,
    /// Only the keys that start so
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
    /// The keyspace to copy into
    #[arg(long, value_name = "NAME", default_value = "default")]
    keyspace: String,
    /// Compare both sides at the end, key by key
    #[arg(long)]
    verify: bool,
    /// Switch as soon as everything is copied instead of waiting for ctrl-c
    #[arg(long)]
    once: bool,
    /// Replace what the keyspace has under the prefix already
    #[arg(long)]
    overwrite: bool,
    /// User of the etcd; the password is read from $NETSTATE_FROM_PASSWORD
    #[arg(long, value_name = "USER")]
    from_user: Option<String>,
    /// User of the keyspace; the password is read from $NETSTATE_PASSWORD
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

pub(crate) async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    let Command::Etcd(args) = command;
    let console = Console::new(global.output);
    let source = side(&args.from, args.from_user.as_deref(), "NETSTATE_FROM_PASSWORD").await?;
    let target = side(&global.servers, args.user.as_deref(), "NETSTATE_PASSWORD").await?;
    let target = target.with_keyspace(&args.keyspace).map_err(Failure::refused)?;
    let options = Options { prefix: args.prefix.clone().into(), overwrite: args.overwrite, ..Options::default() };
    let shown = Shown::new(console);
    let report = |progress| shown.tell(&progress);
    let mut ends = Ends::listen()?;

    let from = interruptible(&mut ends, Box::pin(kv_import::copy(&source, &target, &options, &report))).await?;
    let followed = {
        if !args.once {
            shown.say("copied; following changes: stop etcd's writers, then press ctrl-c to switch");
        }
        let (once, switch) = (args.once, ends.arrived());
        let stop = async move {
            if !once {
                switch.await;
            }
        };
        kv_import::follow(&source, &target, &options, from, stop, &report).await.map_err(failed)?
    };
    let verified = match args.verify {
        true => {
            let verifying = kv_import::verify(&source, &target, &options, Some(followed), &report);
            Some(interruptible(&mut ends, Box::pin(verifying)).await?)
        }
        false => None,
    };
    let same = verified.as_ref().is_none_or(|verified| verified.differing == 0);
    if same {
        kv_import::finish(&target, &options).await.map_err(failed)?;
    }
    shown.end();
    console.answer(|| as_json(followed, verified.as_ref()), || as_text(followed, verified.as_ref()))?;
    match same {
        true => Ok(()),
        false => {
            Err(Failure::False(Some("the two sides differ; the import is not over and can be taken up again".into())))
        }
    }
}

/// One side, which answers, and its user logged in.
async fn side(servers: &[String], user: Option<&str>, password: &str) -> Result<Side, Failure> {
    let endpoint = |server: &String| {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.trim()))
            .map_err(|error| Failure::usage(format!("{server:?} is no host:port: {error}")))?;
        Ok(endpoint.connect_timeout(CONNECT).http2_keep_alive_interval(KEEPALIVE).keep_alive_while_idle(true))
    };
    let endpoints = servers.iter().map(endpoint).collect::<Result<Vec<_>, Failure>>()?;
    let channel = Channel::balance_list(endpoints.into_iter());
    let mut asking = MaintenanceClient::new(channel.clone());
    let answers = tokio::time::timeout(CONNECT, asking.status(StatusRequest {})).await;
    // A refusal is an answer too.
    if answers.is_err() || matches!(answers, Ok(Err(status)) if status.code() == Code::Unavailable) {
        let tried = servers.iter().map(|server| Tried { address: server.clone(), reason: "no answer".into() });
        return Err(ClientError::Unreachable { tried: tried.collect() }.into());
    }
    let side = Side::new(channel.clone());
    let Some(name) = user else { return Ok(side) };
    let secret = std::env::var(password)
        .map_err(|_| Failure::usage(format!("the password of {name} is expected in the variable {password}")))?;
    let request = AuthenticateRequest { name: name.into(), password: secret };
    let answer = AuthClient::new(channel).authenticate(request).await;
    let answer = answer.map_err(|status| Failure::because(format!("{name} cannot log in: {}", status.message())))?;
    side.with_token(&answer.into_inner().token).map_err(Failure::refused)
}

/// Gives up when a signal arrives.
async fn interruptible<T>(ends: &mut Ends, work: impl Future<Output = Result<T, ImportError>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done.map_err(failed),
        signal = ends.arrived() => {
            Err(Failure::because(format!("interrupted by {signal}; started again it goes on where it was")))
        }
    }
}

fn failed(error: ImportError) -> Failure {
    let again = match error.advice() {
        Advice::Again => "; started again it goes on where it was",
        Advice::Change if matches!(error, ImportError::NotEmpty { .. }) => " (--overwrite)",
        Advice::Change => "",
    };
    Failure::because(format!("{:#}{again}", anyhow::Error::new(error)))
}

/// The progress on standard error: one line that changes, or a line now and then where nobody sees it change.
struct Shown {
    bar: Option<ProgressBar>,
    said: Mutex<Option<Instant>>,
}

impl Shown {
    fn new(console: Console) -> Self {
        let bar = console.is_live().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Shown { bar, said: Mutex::default() }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => talk(text),
        }
    }

    fn tell(&self, progress: &Progress) {
        let text = words(progress);
        let Some(bar) = &self.bar else {
            let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if said.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                *said = Some(Instant::now());
                talk(text);
            }
            return;
        };
        let template = match progress {
            Progress::Copying { keys, of_keys, .. } => {
                bar.set_length(*of_keys);
                bar.set_position(*keys);
                "{spinner} {elapsed} [{bar:30}] {wide_msg}"
            }
            _ => "{spinner} {elapsed} {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(text);
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn words(progress: &Progress) -> String {
    match progress {
        Progress::Copying { keys, of_keys, bytes, revision } => {
            format!("copying revision {}: {keys} of {of_keys} keys, {:.1} MB", revision.get(), *bytes as f64 / 1e6)
        }
        Progress::StartedOver { compacted } => {
            format!("etcd has compacted revision {}; comparing everything again", compacted.get())
        }
        Progress::Following { source_revision, applied_revision, behind } => {
            let (at, applied) = (source_revision.get(), applied_revision.get());
            format!("following: etcd is at {at}, {applied} is here, {behind} behind; ctrl-c switches")
        }
        Progress::Switching { until } => format!("switching: waiting for revision {}", until.get()),
        Progress::Leases { held } => format!("{held} leases are kept alive here"),
        Progress::Verifying { keys, differences } => format!("comparing: {keys} keys, {differences} differ"),
    }
}

fn named(difference: &Difference) -> (&'static str, String) {
    let (what, key) = match difference {
        Difference::Missing { key } => ("missing here", key),
        Difference::Extra { key } => ("only here", key),
        Difference::Value { key } => ("another value", key),
        Difference::Lease { key, .. } => ("another lease", key),
    };
    (what, key.escape_ascii().to_string())
}

fn as_json(at: Position, verified: Option<&Verified>) -> serde_json::Value {
    let differences = |verified: &Verified| {
        let differences = verified.differences.iter().map(named);
        let differences = differences.map(|(what, key)| json!({ "key": key, "difference": what }));
        let differences: Vec<_> = differences.collect();
        json!({ "keys": verified.keys, "differing": verified.differing, "differences": differences })
    };
    json!({
        "source_revision": at.source.get(),
        "target_revision": at.target.get(),
        "verified": verified.map(differences),
    })
}

fn as_text(at: Position, verified: Option<&Verified>) -> String {
    let mut text = format!("etcd's revision {} is here as revision {}", at.source.get(), at.target.get());
    if let Some(verified) = verified {
        text.push_str(&format!("\n{} keys compared, {} differ", verified.keys, verified.differing));
        for (what, key) in verified.differences.iter().map(named) {
            text.push_str(&format!("\n  {what}: {key}"));
        }
    }
    text
}
