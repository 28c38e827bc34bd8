//! Open files: each connection takes one, and systems give a process fewer than they let it ask for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for as many as may be had. Returns how many files may be open from here on; `None`: any number.
pub(crate) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        // As it was, then.
        Err(_) => limit.current,
    }
}
