//! Who may talk to whom, and why.
//!
//! Must hold: pairs are counted without going through them. Endpoints with the same labels are alike to every
//! connection, and those that the same connections select are alike to all that is asked, so classes of endpoints are
//! counted. Endpoints in quarantine talk to nobody; connections whose time is over permit nothing; replies are no pairs
//! of their own.

mod cover;
mod crowd;
mod explain;
mod question;

use std::collections::BTreeSet;

use self::{crowd::Crowd, question::Question};
use crate::{
    Connection, Directory, EndpointId, HostId, NetworkId, NetworkState, Refusal, Selector, Timestamp, scope::hosts_of,
};

/// Who is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// All endpoints of a network.
    Network(NetworkId),
    /// One endpoint.
    Endpoint(EndpointId),
}

/// How many of the pairs may talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every pair, on what the permits say.
    Allowed,
    /// Some pairs.
    Partly,
    /// None.
    Denied,
}

/// Why something is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Both are of one network.
    SameNetwork {
        /// Pairs that may talk because of it.
        pairs: u64,
    },
    /// A connection.
    Connection {
        /// The connection.
        connection: Connection,
        /// Pairs that may talk because of it.
        pairs: u64,
    },
}

impl Permit {
    /// Pairs that may talk because of it.
    pub fn pairs(&self) -> u64 {
        match self {
            Permit::SameNetwork { pairs } | Permit::Connection { pairs, .. } => *pairs,
        }
    }
}

/// The answer to whether one may reach the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// In a word.
    pub verdict: Verdict,
    /// All that allows it.
    pub permits: Vec<Permit>,
    /// Pairs of endpoints that may talk. Pairs have a direction; an endpoint and itself are none.
    pub pairs: u64,
    /// Pairs that there are.
    pub pairs_possible: u64,
    /// In a sentence.
    pub explanation: String,
}

/// One group of endpoints that can reach something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// Their network.
    pub network: NetworkId,
    /// Which of its endpoints. None: all.
    pub selector: Option<Selector>,
    /// How many.
    pub endpoints: u64,
    /// Because of which connection. None: they are of the same network.
    pub connection: Option<Connection>,
}

/// What a connection opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Endpoints that may open flows by it.
    pub from_endpoints: u64,
    /// Endpoints that may be reached by it.
    pub to_endpoints: u64,
    /// Pairs of endpoints that it allows.
    pub pairs: u64,
    /// Of those, pairs that other connections do not allow on all of its protocol and ports.
    pub pairs_new: u64,
    /// Hosts that have to program it.
    pub hosts: BTreeSet<HostId>,
}

/// Gives the state of a network, if there is one here.
pub type Networks<'a> = &'a dyn Fn(NetworkId) -> Option<NetworkState>;

/// Whether `from` may reach `to`, on what, and why.
///
/// A network without a state here counts as one without endpoints.
pub fn reach(
    directory: &Directory,
    networks: Networks,
    from: &Subject,
    to: &Subject,
    now: Timestamp,
) -> Result<Reach, Refusal> {
    let from = Crowd::of(directory, networks, from)?;
    let to = Crowd::of(directory, networks, to)?;
    let question = Question { directory, from: &from, to: &to, now };
    if from.network == to.network { Ok(question.within_network()) } else { Ok(question.across_networks()) }
}

/// Who can reach this: the members of its network first, then by connection.
pub fn exposure(
    directory: &Directory,
    networks: Networks,
    target: &Subject,
    now: Timestamp,
) -> Result<Vec<Exposure>, Refusal> {
    let target = Crowd::of(directory, networks, target)?;
    if target.quarantine().is_some() {
        return Ok(Vec::new());
    }
    let members = Crowd::of(directory, networks, &Subject::Network(target.network))?;
    let others = members.active() - u64::from(target.endpoint.is_some());
    let mut entries = vec![Exposure { network: target.network, selector: None, endpoints: others, connection: None }];
    let into = directory.connections_of(target.network).filter(|own| own.to.network == target.network && own.live(now));
    for connection in
        into.filter(|own| target.endpoint.as_ref().is_none_or(|endpoint| own.to.matches(&endpoint.labels)))
    {
        let from = Crowd::of(directory, networks, &Subject::Network(connection.from.network))?;
        entries.push(Exposure {
            network: connection.from.network,
            selector: connection.from.selector.clone(),
            endpoints: from.selected(&connection.from),
            connection: Some(connection.clone()),
        });
    }
    Ok(entries)
}

/// What a connection would open now. It need not be made yet: pass what [`Directory::decide`] says of making it.
pub fn opened_pairs(
    directory: &Directory,
    networks: Networks,
    connection: &Connection,
    now: Timestamp,
) -> Result<Opened, Refusal> {
    let from = Crowd::of(directory, networks, &Subject::Network(connection.from.network))?;
    let to = Crowd::of(directory, networks, &Subject::Network(connection.to.network))?;
    let (from_endpoints, to_endpoints) = (from.selected(&connection.from), to.selected(&connection.to));
    Ok(Opened {
        from_endpoints,
        to_endpoints,
        pairs: from_endpoints * to_endpoints,
        pairs_new: cover::pairs_new(directory, &from, &to, connection, now),
        hosts: hosts_of(connection, networks),
    })
}
