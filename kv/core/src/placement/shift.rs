//! Making loads even, one unit at a time, where not every node can hand a unit to every other.
//!
//! A load moves along an edge. Where no node can hand a unit straight to one that has two less, a chain of nodes may:
//! the last of the chain moves first, and each move leaves a shorter chain. Of all chains from a node to one with two
//! less the shortest is taken; every node within it then has exactly one less than its first and one more than its
//! last (or a part of it would be a shorter chain), so no single move makes the loads less even.
//!
//! That is enough to reach the most even loads that there are: which sets of nodes may vote for a group (as many in
//! each zone as its size allows) exchange like the bases of a matroid, a sum of such choices does too, and over such
//! sums a load that no chain improves is the best. The same with one leader for each group.

use std::cmp::Reverse;

/// The edge to move a unit along next: from whom, to whom. `None`: the loads of `among` are as even as can be.
pub(super) fn shift(loads: &[usize], among: &[bool], edge: impl Fn(usize, usize) -> bool) -> Option<(usize, usize)> {
    if !uneven(loads, among) {
        return None;
    }
    let nodes: Vec<usize> = (0..loads.len()).filter(|node| among[*node]).collect();
    let pairs = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
    let straight = pairs.filter(|(from, to)| loads[*from] >= loads[*to] + 2 && edge(*from, *to));
    if let Some(best) = straight.min_by_key(|(from, to)| (Reverse(loads[*from]), loads[*to])) {
        return Some(best);
    }
    let chains = nodes.iter().filter_map(|from| chain(loads, &nodes, *from, &edge));
    chains.min_by_key(|chain| (chain.length, Reverse(chain.drop))).map(|chain| chain.last)
}

/// Whether one has two more than another, so that there may be something to move.
pub(super) fn uneven(loads: &[usize], among: &[bool]) -> bool {
    let loads = || loads.iter().zip(among).filter(|(_, among)| **among).map(|(load, _)| *load);
    loads().min().is_some_and(|least| loads().max().is_some_and(|most| most >= least + 2))
}

struct Chain {
    length: usize,
    /// How much less its end has than its beginning.
    drop: usize,
    last: (usize, usize),
}

/// The shortest chain from a node to one with at least two less; of those as short, to the one with least.
fn chain(loads: &[usize], nodes: &[usize], from: usize, edge: impl Fn(usize, usize) -> bool) -> Option<Chain> {
    let mut before = vec![None; loads.len()];
    let (mut rim, mut length) = (vec![from], 0);
    while !rim.is_empty() {
        let mut next = vec![];
        for &node in &rim {
            for &to in nodes {
                if to != from && before[to].is_none() && edge(node, to) {
                    before[to] = Some(node);
                    next.push(to);
                }
            }
        }
        length += 1;
        let low = next.iter().copied().filter(|to| loads[*to] + 2 <= loads[from]).min_by_key(|to| (loads[*to], *to));
        if let Some(to) = low {
            let last = (before[to].expect("it was reached"), to);
            return Some(Chain { length, drop: loads[from] - loads[to], last });
        }
        rim = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moves(mut loads: Vec<usize>, edges: &[(usize, usize)]) -> (Vec<(usize, usize)>, Vec<usize>) {
        let (among, mut done) = (vec![true; loads.len()], vec![]);
        while let Some((from, to)) = shift(&loads, &among, |from, to| edges.contains(&(from, to))) {
            loads[from] -= 1;
            loads[to] += 1;
            done.push((from, to));
            assert!(done.len() < 100, "it doesn't end: {done:?}");
        }
        (done, loads)
    }

    #[test]
    fn a_unit_goes_straight_where_it_can() {
        assert_eq!(moves(vec![3, 1], &[(0, 1)]), (vec![(0, 1)], vec![2, 2]));
        assert_eq!(moves(vec![2, 1], &[(0, 1)]), (vec![], vec![2, 1]));
        assert_eq!(moves(vec![1, 3], &[(0, 1)]), (vec![], vec![1, 3]));
    }

    #[test]
    fn a_chain_moves_from_its_end() {
        let chain = [(0, 1), (1, 2), (2, 3)];
        assert_eq!(moves(vec![3, 2, 2, 1], &chain), (vec![(2, 3), (1, 2), (0, 1)], vec![2, 2, 2, 2]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Sums of squares measure unevenness: no move raises it, and at the end no way is left from a node to one with
        /// two less.
        #[test]
        fn no_move_makes_loads_less_even(
            loads in prop::collection::vec(0usize..4, 1..9),
            edges in prop::collection::vec((0usize..8, 0usize..8), 0..16),
        ) {
            let edges: Vec<_> = edges.into_iter().map(|(from, to)| (from % loads.len(), to % loads.len())).collect();
            let (done, end) = moves(loads.clone(), &edges);
            let (mut loads, squares) = (loads, |loads: &[usize]| loads.iter().map(|load| load * load).sum::<usize>());
            for (from, to) in done {
                let before = squares(&loads);
                loads[from] -= 1;
                loads[to] += 1;
                prop_assert!(squares(&loads) <= before, "{from} to {to} gives {loads:?}");
            }
            let mut reach = edges.clone();
            for _ in 0..loads.len() {
                let further: Vec<_> = reach.iter().flat_map(|(from, by)| {
                    edges.iter().filter(move |(via, _)| via == by).map(move |(_, to)| (*from, *to))
                }).collect();
                reach.extend(further);
                reach.sort_unstable();
                reach.dedup();
            }
            let left = reach.iter().find(|(from, to)| end[*from] >= end[*to] + 2);
            prop_assert!(left.is_none(), "{left:?} is left of {end:?}");
        }
    }

    #[test]
    fn nodes_apart_stay_as_they_are() {
        assert_eq!(shift(&[9, 0, 5], &[true, false, true], |_, to| to == 1), None);
        assert_eq!(shift(&[], &[], |_, _| true), None);
    }
}
