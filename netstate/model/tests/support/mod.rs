//! What the tests share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod invariants;
pub(crate) mod script;
pub(crate) mod words;
pub(crate) mod world;
