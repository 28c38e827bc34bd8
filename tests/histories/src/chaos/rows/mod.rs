//! The rows, by what breaks.

mod backup;
mod clock;
mod cut;
mod damage;
mod full;
mod kill;
mod members;
mod moves;
mod power;
mod sleep;
mod slow;

use crate::chaos::Row;

pub(super) use power::WITHOUT_SYNCS;

pub(super) fn all() -> Vec<Row> {
    [
        kill::ROWS,
        members::ROWS,
        moves::ROWS,
        sleep::ROWS,
        cut::ROWS,
        slow::ROWS,
        full::ROWS,
        damage::ROWS,
        backup::ROWS,
        power::ROWS,
        clock::ROWS,
    ]
    .concat()
}
