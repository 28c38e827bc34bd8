//! What an agent is told at its start.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use netstate_model::{Name, NameError, NetnsName};

use crate::plan::{Table, TableNameError};

/// Options of an agent. Build it from [`AgentConfig::new`] and set what differs.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The host's name in the store.
    pub host: String,
    /// The address that other hosts send this host's packets to.
    pub underlay: IpAddr,
    /// The host's labels.
    pub labels: BTreeMap<String, String>,
    /// The servers, as `host:port`.
    pub servers: Vec<String>,
    /// Where the last scope is kept.
    pub state_dir: PathBuf,
    /// The nftables table, of family inet, that the agent owns.
    pub table: String,
    /// Where the files of endpoints' namespaces are.
    pub netns_dir: String,
    /// Print what would be done, and touch nothing on this host. The host is registered all the same: without, it would have
    /// no scope.
    pub dry_run: bool,
    /// How often the kernel is compared with what it should hold, even when nothing seems to have changed.
    pub compare_every: Duration,
    /// The network namespace to work in; none: the agent's own. Several hosts on one machine are made this way.
    pub host_netns: Option<NetnsName>,
}

/// Why options were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The host's name is no name.
    #[error("--host {host:?} refused")]
    Host {
        /// What was given.
        host: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// The table's name is no name of a table.
    #[error("--table refused")]
    Table(#[source] TableNameError),
    /// The namespaces' folder could not be named in a command.
    #[error("--netns-dir {dir:?} refused; give an absolute path of letters, digits and -_./")]
    NetnsDir {
        /// What was given.
        dir: String,
    },
}

impl AgentConfig {
    /// Options with everything else as usual.
    pub fn new(host: impl Into<String>, underlay: IpAddr, servers: Vec<String>) -> Self {
        AgentConfig {
            host: host.into(),
            underlay,
            labels: BTreeMap::new(),
            servers,
            state_dir: PathBuf::from("/var/lib/netstate-agent"),
            table: "netstate".to_owned(),
            netns_dir: "/run/netns".to_owned(),
            dry_run: false,
            compare_every: Duration::from_secs(10),
            host_netns: None,
        }
    }

    /// Checks every option, and gives the table.
    ///
    /// # Errors
    /// Every mistake there is.
    pub fn check(&self) -> Result<Table, Vec<ConfigError>> {
        let mut errors = Vec::new();
        if let Err(source) = self.host.parse::<Name>() {
            errors.push(ConfigError::Host { host: self.host.chars().take(80).collect(), source });
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        if !self.netns_dir.starts_with('/') || !self.netns_dir.bytes().all(plain) {
            errors.push(ConfigError::NetnsDir { dir: self.netns_dir.chars().take(80).collect() });
        }
        match Table::new(&self.table) {
            Ok(table) if errors.is_empty() => Ok(table),
            Ok(_) => Err(errors),
            Err(error) => {
                errors.push(ConfigError::Table(error));
                Err(errors)
            }
        }
    }
}
