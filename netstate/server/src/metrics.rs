//! The metrics of a node: their names, units and meanings.
//!
//! Must hold: a name that was released keeps its meaning, as alert rules and dashboards name it. Units are those of
//! Prometheus: seconds, bytes, and plain numbers. No label has more values than there are groups, nodes, or words here.
//!
//! Left to others: where the numbers come from (`services::scrape`), and how a page of them is written (`page`).

pub(crate) mod page;

use std::sync::atomic::{AtomicU64, Ordering};

use kv_node::Histogram;

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name; the unit is in it.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What it says, in one line.
    pub meaning: &'static str,
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, and begins at zero when the node starts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Values by the smallest bound that holds them.
    Histogram,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal, $meaning:literal;)*) => {
        $(pub(crate) const $id: Metric = Metric { name: $name, kind: Kind::$kind, meaning: $meaning };)*

        /// Every metric that `/metrics` has.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics! {
    BUILD: Gauge "netstate_build_info", "always 1; the version that this node runs";
    RESIDENT_BYTES: Gauge "process_resident_memory_bytes", "resident memory of the process; the name is Prometheus' own";
    STARTED: Gauge "process_start_time_seconds", "when the process started, since 1970";

    ALARM: Gauge "netstate_alarm",
        "1 for each thing that is not as it should be; of the whole cluster from the node that governs, else of this node";
    GOVERNS: Gauge "netstate_governs", "1 on the node that governs placement: the leader of group 0";
    NODES: Gauge "netstate_nodes", "nodes of the cluster by standing, as this node knows it";
    STEPS_PLANNED: Gauge "netstate_placement_steps_planned", "steps of placement to be taken; on the node that governs";
    STEPS: Counter "netstate_placement_steps_total", "steps of placement asked for while this node governed, by outcome";

    GROUPS_LED: Gauge "netstate_groups_led", "groups that this node leads";
    GROUP_LEADS: Gauge "netstate_group_leads", "1 if this node leads the group";
    GROUP_HAS_LEADER: Gauge "netstate_group_has_leader", "1 if this node knows who leads the group";
    GROUP_TERM: Gauge "netstate_group_term", "the group's term";
    GROUP_COMMITTED: Gauge "netstate_group_committed_entries", "log entries known to be committed";
    GROUP_APPLIED: Gauge "netstate_group_applied_entries", "log entries applied here";
    GROUP_LAG: Gauge "netstate_group_lag_entries", "log entries known to be committed and not applied here yet";
    GROUP_PEER_LAG: Gauge "netstate_group_peer_lag_entries",
        "log entries by which another replica's log is behind, as the group's leader knows it";
    GROUP_VOTERS: Gauge "netstate_group_voters", "nodes that vote in the group";
    GROUP_LEARNERS: Gauge "netstate_group_learners", "nodes that have a copy of the group without voting";
    GROUP_KEYSPACES: Gauge "netstate_group_keyspaces", "keyspaces in the group";
    GROUP_OUT_OF_SERVICE: Gauge "netstate_group_out_of_service", "1 if the replica here is damaged and serves nothing";
    GROUP_LEADER_CHANGES: Counter "netstate_group_leader_changes_total", "times that somebody else than before was seen to lead";
    GROUP_ELECTIONS: Counter "netstate_group_elections_total", "times that this node stood for election";

    PROPOSALS: Counter "netstate_proposals_total", "requests to write that this node had as a leader, by what they came to";
    REVISIONS: Counter "netstate_revisions_total", "commits applied here, of all keyspaces";
    COMMIT_SECONDS: Histogram "netstate_commit_seconds", "from handing a log entry to its group to its being applied, at the leader";
    BARRIER_SECONDS: Histogram "netstate_read_barrier_seconds", "a confirmation of linearizable reads; all that wait share one";
    BARRIERS_FAILED: Counter "netstate_read_barriers_failed_total", "confirmations that no leader gave in time";
    APPLY_SECONDS: Histogram "netstate_apply_seconds", "writing applied log entries into the state";
    APPLY_ENTRIES: Histogram "netstate_apply_batch_entries", "log entries applied in one write";
    LOG_WRITE_SECONDS: Histogram "netstate_log_write_seconds", "a write of the raft log with its sync";
    COMMAND_SECONDS: Histogram "netstate_command_seconds", "from a command's arrival at this node to its outcome";

    SNAPSHOTS: Counter "netstate_snapshots_total", "states of groups sent and received whole, by direction and outcome";
    SNAPSHOT_BYTES: Counter "netstate_snapshot_bytes_total", "bytes of those";

    LINK_UP: Gauge "netstate_link_up", "1 if the link to another node is up";
    LINK_TIMES_UP: Counter "netstate_link_times_up_total", "times that the link came up";
    LINK_ROUND_TRIP: Gauge "netstate_link_round_trip_seconds", "how long the other node took to answer the last small request";

    DISK_BYTES: Gauge "netstate_disk_bytes", "data of this node on disk";
    LOG_BYTES: Gauge "netstate_log_bytes", "files of the raft log";
    STATE_BYTES: Gauge "netstate_state_bytes", "files of the state";
    DISK_FREE: Gauge "netstate_disk_free_bytes", "what is free on the disk of the data directory";
    DISK_RESERVE: Gauge "netstate_disk_reserve_bytes", "with less than this free, writes are refused";

    NETWORKS: Gauge "netstate_networks", "networks, as this node sees it";
    ENDPOINTS: Gauge "netstate_endpoints", "endpoints, as this node sees it";
    STREAMS: Gauge "netstate_host_streams", "hosts that have a stream from this node";
    FRAMES: Counter "netstate_host_frames_total", "frames sent to hosts";
    PROGRAMMED_SECONDS: Histogram "netstate_host_programmed_seconds",
        "from a change's being applied at the node that serves a host to the host's reporting it in force";
    ATTACHED: Counter "netstate_endpoints_attached_total", "endpoints attached through this node";
    WATCHERS: Gauge "netstate_watchers", "watchers of clients of etcd";
    WATCHERS_LAGGING: Gauge "netstate_watchers_lagging", "those that read the history, as they were too slow or begin in the past";
    WATCH_WAITING: Gauge "netstate_watch_waiting_bytes", "events that wait to be sent to watchers";
}

/// What the services count.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) attached: AtomicU64,
    pub(crate) commands: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { attached: AtomicU64::default(), commands: Histogram::of_micros() }
    }
}

impl Counts {
    /// Takes note of endpoints that were attached.
    pub(crate) fn attached(&self, endpoints: u64) {
        self.attached.fetch_add(endpoints, Ordering::Relaxed);
    }
}
