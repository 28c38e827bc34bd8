//! The suite of etcd-client, the most used etcd client of Rust, in the version that this repository uses.
//!
//! Its tests share names of keys, users and roles, so they run one after the other. Those that it ignores by default want a
//! server of their own: the one of authentication gets it here, prepared as it asks for in its comments.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use etcd_conformance::left_out::{self, LeftOut};
use etcd_conformance::place::Place;
use etcd_conformance::server::{ETCDCTL, Kind};
use etcd_conformance::suite;

const SUITE: &str = "etcd-client";
/// Needs the user root, with this password, and changes what every other test may do.
const AUTH: &str = "client::test_auth";

/// The compiled tests of one file.
struct Tests {
    file: String,
    program: PathBuf,
    /// Its tests, by their full names: the file's, then the function's.
    names: Vec<String>,
}

impl Tests {
    /// Runs all of them but those left out, or the one named only. Gives the count of those that passed.
    async fn run(&self, place: &Place, left_out: &[LeftOut], only: Option<&str>) -> Result<usize> {
        let mut command = place.command(&self.program);
        command.args(["--test-threads", "1", "--exact"]);
        match only {
            Some(name) => command.args(["--ignored", name]),
            None => &mut command,
        };
        let mine = |entry: &LeftOut| entry.name.strip_prefix(&format!("{}::", self.file)).map(str::to_owned);
        left_out.iter().filter_map(mine).for_each(|name| {
            command.args(["--skip", &name]);
        });
        let output = suite::run(command).await?;
        ensure!(
            output.success,
            "{} of {SUITE} failed:\n{}\nthe server's log:\n{}",
            self.file,
            output.text,
            place.log()
        );
        Ok(suite::count(&output.text, "passed"))
    }
}

/// Compiles the suite, with the dependencies that it is published with.
async fn compile(sources: &Path) -> Result<Vec<Tests>> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(sources).args(arguments).args(["--locked", "--lib", "--tests"]);
        // Neither the flags nor the folder of this workspace's own build: changing either builds it all again.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("CARGO") && !["CARGO_HOME", "CARGO_NET_OFFLINE"].contains(&name.as_str()) {
                command.env_remove(name);
            }
        }
        command.env_remove("RUSTFLAGS").env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
        command.env("PROTOC", env!("CARGO_BIN_EXE_conformance-protoc")).env_remove("PROTOC_INCLUDE");
        command.env("CARGO_TARGET_DIR", sources.with_file_name("etcd-client-target"));
        command
    };
    let built = suite::run(cargo(&["test", "--no-run", "--message-format=json"])).await?;
    let built = built.ok("compiling etcd-client's tests (their dependencies are downloaded once: be online then)")?;
    let mut found = Vec::new();
    for line in built.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let Some(program) = message["executable"].as_str() else { continue };
        let file = message["target"]["name"].as_str().context("a target without a name")?.to_owned();
        let mut list = Command::new(program);
        list.args(["--list", "--format", "terse"]);
        let list = suite::run(list).await?.ok("listing the tests")?;
        let names = list.lines().filter_map(|line| line.strip_suffix(": test")).map(|name| format!("{file}::{name}"));
        found.push(Tests { names: names.collect(), program: program.into(), file });
    }
    Ok(found)
}

#[tokio::test]
async fn suite_passes() -> Result<()> {
    let left_out = left_out::read(SUITE)?;
    let tests = compile(&suite::fetch(SUITE).await?).await?;
    let names: Vec<String> = tests.iter().flat_map(|tests| tests.names.clone()).collect();
    left_out::check(&left_out, &names)?;
    ensure!(names.contains(&AUTH.to_owned()), "{AUTH} is gone from the suite");

    let Some(place) = Place::start(Kind::subject()?, &["one"]).await? else {
        eprintln!("skipped: {SUITE} wants port 2379, which is taken, and there may be no network namespace for it");
        return Ok(());
    };
    let mut passed = 0;
    for tests in &tests {
        passed += tests.run(&place, &left_out, None).await?;
    }
    for words in ["user add root:rootpwd", "role add root", "user grant-role root root"] {
        let mut command = place.command(ETCDCTL);
        command.env("ETCDCTL_API", "3").args(words.split(' '));
        suite::run(command).await?.ok("preparing for the test of authentication")?;
    }
    let client = tests.iter().find(|tests| tests.file == "client").context("the tests of the client are gone")?;
    passed += client.run(&place, &left_out, Some("test_auth")).await?;

    println!("{SUITE}: {passed} passed, {} left out", left_out.len());
    let expected = names.len() - left_out.len();
    ensure!(passed == expected, "{passed} tests passed, but there are {expected}: {names:?}");
    Ok(())
}
