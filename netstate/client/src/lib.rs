//! The client of `netstate.v1`: one handle on a cluster, whichever of its servers happens to be there.
//!
//! Must hold: a change is sent again only under the request id of its first attempt, so that a lost connection never makes
//! it happen twice; a call ends by its deadline; nothing is buffered without a limit.
//!
//! Left to others: what the messages mean. Requests and answers are the wire types of `netstate-proto`.

mod call;
mod connect;
mod error;
mod methods;
mod relays;
mod watch;

pub use call::{Answers, Client};
pub use connect::{AddressError, Options};
pub use error::{ClientError, Retry, Tried};
pub use watch::{HostWatch, ReceivedFrame, WatchEvent};
