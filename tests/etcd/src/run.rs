//! Runs a number of drawn operations against both systems.

use anyhow::{Context, Result};
use tonic::Code;

use crate::generate::Generator;
use crate::operation::{Caller, Operation};
use crate::pair::Pair;
use crate::response::Response;

/// The seeds to run, and how many operations with each. `ETCD_TESTS_SEED` runs a single one, `ETCD_TESTS_OPERATIONS` changes
/// how many operations follow from each.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One run each.
    pub seeds: Vec<u64>,
    /// How many operations a run draws.
    pub operations: usize,
}

impl Plan {
    /// The plan of a test, unless the environment says otherwise.
    pub fn new(seeds: std::ops::Range<u64>, operations: usize) -> Result<Self> {
        let seeds = variable("ETCD_TESTS_SEED")?.map_or_else(|| seeds.collect(), |seed| vec![seed]);
        let operations = match variable("ETCD_TESTS_OPERATIONS")? {
            None => operations,
            Some(count) => usize::try_from(count).context("ETCD_TESTS_OPERATIONS is too large")?,
        };
        Ok(Self { seeds, operations })
    }
}

fn variable(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Err(_) => Ok(None),
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{name} is {text:?}, which is no number"))?)),
    }
}

/// Draws and compares so many operations on keys and leases.
pub async fn operations(pair: &mut Pair, generator: &mut Generator, count: usize) -> Result<()> {
    for _ in 0..count {
        for request in generator.requests() {
            one(pair, generator, request).await?;
        }
    }
    Ok(())
}

/// The same without compactions.
pub async fn operations_without_compaction(pair: &mut Pair, generator: &mut Generator, count: usize) -> Result<()> {
    for _ in 0..count {
        for request in generator.requests_without_compaction() {
            one(pair, generator, request).await?;
        }
    }
    Ok(())
}

/// Draws and compares so many operations on users and roles, and on keys in the users' names. A user whose token is not
/// taken any more mostly asks for another, or little else would happen.
pub async fn auth_operations(pair: &mut Pair, generator: &mut Generator, count: usize) -> Result<()> {
    for request in generator.auth_preparation() {
        one(pair, generator, request).await?;
    }
    for _ in 0..count {
        let operation = generator.auth_operation();
        let response = one(pair, generator, operation.clone()).await?;
        let (Caller::Token(user) | Caller::Authorization(user)) = operation.caller else { continue };
        if !is_refused_with(&response, Code::Unauthenticated) || generator.percent(20) {
            continue;
        }
        let request = generator.authentication(user);
        let response = one(pair, generator, request).await?;
        // Authentication is off. Every token is gone with it, so hardly anybody could switch it on again.
        if is_refused_with(&response, Code::FailedPrecondition) && generator.percent(30) {
            for request in generator.auth_preparation() {
                one(pair, generator, request).await?;
            }
        }
    }
    Ok(())
}

fn is_refused_with(response: &Response, expected: Code) -> bool {
    matches!(response, Response::Refusal { code, .. } if *code == expected)
}

/// Compares one operation, lets the generator learn from its answer, and gives the reference's.
pub async fn one(pair: &mut Pair, generator: &mut Generator, operation: impl Into<Operation>) -> Result<Response> {
    let operation = operation.into();
    let response = pair.apply(operation.clone()).await?;
    generator.learn(&operation.request, &response);
    Ok(response)
}
