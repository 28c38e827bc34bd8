//! Following a source that is being written to, with everything that may get in between.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Etcd, Pair, Told, delete, options, proxy::Proxy, put, until};
use etcd_proto::etcdserverpb as pb;
use kv_import::{ImportError, Options, Position, Progress, Side, SourceRevision, copy, follow};
use tokio::{sync::oneshot, task::JoinSet};

/// Some writers at once, each with puts, deletes, and transactions of several keys, on a few keys that they all share.
fn write_load(source: &Arc<Etcd>, writers: u64, rounds: u64) -> JoinSet<anyhow::Result<()>> {
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let source = source.clone();
        tasks.spawn(async move {
            // A pace that an import keeps up with, one revision at a time.
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            for round in 0..rounds {
                pace.tick().await;
                // Every value names its write; the keys are spread by two primes.
                let key = |nth: u64| format!("k{:05}", (writer * 31 + round * 17 + nth * 7) % 40);
                let value = format!("{writer}.{round}");
                match round % 4 {
                    0 => source.put(&key(0), value).await?,
                    1 => source.delete(&key(1)).await?,
                    2 => source.txn((0..5).map(|nth| put(&key(nth), format!("{value}.{nth}"), 0)).collect()).await?,
                    _ => source.txn(vec![put(&key(2), value, 0), delete(&key(3)), delete(&key(4))]).await?,
                };
            }
            Ok(())
        });
    }
    tasks
}

/// Each revision of the source is one revision of the target, in order, exactly once.
async fn assert_same_history(source: &Etcd, target: &Etcd, from: Position, to: Position) -> anyhow::Result<usize> {
    let expected = source.history(from.source.get(), to.source.get()).await?;
    let found = target.history(from.target.get(), to.target.get()).await?;
    let differs = expected.iter().zip(&found).position(|(expected, found)| expected != found);
    assert_eq!(differs.map(|at| (&expected[at], &found[at])), None);
    assert_eq!(expected.len(), found.len());
    Ok(found.len())
}

#[tokio::test]
async fn repeats_concurrent_writes_revision_by_revision() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.source.fill("k", 40).await?;
    let options = options();
    let Pair { source, target } = pair;
    let source = Arc::new(source);
    // Writes begin before the copy, go on during it, and end before the switch.
    let mut load = write_load(&source, 4, 60);
    let start = copy(&source.side(), &target.side(), &options, &|_| ()).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let told = Told::default();
    let following = {
        let (source, target, told) = (source.side(), target.side(), told.clone());
        tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            follow(&source, &target, &options, start, stopped, &|progress| told.note(progress)).await
        })
    };
    while let Some(written) = load.join_next().await {
        written??;
    }
    let last = source.revision().await?;
    drop(stop);
    let end = following.await??;
    assert_eq!(end.source, SourceRevision::new(last));
    assert!(assert_same_history(&source, &target, start, end).await? > 100);
    assert!(
        told.any(|progress| matches!(progress, Progress::Switching { until } if *until == end.source)),
        "{:?}",
        told.all()
    );
    Pair { source: Arc::into_inner(source).expect("the writers have ended"), target }
        .assert_equal(&common::options(), Some(end))
        .await?;
    Ok(())
}

#[tokio::test]
async fn applies_once_whatever_is_cut() -> anyhow::Result<()> {
    let Pair { source, target } = Pair::start().await?;
    let source = Arc::new(source);
    let (start, end) = follow_through_cuts(&source, &target, &options()).await?;
    assert!(assert_same_history(&source, &target, start, end).await? > 100);
    Ok(())
}

#[tokio::test]
async fn applies_each_part_once_whatever_is_cut() -> anyhow::Result<()> {
    let Pair { source, target } = Pair::start().await?;
    let source = Arc::new(source);
    // Two changes each: the load's transactions of five come in three parts.
    let (start, end) = follow_through_cuts(&source, &target, &Options { txn_operations: 3, ..options() }).await?;
    let expected = source.history(start.source.get(), end.source.get()).await?;
    let found = target.history(start.target.get(), end.target.get()).await?;
    assert!(found.len() > expected.len(), "nothing was split");
    assert!(expected.concat() == found.concat(), "{expected:?}\n{found:?}");
    Ok(())
}

/// Copies and follows under load while connections are cut and the import itself is killed.
async fn follow_through_cuts(
    source: &Arc<Etcd>,
    target: &Etcd,
    options: &Options,
) -> anyhow::Result<(Position, Position)> {
    let (near, far) = (Proxy::to(source.port).await?, Proxy::to(target.port).await?);
    let start = copy(&near.side()?, &far.side()?, options, &|_| ()).await?;
    let load = write_load(source, 2, u64::MAX);
    let mut position = start;
    // Each run lives through some cuts, and is then killed itself.
    for _ in 0..5 {
        let sides = (near.side()?, far.side()?);
        tokio::select! {
            cut = cut_connections(target, &near, &far) => cut?,
            ended = follow(&sides.0, &sides.1, options, position, std::future::pending(), &|_| ()) => panic!("ended: {ended:?}"),
        }
        position = copy(&sides.0, &sides.1, options, &|_| ()).await?;
    }
    drop(load);
    let end = follow(&near.side()?, &far.side()?, options, position, std::future::ready(()), &|_| ()).await?;
    Ok((start, end))
}

/// Cuts the ways to both sides in turn, each time after something has arrived.
async fn cut_connections(target: &Etcd, near: &Proxy, far: &Proxy) -> anyhow::Result<()> {
    for cut in 0..6 {
        let before = target.revision().await?;
        until(async || {
            let now = target.revision().await?;
            Ok(if now > before + 2 { Ok(()) } else { Err(format!("{now} after {before}, cut {cut}")) })
        })
        .await?;
        (if cut % 2 == 0 { far } else { near }).cut();
    }
    Ok(())
}

#[tokio::test]
async fn catches_up_by_merging_revisions_if_allowed() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let options = Options { merge_revisions_max: 20, ..options() };
    let start = pair.copy(&options).await?;
    for key in 0..300 {
        pair.source.put(&format!("k{}", key % 30), format!("{key}")).await?;
    }
    let end = pair.catch_up(&options, start).await?;
    pair.assert_equal(&options, Some(end)).await?;
    let steps = end.target.get() - start.target.get();
    assert!((15..150).contains(&steps), "{steps} transactions");
    Ok(())
}

#[tokio::test]
async fn splits_what_no_transaction_can_hold_and_keeps_the_order() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let options = Options { txn_operations: 8, ..options() };
    let start = pair.copy(&options).await?;
    pair.source.txn((0..100).map(|key| put(&format!("k{key:03}"), "first", 0)).collect()).await?;
    pair.source.txn((0..7).map(|key| put(&format!("k{key:03}"), "second", 0)).collect()).await?;
    let all = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    pair.source.kv().delete_range(all).await?;
    pair.source.put("k999", "last").await?;
    let end = pair.catch_up(&options, start).await?;
    pair.assert_equal(&options, Some(end)).await?;
    let (expected, found) = (
        pair.source.history(start.source.get(), end.source.get()).await?,
        pair.target.history(start.target.get(), end.target.get()).await?,
    );
    assert_eq!(expected.concat(), found.concat());
    // 100 and 100 changes by sevens, and two revisions that fit.
    assert_eq!(found.len(), 15 + 1 + 15 + 1, "{found:?}");
    Ok(())
}

#[tokio::test]
async fn compares_again_if_the_source_has_compacted_the_position() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.source.fill("k", 1_000).await?;
    let options = options();
    let start = pair.copy(&options).await?;
    for key in (0..1_000).step_by(10) {
        pair.source.delete(&format!("k{key:05}")).await?;
    }
    pair.source.put("k00001", "changed").await?;
    pair.source.put("new", "added").await?;
    pair.source.compact().await?;
    pair.source.put("newer", "after the compaction").await?;
    let told = Told::default();
    let (source, target) = (pair.source.side(), pair.target.side());
    let end =
        follow(&source, &target, &options, start, std::future::ready(()), &|progress| told.note(progress)).await?;
    assert!(told.any(|progress| *progress == Progress::StartedOver { compacted: start.source }), "{:?}", told.all());
    assert_eq!(pair.assert_equal(&options, Some(end)).await?, 902);
    Ok(())
}

#[tokio::test]
async fn switches_a_prefix_while_other_keys_change() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let options = Options { prefix: "p/".into(), ..options() };
    pair.source.fill("p/", 10).await?;
    let start = pair.copy(&options).await?;
    pair.source.put("p/00003", "changed").await?;
    pair.source.delete("p/00004").await?;
    pair.source.fill("other/", 2_000).await?;
    let end = pair.catch_up(&options, start).await?;
    assert_eq!(end.source, SourceRevision::new(pair.source.revision().await?));
    assert_eq!(pair.assert_equal(&options, Some(end)).await?, 9);
    assert_eq!(pair.target.keys().await?.len(), 9);
    Ok(())
}

#[tokio::test]
async fn switches_a_prefix_even_if_nothing_else_may_be_read() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let token = restrict_to_prefix(&pair.source, "p/").await?;
    let source = pair.source.side().with_token(&token)?;
    let (target, options) = (pair.target.side(), Options { prefix: "p/".into(), ..options() });
    let start = copy(&source, &target, &options, &|_| ()).await?;
    let root = authenticate(&pair.source, "root").await?;
    for key in ["p/a", "q/a", "p/b", "q/b"] {
        put_as(&pair.source, &root, key).await?;
    }
    let end = follow(&source, &target, &options, start, std::future::ready(()), &|_| ()).await?;
    assert_eq!(pair.target.keys().await?, ["p/a", "p/b"]);
    assert!(end.source.get() >= start.source.get() + 4, "{start:?} {end:?}");

    let all = copy(&source, &target, &common::options(), &|_| ()).await;
    assert!(
        matches!(&all, Err(ImportError::Refused { .. }))
            && all.as_ref().unwrap_err().to_string().contains("read the whole prefix"),
        "{all:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_second_import_ends_the_first() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let options = options();
    let start = pair.copy(&options).await?;
    let first = {
        let (source, target, options): (Side, Side, Options) =
            (pair.source.side(), pair.target.side(), options.clone());
        tokio::spawn(async move { follow(&source, &target, &options, start, std::future::pending(), &|_| ()).await })
    };
    pair.source.put("a", "1").await?;
    until(async || Ok(pair.target.get("a").await?.map(drop).ok_or_else(|| "not applied".to_owned()))).await?;
    let position = pair.copy(&options).await?;
    pair.source.put("b", "2").await?;
    let ended = first.await?;
    assert!(matches!(ended, Err(ImportError::Superseded)), "{ended:?}");
    let end = pair.catch_up(&options, position).await?;
    pair.assert_equal(&options, Some(end)).await?;

    let moved =
        follow(&pair.source.side(), &pair.target.side(), &options, start, std::future::ready(()), &|_| ()).await;
    assert!(matches!(moved, Err(ImportError::Moved { .. })), "{moved:?}");
    Ok(())
}

async fn restrict_to_prefix(etcd: &Etcd, prefix: &str) -> anyhow::Result<String> {
    let mut auth = pb::auth_client::AuthClient::new(etcd.channel.clone());
    for name in ["root", "reader"] {
        auth.user_add(pb::AuthUserAddRequest { name: name.into(), password: "secret".into(), ..Default::default() })
            .await?;
        auth.role_add(pb::AuthRoleAddRequest { name: name.into() }).await?;
        auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: name.into(), role: name.into() }).await?;
    }
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix isn't empty") += 1;
    let perm = etcd_proto::authpb::Permission { perm_type: 0, key: prefix.to_owned().into(), range_end: end.into() };
    auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: "reader".into(), perm: Some(perm) }).await?;
    auth.auth_enable(pb::AuthEnableRequest {}).await?;
    authenticate(etcd, "reader").await
}

async fn authenticate(etcd: &Etcd, name: &str) -> anyhow::Result<String> {
    let mut auth = pb::auth_client::AuthClient::new(etcd.channel.clone());
    Ok(auth
        .authenticate(pb::AuthenticateRequest { name: name.into(), password: "secret".into() })
        .await?
        .into_inner()
        .token)
}

async fn put_as(etcd: &Etcd, token: &str, key: &str) -> anyhow::Result<()> {
    let mut request = tonic::Request::new(pb::PutRequest { key: key.to_owned().into(), ..Default::default() });
    request.metadata_mut().insert("token", token.parse()?);
    etcd.kv().put(request).await?;
    Ok(())
}
