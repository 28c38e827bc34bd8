//! The rows, by what breaks.

mod clock;
mod cut;
mod damage;
mod full;
mod kill;
mod members;
mod moves;
mod power;
mod sleep;

use crate::chaos::Row;

pub(super) use power::WITHOUT_SYNCS;

pub(super) fn all() -> Vec<Row> {
    [kill::ROWS, members::ROWS, moves::ROWS, sleep::ROWS, cut::ROWS, full::ROWS, damage::ROWS, power::ROWS, clock::ROWS]
        .concat()
}
