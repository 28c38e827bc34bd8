//! Voters over zones, voters over nodes, leaders over nodes.
//!
//! Must hold: a group whose membership has to be mended is left alone, but for its leader; evenness of nodes is never
//! bought with a zone; nodes that are down neither give nor take.
//! Left to others: what has to be put right (`mend`), and which way loads move (`shift`).

use std::cmp::Reverse;

use super::{
    Planner,
    picture::{Change, Picture, Role},
    shift::{shift, uneven},
};

/// A group in which a vote can go from one node to another.
#[derive(Clone, Copy)]
struct Swap {
    at: usize,
    /// The voter leads: another has to lead before it can go.
    leads: bool,
}

impl Planner {
    pub(super) fn spread(&mut self) {
        self.spread_zones();
        self.spread_voters();
        self.spread_leaders();
    }

    fn spread_zones(&mut self) {
        for at in 0..self.picture.groups.len() {
            if !self.may_change() {
                return;
            }
            if !self.picture.movable(at) {
                continue;
            }
            if let Some((from, to)) = self.picture.uncrowd(at) {
                self.swap(at, from, to);
            }
        }
    }

    fn spread_voters(&mut self) {
        let among: Vec<bool> = self.picture.nodes.iter().map(|node| node.up && node.member()).collect();
        let mut moves = 0;
        while self.may_change() && moves < self.moves_at_once && uneven(&self.picture.votes, &among) {
            let (swaps, nodes) = (self.picture.swaps(), self.picture.nodes.len());
            let found = shift(&self.picture.votes, &among, |from, to| swaps[from * nodes + to].is_some());
            let Some((from, to)) = found else { return };
            let Some(Swap { at, .. }) = swaps[from * nodes + to] else { return };
            self.swap(at, from, to);
            moves += 1;
        }
    }

    /// Moves a vote, or does what has to be done before.
    fn swap(&mut self, at: usize, from: usize, to: usize) {
        if self.picture.groups[at].leader != Some(from) {
            return self.change(at, &Change::swap(from, to));
        }
        // The vote goes in a later plan.
        if let Some(heir) = self.picture.best_heir(at) {
            self.transfer(at, heir);
        } else {
            // A single voter: the other joins it, is handed the lead, and stays alone (`mend`).
            self.change(at, &Change { add: [to].into(), ..Change::default() });
        }
        self.picture.promise(from, to);
    }

    /// As many as memberships may change at once: each costs its group a moment without answers.
    fn spread_leaders(&mut self) {
        let among: Vec<bool> = self.picture.nodes.iter().map(|node| node.up && node.settled && node.member()).collect();
        for _ in 0..self.moves_at_once.max(1) {
            if !uneven(&self.picture.leads, &among) {
                return;
            }
            let (handings, nodes) = (self.picture.handings(&among), self.picture.nodes.len());
            let found = shift(&self.picture.leads, &among, |from, to| handings[from * nodes + to].is_some());
            let Some((from, to)) = found else { return };
            let Some(at) = handings[from * nodes + to] else { return };
            self.transfer(at, to);
        }
    }
}

impl Picture {
    /// Its voters are as they should be, so they may be moved for evenness.
    fn movable(&self, at: usize) -> bool {
        let voters = || self.groups[at].voters();
        let sound = voters().all(|node| self.sound(at, node)) && voters().count() <= self.wanted;
        sound && !self.groups[at].taken && self.steerable(at)
    }

    /// A voter can go, at once or after another leads.
    fn can_go(&self, at: usize, node: usize) -> bool {
        self.groups[at].leader != Some(node) || self.best_heir(at).is_some()
    }

    /// A single voter can move to where it makes things more even by itself. Only there: on the way both vote, and
    /// which of them stays is told from their loads.
    fn can_move_alone(&self, at: usize, from: usize, to: usize) -> bool {
        self.groups[at].voters().count() == 1 && self.votes[from] >= self.votes[to] + 2
    }

    /// The vote that is best moved out of a zone that has two more than another needs to have.
    pub(super) fn uncrowd(&self, at: usize) -> Option<(usize, usize)> {
        let group = &self.groups[at];
        let ready = (0..self.nodes.len()).filter(|node| self.ready(at, *node));
        let to = ready.min_by_key(|node| (group.zones[self.nodes[*node].zone], self.votes[*node]))?;
        let beyond = group.zones[self.nodes[to].zone] + 2;
        let crowded = group.voters().filter(|node| group.zones[self.nodes[*node].zone] >= beyond);
        let from = crowded.filter(|node| self.can_go(at, *node)).max_by_key(|node| {
            let site = &self.nodes[*node];
            let leads = group.leader == Some(*node);
            (group.zones[site.zone], site.up, !leads, self.votes[*node], Reverse(*node))
        })?;
        let change = Change::swap(from, to);
        (group.leader == Some(from) || self.keeps_majority(at, &change)).then_some((from, to))
    }

    /// From which node to which a vote can go without crowding a zone: for each pair the first group, rather one that
    /// the node doesn't lead.
    fn swaps(&self) -> Vec<Option<Swap>> {
        let nodes = self.nodes.len();
        let mut swaps: Vec<Option<Swap>> = vec![None; nodes * nodes];
        for at in (0..self.groups.len()).filter(|at| self.movable(*at)) {
            let group = &self.groups[at];
            let ready: Vec<usize> = (0..nodes).filter(|node| self.ready(at, *node)).collect();
            for from in group.voters().filter(|node| self.nodes[*node].up) {
                let (zone, leads) = (self.nodes[from].zone, group.leader == Some(from));
                let can_go = self.can_go(at, from);
                for &to in ready.iter().filter(|to| can_go || self.can_move_alone(at, from, **to)) {
                    let other = self.nodes[to].zone;
                    let roomy = zone == other || group.zones[other] < group.zones[zone];
                    let known = &mut swaps[from * nodes + to];
                    if roomy && known.is_none_or(|known| known.leads && !leads) {
                        *known = Some(Swap { at, leads });
                    }
                }
            }
        }
        swaps
    }

    /// From which node to which leadership can go: for each pair the first group.
    fn handings(&self, among: &[bool]) -> Vec<Option<usize>> {
        let nodes = self.nodes.len();
        let mut handings = vec![None; nodes * nodes];
        for at in (0..self.groups.len()).filter(|at| !self.groups[*at].taken && self.steerable(*at)) {
            let Some(from) = self.groups[at].leader.filter(|from| among[*from]) else { continue };
            for to in (0..nodes).filter(|to| among[*to] && self.heir(at, *to)) {
                handings[from * nodes + to].get_or_insert(at);
            }
        }
        handings
    }

    /// Whether some zone has two voters more than another that has a node to take one, whatever hinders it now.
    pub(super) fn crowded(&self, at: usize) -> bool {
        let group = &self.groups[at];
        let free = |node: usize| self.nodes[node].member() && group.copies[node].role != Role::Voter;
        let roomy = (0..self.nodes.len()).filter(|node| free(*node)).map(|node| group.zones[self.nodes[node].zone]);
        let most = group.zones.iter().max();
        roomy.min().is_some_and(|least| most.is_some_and(|most| *most >= least + 2))
    }
}
