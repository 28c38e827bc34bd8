//! Users, roles and permissions, and what they let through, are answered as by etcd.

use anyhow::Result;
use etcd_tests::generate::Generator;
use etcd_tests::pair::Pair;
use etcd_tests::run::{self, Plan};

/// How many different refusals a run of the usual length meets at least.
const REFUSALS_MIN: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_permissions_are_answered_as_by_etcd() -> Result<()> {
    let plan = Plan::new(200..206, 600)?;
    for seed in plan.seeds {
        println!("seed {seed}, {} operations", plan.operations);
        let mut pair = Pair::start(seed).await?;
        run::auth_operations(&mut pair, &mut Generator::new(seed), plan.operations).await?;
        println!("{}", pair.summary());
        assert!(plan.operations < 500 || pair.refusals() >= REFUSALS_MIN, "few refusals:\n{}", pair.summary());
    }
    Ok(())
}
