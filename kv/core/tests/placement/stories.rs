//! Scripts: what happens, a line `----`, what the planner makes of it. `UPDATE=1` rewrites what is expected.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use kv_core::{
    GroupId, NodeId,
    placement::{self, Goal, Standing, Step, Survey},
};

use crate::cluster::Cluster;

#[test]
fn stories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/placement");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files.iter().for_each(|file| check(file));
}

fn check(file: &Path) {
    let text = fs::read_to_string(file).unwrap();
    let (mut story, mut rendered) = (Story::default(), String::new());
    for block in text.trim().split("\n\n") {
        let told = block.split_once("\n----").map_or(block, |(told, _)| told).trim();
        let said: String = told.lines().filter(|line| !line.starts_with('#')).map(|line| story.tell(line)).collect();
        let separator = if rendered.is_empty() { "" } else { "\n" };
        writeln!(rendered, "{separator}{told}").unwrap();
        if !told.lines().all(|line| line.starts_with('#')) {
            write!(rendered, "----\n{}", if said.is_empty() { "nothing\n" } else { &said }).unwrap();
        }
    }
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::write(file, &rendered).unwrap();
    }
    assert_eq!(rendered, fs::read_to_string(file).unwrap(), "{}", file.display());
}

#[derive(Default)]
struct Story {
    cluster: Option<Cluster>,
    /// Nodes whose copies don't catch up.
    slow: BTreeSet<NodeId>,
}

fn node(word: &str) -> NodeId {
    NodeId::new(word.strip_prefix('n').unwrap().parse().unwrap())
}

fn group(word: &str) -> GroupId {
    GroupId::new(word.strip_prefix('g').unwrap().parse().unwrap())
}

impl Story {
    fn tell(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["found", groups, "groups", "on", founders @ ..] = words.as_slice() {
            let founders: Vec<NodeId> = founders.iter().map(|word| node(word)).collect();
            self.cluster = Some(Cluster::found(&founders, groups.parse().unwrap(), Goal::default()));
            return String::new();
        }
        let cluster = self.cluster.as_mut().expect("it begins with `found`");
        match words.as_slice() {
            ["plan"] => return list(&cluster.plan()),
            ["run"] => return run(cluster, &self.slow),
            ["settle"] => return settle(cluster, &self.slow),
            ["groups"] => return groups(cluster),
            ["status"] => return status(&placement::survey(&cluster.sites, &cluster.groups, &cluster.goal)),
            ["replicas", count] => cluster.goal.replicas = count.parse().unwrap(),
            ["moves", count] => cluster.goal.moves_at_once = count.parse().unwrap(),
            ["join", id] => cluster.join(node(id), ""),
            ["join", id, zone] => cluster.join(node(id), zone),
            ["zone", id, zone] => (*zone).clone_into(&mut cluster.site_mut(node(id)).zone),
            ["down", id] => cluster.site_mut(node(id)).up = false,
            ["up", id] => (cluster.site_mut(node(id)).up, cluster.site_mut(node(id)).settled) = (true, false),
            ["settled", id] => cluster.site_mut(node(id)).settled = true,
            ["member", id] => cluster.site_mut(node(id)).standing = Standing::Member,
            ["drain", id] => cluster.site_mut(node(id)).standing = Standing::Draining,
            ["leave", id] => cluster.site_mut(node(id)).standing = Standing::Leaving,
            ["forget", id] => cluster.sites.retain(|site| site.node != node(id)),
            ["break", id, on] => _ = cluster.group_mut(group(id)).broken.insert(node(on)),
            ["mend", id, on] => _ = cluster.group_mut(group(id)).broken.remove(&node(on)),
            ["lags", id, on] => _ = cluster.group_mut(group(id)).lag_ok.remove(&node(on)),
            ["slow", id] => _ = self.slow.insert(node(id)),
            ["fast", id] => _ = self.slow.remove(&node(id)),
            _ => panic!("{line}?"),
        }
        cluster.elect();
        cluster.catch_up(&self.slow);
        String::new()
    }
}

/// Carries out plan after plan, and says each.
fn run(cluster: &mut Cluster, slow: &BTreeSet<NodeId>) -> String {
    let mut text = String::new();
    for round in 1.. {
        assert!(round < 1000, "it doesn't come to rest:\n{text}");
        let plan = cluster.plan();
        if plan.is_empty() {
            break;
        }
        writeln!(text, "round {round}").unwrap();
        for step in &plan {
            let done = if cluster.carry_out(step) { "" } else { " (refused)" };
            writeln!(text, "  {}{done}", shown(step)).unwrap();
        }
        cluster.catch_up(slow);
    }
    text
}

/// Carries out plan after plan, and says how many there were.
fn settle(cluster: &mut Cluster, slow: &BTreeSet<NodeId>) -> String {
    let text = run(cluster, slow);
    let kinds =
        [("copies begun", "copy"), ("votes changed", "vote"), ("copies removed", "drop"), ("leaders moved", "lead")];
    let rounds = text.lines().filter(|line| line.starts_with("round")).count();
    let mut said = format!("rounds: {rounds}");
    for (name, kind) in kinds {
        let count = text.lines().filter(|line| line.split_whitespace().nth(1) == Some(kind)).count();
        write!(said, ", {name}: {count}").unwrap();
    }
    said + "\n"
}

fn list(plan: &[Step]) -> String {
    plan.iter().map(|step| shown(step) + "\n").collect()
}

fn shown(step: &Step) -> String {
    match step {
        Step::AddLearner { group, node } => format!("{group} copy to {node}"),
        Step::RemoveLearner { group, node } => format!("{group} drop from {node}"),
        Step::TransferLeader { group, from, to } => format!("{group} lead {from} -> {to}"),
        Step::ChangeVoters { group, add, remove } => {
            let add = add.iter().map(|node| format!(" +{node}"));
            let changes: String = add.chain(remove.iter().map(|node| format!(" -{node}"))).collect();
            format!("{group} vote{changes}")
        }
    }
}

/// Voters, the leader with a star; then the other copies, with `~` what has not caught up, `!` what is broken.
fn groups(cluster: &Cluster) -> String {
    let mut text = String::new();
    for group in &cluster.groups {
        write!(text, "{}:", group.group).unwrap();
        let broken = |node: &NodeId| if group.broken.contains(node) { "!" } else { "" };
        for voter in &group.voters {
            let star = if group.leader == Some(*voter) { "*" } else { "" };
            write!(text, " {voter}{star}{}", broken(voter)).unwrap();
        }
        if !group.learners.is_empty() {
            text += " |";
        }
        for (learner, caught_up) in &group.learners {
            write!(text, " {learner}{}{}", if *caught_up { "" } else { "~" }, broken(learner)).unwrap();
        }
        text += "\n";
    }
    text
}

fn status(survey: &Survey) -> String {
    let mut text = String::new();
    for (node, counts) in &survey.nodes {
        let (voters, leaders, learners) = (counts.voters, counts.leaders, counts.learners);
        let empty = if survey.empty(*node) { ", empty" } else { "" };
        writeln!(text, "{node}: votes {voters}, leads {leaders}, learns {learners}{empty}").unwrap();
    }
    for group in &survey.crowded {
        writeln!(text, "crowded: {group}").unwrap();
    }
    for hindrance in &survey.hindrances {
        writeln!(text, "{hindrance:?}").unwrap();
    }
    text + if survey.even() { "even\n" } else { "uneven\n" }
}
