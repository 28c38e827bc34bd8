//! Networks, endpoints and connections: what they are, what may be done to them, what follows from them.
//!
//! `decide` says what a command changes, or refuses it; `evolve` makes a change. Both are pure: time and ids come in as
//! arguments or out of the state, and the same `evolve` builds the leader's working state, every node's view and the
//! picture at an earlier time.
//!
//! Two kinds of keyspace hold this: the *directory* (networks, connections, hosts; few, made by operators) and one per
//! *network* (its endpoints and blocks; many, busy). A network's keyspace carries a copy of what attaching needs, so
//! that attaching never touches the directory.
//!
//! Left to others: storing, replicating and delivering (`kv`, `netstate-server`), programming kernels
//! (`netstate-agent`).

mod context;
pub mod directory;
mod id;
mod labels;
pub mod limits;
mod mac;
mod name;
mod netns;
pub mod network;
mod packed;
pub mod reach;
mod record;
mod refusal;
pub mod scope;
mod selector;
mod text;
mod time;

pub use context::Context;
pub use directory::{
    Connection, Counters, Directory, DirectoryChange, DirectoryCommand, Host, HostPolicy, LostHost, Network, Ports,
    PortsError, Protocol, Side,
};
pub use id::{ConnectionId, EndpointId, HostId, IdError, NetworkId};
pub use labels::{Labels, LabelsError};
pub use mac::{Mac, MacError};
pub use name::{Name, NameError};
pub use netns::{NetnsError, NetnsName};
pub use network::{
    Addresses, Attach, Endpoint, Family, NetworkChange, NetworkCommand, NetworkConfig, NetworkState, Quarantine,
};
pub use packed::{PackedBlocks, PackedError, PlacedBlock};
pub use reach::{Exposure, Networks, Opened, Permit, Reach, Subject, Verdict, exposure, opened_pairs, reach};
pub use record::RecordError;
pub use refusal::{Refusal, RefusalKind};
pub use scope::{Scope, hosts_of, scope};
pub use selector::{Selector, SelectorError};
pub use text::{Quoted, TextError};
pub use time::Timestamp;
