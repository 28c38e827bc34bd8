//! A node in figures, for whoever watches over it.

use kv_core::{GroupId, NodeId};
use kv_store::Buckets;
use openraft::async_runtime::WatchReceiver;

use crate::{
    Node,
    counts::{Proposed, Transfers},
    group::Group,
};

/// What a node has counted since it started, and how it is now. See [`Node::figures`].
#[derive(Clone, Debug)]
pub struct Figures {
    /// Requests to write that this node answered as a group's leader, by what they came to.
    pub proposals: Vec<(Proposed, u64)>,
    /// Microseconds from handing a log entry to its group to its being applied here, where this node leads.
    pub commits: Buckets,
    /// Microseconds that a confirmation of linearizable reads took; all that wait share one.
    pub barriers: Buckets,
    /// Confirmations that did not come.
    pub barriers_failed: u64,
    /// Log entries applied in one write.
    pub applied_entries: Buckets,
    /// Microseconds that such a write took.
    pub applied_time: Buckets,
    /// Microseconds that a write of the raft log took, its sync included.
    pub log_writes: Buckets,
    /// Commits applied here.
    pub revisions: u64,
    /// Groups' states sent to replicas that were too far behind for the log.
    pub snapshots_sent: Transferred,
    /// The same, received.
    pub snapshots_received: Transferred,
    /// Steps of placement that groups have taken, while this node governed.
    pub steps_taken: u64,
    /// The same, not taken.
    pub steps_failed: u64,
    /// Bytes of the raft log's files.
    pub log_bytes: u64,
    /// Bytes of the state's files.
    pub state_bytes: u64,
    /// Each group.
    pub groups: Vec<GroupFigures>,
    /// The link to each other node.
    pub links: Vec<LinkFigures>,
}

/// Snapshots that went one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Whole ones.
    pub done: u64,
    /// Those that were not.
    pub failed: u64,
    /// Bytes, of those that failed too.
    pub bytes: u64,
}

/// One group on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFigures {
    /// Which one.
    pub group: GroupId,
    /// Whether this node leads it.
    pub leads: bool,
    /// Nodes that vote in it, as its log has it here.
    pub voters: usize,
    /// Nodes that have a copy without voting.
    pub learners: usize,
    /// How often somebody else than before was seen to lead it.
    pub leader_changes: u64,
    /// How often this node stood for election in it.
    pub elections: u64,
    /// Where this node leads: by how many entries each other replica's log is known to be behind.
    pub behind: Vec<(NodeId, u64)>,
}

/// The link to one other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFigures {
    /// Who is there.
    pub node: NodeId,
    /// Whether it is up.
    pub up: bool,
    /// How often it came up.
    pub times_up: u64,
    /// How long the last small request took to be answered; `None`: none was yet.
    pub round_trip_micros: Option<u64>,
}

impl Group {
    fn figures(&self) -> GroupFigures {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or_default();
        let behind = metrics.replication.iter().flatten().filter(|(node, _)| **node != metrics.id);
        GroupFigures {
            group: self.id,
            leads: self.led_by(&metrics) == Some(NodeId::new(metrics.id)),
            voters: membership.voter_ids().count(),
            learners: membership.learner_ids().count(),
            leader_changes: self.counts.leader_changes.get(),
            elections: self.counts.elections.get(),
            behind: behind
                .map(|(node, matched)| {
                    (NodeId::new(*node), last.saturating_sub(matched.map_or(0, |matched| matched.index)))
                })
                .collect(),
        }
    }
}

impl From<&Transfers> for Transferred {
    fn from(transfers: &Transfers) -> Self {
        Transferred { done: transfers.done.get(), failed: transfers.failed.get(), bytes: transfers.bytes.get() }
    }
}

impl Node {
    /// This node in figures. Looks at the size of each file of the data directory, so it may take a moment.
    pub fn figures(&self) -> Figures {
        let inner = &self.0;
        let counts = &inner.counts;
        Figures {
            proposals: Proposed::ALL.map(|outcome| (outcome, counts.proposals(outcome))).to_vec(),
            commits: counts.commits.buckets(),
            barriers: counts.barriers.buckets(),
            barriers_failed: counts.barriers_failed.get(),
            applied_entries: counts.applied_entries.buckets(),
            applied_time: counts.applied_time.buckets(),
            log_writes: inner.store.log().writes(),
            revisions: counts.revisions.get(),
            snapshots_sent: (&counts.sent).into(),
            snapshots_received: (&counts.received).into(),
            steps_taken: counts.steps_taken.get(),
            steps_failed: counts.steps_failed.get(),
            log_bytes: inner.store.log_bytes(),
            state_bytes: inner.store.state_bytes(),
            groups: inner.groups.iter().map(Group::figures).collect(),
            links: inner.links.figures(),
        }
    }
}
