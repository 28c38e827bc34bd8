//! Random operations on keys, transactions and leases are answered as by etcd, field by field and word by word.

use anyhow::Result;
use etcd_tests::generate::Generator;
use etcd_tests::pair::Pair;
use etcd_tests::run::{self, Plan};

/// How many different refusals a run of the usual length meets at least. One that meets fewer draws too tame operations.
const REFUSALS_MIN: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_are_answered_as_by_etcd() -> Result<()> {
    let plan = Plan::new(0..8, 500)?;
    for seed in plan.seeds {
        println!("seed {seed}, {} operations", plan.operations);
        let mut pair = Pair::start(seed).await?;
        run::operations(&mut pair, &mut Generator::new(seed), plan.operations).await?;
        println!("{}", pair.summary());
        assert!(plan.operations < 500 || pair.refusals() >= REFUSALS_MIN, "few refusals:\n{}", pair.summary());
    }
    Ok(())
}
