//! The directory: which networks, connections and hosts there are. Few of each, made by operators, in one global order.
//!
//! Must hold: names of networks and of hosts are unique; pools of all networks are disjoint; a connection's two
//! networks exist, are not being removed and differ; ids are never used twice. `decide` sees to all of it; `evolve`
//! makes any change and leaves the indexes consistent with the records.
//!
//! Left to others: endpoints and addresses (`network`).

mod change;
mod command;
mod connection;
mod decide;
mod pools;
mod ports;
mod record;
mod state;
mod things;

pub(crate) use change::labels_text;
pub use change::{Counters, DirectoryChange};
pub use command::DirectoryCommand;
pub use connection::{Connection, Side};
pub use ports::{Ports, PortsError, Protocol};
pub use state::Directory;
pub use things::{Host, HostPolicy, LostHost, Network};
