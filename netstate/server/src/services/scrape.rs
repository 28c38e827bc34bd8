//! The page of metrics: this node in figures, and what is not well.
//!
//! Alarms come from the same function as those of `netstate cluster status`. The node that governs asks all others, as the
//! command does, and judges the whole cluster; every other node judges what it knows of itself without asking anybody, so
//! that the load of a scrape does not grow with the square of the nodes, and so that something is said, too, when nobody
//! governs. Who governs may change between two scrapes: rules have to take the maximum over nodes.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use kv_node::{Figures, GroupFigures, NodeRecord, Transferred};

use super::{
    Services, alarms,
    cluster::Picture,
    status::{GroupReport, Report},
};
use crate::metrics::{
    self as m, Metric,
    page::{Labels, Page},
};

/// Microseconds of a second.
const MICROS: f64 = 1e6;

impl Services {
    /// All metrics, in Prometheus' text format.
    pub(crate) async fn scrape(&self) -> String {
        let own = self.own.clone();
        let node = self.node.clone();
        // Both look at files.
        let looking = tokio::task::spawn_blocking(move || (own.report(), node.figures()));
        let (report, figures) = match looking.await {
            Ok(found) => found,
            Err(error) => return format!("# {error}\n"),
        };
        let mut page = Page::default();
        self.process(&mut page, &report);
        self.cluster(&mut page, &report, &figures).await;
        groups(&mut page, self, &report, &figures);
        requests(&mut page, self, &figures);
        transfers(&mut page, &figures);
        self.links(&mut page, &figures);
        disk(&mut page, self, &report, &figures);
        self.content(&mut page, &report);
        page.text()
    }

    fn process(&self, page: &mut Page, report: &Report) {
        page.begin(&m::BUILD);
        page.sample(&m::BUILD, &[("version", &report.version), ("node", self.node.name())], 1.0);
        page.one(&m::RESIDENT_BYTES, report.resident_bytes as f64);
        page.one(&m::STARTED, self.own.started());
    }

    async fn cluster(&self, page: &mut Page, report: &Report, figures: &Figures) {
        page.begin(&m::ALARM);
        for alarm in alarms::of(&self.judged(report).await) {
            let serious = if alarm.serious { "yes" } else { "no" };
            let labels: Labels<'_> = &[("what", &alarm.what), ("where", &alarm.r#where), ("serious", serious)];
            page.sample(&m::ALARM, labels, 1.0);
        }
        page.one(&m::GOVERNS, f64::from(report.placement.is_some()));
        page.begin(&m::NODES);
        for standing in alarms::STANDINGS {
            let catalog = self.node.catalog();
            let known = catalog.iter().flat_map(|catalog| catalog.nodes.values());
            let count = known.filter(|record| alarms::standing(record) == standing).count();
            page.sample(&m::NODES, &[("standing", standing)], count as f64);
        }
        let planned = report.placement.as_ref().map_or(0, |placement| placement.steps.len());
        page.one(&m::STEPS_PLANNED, planned as f64);
        page.begin(&m::STEPS);
        page.sample(&m::STEPS, &[("outcome", "taken")], figures.steps_taken as f64);
        page.sample(&m::STEPS, &[("outcome", "failed")], figures.steps_failed as f64);
    }

    /// What this node judges: the whole cluster if it governs, itself otherwise.
    async fn judged(&self, report: &Report) -> Picture {
        if report.placement.is_some() {
            return self.picture().await;
        }
        let (own, catalog) = (self.node.id(), self.node.catalog());
        let record = catalog.as_ref().and_then(|catalog| catalog.nodes.get(&own)).cloned();
        let record = record.unwrap_or_else(|| NodeRecord::of_name(self.node.name()));
        let reports = BTreeMap::from([(own, report.clone())]);
        let replicas = catalog.as_ref().map_or(0, |catalog| catalog.replicas());
        Picture::new(BTreeMap::from([(own, record)]), reports, report.groups.clone(), None, replicas)
    }

    fn links(&self, page: &mut Page, figures: &Figures) {
        let links: Vec<_> = figures.links.iter().map(|link| (self.node.name_of(link.node), link)).collect();
        page.begin(&m::LINK_UP);
        for (peer, link) in &links {
            page.sample(&m::LINK_UP, &[("peer", peer)], f64::from(link.up));
        }
        page.begin(&m::LINK_TIMES_UP);
        for (peer, link) in &links {
            page.sample(&m::LINK_TIMES_UP, &[("peer", peer)], link.times_up as f64);
        }
        page.begin(&m::LINK_ROUND_TRIP);
        for (peer, micros) in links.iter().filter_map(|(peer, link)| Some((peer, link.round_trip_micros?))) {
            page.sample(&m::LINK_ROUND_TRIP, &[("peer", peer)], micros as f64 / MICROS);
        }
    }

    fn content(&self, page: &mut Page, report: &Report) {
        page.one(&m::NETWORKS, report.networks as f64);
        page.one(&m::ENDPOINTS, report.endpoints as f64);
        page.one(&m::STREAMS, report.watching_hosts as f64);
        page.one(&m::FRAMES, self.hub.frames.load(Ordering::Relaxed) as f64);
        page.histogram(&m::PROGRAMMED_SECONDS, &self.hub.programmed.buckets(), MICROS);
        page.one(&m::ATTACHED, self.counts.attached.load(Ordering::Relaxed) as f64);
        let watching = self.etcd.watching();
        page.one(&m::WATCHERS, watching.watchers as f64);
        page.one(&m::WATCHERS_LAGGING, watching.lagging as f64);
        page.one(&m::WATCH_WAITING, watching.waiting_bytes as f64);
    }
}

/// What there is of each group.
type OfGroup<'a> = (&'a Metric, &'a dyn Fn(&GroupReport, &GroupFigures) -> f64);

fn groups(page: &mut Page, services: &Services, report: &Report, figures: &Figures) {
    let both: Vec<_> = report.groups.iter().zip(&figures.groups).collect();
    let named: Vec<_> = both.iter().map(|(group, _)| format!("g{}", group.group)).collect();
    page.one(&m::GROUPS_LED, both.iter().filter(|(_, figures)| figures.leads).count() as f64);
    let each: [OfGroup<'_>; 11] = [
        (&m::GROUP_LEADS, &|_, figures| f64::from(figures.leads)),
        (&m::GROUP_HAS_LEADER, &|group, _| f64::from(group.leader.is_some())),
        (&m::GROUP_TERM, &|group, _| group.term as f64),
        (&m::GROUP_COMMITTED, &|group, _| group.committed as f64),
        (&m::GROUP_APPLIED, &|group, _| group.applied as f64),
        (&m::GROUP_LAG, &|group, _| group.committed.saturating_sub(group.applied) as f64),
        (&m::GROUP_VOTERS, &|_, figures| figures.voters as f64),
        (&m::GROUP_LEARNERS, &|_, figures| figures.learners as f64),
        (&m::GROUP_KEYSPACES, &|group, _| group.keyspaces as f64),
        (&m::GROUP_OUT_OF_SERVICE, &|group, _| f64::from(group.problem.is_some())),
        (&m::GROUP_LEADER_CHANGES, &|_, figures| figures.leader_changes as f64),
    ];
    let elections: OfGroup<'_> = (&m::GROUP_ELECTIONS, &|_, figures| figures.elections as f64);
    for (metric, value) in each.into_iter().chain([elections]) {
        page.begin(metric);
        for ((group, figures), name) in both.iter().zip(&named) {
            page.sample(metric, &[("group", name)], value(group, figures));
        }
    }
    page.begin(&m::GROUP_PEER_LAG);
    for ((_, figures), name) in both.iter().zip(&named) {
        for (peer, behind) in &figures.behind {
            let peer = services.node.name_of(*peer);
            page.sample(&m::GROUP_PEER_LAG, &[("group", name), ("peer", &peer)], *behind as f64);
        }
    }
}

fn requests(page: &mut Page, services: &Services, figures: &Figures) {
    page.begin(&m::PROPOSALS);
    for (outcome, count) in &figures.proposals {
        page.sample(&m::PROPOSALS, &[("outcome", outcome.word())], *count as f64);
    }
    page.one(&m::REVISIONS, figures.revisions as f64);
    page.histogram(&m::COMMIT_SECONDS, &figures.commits, MICROS);
    page.histogram(&m::BARRIER_SECONDS, &figures.barriers, MICROS);
    page.one(&m::BARRIERS_FAILED, figures.barriers_failed as f64);
    page.histogram(&m::APPLY_SECONDS, &figures.applied_time, MICROS);
    page.histogram(&m::APPLY_ENTRIES, &figures.applied_entries, 1.0);
    page.histogram(&m::LOG_WRITE_SECONDS, &figures.log_writes, MICROS);
    page.histogram(&m::COMMAND_SECONDS, &services.counts.commands.buckets(), MICROS);
}

fn transfers(page: &mut Page, figures: &Figures) {
    let ways = [("sent", figures.snapshots_sent), ("received", figures.snapshots_received)];
    page.begin(&m::SNAPSHOTS);
    for (way, Transferred { done, failed, .. }) in ways {
        for (outcome, count) in [("done", done), ("failed", failed)] {
            page.sample(&m::SNAPSHOTS, &[("direction", way), ("outcome", outcome)], count as f64);
        }
    }
    page.begin(&m::SNAPSHOT_BYTES);
    for (way, Transferred { bytes, .. }) in ways {
        page.sample(&m::SNAPSHOT_BYTES, &[("direction", way)], bytes as f64);
    }
}

fn disk(page: &mut Page, services: &Services, report: &Report, figures: &Figures) {
    let room = services.node.disk_room();
    page.one(&m::DISK_BYTES, report.disk_bytes as f64);
    page.one(&m::LOG_BYTES, figures.log_bytes as f64);
    page.one(&m::STATE_BYTES, figures.state_bytes as f64);
    page.one(&m::DISK_FREE, room.free_bytes as f64);
    page.one(&m::DISK_RESERVE, room.reserve_bytes as f64);
}
