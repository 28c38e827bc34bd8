//! Users, roles, range permissions and tokens with the semantics of the etcd v3 API.
//!
//! [`AuthState`] is all that is known of who may do what in one keyspace. It is loaded from stored records, decides
//! what a [`Command`] changes in them, and checks requests. [`Tokens`] says how a password is exchanged for a token.
//!
//! Must hold: nothing here does I/O or keeps anything between calls; time, entropy and files come in as arguments.
//! (One exception, a library's: the RSA-PSS signatures of web tokens draw their salt from the system.) What the stored
//! records don't allow is refused, and what can't be read of them is an error, never an empty permission list.
//!
//! Left to others: storing records and making a command's write depend on what it was decided by; knowing which
//! requests need which check; the threads that hashing passwords blocks.

mod check;
mod command;
mod error;
pub mod limits;
mod password;
mod range;
mod record;
mod secret;
mod state;
mod token;

pub use check::{Identity, leases_put};
pub use command::Command;
pub use error::{AuthError, LoadError};
pub use password::{Hashing, Password};
pub use record::{AuthRevision, RECORDS, RecordChange, SETTINGS_RECORD};
pub use state::{AuthState, Credentials};
pub use token::{TokenOptionError, Tokens};
