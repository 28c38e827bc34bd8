//! `netstate cluster snapshot restore`.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use kv_core::{Keyspace, Revision, Timestamp};
use kv_node::{Member, Point, RAISE_DEFAULT, RAISE_MAX, RestoreError, RestoreOrder, RestoredKeyspace, RestoredNode};
use serde_json::{Value, json};

use super::{Shown, blocking};
use crate::{
    commands,
    console::{Console, talk},
    failure::Failure,
    human, json,
    moment::Moment,
    settings,
    values::At,
};

/// Make a node's data directory from a backup, without a server
///
/// Run it for each founder of the new cluster, on that founder's machine, with the same backup and the same options but
/// --name and --data-dir; then start the servers. The new cluster has an id of its own: nodes of the old one are refused.
///
/// Every keyspace goes on with a revision that nobody has seen, and whoever resumes a watch from an earlier one is told to
/// start over. Leases get their full time.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate cluster snapshot restore latest.backup --name n1 --data-dir /var/lib/netstate \\
      --initial-cluster n1=10.0.0.1:2380,n2=10.0.0.2:2380,n3=10.0.0.3:2380
  netstate cluster snapshot restore latest.backup --at 2026-11-28T05:00:00Z
  netstate cluster snapshot restore latest.backup --keyspace-revision netstate/directory@17 --keyspace-revision default@9")]
pub(crate) struct Restore {
    /// The backup
    file: PathBuf,
    /// The founder's name, one of those in --initial-cluster
    #[arg(long, default_value = "n1")]
    name: String,
    /// Where its data will lie: a folder that is not there, or empty
    #[arg(long, value_name = "DIR", default_value = "./netstate-data")]
    data_dir: PathBuf,
    /// All founders of the new cluster, as name=host:port of their peer ports [default: this one alone, at 127.0.0.1:2380]
    #[arg(long, value_name = "NAME=HOST:PORT,…", value_delimiter = ',', value_parser = member)]
    initial_cluster: Vec<Member>,
    /// Restore every keyspace as it was at this time
    #[arg(long, value_name = "TIME", conflicts_with = "keyspace_revision")]
    at: Option<Moment>,
    /// Restore this keyspace as it was at this revision, and the others as they are in the backup
    #[arg(long, value_name = "KEYSPACE@REVISION")]
    keyspace_revision: Vec<At>,
    /// How far to raise every keyspace's revision: more than it was written since the backup was made
    #[arg(long, value_name = "N", default_value_t = RAISE_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=RAISE_MAX))]
    raise: u64,
    /// A word of your own that makes this cluster another one than the last that was restored from the same backup
    #[arg(long, value_name = "WORD", default_value = "")]
    token: String,
}

fn member(text: &str) -> Result<Member, String> {
    match text.trim().split_once('=') {
        Some((name, peer)) if !name.is_empty() => Ok(Member { name: name.to_owned(), peer: peer.to_owned() }),
        _ => Err("write name=host:port for each node, with commas between".into()),
    }
}

pub(crate) async fn run(args: Restore, console: Console) -> Result<(), Failure> {
    let began = Instant::now();
    let order = order(args)?;
    let shown = Shown::new(console);
    let (telling, told) = (shown.clone(), order.clone());
    let restored = blocking(move || {
        kv_node::restore(&told, &mut |read, of| {
            let what = if read * 2 <= of { "verifying" } else { "restoring" };
            telling.tell(&format!("{what}: {} of {}", human::bytes(read), human::bytes(of)), read, of);
        })
    })
    .await;
    shown.end();
    let made = restored?.map_err(failed)?;
    console.answer(|| as_json(&order, &made), || as_text(&order, &made, console))?;
    notes(&order, &made);
    talk(format_args!("restored in {}; when all founders are, start each of them:", human::span(began.elapsed())));
    talk(format_args!(
        "  netstate server --name {} --data-dir {} --initial-cluster {} …",
        order.name,
        order.data_dir.display(),
        founders(&order)
    ));
    Ok(())
}

fn order(args: Restore) -> Result<RestoreOrder, Failure> {
    let alone = || vec![Member { name: args.name.clone(), peer: "127.0.0.1:2380".into() }];
    let point = match (args.at, args.keyspace_revision.is_empty()) {
        (Some(at), _) => Point::Time(Timestamp::from_micros(at.micros())),
        (None, true) => Point::Latest,
        (None, false) => Point::Revisions(named(&args.keyspace_revision)?),
    };
    Ok(RestoreOrder {
        initial_cluster: if args.initial_cluster.is_empty() { alone() } else { args.initial_cluster },
        file: args.file,
        name: args.name,
        data_dir: args.data_dir,
        token: args.token,
        raise: args.raise,
        point,
        forget: settings::members_keyspace().into_iter().collect(),
    })
}

fn named(given: &[At]) -> Result<BTreeMap<Keyspace, Revision>, Failure> {
    let mut named = BTreeMap::new();
    for At { keyspace, revision } in given {
        let name = Keyspace::new(keyspace).map_err(|error| Failure::usage(format!("{keyspace:?}: {error}")))?;
        if named.insert(name, Revision::new(*revision)).is_some() {
            return Err(Failure::usage(format!("{keyspace} is given two revisions; give it one")));
        }
    }
    Ok(named)
}

fn failed(error: RestoreError) -> Failure {
    match error {
        RestoreError::Config(_) | RestoreError::Raise { .. } => Failure::usage(error.to_string()),
        RestoreError::Backup(_) | RestoreError::Restore(_) | RestoreError::Membership(_) => Failure::refused(error),
    }
}

fn founders(order: &RestoreOrder) -> String {
    let founders = order.initial_cluster.iter().map(|member| format!("{}={}", member.name, member.peer));
    founders.collect::<Vec<_>>().join(",")
}

/// What is not as somebody might expect.
fn notes(order: &RestoreOrder, made: &RestoredNode) {
    if order.point == Point::Latest {
        return;
    }
    let ended: u64 = made.restored.keyspaces.iter().map(|keyspace| keyspace.leases_ended).sum();
    talk("leases, users and roles have no history: they are as in the backup");
    if ended > 0 {
        let leases = human::things(ended, "lease");
        talk(format_args!(
            "{leases} had ended since and {} granted anew for 10 minutes, so that the owners can take them up again",
            if ended == 1 { "is" } else { "are" }
        ));
    }
}

fn as_json(order: &RestoreOrder, made: &RestoredNode) -> Value {
    let keyspace = |keyspace: &RestoredKeyspace| {
        json!({
            "group": keyspace.group.get(),
            "keyspace": keyspace.name.as_str(),
            "restored_revision": keyspace.revision.get(),
            "restored_at": json::time(keyspace.at.micros()),
            "backup_revision": keyspace.head.get(),
            "raised_revision": keyspace.raised.get(),
            "keys": keyspace.keys,
            "leases_ended": keyspace.leases_ended,
        })
    };
    json!({
        "cluster_id": made.cluster.to_string(),
        "old_cluster_id": made.contents.header.cluster.to_string(),
        "name": order.name,
        "node_id": made.node.get(),
        "data_dir": order.data_dir.display().to_string(),
        "groups": made.contents.header.groups,
        "blake3": json::hex(made.contents.digest.get()),
        "keyspaces": made.restored.keyspaces.iter().map(keyspace).collect::<Vec<_>>(),
    })
}

fn as_text(order: &RestoreOrder, made: &RestoredNode, console: Console) -> String {
    let header = &made.contents.header;
    let facts = commands::facts(&[
        ("cluster", made.cluster.to_string()),
        ("of backup", format!("{}, made {}", header.cluster, human::moment(header.at.micros()))),
        ("node", format!("{} ({})", order.name, made.node)),
        ("founders", founders(order)),
        ("data", order.data_dir.display().to_string()),
        ("groups", header.groups.to_string()),
    ]);
    let row = |keyspace: &RestoredKeyspace| {
        vec![
            keyspace.group.to_string(),
            keyspace.name.to_string(),
            keyspace.revision.to_string(),
            if keyspace.at.micros() == 0 { "-".into() } else { human::moment(keyspace.at.micros()) },
            keyspace.head.to_string(),
            keyspace.raised.to_string(),
            human::count(keyspace.keys),
        ]
    };
    let header = ["group", "keyspace", "restored", "of", "in backup", "goes on from", "keys"];
    format!("{facts}\n\n{}", console.table(&header, made.restored.keyspaces.iter().map(row).collect()))
}
