//! Backups: made by any node from its own replicas, and made into the data directories of a new cluster.
//!
//! Must hold: what was acknowledged before a backup began is in it. All founders of a restored cluster come out alike:
//! what they hold depends on the backup and the orders only, and so does the cluster's id, so that founders that were given
//! different orders refuse each other instead of mixing two histories. Nodes of the cluster that the backup was made of are
//! refused by that id, too.
//!
//! Left to others: the file and its format (`kv_store::backup`).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kv_core::{ClusterId, GroupId, InstanceId, Keyspace, NodeId, Timestamp};
use kv_store::{
    Identity, Membership as Directory, OpenError,
    backup::{self, Backup, BackupError, Contents, Header, Placed, Point, RAISE_MAX, Restored},
};
use rand::RngExt;

use crate::{
    config::{Config, ConfigError, Member, MemberInfo},
    error::ReadError,
    node::{Node, read_error},
    raft::{LogId, MemberNode, Membership, StoredMembership, encode},
};

/// How long a backup waits for moves of keyspaces to end, and between two looks.
const MOVES_PATIENCE: Duration = Duration::from_secs(60);
const MOVES_PAUSE: Duration = Duration::from_millis(200);

/// A backup that is being made.
pub struct BackupRun {
    backup: Backup,
    node: Node,
}

/// What to restore on a founder of a new cluster. All but name and directory is the same on every one of them.
#[derive(Clone, Debug)]
pub struct RestoreOrder {
    /// The backup.
    pub file: PathBuf,
    /// The founder's name, one of `initial_cluster`.
    pub name: String,
    /// Where its data will lie: nothing, or an empty directory.
    pub data_dir: PathBuf,
    /// All founders, this one included.
    pub initial_cluster: Vec<Member>,
    /// Tells a cluster from another one that was restored from the same backup, with the same founders.
    pub token: String,
    /// By how much revisions are raised: at least one.
    pub raise: u64,
    /// Where histories end.
    pub point: Point,
    /// Keyspaces whose records beside the keys speak of the old cluster's nodes, and are left out.
    pub forget: Vec<Keyspace>,
}

/// What a restore has made.
#[derive(Clone, Debug)]
pub struct RestoredNode {
    /// The new cluster.
    pub cluster: ClusterId,
    /// The founder's id in it.
    pub node: NodeId,
    /// What the backup holds.
    pub contents: Contents,
    /// What became of it.
    pub restored: Restored,
}

/// Why a founder was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The orders make no sense. All mistakes at once.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<ConfigError>),
    /// Revisions raised by nothing, or too far.
    #[error("revisions cannot be raised by {by}; 1 to {RAISE_MAX} are possible")]
    Raise {
        /// By how much.
        by: u64,
    },
    /// The backup is no good.
    #[error("nothing was restored")]
    Backup(#[from] BackupError),
    /// It could not be restored.
    #[error(transparent)]
    Restore(#[from] backup::RestoreError),
    /// Who the members are could not be noted beside it; it is to be restored again.
    #[error("the members could not be noted in the data directory")]
    Membership(#[from] OpenError),
}

impl Node {
    /// Begins a backup with everything that was acknowledged anywhere before the call. `at`: the time that it will bear.
    pub async fn backup(&self, version: &str, at: Timestamp) -> Result<BackupRun, ReadError> {
        let barriers = (0..self.groups()).map(|group| self.read_barrier(GroupId::new(group)));
        futures::future::try_join_all(barriers).await?;
        let (cluster, node, name) = (self.cluster(), self.id(), self.name().into());
        let header = Header { cluster, node, name, version: version.into(), at, groups: self.groups() };
        let deadline = tokio::time::Instant::now() + MOVES_PATIENCE;
        loop {
            let backup = self.0.store.state().backup(header.clone()).map_err(|error| self.unreadable(error))?;
            match backup.unsettled().map_err(|error| self.unreadable(error))? {
                None => return Ok(BackupRun { backup, node: self.clone() }),
                Some(keyspace) if tokio::time::Instant::now() > deadline => return Err(ReadError::Moving { keyspace }),
                Some(_) => tokio::time::sleep(MOVES_PAUSE).await,
            }
        }
    }

    /// Damage stops this node, whoever meets it.
    fn unreadable(&self, error: kv_store::StoreError) -> ReadError {
        let first = &self.0.groups[0];
        read_error(&first.leadership, first.id, error.into())
    }
}

impl BackupRun {
    /// The next bytes of the file; `None` after the last. Blocks on disk.
    pub fn next_bytes(&mut self) -> Result<Option<bytes::Bytes>, ReadError> {
        self.backup.next_bytes().map_err(|error| self.node.unreadable(error))
    }

    /// Groups that are in it whole already, and all there are.
    pub fn progress(&self) -> (u16, u16) {
        self.backup.progress()
    }
}

/// Restores one founder. `progress` is told how many bytes of the backup have been read, of those that will be: it is read
/// once to verify it and once more to restore it. Blocks.
pub fn restore(order: &RestoreOrder, progress: &mut dyn FnMut(u64, u64)) -> Result<RestoredNode, RestoreError> {
    let mistakes = Config::founders_mistakes(&order.name, &order.initial_cluster);
    if !mistakes.is_empty() {
        return Err(RestoreError::Config(mistakes));
    }
    if order.raise == 0 || order.raise > RAISE_MAX {
        return Err(RestoreError::Raise { by: order.raise });
    }
    let twice = 2 * std::fs::metadata(&order.file).map_or(0, |metadata| metadata.len());
    let contents = backup::verify(&order.file, &mut |read| progress(read, twice))?;
    let members = Config::members_of(&order.initial_cluster);
    let own = members.iter().find(|member| member.name == order.name).expect("checked above").id;
    let cluster = cluster_of(order, &contents, &members);
    let done = backup::restore(
        &backup::Restore {
            file: &order.file,
            dir: &order.data_dir,
            identity: Identity { cluster, node: own, groups: contents.header.groups },
            place: &|index| place(index, &members),
            raise: order.raise,
            point: &order.point,
            forget: &order.forget,
            options: &kv_store::Options::default(),
        },
        &contents,
        &mut |read| progress(contents.bytes + read, twice),
    )?;
    let peers = members.into_iter().map(|member| (member.id, member.name, member.peer)).collect();
    Directory { instance: InstanceId::new(rand::rng().random()), peers }.write(&order.data_dir)?;
    Ok(RestoredNode { cluster, node: own, contents, restored: done })
}

/// Checks a backup without a server; see [`kv_store::backup::verify`].
pub fn verify_backup(file: &Path, progress: &mut dyn FnMut(u64)) -> Result<Contents, BackupError> {
    backup::verify(file, progress)
}

/// What every founder derives alike from the same orders, and from no others.
fn cluster_of(order: &RestoreOrder, contents: &Contents, members: &[MemberInfo]) -> ClusterId {
    let founders: Vec<_> = members.iter().map(|member| format!("{}={}", member.name, member.peer)).collect();
    let point = match &order.point {
        Point::Latest => "latest".to_string(),
        Point::Time(time) => format!("time {}", time.micros()),
        Point::Revisions(named) => {
            let named: Vec<_> = named.iter().map(|(name, revision)| format!("{name}={revision}")).collect();
            format!("revisions {}", named.join(","))
        }
    };
    let how = format!("{point}\nraise {}\ntoken {}", order.raise, order.token);
    ClusterId::of_restore(&founders.join(","), contents.digest.get(), &how)
}

/// The log of a restored group begins as that of a founded one does: behind an entry of no term, which every founder has
/// and which makes them the members. Whoever is elected first begins term one.
fn place(index: u64, members: &[MemberInfo]) -> Placed {
    let log_id = LogId::new_term_index(0, index);
    let voters = members.iter().map(|member| member.id.get()).collect();
    let node =
        |member: &MemberInfo| (member.id.get(), MemberNode { name: member.name.clone(), peer: member.peer.clone() });
    let nodes: std::collections::BTreeMap<_, _> = members.iter().map(node).collect();
    let members = Membership::new(vec![voters], nodes).expect("every voter is among the nodes");
    Placed { log_id: encode(&log_id), membership: encode(&StoredMembership::new(Some(log_id), members)) }
}

#[cfg(test)]
mod tests {
    use kv_core::{Digest, Revision};

    use super::*;

    fn order() -> RestoreOrder {
        let member = |name: &str, peer: &str| Member { name: name.into(), peer: peer.into() };
        RestoreOrder {
            file: "backup".into(),
            name: "n1".into(),
            data_dir: "one".into(),
            initial_cluster: vec![member("n1", "a:1"), member("n2", "b:1")],
            token: String::new(),
            raise: 10,
            point: Point::Latest,
            forget: Vec::new(),
        }
    }

    fn contents(digest: u8) -> Contents {
        let (cluster, node, at) = (ClusterId::new([7; 16]), NodeId::new(1), Timestamp::default());
        let header = Header { cluster, node, name: "n1".into(), version: String::new(), at, groups: 4 };
        let digest = Digest::new([digest; 32]);
        Contents { header, keyspaces: Vec::new(), records: 0, leases: 0, bytes: 0, digest }
    }

    fn id(order: &RestoreOrder, digest: u8) -> ClusterId {
        cluster_of(order, &contents(digest), &Config::members_of(&order.initial_cluster))
    }

    /// Founders that were given the same find each other, whatever is their own; those that were given anything else don't.
    #[test]
    fn founders_with_the_same_orders_are_one_cluster() {
        let one = id(&order(), 1);
        let mut other = RestoreOrder { name: "n2".into(), data_dir: "two".into(), file: "copy".into(), ..order() };
        other.initial_cluster.reverse();
        assert_eq!(id(&other, 1), one);
        assert_ne!(one, ClusterId::new([7; 16]));
        let different: [fn(&mut RestoreOrder); 5] = [
            |order| order.token.push('x'),
            |order| order.raise = 11,
            |order| order.point = Point::Time(Timestamp::from_micros(1)),
            |order| order.point = Point::Revisions([(Keyspace::new("a").unwrap(), Revision::new(1))].into()),
            |order| order.initial_cluster[1].peer = "b:2".into(),
        ];
        let mut seen = vec![one, id(&order(), 2)];
        for change in different {
            let mut changed = order();
            change(&mut changed);
            let changed = id(&changed, 1);
            assert!(!seen.contains(&changed));
            seen.push(changed);
        }
    }

    #[test]
    fn orders_that_make_no_sense_are_refused() {
        let refused = |order: &RestoreOrder| restore(order, &mut |_, _| {}).unwrap_err().to_string();
        let text = "the node's name \"n3\" is not in the initial cluster (n1, n2); add it or correct the name";
        assert_eq!(refused(&RestoreOrder { name: "n3".into(), ..order() }), text);
        assert!(refused(&RestoreOrder { raise: 0, ..order() }).contains("cannot be raised by 0; 1 to "));
        assert!(refused(&RestoreOrder { raise: u64::MAX, ..order() }).contains("cannot be raised"));
    }
}
