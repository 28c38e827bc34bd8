//! The suite of aetcd, an asynchronous etcd client of Python, which stands on Google's gRPC and protobuf libraries.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use etcd_conformance::left_out::{self, LeftOut};
use etcd_conformance::place::Place;
use etcd_conformance::server::Kind;
use etcd_conformance::suite;

const SUITE: &str = "aetcd";
/// Tests that need three members, which must be called so: one of them stops the second and the third for a while.
const MEMBERS: [&str; 3] = ["pifpaf0", "pifpaf1", "pifpaf2"];
const OF_CLUSTERS: [&str; 2] = [
    "tests/integration/test_cluster.py::test_member_list",
    "tests/integration/test_kv.py::test_get_key_with_serializable",
];

/// Makes a pytest of a plain command of its interpreter. The suite is not installed: it runs from its sources, of which nothing
/// is changed or added to.
fn pytest(mut python: Command, sources: &Path) -> Command {
    python.current_dir(sources).env("PYTHONPATH", sources).env("PYTHONDONTWRITEBYTECODE", "1");
    // Its own options measure which lines are covered, which takes time and writes files.
    python.args(["-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "--color=no"]);
    python
}

async fn tests(sources: &Path) -> Result<Vec<String>> {
    let mut command = pytest(Command::new(sources.with_file_name("venv").join("bin/python")), sources);
    command.args(["--collect-only", "--quiet"]);
    let list = suite::run(command).await?.ok("listing the tests")?;
    Ok(list.lines().filter(|line| line.contains("::")).map(str::to_owned).collect())
}

/// Runs the tests that the arguments choose, but those left out. Gives the counts of those that passed and were skipped.
async fn run(sources: &Path, members: &[&str], left_out: &[LeftOut], arguments: &[&str]) -> Result<Option<[usize; 2]>> {
    let Some(place) = Place::start(Kind::subject()?, members).await? else {
        eprintln!("skipped: {SUITE} wants port 2379, which is taken, and there may be no network namespace for it");
        return Ok(None);
    };
    let mut command = pytest(place.command(sources.with_file_name("venv").join("bin/python")), sources);
    command.arg("-rs").args(arguments);
    for entry in left_out {
        command.arg(format!("--deselect={}", entry.name));
    }
    let output = suite::run(command).await?;
    ensure!(output.success, "{SUITE} failed:\n{}\nthe server's log:\n{}", output.text, place.log());
    Ok(Some(["passed", "skipped"].map(|word| suite::count(&output.text, word))))
}

#[tokio::test]
async fn suite_passes() -> Result<()> {
    let left_out = left_out::read(SUITE)?;
    let sources = suite::fetch(SUITE).await?;
    let tests = tests(&sources).await?;
    left_out::check(&left_out, &tests)?;
    let Some([passed, skipped]) = run(&sources, &["one"], &left_out, &[]).await? else { return Ok(()) };
    println!("{SUITE}: {passed} passed, {} left out, {skipped} run on a cluster instead", left_out.len());
    let expected = [tests.len() - left_out.len() - OF_CLUSTERS.len(), OF_CLUSTERS.len()];
    ensure!([passed, skipped] == expected, "{passed} passed and {skipped} skipped of {} tests", tests.len());
    Ok(())
}

#[tokio::test]
async fn suite_of_clusters_passes() -> Result<()> {
    let sources = suite::fetch(SUITE).await?;
    let arguments = [&["--with-cluster"], OF_CLUSTERS.as_slice()].concat();
    let Some([passed, _]) = run(&sources, &MEMBERS, &[], &arguments).await? else { return Ok(()) };
    println!("{SUITE} on a cluster: {passed} passed");
    ensure!(passed == OF_CLUSTERS.len(), "only {passed} passed");
    Ok(())
}
