//! Real agents, real kernels, real packets: hosts and endpoints as network namespaces of their own.
//!
//! Needs root and network namespaces. Without, every test says so and passes.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod probe;
mod story;
mod world;

mod isolation;
mod measure;
mod repair;
mod restart;
