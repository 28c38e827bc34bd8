//! Where the members serve clients: each tells it once in a record that all of them have.

use std::time::Duration;

use bytes::Bytes;
use kv_core::{Effect, NodeId, Txn};
use tokio_util::sync::CancellationToken;

use crate::access::Shared;

/// What their keys start with; a node's number follows.
const RECORDS: &[u8] = b"client/";

/// Between two attempts to tell it, while the store has no leader.
const PAUSE: Duration = Duration::from_millis(500);

/// Where members serve clients, as far as the local replica has it: (node, URL).
pub(crate) fn client_urls(shared: &Shared) -> Vec<(NodeId, String)> {
    let records =
        shared.config().members_keyspace().and_then(|keyspace| shared.node().all_beside(&keyspace, RECORDS).ok());
    let read = |(key, url): (Bytes, Bytes)| {
        let node = std::str::from_utf8(key.strip_prefix(RECORDS)?).ok()?.parse().ok()?;
        Some((NodeId::new(node), String::from_utf8_lossy(&url).into_owned()))
    };
    records.unwrap_or_default().into_iter().filter_map(read).collect()
}

/// Tells where this member serves clients, unless that is known.
pub(crate) async fn announce(shared: Shared, stop: CancellationToken) {
    let (Some(url), Some(keyspace)) = (shared.config().client_url.clone(), shared.config().members_keyspace()) else {
        return;
    };
    let key = Bytes::from([RECORDS, shared.node().id().get().to_string().as_bytes()].concat());
    loop {
        if shared.node().beside(&keyspace, &key).is_ok_and(|known| known.as_deref() == Some(url.as_bytes())) {
            return;
        }
        let effects = vec![Effect::Record { key: key.clone(), value: Some(url.clone().into()) }];
        let txn = Txn { effects, actor: "server".into(), ..Txn::default() };
        if shared.node().txn(&keyspace, txn).await.is_ok() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return,
        }
    }
}
