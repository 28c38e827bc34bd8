//! How the API is served.

use std::{str::FromStr, time::Duration};

use kv_core::Keyspace;

/// How the API is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// The keyspace of requests that name none.
    pub keyspace: Keyspace,
    /// Keyspaces whose names start so are the store's own: administrators may read them, nobody may write them.
    pub own_prefix: String,
    /// The keyspace whose administrators those are. Where nobody is asked who they are in it, they are those who come to
    /// the port of this keyspace.
    pub administrators: Keyspace,
    /// Bytes of one request.
    pub request_bytes: usize,
    /// Operations of one transaction, counted along its longest path.
    pub txn_operations: usize,
    /// Bytes of live keys and values that one keyspace may hold.
    pub quota_bytes: u64,
    /// Between two progress notifications to a watch that asked for them and has nothing else to tell.
    pub progress: Duration,
    /// What is compacted without being asked.
    pub auto_compaction: AutoCompaction,
    /// How clients prove who they are: `simple`, or `jwt,…` as etcd has it.
    pub tokens: kv_auth::Tokens,
    /// Where this member serves clients, for others to tell theirs.
    pub client_url: Option<String>,
}

/// The keyspace that says where members serve clients, behind the prefix of the store's own.
const MEMBERS: &str = "members";

impl Config {
    /// The keyspace whose records beside the keys say where the members serve clients. `None`: its name is none.
    pub fn members_keyspace(&self) -> Option<Keyspace> {
        Keyspace::new(&format!("{}{MEMBERS}", self.own_prefix)).ok()
    }

    /// etcd's defaults, for requests to this keyspace.
    pub fn new(keyspace: Keyspace) -> Self {
        Config {
            administrators: keyspace.clone(),
            keyspace,
            own_prefix: "netstate/".into(),
            request_bytes: 1536 * 1024,
            txn_operations: 128,
            quota_bytes: u64::MAX,
            progress: Duration::from_secs(600),
            auto_compaction: AutoCompaction::Off,
            tokens: kv_auth::Tokens::default(),
            client_url: None,
        }
    }
}

impl Config {
    /// Whether a keyspace is the store's own: clients of etcd don't write there.
    pub(crate) fn is_own(&self, keyspace: &Keyspace) -> bool {
        keyspace.as_str().starts_with(&self.own_prefix) || keyspace.stays()
    }
}

/// What of a keyspace's history is compacted without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Nothing.
    #[default]
    Off,
    /// What is older than this.
    Age(Duration),
    /// What is further back than so many revisions.
    Revisions(u64),
}

/// Why a text says nothing about compaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither off, nor an age such as 1h or 30m, nor a number of revisions such as 10000")]
pub struct AutoCompactionError {
    text: String,
}

impl FromStr for AutoCompaction {
    type Err = AutoCompactionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || AutoCompactionError { text: text.into() };
        if text == "off" {
            return Ok(AutoCompaction::Off);
        }
        if let Ok(revisions) = text.parse::<u64>() {
            return Ok(if revisions == 0 { AutoCompaction::Off } else { AutoCompaction::Revisions(revisions) });
        }
        let unit = text.chars().next_back().ok_or_else(wrong)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            _ => return Err(wrong()),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        let seconds = number.checked_mul(seconds).filter(|seconds| *seconds > 0).ok_or_else(wrong)?;
        Ok(AutoCompaction::Age(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_revisions_and_nonsense() {
        let parse = |text: &str| text.parse::<AutoCompaction>();
        assert_eq!(parse("off"), Ok(AutoCompaction::Off));
        assert_eq!(parse("0"), Ok(AutoCompaction::Off));
        assert_eq!(parse("10000"), Ok(AutoCompaction::Revisions(10_000)));
        assert_eq!(parse("90m"), Ok(AutoCompaction::Age(Duration::from_secs(5400))));
        for wrong in ["", "h", "-1h", "1w", "99999999999999999d", "1é"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
