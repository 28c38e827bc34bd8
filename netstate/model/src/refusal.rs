//! Why a command is not carried out. A refusal is a reply, not a failure: nothing was changed.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    ConnectionId, EndpointId, Family, HostId, LabelsError, MacError, Name, NameError, NetnsError, NetworkId,
    PortsError, SelectorError, TextError, Timestamp, limits, text::Quoted,
};

/// What kind of refusal it is: what the caller may do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// Wrong in itself, whatever the state.
    Invalid,
    /// It names something that there is not.
    NotFound,
    /// The name, address or permission is there already.
    AlreadyExists,
    /// Not in this state.
    Precondition,
    /// No room for it.
    Exhausted,
    /// Not yet: try again in a moment.
    NotReady,
}

/// A command refused: what, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A malformed name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Malformed labels.
    #[error(transparent)]
    Labels(#[from] LabelsError),
    /// A malformed selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// Malformed ports.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A malformed MAC address.
    #[error(transparent)]
    Mac(#[from] MacError),
    /// A malformed name of a network namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A text that is too long or holds control characters.
    #[error(transparent)]
    Text(#[from] TextError),
    /// No reason was given for something that needs one.
    #[error("{operation} needs a reason; say why, others will read it")]
    ReasonMissing {
        /// What was to be done.
        operation: &'static str,
    },
    /// A network without a pool.
    #[error("a network needs an address pool; give one such as 10.1.0.0/16")]
    NoPools,
    /// More pools than a network may have.
    #[error("{found} pools, a network may have {}; use fewer, larger ones", limits::POOLS_MAX)]
    TooManyPools {
        /// How many there are.
        found: usize,
    },
    /// A pool that is not the beginning of its range.
    #[error("{pool} has bits set behind its prefix; write {meant}")]
    PoolBits {
        /// The pool as given.
        pool: IpNet,
        /// The range that it lies in.
        meant: IpNet,
    },
    /// A pool of addresses that no endpoint can have.
    #[error("pool {pool} overlaps {special} ({what}); choose another range")]
    PoolSpecial {
        /// The pool.
        pool: IpNet,
        /// The range that it overlaps.
        special: IpNet,
        /// What that range is.
        what: &'static str,
    },
    /// Two pools of one command overlap.
    #[error("pools {first} and {second} overlap; leave one out")]
    PoolsOverlap {
        /// One pool.
        first: IpNet,
        /// The other pool.
        second: IpNet,
    },
    /// A pool overlaps one of another network.
    #[error("pool {pool} overlaps pool {other} of network {name} ({network}); choose another range")]
    PoolTaken {
        /// The pool.
        pool: IpNet,
        /// The pool that is there.
        other: IpNet,
        /// The network that has it.
        network: NetworkId,
        /// That network's name.
        name: Name,
    },
    /// Blocks that don't fit the pools.
    #[error("blocks of /{len} don't fit {family} pools; choose /{shortest} to /{longest}, or leave the length out")]
    BlockLen {
        /// The length asked for.
        len: u8,
        /// The family of the pools.
        family: Family,
        /// The largest blocks that fit.
        shortest: u8,
        /// The smallest blocks that there are.
        longest: u8,
    },
    /// A block length for a family without a pool.
    #[error("a block length is given for {family}, but no {family} pool; leave it out or add a pool")]
    BlockLenWithoutPool {
        /// The family.
        family: Family,
    },
    /// Both sides of a connection name one network.
    #[error("{name} is on both sides; members of one network may talk to each other without a connection")]
    SameNetwork {
        /// The network.
        name: Name,
    },
    /// Ports where the protocol has none.
    #[error("ports are given, but protocol {protocol} has none; leave them out or choose tcp, udp or sctp")]
    PortsWithoutProtocol {
        /// The protocol.
        protocol: crate::Protocol,
    },
    /// More port ranges than a connection may have.
    #[error("{found} port ranges, a connection may have {}; split it into several", limits::PORT_RANGES_MAX)]
    TooManyPorts {
        /// How many there are, after merging.
        found: usize,
    },
    /// A lifetime of nothing or of ages.
    #[error(
        "a lifetime of {seconds} s is not possible; choose 1 to {} s, or none for a connection without an end",
        limits::LIFETIME_SECONDS_MAX
    )]
    Lifetime {
        /// The lifetime asked for, in seconds.
        seconds: u64,
    },
    /// An underlay address that routes can't lead to.
    #[error("{underlay} can't be a host's underlay address; give one that other hosts can route to")]
    Underlay {
        /// The address.
        underlay: IpAddr,
    },
    /// A batch with nothing in it.
    #[error("nothing to {operation}; name at least one endpoint")]
    EmptyBatch {
        /// What was to be done.
        operation: &'static str,
    },
    /// A batch with more than one command may carry.
    #[error("{found} endpoints to {operation}, one request may carry {limit}; split it")]
    BatchTooLarge {
        /// What was to be done.
        operation: &'static str,
        /// How many there are.
        found: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// One name twice in a batch.
    #[error("{name} is in the request twice; nothing of it was done, name each endpoint once")]
    TwiceInBatch {
        /// The name.
        name: Name,
    },
    /// Two addresses of one family for one endpoint.
    #[error("{name} asks for {first} and {second}; an endpoint has one address per family, leave one out")]
    TwoAddresses {
        /// The endpoint.
        name: Name,
        /// One address.
        first: IpAddr,
        /// The other.
        second: IpAddr,
    },
    /// An address that is in no pool.
    #[error("{address}, asked for by {name}, is in no pool of the network ({pools}); choose one of those, or none")]
    AddressOutside {
        /// The endpoint.
        name: Name,
        /// The address.
        address: IpAddr,
        /// The pools, for people.
        pools: String,
    },
    /// An address that no endpoint may have.
    #[error("{address}, asked for by {name}, is reserved in pool {pool}; choose another, or none")]
    AddressReserved {
        /// The endpoint.
        name: Name,
        /// The address.
        address: IpAddr,
        /// The pool that reserves it.
        pool: IpNet,
    },
    /// No such network.
    #[error("there is no network {wanted}; `netstate network ls` lists them")]
    UnknownNetwork {
        /// The name or id asked for.
        wanted: Quoted,
    },
    /// No such host.
    #[error("there is no host {wanted}; `netstate host ls` lists them")]
    UnknownHost {
        /// The name or id asked for.
        wanted: Quoted,
    },
    /// No such connection.
    #[error("there is no connection {wanted}; `netstate connection ls` lists them")]
    UnknownConnection {
        /// The id asked for.
        wanted: Quoted,
    },
    /// No such endpoint.
    #[error("there is no endpoint {wanted} on network {network}; `netstate endpoint ls` lists them")]
    UnknownEndpoint {
        /// The name or id asked for.
        wanted: Quoted,
        /// The network's name.
        network: Name,
    },
    /// A network of that name exists.
    #[error("network {name} exists already ({id}); choose another name")]
    NetworkNameTaken {
        /// The name.
        name: Name,
        /// The network that has it.
        id: NetworkId,
    },
    /// An endpoint of that name exists.
    #[error("endpoint {name} exists already ({id}); detach it first or choose another name")]
    EndpointNameTaken {
        /// The name.
        name: Name,
        /// The endpoint that has it.
        id: EndpointId,
    },
    /// Another endpoint holds the address.
    #[error("{address}, asked for by {name}, belongs to {holder}; choose another, or none")]
    AddressTaken {
        /// The endpoint that asks.
        name: Name,
        /// The address.
        address: IpAddr,
        /// The endpoint that holds it.
        holder: Name,
    },
    /// The same connection exists.
    #[error("{id} allows just this already; disconnect it first to replace it")]
    Connected {
        /// The connection that is there.
        id: ConnectionId,
    },
    /// Another host has the underlay address.
    #[error("underlay address {underlay} belongs to host {name} ({id}); give this host its own, or remove {name}")]
    UnderlayTaken {
        /// The address.
        underlay: IpAddr,
        /// The host that has it.
        id: HostId,
        /// That host's name.
        name: Name,
    },
    /// Connections still refer to the network.
    #[error("network {name} has connections ({count}, {first} among them); disconnect them first")]
    NetworkConnected {
        /// The network.
        name: Name,
        /// How many connections refer to it.
        count: usize,
        /// One of them.
        first: ConnectionId,
    },
    /// Endpoints are still attached to the network.
    #[error("network {name} has endpoints ({count}); detach them first")]
    NetworkInUse {
        /// The network.
        name: Name,
        /// How many endpoints.
        count: usize,
    },
    /// The network is being retired.
    #[error("network {name} is being removed; use another one")]
    NetworkRetiring {
        /// The network.
        name: Name,
    },
    /// The network is not being retired.
    #[error("network {name} is not being removed; retire it first")]
    NetworkNotRetiring {
        /// The network.
        name: Name,
    },
    /// The installed settings are other ones.
    #[error("network {name} is prepared already, with other settings; remove it and create it anew to change them")]
    OtherConfig {
        /// The network.
        name: Name,
    },
    /// The connection has no end or has not reached it.
    #[error("connection {id} has not expired; disconnect it to end it now")]
    NotExpired {
        /// The connection.
        id: ConnectionId,
    },
    /// A host may not be given up so soon or so late.
    #[error(
        "endpoints of a host silent for {seconds} s can't be detached; choose {} s to {} s, or have them stay",
        limits::DETACH_AFTER_SECONDS_MIN,
        limits::DETACH_AFTER_SECONDS_MAX
    )]
    DetachAfter {
        /// The time asked for, in seconds.
        seconds: u64,
    },
    /// The policy keeps the endpoints of a host.
    #[error("host {name}, silent for {seconds} s, keeps its endpoints; `netstate host policy` says until when")]
    HostKept {
        /// The host.
        name: Name,
        /// For how long no server has heard it, in seconds.
        seconds: u64,
    },
    /// Endpoints are to be attached on a host that was given up.
    #[error("host {name} was silent and given up at {since}; it may have endpoints again when its agent is back")]
    HostLost {
        /// The host.
        name: Name,
        /// When it was given up.
        since: Timestamp,
    },
    /// Endpoints are attached on the host.
    #[error("host {name} has endpoints ({count}); detach them first")]
    HostInUse {
        /// The host.
        name: Name,
        /// How many endpoints.
        count: u64,
    },
    /// No free address.
    #[error(
        "no {family} address is free for {name} in network {network} ({pools}); detach endpoints or use another network"
    )]
    PoolExhausted {
        /// The endpoint that wanted one.
        name: Name,
        /// The network.
        network: Name,
        /// Of which family.
        family: Family,
        /// The pools, for people.
        pools: String,
    },
    /// As many as there may be.
    #[error("there are {limit} {what}, the most that is allowed; remove some first")]
    Full {
        /// Of what.
        what: &'static str,
        /// The most that is allowed.
        limit: usize,
    },
    /// The counter that numbers them is at its end.
    #[error("all numbers for {what} have been used; numbers are never used twice, so no more can be made here")]
    NumbersUsed {
        /// For what.
        what: &'static str,
    },
    /// The network's own keyspace has no settings yet.
    #[error("the network is being prepared and can't hold endpoints yet; try again in a moment")]
    NotInstalled,
}

impl Refusal {
    /// What the caller may do about it.
    pub fn kind(&self) -> RefusalKind {
        use Refusal::*;
        match self {
            Name(_) | Labels(_) | Selector(_) | Ports(_) | Mac(_) | Netns(_) | Text(_) => RefusalKind::Invalid,
            ReasonMissing { .. } | NoPools | TooManyPools { .. } | PoolBits { .. } | PoolSpecial { .. } => {
                RefusalKind::Invalid
            }
            PoolsOverlap { .. } | BlockLen { .. } | BlockLenWithoutPool { .. } | SameNetwork { .. } => {
                RefusalKind::Invalid
            }
            PortsWithoutProtocol { .. }
            | TooManyPorts { .. }
            | Lifetime { .. }
            | Underlay { .. }
            | DetachAfter { .. } => RefusalKind::Invalid,
            EmptyBatch { .. } | BatchTooLarge { .. } | TwiceInBatch { .. } | TwoAddresses { .. } => {
                RefusalKind::Invalid
            }
            AddressOutside { .. } | AddressReserved { .. } => RefusalKind::Invalid,
            UnknownNetwork { .. } | UnknownHost { .. } | UnknownConnection { .. } | UnknownEndpoint { .. } => {
                RefusalKind::NotFound
            }
            PoolTaken { .. } | NetworkNameTaken { .. } | EndpointNameTaken { .. } => RefusalKind::AlreadyExists,
            AddressTaken { .. } | Connected { .. } | UnderlayTaken { .. } => RefusalKind::AlreadyExists,
            NetworkConnected { .. } | NetworkInUse { .. } | NetworkRetiring { .. } => RefusalKind::Precondition,
            NetworkNotRetiring { .. } | OtherConfig { .. } | NotExpired { .. } => RefusalKind::Precondition,
            HostInUse { .. } | HostKept { .. } | HostLost { .. } => RefusalKind::Precondition,
            PoolExhausted { .. } | Full { .. } | NumbersUsed { .. } => RefusalKind::Exhausted,
            NotInstalled => RefusalKind::NotReady,
        }
    }
}
