//! Leases on their way from one etcd to another.

mod common;

use std::{future::Future, time::Duration};

use common::{Etcd, Pair, options, put, until};
use kv_import::{ImportError, copy, follow};
use tokio::sync::oneshot;

/// Keeps a lease alive for as long as it is polled.
async fn renewing(etcd: &Etcd, id: i64) -> anyhow::Result<()> {
    loop {
        etcd.renew(id).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Does something while a lease is renewed.
async fn while_renewing<T>(etcd: &Etcd, id: i64, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        ended = renewing(etcd, id) => { ended?; unreachable!("renewing has no end") }
    }
}

async fn gone(etcd: &Etcd, key: &str) -> anyhow::Result<()> {
    until(async || Ok(if etcd.get(key).await?.is_none() { Ok(()) } else { Err(format!("{key} is still there")) })).await
}

async fn there(etcd: &Etcd, key: &str) -> anyhow::Result<()> {
    until(async || Ok(if etcd.get(key).await?.is_some() { Ok(()) } else { Err(format!("{key} is not there")) })).await
}

#[tokio::test]
async fn leases_live_and_end_as_on_the_source() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let options = options();
    // One is kept alive by its owner, one is abandoned later, one is revoked, one appears only while following.
    for (id, ttl) in [(1, 2), (2, 2), (3, 600)] {
        pair.source.grant(id, ttl).await?;
        pair.source.txn(vec![put(&format!("old{id}"), "value", id)]).await?;
    }
    let work = async {
        let start = pair.copy(&options).await?;
        assert_eq!(pair.target.remaining(3).await?.0, 600);
        let (stop, stopped) = oneshot::channel::<()>();
        let (source, target) = (pair.source.side(), pair.target.side());
        let following = follow(&source, &target, &options, start, async { drop(stopped.await) }, &|_| ());
        let watching = async {
            pair.source.grant(4, 2).await?;
            pair.source.txn((0..120).map(|key| put(&format!("new{key}"), "value", 4)).collect()).await?;
            there(&pair.target, "new119").await?;
            assert_eq!(pair.target.get("new0").await?.map(|pair| pair.lease), Some(4));
            pair.source.lease().lease_revoke(etcd_proto::etcdserverpb::LeaseRevokeRequest { id: 3 }).await?;
            gone(&pair.target, "old3").await?;
            for key in ["old2", "new0", "new119"] {
                gone(&pair.target, key).await?;
                assert!(pair.source.get(key).await?.is_none(), "{key} ended on the target before it did on the source");
            }
            // More than two of its terms have passed by now, or pass here.
            let renewed = tokio::time::Instant::now() + Duration::from_secs(3);
            until(async || {
                assert!(pair.target.get("old1").await?.is_some(), "the lease ended although its owner renews it");
                Ok(if tokio::time::Instant::now() > renewed { Ok(()) } else { Err("not long enough".to_owned()) })
            })
            .await?;
            drop(stop);
            anyhow::Ok(())
        };
        let (end, watched) = tokio::join!(following, watching);
        watched?;
        let end = end?;
        pair.assert_equal(&options, Some(end)).await?;
        assert_eq!(pair.target.get("old1").await?.map(|pair| pair.lease), Some(1));
        assert_eq!(pair.target.remaining(1).await?.0, 2);
        anyhow::Ok(())
    };
    while_renewing(&pair.source, 1, Box::pin(work)).await?;
    // Nobody renews it now: it ends with what remained.
    gone(&pair.target, "old1").await
}

#[tokio::test]
async fn keys_come_back_whose_lease_ended_while_no_import_ran() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let options = options();
    pair.source.grant(9, 2).await?;
    pair.source.txn((0..70).map(|key| put(&format!("k{key:02}"), "value", 9)).collect()).await?;
    let work = async {
        let start = pair.copy(&options).await?;
        gone(&pair.target, "k00").await?;
        // These changes come after the position, and must not be lost to what is brought back.
        pair.source.delete("k01").await?;
        pair.source.put("k02", "without lease").await?;
        pair.source.txn(vec![put("k03", "changed", 9)]).await?;
        let end = pair.catch_up(&options, start).await?;
        assert_eq!(pair.assert_equal(&options, Some(end)).await?, 69);
        anyhow::Ok(())
    };
    while_renewing(&pair.source, 9, Box::pin(work)).await
}

#[tokio::test]
async fn a_lease_that_is_gone_by_the_time_its_key_is_applied_leaves_nothing() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let options = options();
    let start = pair.copy(&options).await?;
    pair.source.grant(5, 1).await?;
    pair.source.txn(vec![put("short", "value", 5)]).await?;
    pair.source.put("stays", "value").await?;
    gone(&pair.source, "short").await?;
    let end = pair.catch_up(&options, start).await?;
    pair.assert_equal(&options, Some(end)).await?;
    assert_eq!(pair.target.keys().await?, ["stays"]);
    Ok(())
}

#[tokio::test]
async fn another_lease_of_the_same_id_is_refused() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.target.grant(6, 300).await?;
    pair.source.grant(6, 600).await?;
    pair.source.txn(vec![put("key", "value", 6)]).await?;
    let refused = copy(&pair.source.side(), &pair.target.side(), &options(), &|_| ()).await;
    assert!(matches!(refused, Err(ImportError::LeaseConflict { wanted: 600, found: 300, .. })), "{refused:?}");
    assert!(pair.target.get("key").await?.is_none());
    Ok(())
}
