//! What has to be put right: votes on nodes or copies that shouldn't have them, too few, too many, copies missing.
//!
//! Must hold: what is mended in one group asks nothing of another; a vote is taken away only together with, or after,
//! the vote that replaces it.
//! Left to others: evenness (`spread`).

use std::cmp::Reverse;

use super::{
    Planner, Standing, Step,
    picture::{Change, Picture, Role},
};

/// What is wrong with a group, the most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wrong {
    Leaving,
    Broken,
    Draining,
    Missing,
    Surplus,
}

const WRONGS: [Wrong; 5] = [Wrong::Leaving, Wrong::Broken, Wrong::Draining, Wrong::Missing, Wrong::Surplus];

impl Planner {
    pub(super) fn mend(&mut self) {
        let groups = 0..self.picture.groups.len();
        let steerable: Vec<usize> = groups.filter(|at| self.picture.steerable(*at)).collect();
        // Costs next to nothing and is what the other steps wait for, so it isn't held up by how much is under way.
        for &at in &steerable {
            let leader = self.picture.groups[at].leader.filter(|leader| !self.picture.sound(at, *leader));
            if let Some(to) = leader.and_then(|_| self.picture.best_heir(at)) {
                self.transfer(at, to);
            }
        }
        let wrongs: Vec<Option<Wrong>> = steerable.iter().map(|at| self.picture.wrong(*at)).collect();
        for wrong in WRONGS {
            for (&at, _) in steerable.iter().zip(&wrongs).filter(|(_, found)| **found == Some(wrong)) {
                if self.picture.groups[at].taken || !self.may_change() {
                    continue;
                }
                if let Some(to) = self.picture.lighter(at).filter(|_| wrong == Wrong::Surplus) {
                    // Or it waits until the other is close enough behind.
                    if self.picture.heir(at, to) {
                        self.transfer(at, to);
                    }
                } else if let Some(change) = self.picture.mended(at) {
                    self.change(at, &change);
                } else if let Some(node) = self.picture.to_empty(at) {
                    let (group, node) = (self.picture.groups[at].id, self.picture.nodes[node].id);
                    self.push(at, Step::RemoveLearner { group, node });
                }
            }
        }
        self.copy(&steerable);
    }

    /// Begins copies where there are none, first of the groups that wait for one to vote.
    fn copy(&mut self, steerable: &[usize]) {
        let mut order = steerable.to_vec();
        order.sort_by_key(|at| self.picture.wrong(*at).is_none());
        let holds = |at: usize, node: usize| self.picture.groups[at].copies[node].role != Role::Nothing;
        let nodes = 0..self.picture.nodes.len();
        let mut copies: Vec<usize> =
            nodes.map(|node| (0..self.picture.groups.len()).filter(|at| holds(*at, node)).count()).collect();
        for at in order {
            if self.picture.groups[at].taken || !self.may_copy(at) {
                continue;
            }
            let group = &self.picture.groups[at];
            let lacking = self.picture.nodes.iter().enumerate().filter(|(node, site)| {
                site.up && site.standing != Standing::Leaving && group.copies[*node].role == Role::Nothing
            });
            // Nodes that may vote first, the emptiest of them first.
            let next = lacking.min_by_key(|(node, site)| (!site.member(), copies[*node])).map(|(node, _)| node);
            if let Some(node) = next {
                copies[node] += 1;
                let (group, id) = (group.id, self.picture.nodes[node].id);
                self.push(at, Step::AddLearner { group, node: id });
            }
        }
    }
}

impl Picture {
    /// The most urgent of what is wrong with a group's membership.
    pub(super) fn wrong(&self, at: usize) -> Option<Wrong> {
        let group = &self.groups[at];
        let sound = group.voters().filter(|node| self.sound(at, *node)).count();
        let unsound = group.voters().filter_map(|node| self.unsound(at, node)).min();
        let leaving = self.to_empty(at).map(|_| Wrong::Leaving);
        let count = match sound.cmp(&self.wanted) {
            std::cmp::Ordering::Less => Some(Wrong::Missing),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Wrong::Surplus),
        };
        leaving.into_iter().chain(unsound).chain(count).min()
    }

    /// Why a voter should vote no more.
    fn unsound(&self, at: usize, node: usize) -> Option<Wrong> {
        match self.nodes[node].standing {
            Standing::Leaving => Some(Wrong::Leaving),
            _ if self.groups[at].copies[node].broken => Some(Wrong::Broken),
            Standing::Draining => Some(Wrong::Draining),
            Standing::Member => None,
        }
    }

    /// A leaving node that still has a copy without a vote.
    fn to_empty(&self, at: usize) -> Option<usize> {
        let copies = self.groups[at].copies.iter().zip(&self.nodes);
        copies
            .enumerate()
            .find(|(_, (copy, node))| copy.role == Role::Learner && node.standing == Standing::Leaving)
            .map(|(node, _)| node)
    }

    /// The change that puts a group's voters right as far as that is possible now.
    fn mended(&self, at: usize) -> Option<Change> {
        let group = &self.groups[at];
        let (sound, mut unsound): (Vec<usize>, Vec<usize>) = group.voters().partition(|node| self.sound(at, *node));
        let mut change = Change::default();
        if self.wanted == 0 {
            return None;
        }
        for _ in sound.len()..self.wanted {
            let Some(next) = self.next_voter(at, &sound, &change) else { break };
            change.add.insert(next);
        }
        unsound.retain(|node| group.leader != Some(*node));
        unsound.sort_by_key(|node| (self.unsound(at, *node), self.nodes[*node].up));
        for node in unsound {
            let mut more = change.clone();
            more.remove.insert(node);
            let left = group.voters().count() + more.add.len() - more.remove.len();
            // A broken copy does not vote, and forgets nothing when it is repaired: without another in its place it had better
            // stay, or the group would lose one more when the next one fails before it is back.
            if left >= self.wanted && self.keeps_majority(at, &more) {
                change = more;
            }
        }
        let then = group.voters().count() + change.add.len();
        if change.remove.is_empty() && then > 2 && then.is_multiple_of(2) {
            // It would make an even number; with one less, who was to be added waits for another.
            let last = change.add.iter().copied().max_by_key(|node| self.votes[*node]);
            last.map(|last| change.add.remove(&last));
        }
        if change.is_empty() && sound.len() > self.wanted {
            change = self.relieved(at, sound.len() - self.wanted);
        }
        (!change.is_empty() && self.keeps_majority(at, &change)).then_some(change)
    }

    /// One voter is wanted, there are more, and another than the leader had better stay: a single voter is on its way.
    fn lighter(&self, at: usize) -> Option<usize> {
        let group = &self.groups[at];
        let leader = group.leader.filter(|_| self.wanted == 1)?;
        let others = group.voters().filter(|node| *node != leader && self.sound(at, *node) && self.live(at, *node));
        others.min_by_key(|node| self.votes[*node]).filter(|other| self.votes[leader] >= self.votes[*other] + 2)
    }

    /// Who would best vote in addition: where fewest voters that stay share its zone, then with fewest votes.
    fn next_voter(&self, at: usize, stay: &[usize], change: &Change) -> Option<usize> {
        let beside =
            |zone: usize| stay.iter().chain(&change.add).filter(|node| self.nodes[**node].zone == zone).count();
        let ready = (0..self.nodes.len()).filter(|node| self.ready(at, *node) && !change.add.contains(node));
        ready.min_by_key(|node| (beside(self.nodes[*node].zone), self.votes[*node]))
    }

    /// Takes away votes that are too many: where most voters share a zone, of nodes that are down, of the busiest.
    fn relieved(&self, at: usize, surplus: usize) -> Change {
        let (group, mut change) = (&self.groups[at], Change::default());
        let mut zones = group.zones.clone();
        for _ in 0..surplus {
            let left = group.voters().filter(|node| group.leader != Some(*node) && !change.remove.contains(node));
            let most = left.max_by_key(|node| {
                let site = &self.nodes[*node];
                (zones[site.zone], !site.up, self.votes[*node], Reverse(*node))
            });
            let Some(node) = most else { break };
            zones[self.nodes[node].zone] -= 1;
            change.remove.insert(node);
        }
        change
    }
}
