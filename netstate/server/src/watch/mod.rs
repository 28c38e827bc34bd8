//! The scoped watch: each host is told what concerns it, and nothing else.
//!
//! ```text
//!  view ──touched──► hub: which streams does it concern? ──mark──► schedule
//!                                                                    │ wakes it, at its pace
//!                                                                    ▼
//!                                                                  stream
//!                                                                    │ when it can write
//!  view ◄──snapshots, what changed since its cursors──────────────── frame ──► host
//!                                                                              │
//!  hub ◄──────────────────────────────── ack ──────────────────────────────────┘
//! ```
//!
//! Must hold: a stream holds no events, only one cursor per network and a mark per network that has something for it; a slow
//! host gets fewer, larger frames. What a host is sent lies in its scope as of the frame's snapshots. A change costs work in
//! proportion to the streams that it concerns.

mod body;
mod encoded;
mod frame;
mod hub;
mod pace;
pub(crate) mod presence;
mod schedule;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use body::route;
pub(crate) use hub::Hub;
pub(crate) use stream::{Frames, serve};
