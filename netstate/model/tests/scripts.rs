//! The model, text in, text out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{script::check, world::World};

fn new_world() -> impl FnMut(&str) -> String {
    let mut world = World::default();
    move |line| world.run(line)
}

#[test]
fn directory() {
    check("directory", new_world);
}

#[test]
fn network() {
    check("network", new_world);
}

#[test]
fn reach() {
    check("reach", new_world);
}
