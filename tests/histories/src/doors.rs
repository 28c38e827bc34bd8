//! How clients find the members of a cluster, and see them die.
//!
//! Must hold: members can come and go while clients work; a member keeps its place and its number for good.
//!
//! Left to others: which processes stand behind the doors (see `cluster`).

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::StdRng;
use tonic::transport::{Channel, Endpoint};

use crate::history::Life;

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Door {
    address: SocketAddr,
    lives: u64,
    open: bool,
}

/// The doors of all members. Clones show the same ones.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<RwLock<Vec<Door>>>);

impl Doors {
    /// Adds a member's door and tells the member's number.
    pub fn add(&self, address: SocketAddr) -> usize {
        let mut doors = self.0.write().unwrap_or_else(PoisonError::into_inner);
        doors.push(Door { address, lives: 0, open: true });
        doors.len() - 1
    }

    /// Clients go to this member no more: it is to be removed, or what it serves is damaged.
    pub fn close(&self, member: usize) {
        self.0.write().unwrap_or_else(PoisonError::into_inner)[member].open = false;
    }

    /// Clients go to this member again.
    pub fn reopen(&self, member: usize) {
        self.0.write().unwrap_or_else(PoisonError::into_inner)[member].open = true;
    }

    /// The members that clients go to.
    pub fn members(&self) -> Vec<usize> {
        let doors = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (0..doors.len()).filter(|member| doors[*member].open).collect()
    }

    /// One of the members that clients go to.
    pub(crate) fn any(&self, rng: &mut StdRng) -> usize {
        let members = self.members();
        members.get(rng.random_range(0..members.len().max(1))).copied().unwrap_or_default()
    }

    /// One of the others, if there is one.
    pub(crate) fn another(&self, than: usize, rng: &mut StdRng) -> usize {
        let others: Vec<_> = self.members().into_iter().filter(|member| *member != than).collect();
        if others.is_empty() { than } else { others[rng.random_range(0..others.len())] }
    }

    /// A connection that is made when it is first used, and again when it was lost.
    pub fn channel(&self, member: usize) -> Result<Channel> {
        let doors = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let door = doors.get(member).with_context(|| format!("there is no member {member}"))?;
        Ok(Endpoint::from_shared(format!("http://{}", door.address))?.connect_timeout(CONNECT_WITHIN).connect_lazy())
    }

    /// The life that a member is in.
    pub fn life(&self, member: usize) -> Life {
        Life { member, count: self.0.read().unwrap_or_else(PoisonError::into_inner)[member].lives }
    }

    /// The member died, or was started.
    pub(crate) fn next_life(&self, member: usize) {
        self.0.write().unwrap_or_else(PoisonError::into_inner)[member].lives += 1;
    }
}
