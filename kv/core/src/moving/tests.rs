//! Every step in every phase, of the same move, an earlier one and a later one.

use super::*;

const FROM: GroupId = GroupId::new(1);
const TO: GroupId = GroupId::new(2);
const TERMS: Terms = Terms {
    head: Head { revision: Revision::new(9), hash: crate::Digest::ZERO, at: Timestamp::from_micros(9) },
    floor: Revision::ZERO,
    forgotten: Revision::ZERO,
    keys: 3,
    bytes: 30,
};

fn arriving(epoch: u64, number: u64) -> Phase {
    Phase::Arriving { from: FROM, epoch, number, tip: TERMS.head, mark: None }
}

fn phases() -> [(&'static str, Option<Phase>); 6] {
    [
        ("nothing", None),
        ("live", Some(Phase::Live)),
        ("sealed", Some(Phase::Sealed { to: TO })),
        ("arriving", Some(arriving(5, 2))),
        ("gone", Some(Phase::Gone { to: TO })),
        ("absent", Some(Phase::Absent { at: FROM })),
    ]
}

fn fill(epoch: u64, number: u64) -> MoveStep {
    MoveStep::Fill { from: FROM, epoch, number, format: 1, mark: None, rows: Vec::new() }
}

fn steps() -> [(&'static str, MoveStep); 10] {
    let adopt = |epoch, number| MoveStep::Adopt { epoch, number, terms: TERMS };
    [
        ("seal", MoveStep::Seal { to: TO }),
        ("unseal", MoveStep::Unseal),
        ("fill anew", fill(6, 0)),
        ("fill on", fill(5, 3)),
        ("fill again", fill(5, 2)),
        ("fill late", fill(4, 3)),
        ("adopt", adopt(5, 2)),
        ("adopt early", adopt(5, 1)),
        ("drop", MoveStep::Drop),
        ("discard", MoveStep::Discard { from: FROM }),
    ]
}

fn render(stepped: Stepped) -> String {
    let phase = |standing: Standing| match standing.phase {
        Phase::Live => "live".to_string(),
        Phase::Sealed { .. } => "sealed".into(),
        Phase::Arriving { epoch, number, .. } => format!("arriving {epoch}.{number}"),
        Phase::Gone { .. } => "gone".into(),
        Phase::Absent { .. } => "absent".into(),
    };
    match stepped {
        Stepped::Before => "before".into(),
        Stepped::Refused => "-".into(),
        Stepped::Now(standing) => phase(standing),
        Stepped::Filled { standing, begins } => format!("{}{}", phase(standing), if begins { " begun" } else { "" }),
        Stepped::Adopted(standing) => format!("{} adopted", phase(standing)),
        Stepped::Emptied(standing) => format!("{} emptied", phase(standing)),
    }
}

/// What each step of move 7 comes to where the last one was 7 (the first line of a phase) and where it was 6. Where it was
/// 8 all are refused.
const TABLE: &str = "
nothing  | -      | -      | arriving 6.0 begun | -            | -      | - | -            | - | -            | absent
live     | -      | before | -                  | -            | -      | - | before       | before | -       | -
live     | sealed | live   | -                  | -            | -      | - | -            | - | -            | -
sealed   | before | live   | -                  | -            | -      | - | -            | - | gone emptied | -
sealed   | -      | -      | -                  | -            | -      | - | -            | - | -            | -
arriving | -      | -      | arriving 6.0       | arriving 5.3 | before | - | live adopted | - | -            | absent emptied
arriving | -      | -      | -                  | -            | -      | - | -            | - | -            | -
gone     | -      | -      | -                  | -            | -      | - | -            | - | before       | -
gone     | -      | -      | arriving 6.0 begun | -            | -      | - | -            | - | -            | absent
absent   | -      | -      | -                  | -            | -      | - | -            | - | -            | before
absent   | -      | -      | arriving 6.0 begun | -            | -      | - | -            | - | -            | absent
";

#[test]
fn every_step_in_every_phase() {
    let id = MoveId::new(7);
    let mut lines = Vec::new();
    for (name, phase) in phases() {
        for last in [7, 6, 8] {
            let now = phase.map(|phase| Standing { phase, last: MoveId::new(last) });
            let came_to: Vec<_> = steps().iter().map(|(_, step)| step.decide(id, now, (3, 30))).collect();
            if last == 8 && now.is_some() {
                assert!(came_to.iter().all(|stepped| *stepped == Stepped::Refused), "{name}: {came_to:?}");
                continue;
            }
            if now.is_none() && last != 7 {
                continue;
            }
            let cells = came_to.into_iter().map(render);
            lines.push(std::iter::once(name.to_string()).chain(cells).collect::<Vec<_>>());
        }
    }
    let table = TABLE.trim().lines().map(|line| line.split('|').map(|cell| cell.trim().to_string()).collect());
    assert_eq!(lines, table.collect::<Vec<Vec<String>>>());
}

/// What has been taken is taken once: the same step again changes nothing.
#[test]
fn a_step_is_taken_once() {
    for (name, phase) in phases() {
        for (step_name, step) in steps() {
            let now = phase.map(|phase| Standing { phase, last: MoveId::new(6) });
            let taken = |now| match step.decide(MoveId::new(7), now, (3, 30)) {
                Stepped::Now(standing)
                | Stepped::Filled { standing, .. }
                | Stepped::Adopted(standing)
                | Stepped::Emptied(standing) => Some(standing),
                Stepped::Before | Stepped::Refused => None,
            };
            if let Some(after) = taken(now) {
                assert_eq!(taken(Some(after)), None, "{step_name} where it is {name}");
            }
        }
    }
}

/// A copy that is not what the source has is not adopted.
#[test]
fn only_what_is_whole_is_adopted() {
    let now = Standing { phase: arriving(5, 2), last: MoveId::new(7) };
    let adopt = |terms| MoveStep::Adopt { epoch: 5, number: 2, terms };
    let decide = |terms, held| adopt(terms).decide(MoveId::new(7), Some(now), held);
    assert!(matches!(decide(TERMS, (3, 30)), Stepped::Adopted(_)));
    assert_eq!(decide(TERMS, (2, 30)), Stepped::Refused);
    assert_eq!(decide(TERMS, (3, 31)), Stepped::Refused);
    let head = Head { revision: Revision::new(10), ..TERMS.head };
    assert_eq!(decide(Terms { head, ..TERMS }, (3, 30)), Stepped::Refused);
}

/// Whatever order the two groups are applied in, the one that tells most says where the keyspace can be found.
#[test]
fn the_latest_word_counts() {
    let standing = |phase, last| Standing { phase, last: MoveId::new(last) };
    let most = |places: &[(GroupId, Standing)]| {
        let (group, most) = places.iter().max_by_key(|(_, standing)| standing.weight()).unwrap();
        most.place(*group)
    };
    let [live, sealed, gone, absent] =
        [Phase::Live, Phase::Sealed { to: TO }, Phase::Gone { to: TO }, Phase::Absent { at: FROM }];
    let (one, two) = (FROM, TO);
    for (source, target, at) in [
        (live, arriving(1, 0), one),
        (sealed, arriving(1, 0), one),
        (sealed, live, two),
        (gone, arriving(1, 0), two),
        (gone, live, two),
        (sealed, absent, one),
        (live, absent, one),
    ] {
        // A source that has not heard of the move yet, or has given it up, is live.
        assert_eq!(most(&[(one, standing(source, 7)), (two, standing(target, 7))]), at, "{source:?} {target:?}");
    }
    // It has moved back, and one of the two has not applied that.
    let back = Phase::Gone { to: one };
    assert_eq!(most(&[(one, standing(gone, 7)), (two, standing(back, 8))]), one);
    assert_eq!(most(&[(one, standing(live, 8)), (two, standing(live, 7))]), one);
}
