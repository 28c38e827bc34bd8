//! Watches are told what etcd's are told, event by event and word by word.

use anyhow::{Context, Result};
use etcd_tests::generate::Generator;
use etcd_tests::pair::Pair;
use etcd_tests::run::{self, Plan};
use etcd_tests::watching;

/// How many operations lie between two rounds of watches.
const OPERATIONS_PER_ROUND: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_told_the_same_as_by_etcd() -> Result<()> {
    let plan = Plan::new(100..104, 300)?;
    for seed in plan.seeds {
        println!("seed {seed}, {} operations", plan.operations);
        let mut pair = Pair::start(seed).await?;
        let mut generator = Generator::new(seed);
        for round in 0..plan.operations.div_ceil(OPERATIONS_PER_ROUND) {
            run::operations(&mut pair, &mut generator, OPERATIONS_PER_ROUND).await?;
            watching::round(&mut pair, &mut generator, OPERATIONS_PER_ROUND / 2)
                .await
                .with_context(|| format!("round {round} of seed {seed}"))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_come_in_fragments_and_after_the_end_of_requests() -> Result<()> {
    let mut pair = Pair::start(0).await?;
    watching::large_values(&mut pair, &mut Generator::new(0)).await
}
