//! The placement planner, from outside: stories as text, and random lives of random clusters.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod cluster;
mod ideal;
mod lives;
mod safety;
mod stories;
