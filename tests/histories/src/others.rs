//! Keyspaces beside the one that is checked.

use anyhow::{Result, ensure};
use etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use tonic::Request;

use crate::doors::Doors;

/// The metadata that names a keyspace.
const KEYSPACE: &str = "netstate-keyspace";

fn named<T>(message: T, keyspace: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(KEYSPACE, keyspace.parse()?);
    Ok(request)
}

/// Writes some keys.
pub async fn fill(doors: &Doors, member: usize, keyspace: &str, keys: usize) -> Result<()> {
    let mut client = KvClient::new(doors.channel(member)?);
    for key in 0..keys {
        let key = format!("k{key:04}");
        let put = pb::PutRequest { key: key.clone().into(), value: key.into(), ..Default::default() };
        client.put(named(put, keyspace)?).await?;
    }
    Ok(())
}

/// Checks that they are all there, and that nothing else was ever written.
pub async fn check(doors: &Doors, member: usize, keyspace: &str, keys: usize) -> Result<()> {
    let mut client = KvClient::new(doors.channel(member)?);
    let range = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let found = client.range(named(range, keyspace)?).await?.into_inner();
    ensure!(found.kvs.len() == keys, "{keyspace} has {} keys, and not {keys}", found.kvs.len());
    for (at, kv) in found.kvs.iter().enumerate() {
        let key = format!("k{at:04}");
        ensure!(kv.key == key && kv.value == key && kv.version == 1, "{keyspace} has {kv:?} where {key} belongs");
    }
    let revision = found.header.map_or(0, |header| header.revision);
    // A keyspace of etcd's begins at revision 1.
    ensure!(revision == i64::try_from(keys)? + 1, "{keyspace} is at {revision}");
    Ok(())
}
