//! Copies and comparisons between two etcds.

mod common;

use common::{Pair, Told, options, put};
use kv_import::{Advice, Difference, ImportError, LeaseId, Options, Progress, SourceRevision, copy, finish};
use tokio::sync::Notify;

#[tokio::test]
async fn copies_thousands_of_keys_in_pages() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.source.fill("k", 4_000).await?;
    // Larger than a page, and than a transaction.
    for key in 0..6 {
        pair.source.put(&format!("large{key}"), vec![b'x'; 1 << 20]).await?;
    }
    let (told, options) = (Told::default(), Options { page_bytes: 1 << 20, ..options() });
    let position = copy(&pair.source.side(), &pair.target.side(), &options, &|progress| told.note(progress)).await?;
    assert_eq!(position.source, SourceRevision::new(pair.source.revision().await?));
    assert_eq!(pair.assert_equal(&options, Some(position)).await?, 4_006);
    let last = told.all().pop();
    assert!(
        matches!(last, Some(Progress::Copying { keys: 4_006, of_keys: 4_006, bytes, revision }) if bytes > 6 << 20 && revision == position.source),
        "{last:?}"
    );
    Ok(())
}

#[tokio::test]
async fn refuses_a_target_with_other_keys_unless_it_may_overwrite() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.source.fill("k", 500).await?;
    pair.target.fill("k003", 3).await?;
    pair.target.put("zz", "extra").await?;
    pair.target.put("k00400", "value 400").await?;
    let refused = copy(&pair.source.side(), &pair.target.side(), &options(), &|_| ()).await;
    assert!(
        matches!(&refused, Err(error @ ImportError::NotEmpty { key }) if key == "k00300000" && error.advice() == Advice::Change),
        "{refused:?}"
    );
    assert_eq!(pair.target.keys().await?.len(), 5);

    let overwrite = Options { overwrite: true, ..options() };
    let before = pair.target.get("k00400").await?;
    let position = pair.copy(&overwrite).await?;
    assert_eq!(pair.assert_equal(&overwrite, Some(position)).await?, 500);
    assert_eq!(pair.target.get("k00400").await?, before, "what was equal was written again");
    Ok(())
}

#[tokio::test]
async fn goes_on_with_an_interrupted_copy() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.source.fill("k", 3_000).await?;
    let (options, mut runs) = (options(), 0);
    let position = loop {
        let (source, target, interrupt) = (pair.source.side(), pair.target.side(), Notify::new());
        let told = Told::default();
        let note = |progress| {
            // The second round of each run is underway.
            if matches!(progress, Progress::Copying { keys: 1.., .. }) {
                interrupt.notify_one();
            }
            told.note(progress);
        };
        tokio::select! {
            biased;
            () = interrupt.notified() => {}
            done = copy(&source, &target, &options, &note) => break done?,
        }
        let copied = pair.target.keys().await?.len();
        assert!(copied > 0 && copied < 3_000, "{copied} keys after run {runs}");
        runs += 1;
        // What is written to the source meanwhile belongs to a later revision than the one copied.
        pair.source.put("k00000", format!("after run {runs}")).await?;
        assert!(runs < 100, "copies don't get ahead: {copied}");
    };
    assert!(runs >= 3, "interrupted {runs} times");
    assert_eq!(pair.assert_equal(&options, Some(position)).await?, 3_000);
    assert_eq!(pair.target.get("k00000").await?.map(|pair| pair.value), Some("value 0".into()));
    let position = pair.catch_up(&options, position).await?;
    pair.assert_equal(&options, Some(position)).await?;
    assert_eq!(pair.target.get("k00000").await?.map(|pair| pair.value), Some(format!("after run {runs}").into()));
    Ok(())
}

#[tokio::test]
async fn starts_over_if_the_source_compacts_during_a_copy() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.source.fill("k", 2_000).await?;
    let (options, told, copied) = (options(), Told::default(), Notify::new());
    {
        let (source, target) = (pair.source.side(), pair.target.side());
        let note = |progress| {
            if matches!(progress, Progress::Copying { keys: 1.., .. }) {
                copied.notify_one();
            }
        };
        tokio::select! {
            biased;
            () = copied.notified() => {}
            done = copy(&source, &target, &options, &note) => panic!("not interrupted: {done:?}"),
        }
    }
    // A key that has been copied, and one that hasn't.
    pair.source.delete("k00001").await?;
    pair.source.delete("k01999").await?;
    pair.source.put("k00002", "changed").await?;
    pair.source.compact().await?;
    let position = copy(&pair.source.side(), &pair.target.side(), &options, &|progress| told.note(progress)).await?;
    assert!(told.any(|progress| matches!(progress, Progress::StartedOver { .. })), "{:?}", told.all());
    assert_eq!(pair.assert_equal(&options, Some(position)).await?, 1_998);
    Ok(())
}

#[tokio::test]
async fn copies_one_prefix_and_leaves_the_rest_alone() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.source.fill("a/", 200).await?;
    pair.source.fill("b/", 1_000).await?;
    pair.source.fill("c/", 200).await?;
    pair.target.put("a/mine", "stays").await?;
    pair.target.put("c/mine", "stays").await?;
    let options = Options { prefix: "b/".into(), ..options() };
    let position = pair.copy(&options).await?;
    assert_eq!(pair.assert_equal(&options, Some(position)).await?, 1_000);
    assert_eq!(pair.target.keys().await?.len(), 1_002);

    // Another prefix has no claim to this position.
    let other =
        copy(&pair.source.side(), &pair.target.side(), &Options { prefix: "d/".into(), ..options.clone() }, &|_| ())
            .await;
    assert!(matches!(other, Err(ImportError::OtherImport { what: "prefix" })), "{other:?}");
    finish(&pair.target.side(), &options).await?;
    pair.copy(&Options { prefix: "d/".into(), ..options }).await?;
    Ok(())
}

#[tokio::test]
async fn verify_finds_every_kind_of_difference() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.source.fill("k", 1_000).await?;
    pair.source.grant(77, 600).await?;
    pair.source.txn(vec![put("leased", "value", 77)]).await?;
    let options = options();
    let position = pair.copy(&options).await?;
    assert_eq!(pair.assert_equal(&options, Some(position)).await?, 1_001);

    pair.target.delete("k00300").await?;
    pair.target.put("k00500", "another").await?;
    pair.target.put("k0050x", "extra").await?;
    pair.target.put("leased", "value").await?;
    let verified = pair.verify(&options, None).await?;
    let lease = Difference::Lease { key: "leased".into(), source: LeaseId::new(77), target: None };
    let expected = [
        Difference::Missing { key: "k00300".into() },
        Difference::Value { key: "k00500".into() },
        Difference::Extra { key: "k0050x".into() },
        lease,
    ];
    assert_eq!((verified.keys, verified.differing, &verified.differences[..]), (1_002, 4, &expected[..]));
    // At the position the target was still equal.
    pair.assert_equal(&options, Some(position)).await?;

    let first = pair.verify(&Options { differences_max: 1, ..options }, None).await?;
    assert_eq!((first.differing, first.differences.len()), (4, 1));
    Ok(())
}

#[tokio::test]
async fn refuses_what_is_no_position() -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    pair.target.txn(vec![put("\0netstate/import", "mine", 0)]).await?;
    let refused = copy(&pair.source.side(), &pair.target.side(), &options(), &|_| ()).await;
    assert!(matches!(refused, Err(ImportError::BadPosition { .. })), "{refused:?}");
    let options = Options { txn_operations: 500, ..options() };
    let refused = copy(&pair.source.side(), &pair.target.side(), &options, &|_| ()).await;
    assert!(matches!(refused, Err(ImportError::BadOption { given: 500, most: 128, .. })), "{refused:?}");
    Ok(())
}
