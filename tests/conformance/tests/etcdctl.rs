//! Every command of Debian's etcdctl, at etcd and at the system under test.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use etcd_conformance::check::check;
use etcd_conformance::script::{self, Step};
use etcd_conformance::server::ETCDCTL;
use etcd_conformance::suite;

macro_rules! scripts {
    ($($name:ident)*) => {
        const SCRIPTS: &[&str] = &[$(concat!(stringify!($name), ".txt")),*];

        $(
            #[tokio::test]
            async fn $name() -> Result<()> {
                check(concat!(stringify!($name), ".txt")).await
            }
        )*
    };
}

scripts! { kv txn compaction watch lease concurrency auth cluster snapshot mirror local check_servers }

/// The commands that etcdctl's help lists.
fn listed(help: &str) -> Vec<String> {
    let commands = help.lines().skip_while(|line| *line != "COMMANDS:").skip(1).take_while(|line| *line != "OPTIONS:");
    let names = commands.filter_map(|line| line.trim().split('\t').next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
async fn no_command_is_forgotten() -> Result<()> {
    let mut help = Command::new(ETCDCTL);
    help.env("ETCDCTL_API", "3").arg("help");
    let commands = listed(&suite::run(help).await?.ok("etcdctl help")?);
    ensure!(commands.len() > 40, "the list of commands is read wrongly: {commands:?}");
    let mut used = Vec::new();
    for name in SCRIPTS {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("etcdctl").join(name))?;
        used.extend(script::parse(&text)?.into_iter().filter_map(|step| match step {
            Step::Run { command, .. } | Step::Repeat { command, .. } | Step::Start { command, .. } => {
                Some(command.text)
            }
            Step::Stop { .. } => None,
        }));
    }
    let is_used = |name: &String| used.iter().any(|text| text == name || text.starts_with(&format!("{name} ")));
    let forgotten: Vec<_> = commands.iter().filter(|name| !is_used(name)).collect();
    ensure!(forgotten.is_empty(), "no script has {forgotten:?}");
    Ok(())
}
