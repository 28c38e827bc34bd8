//! `netstate audit`: the trail of changes, and the proof that nobody has rewritten it.

use std::{collections::BTreeMap, time::Duration};

use netstate_proto::v1 as pb;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use crate::{console::talk, failure::Failure, human, json, session::Session};

/// Replicas that are looked at while changes arrive are at different places. Looking again soon helps, unless it is dear.
const LOOKS_MAX: u32 = 10;
const LOOK_AGAIN_WITHIN: Duration = Duration::from_secs(5);
const LOOK_PAUSE: Duration = Duration::from_millis(300);
/// Heads differ by their first bytes already.
const FOLD_SHOWN_BYTES: usize = 6;

/// Read and verify the audit trail
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Log(Log),
    Verify(Verify),
}

/// Show who changed what, when and why, oldest first
///
/// Without a network: networks, connections and hosts. With one: its endpoints.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate audit log
  netstate audit log --network web --after 100 --limit 20
  netstate audit log --all -o json")]
pub(crate) struct Log {
    /// The trail of this network's endpoints
    #[arg(long, default_value = "")]
    network: String,
    /// Everything, by time
    #[arg(long, conflicts_with = "network")]
    all: bool,
    /// Only revisions after this one
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    after: u64,
    /// How many at most; 0: all
    #[arg(long, default_value_t = 0)]
    limit: u32,
}

/// Have every replica walk its whole history, and compare them
///
/// Exit code 1 when a chain is broken, replicas differ, or one could not be asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate audit verify
  netstate audit verify -o json")]
pub(crate) struct Verify {}

pub(crate) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Log(args) => log(args, session).await,
        Command::Verify(Verify {}) => verify(session).await,
    }
}

async fn log(args: Log, session: &Session) -> Result<(), Failure> {
    let request = pb::AuditLogRequest { network: args.network, after: args.after, limit: args.limit, all: args.all };
    let mut records = session.client.audit_log(request).await?;
    // Written as they come: a trail may be longer than memory.
    let json = session.console.is_json();
    let mut before = "[";
    while let Some(record) = records.message().await? {
        if json {
            session.console.raw(before.as_bytes())?;
            session.console.raw(format!("\n{}", record_json(&record)).as_bytes())?;
            before = ",";
        } else {
            session.console.print(record_text(&record))?;
        }
    }
    match (json, before) {
        (true, "[") => session.console.print("[]"),
        (true, _) => session.console.print("\n]"),
        (false, _) => Ok(()),
    }
}

fn record_json(record: &pb::AuditLogResponse) -> Value {
    json!({
        "keyspace": record.keyspace,
        "revision": record.revision,
        "at": json::time(record.at),
        "actor": record.actor,
        "reason": record.reason,
        "request_id": record.request_id,
        "changes": record.changes,
        "hash": json::hex(&record.hash),
        "previous": json::hex(&record.previous),
    })
}

/// A line that says who and why, then a line for each change.
fn record_text(record: &pb::AuditLogResponse) -> String {
    let actor = if record.actor.is_empty() { "netstate itself" } else { &record.actor };
    let reason = if record.reason.is_empty() { String::new() } else { format!(": {}", record.reason) };
    let at = human::moment(record.at);
    let mut text = format!("{at}  {}@{}  {actor}{reason}", record.keyspace, record.revision);
    for change in &record.changes {
        text.push_str("\n    ");
        text.push_str(change);
    }
    text
}

async fn verify(session: &Session) -> Result<(), Failure> {
    let began = Instant::now();
    let mut groups = walk(session).await?;
    for _ in 1..LOOKS_MAX {
        if groups.values().all(Group::is_comparable) || began.elapsed() > LOOK_AGAIN_WITHIN {
            break;
        }
        time::sleep(LOOK_PAUSE).await;
        groups = walk(session).await?;
    }
    let problems: Vec<String> = groups.values().flat_map(Group::problems).collect();
    session.console.answer(
        || {
            json!({
                "sound": problems.is_empty(),
                "problems": problems,
                "groups": groups.values().map(Group::json).collect::<Vec<_>>(),
            })
        },
        || {
            let rows = groups.values().map(Group::row).collect();
            session.console.table(&["group", "keyspaces", "records", "replicas", "verdict", "heads"], rows)
        },
    )?;
    if !problems.is_empty() {
        return Err(Failure::False(Some(problems.join("\n"))));
    }
    let records: u64 = groups.values().map(Group::records).sum();
    talk(format_args!(
        "{} verified on every replica in {}; all replicas agree",
        human::things(records, "record"),
        human::span(began.elapsed())
    ));
    Ok(())
}

async fn walk(session: &Session) -> Result<BTreeMap<u32, Group>, Failure> {
    let mut answers = session.client.audit_verify(pb::AuditVerifyRequest {}).await?;
    let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
    while let Some(answer) = answers.message().await? {
        let number = answer.group;
        groups.entry(number).or_insert_with(|| Group { number, replicas: Vec::new() }).replicas.push(answer);
    }
    match groups.is_empty() {
        true => Err(Failure::because("no replica answered; see netstate cluster status")),
        false => Ok(groups),
    }
}

/// What the replicas of one group found.
struct Group {
    number: u32,
    replicas: Vec<pb::AuditVerifyResponse>,
}

impl Group {
    /// Whether all sound replicas were looked at in the same place of their common history.
    fn is_comparable(&self) -> bool {
        let mut sound = self.replicas.iter().filter(|replica| replica.sound);
        let first = sound.next();
        first.is_none_or(|first| sound.all(|other| other.applied == first.applied || other.fold == first.fold))
    }

    fn agrees(&self) -> bool {
        self.is_comparable() && self.replicas.windows(2).all(|pair| pair[0].fold == pair[1].fold)
    }

    fn problems(&self) -> Vec<String> {
        let unsound = self.replicas.iter().filter(|replica| !replica.sound);
        let mut problems: Vec<String> =
            unsound.map(|replica| format!("g{} on {}: {}", self.number, replica.node, replica.problem)).collect();
        if problems.is_empty() && !self.agrees() {
            let nodes: Vec<&str> = self.replicas.iter().map(|replica| replica.node.as_str()).collect();
            let nodes = nodes.join(", ");
            problems.push(match self.is_comparable() {
                true => format!(
                    "g{}: replicas on {nodes} differ; stop the one that is wrong and give it an empty folder",
                    self.number
                ),
                false => {
                    format!("g{}: replicas on {nodes} were busy and could not be compared; verify again", self.number)
                }
            });
        }
        problems
    }

    /// Of the replica that has most.
    fn records(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.records).max().unwrap_or(0)
    }

    fn row(&self) -> Vec<String> {
        let keyspaces = self.replicas.iter().map(|replica| replica.keyspaces).max().unwrap_or(0);
        let sound = self.replicas.iter().filter(|replica| replica.sound).count();
        let all = self.replicas.len();
        let fold = self.replicas.first().map(|replica| json::hex(&replica.fold)).unwrap_or_default();
        vec![
            format!("g{}", self.number),
            human::count(keyspaces),
            human::count(self.records()),
            all.to_string(),
            if sound == all { "sound".to_owned() } else { format!("{} of {all} not sound", all - sound) },
            match self.agrees() {
                true => format!("agree on {}", fold.get(..FOLD_SHOWN_BYTES * 2).unwrap_or(&fold)),
                false if self.is_comparable() => "differ".to_owned(),
                false => "not compared".to_owned(),
            },
        ]
    }

    fn json(&self) -> Value {
        let replica = |replica: &pb::AuditVerifyResponse| {
            json!({
                "node": replica.node,
                "keyspaces": replica.keyspaces,
                "records": replica.records,
                "sound": replica.sound,
                "problem": replica.problem,
                "fold": json::hex(&replica.fold),
                "applied": replica.applied,
            })
        };
        json!({
            "group": self.number,
            "agree": self.agrees(),
            "replicas": self.replicas.iter().map(replica).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node: &str, fold: u8, applied: u64, problem: &str) -> pb::AuditVerifyResponse {
        pb::AuditVerifyResponse {
            node: node.into(),
            group: 3,
            records: 7,
            sound: problem.is_empty(),
            problem: problem.into(),
            fold: vec![fold; 32].into(),
            applied,
            ..pb::AuditVerifyResponse::default()
        }
    }

    fn check(replicas: &[pb::AuditVerifyResponse], expected: &[&str]) {
        let group = Group { number: 3, replicas: replicas.to_vec() };
        assert_eq!(group.problems(), expected, "{replicas:?}");
    }

    #[test]
    fn replicas_are_sound_and_agree_or_it_is_told() {
        check(&[replica("n1", 1, 9, ""), replica("n2", 1, 9, "")], &[]);
        // A leader that changed adds entries that change nothing.
        check(&[replica("n1", 1, 9, ""), replica("n2", 1, 10, "")], &[]);
        check(&[replica("n1", 1, 9, ""), replica("n2", 1, 9, "r4 is forged")], &["g3 on n2: r4 is forged"]);
        check(
            &[replica("n1", 1, 9, ""), replica("n2", 2, 9, "")],
            &["g3: replicas on n1, n2 differ; stop the one that is wrong and give it an empty folder"],
        );
        check(
            &[replica("n1", 1, 9, ""), replica("n2", 2, 10, "")],
            &["g3: replicas on n1, n2 were busy and could not be compared; verify again"],
        );
    }

    #[test]
    fn a_record_reads_as_who_and_why_and_what() {
        let record = pb::AuditLogResponse {
            keyspace: "netstate/directory".into(),
            revision: 4,
            at: 951_827_696_789_000,
            actor: "ada@box".into(),
            reason: "new database".into(),
            changes: vec!["network db".into(), "pool 10.2.0.0/16".into()],
            ..pb::AuditLogResponse::default()
        };
        let expected = "2000-02-29 12:34:56.789Z  netstate/directory@4  ada@box: new database\n    network db\n    pool 10.2.0.0/16";
        assert_eq!(record_text(&record), expected);
    }
}
