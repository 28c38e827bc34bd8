//! Random lives of random clusters. One seed draws a life; `SEED=n` lives that one only, `LIVES=n` that many.

use std::{
    collections::{BTreeSet, HashSet},
    panic,
};

use kv_core::{
    GroupId, NodeId,
    placement::{self, Goal, Replicas, Standing, Step},
};

use crate::{cluster::Cluster, ideal, safety};

const LIVES: u64 = 1000;

#[test]
fn lives() {
    if let Ok(seed) = std::env::var("SEED") {
        return live(seed.parse().unwrap());
    }
    let count = std::env::var("LIVES").map_or(LIVES, |count| count.parse().unwrap());
    // Two threads, for a debug build lives slowly.
    std::thread::scope(|scope| {
        scope.spawn(|| live_all((0..count).step_by(2)));
        scope.spawn(|| live_all((1..count).step_by(2)));
    });
}

fn live_all(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        if let Err(cause) = panic::catch_unwind(|| live(seed)) {
            eprintln!("again: SEED={seed} cargo test -p kv-core --test placement lives");
            panic::resume_unwind(cause);
        }
    }
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> Option<T> {
        if choices.is_empty() { None } else { Some(choices[self.below(choices.len())].clone()) }
    }
}

fn live(seed: u64) {
    let mut life = Life::begin(Chance(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)));
    for _ in 0..life.chance.below(80) {
        life.happen();
        life.cluster.elect();
    }
    // It comes to rest with its faults too, if not as even.
    if life.chance.one_in(2) {
        life.rest();
    }
    life.heal();
    life.rest();
    safety::at_rest(&life.cluster);
}

struct Life {
    cluster: Cluster,
    chance: Chance,
    /// Planned earlier, and not done yet.
    late: Vec<Step>,
    nodes: u64,
    zoned: bool,
    healed: bool,
}

const ZONES: [&str; 5] = ["", "a", "b", "c", "d"];

impl Life {
    fn begin(mut chance: Chance) -> Self {
        let founders: Vec<NodeId> = (1..=1 + chance.below(6) as u64).map(NodeId::new).collect();
        let replicas = chance.of(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 7]).unwrap();
        let goal = Goal { replicas, moves_at_once: 1 + chance.below(5) };
        let groups = 1 + u16::try_from(chance.below(12)).unwrap();
        let cluster = Cluster::found(&founders, groups, goal);
        let nodes = founders.len() as u64;
        let mut life = Life { cluster, late: vec![], nodes, zoned: !chance.one_in(3), healed: false, chance };
        for node in founders {
            life.cluster.site_mut(node).zone = life.zone();
        }
        life
    }

    fn zone(&mut self) -> String {
        if self.zoned { self.chance.of(&ZONES).unwrap().to_owned() } else { String::new() }
    }

    fn some_node(&mut self) -> Option<NodeId> {
        let nodes: Vec<NodeId> = self.cluster.sites.iter().map(|site| site.node).collect();
        self.chance.of(&nodes)
    }

    fn happen(&mut self) {
        match self.chance.below(20) {
            0..=4 => self.one_step(),
            5..=7 => self.whole_plan(),
            8 => self.late_step(),
            9 if self.nodes < 10 => {
                self.nodes += 1;
                let (node, zone) = (NodeId::new(self.nodes), self.zone());
                self.cluster.join(node, &zone);
            }
            10 => self.catch_up(),
            11..=16 => self.change_node(),
            17 => self.change_copy(),
            18 => {
                for at in 0..self.cluster.groups.len() {
                    self.cluster.groups[at].joint &= self.chance.one_in(2);
                }
            }
            19 if self.chance.one_in(4) => self.cluster.goal.replicas = self.chance.of(&[1, 2, 3, 3, 5]).unwrap(),
            _ => self.vanish(),
        }
    }

    fn planned(&mut self) -> Vec<Step> {
        let plan = self.cluster.plan();
        safety::plan(&self.cluster, &plan);
        if self.chance.one_in(8) {
            safety::order(&self.cluster, &plan);
        }
        plan
    }

    fn carry_out(&mut self, step: &Step, late: bool) {
        let before = self.cluster.clone();
        let done = self.cluster.carry_out(step);
        if done {
            safety::step(&before, &self.cluster, step, late);
        }
    }

    fn one_step(&mut self) {
        let plan = self.planned();
        let Some(step) = self.chance.of(&plan) else { return };
        self.late.extend(self.chance.of(&plan));
        self.carry_out(&step, false);
        if matches!(step, Step::ChangeVoters { .. }) && self.chance.one_in(3) {
            self.cluster.group_mut(step.group()).joint = true;
        }
    }

    fn whole_plan(&mut self) {
        for step in self.planned() {
            self.carry_out(&step, false);
        }
    }

    fn late_step(&mut self) {
        if !self.late.is_empty() {
            let at = self.chance.below(self.late.len());
            let step = self.late.swap_remove(at);
            self.carry_out(&step, true);
        }
    }

    fn catch_up(&mut self) {
        let slow: BTreeSet<NodeId> = self.some_node().into_iter().collect();
        self.cluster.catch_up(&slow);
    }

    fn change_node(&mut self) {
        let (Some(node), zone) = (self.some_node(), self.zone()) else { return };
        let change = self.chance.below(9);
        let site = self.cluster.site_mut(node);
        match change {
            0 => site.zone = zone,
            1 | 2 => (site.up, site.settled) = (false, false),
            3..=5 => (site.up, site.settled) = (true, site.up),
            6 => site.standing = Standing::Draining,
            7 => site.standing = Standing::Leaving,
            _ => site.standing = Standing::Member,
        }
    }

    fn change_copy(&mut self) {
        let at = self.chance.below(self.cluster.groups.len());
        let Some(node) = self.some_node() else { return };
        let (group, change) = (&mut self.cluster.groups[at], self.chance.below(5));
        let copied = group.voters.contains(&node) || group.learners.contains_key(&node);
        match change {
            0 | 1 if copied => _ = group.broken.insert(node),
            2 => _ = group.broken.remove(&node),
            3 => _ = group.lag_ok.remove(&node),
            _ => group.lag_ok = group.voters.clone(),
        }
    }

    /// A node is gone for good, where that costs no group its majority.
    fn vanish(&mut self) {
        let Some(node) = self.some_node() else { return };
        let mut without = self.cluster.clone();
        without.sites.retain(|site| site.node != node);
        let known = |voter: &&NodeId| without.site(**voter).is_some();
        let survives =
            without.groups.iter().all(|group| group.voters.iter().filter(known).count() * 2 > group.voters.len());
        if survives && without.sites.len() > 1 {
            self.cluster = without;
        }
    }

    /// Every fault is lifted; what an operator has asked for remains, but for some drains.
    fn heal(&mut self) {
        self.healed = true;
        let undrain = self.chance.one_in(2);
        for site in &mut self.cluster.sites {
            (site.up, site.settled) = (true, true);
            if undrain && site.standing == Standing::Draining {
                site.standing = Standing::Member;
            }
        }
        for group in &mut self.cluster.groups {
            group.joint = false;
            group.broken.clear();
            group.lag_ok = group.voters.clone();
        }
        self.cluster.elect();
        self.cluster.catch_up(&BTreeSet::new());
    }

    /// Plans until there is nothing more to do: whole plans, the first step of each, or any step of each. The first
    /// two never lead back to where the cluster was. The third may: a leader handed over so that a vote can move is
    /// handed back if it is always the leaders' step that is done and never the vote's.
    fn rest(&mut self) {
        let (mut steps, mut seen, manner) = (0, HashSet::new(), self.chance.below(3));
        let each = 4 * (self.cluster.sites.len() + self.nodes as usize) + 2 * ideal::wanted(&self.cluster);
        loop {
            let mut plan = self.planned();
            if plan.is_empty() {
                break;
            }
            match manner {
                0 => {}
                1 => plan.truncate(1),
                _ => plan = self.chance.of(&plan).into_iter().collect(),
            }
            let new = manner == 2 || seen.insert(format!("{:?}", self.cluster.groups));
            assert!(new, "it goes in circles: {:?}", self.cluster);
            for step in plan {
                self.carry_out(&step, false);
                steps += 1;
            }
            if self.healed {
                self.cluster.catch_up(&BTreeSet::new());
            }
            let limit = each * self.cluster.groups.len();
            assert!(steps <= limit, "{steps} steps, and no rest: {:?}", self.cluster);
        }
    }
}

/// Pictures that no cluster would give: nothing panics, and what is planned is allowed.
#[test]
fn nonsense() {
    for seed in 0..3000 {
        let mut chance = Chance(seed);
        let mut cluster = Cluster::found(&[], 0, Goal { replicas: chance.below(6), moves_at_once: chance.below(4) });
        for _ in 0..chance.below(6) {
            let (node, zone) = (NodeId::new(chance.below(6) as u64), ZONES[chance.below(ZONES.len())]);
            cluster.join(node, zone);
            let standing = [Standing::Member, Standing::Member, Standing::Draining, Standing::Leaving];
            let site = cluster.sites.last_mut().unwrap();
            (site.up, site.settled) = (!chance.one_in(4), !chance.one_in(4));
            site.standing = chance.of(&standing).unwrap();
        }
        // Of two of a name the last counts.
        let mut named: BTreeSet<NodeId> = BTreeSet::new();
        cluster.sites.reverse();
        cluster.sites.retain(|site| named.insert(site.node));
        for id in 0..chance.below(6) {
            let mut some =
                || -> BTreeSet<NodeId> { (0..chance.below(5)).map(|_| NodeId::new(chance.below(7) as u64)).collect() };
            let group = u16::try_from(id).unwrap();
            let (voters, lag_ok, broken, learners) = (some(), some(), some(), some());
            let learners = learners.into_iter().map(|node| (node, !chance.one_in(3))).collect();
            let leader = chance.of(&voters.iter().copied().collect::<Vec<_>>()).filter(|_| !chance.one_in(5));
            let leader = if chance.one_in(8) { Some(NodeId::new(chance.below(8) as u64)) } else { leader };
            let (group, joint) = (GroupId::new(group), chance.one_in(6));
            cluster.groups.push(Replicas { group, voters, learners, joint, leader, lag_ok, broken });
        }
        let plan = cluster.plan();
        safety::plan(&cluster, &plan);
        safety::order(&cluster, &plan);
        placement::survey(&cluster.sites, &cluster.groups, &cluster.goal);
    }
}
