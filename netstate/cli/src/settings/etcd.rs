//! How the etcd v3 API is served.

use std::{net::SocketAddr, time::Duration};

use kv_core::Keyspace;
use kv_etcd::{AutoCompaction, Config, Tokens};

use super::{ETCD_AUTH_TOKEN, ETCD_AUTO_COMPACTION, ETCD_LISTEN, ETCD_QUOTA, number, shown, source::Settings};

/// The keyspace of requests that name none, on the client port.
const DEFAULT: &str = "default";

/// How long a simple token lives. etcd's live on while they are used, and many of its clients log in only once.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// The keyspace that says where the nodes of a cluster serve clients.
pub(crate) fn members_keyspace() -> Option<Keyspace> {
    Config::new(Keyspace::new(DEFAULT).expect("a keyspace's name")).members_keyspace()
}

/// The API's configuration, and further ports for it.
pub(super) fn read(settings: &Settings, mistakes: &mut Vec<String>) -> (Config, Vec<(SocketAddr, Keyspace)>) {
    let keyspace = Keyspace::new(DEFAULT).expect("a keyspace's name");
    let mut config = Config::new(keyspace);
    if let Some(mebibytes @ 1..) = number(settings, ETCD_QUOTA, 0u64, mistakes) {
        config.quota_bytes = mebibytes.saturating_mul(1 << 20);
    }
    if let Some(text) = settings.value(ETCD_AUTO_COMPACTION) {
        match text.parse::<AutoCompaction>() {
            Ok(policy) => config.auto_compaction = policy,
            Err(error) => mistakes.push(format!("{}: {error}", settings.source(ETCD_AUTO_COMPACTION))),
        }
    }
    if let Some(text) = settings.value(ETCD_AUTH_TOKEN) {
        match Tokens::from_option(text, TOKEN_TTL, |path| std::fs::read(path)) {
            Ok(tokens) => config.tokens = tokens,
            Err(error) => mistakes.push(format!("{}: {error}", settings.source(ETCD_AUTH_TOKEN))),
        }
    }
    let listen = settings.value(ETCD_LISTEN).unwrap_or_default();
    let parts = listen.split(',').map(str::trim).filter(|part| !part.is_empty());
    let ports = parts.filter_map(|part| {
        let parsed = part
            .split_once('=')
            .and_then(|(address, keyspace)| Some((address.parse().ok()?, Keyspace::new(keyspace).ok()?)));
        if parsed.is_none() {
            let source = settings.source(ETCD_LISTEN);
            mistakes.push(format!(
                "{source}: {:?} is no address with a keyspace; write IP:PORT=KEYSPACE, such as 127.0.0.1:23790=cilium",
                shown(part)
            ));
        }
        parsed
    });
    (config, ports.collect())
}
