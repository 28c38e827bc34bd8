//! The list of tests that are not run: those that the design excludes, each with its reason.
//!
//! Must hold: an entry names a test that exists, so that the list does not outlive what it is about.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// A test that is not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its full name, as the suite's own runner tells it.
    pub name: String,
    /// Why it is not run.
    pub reason: String,
}

/// Reads the tests of one suite that are left out: lines of suite, name and reason, where the reason follows a dash.
pub fn read(suite: &str) -> Result<Vec<LeftOut>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("left-out.txt");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, suite)
}

fn parse(text: &str, suite: &str) -> Result<Vec<LeftOut>> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let entry = line.split_once(" - ").and_then(|(test, reason)| Some((test.split_once(' ')?, reason.trim())));
        match entry {
            Some(((of, name), reason)) if !reason.is_empty() => {
                let left_out = LeftOut { name: name.trim().to_owned(), reason: reason.to_owned() };
                found.extend((of == suite).then_some(left_out));
            }
            _ => bail!("left-out.txt: {line:?} is not of the form: suite name - reason"),
        }
    }
    Ok(found)
}

/// Fails for an entry that names none of the suite's tests.
pub fn check(left_out: &[LeftOut], tests: &[String]) -> Result<()> {
    let gone: Vec<_> = left_out.iter().filter(|entry| !tests.contains(&entry.name)).map(|entry| &entry.name).collect();
    if !gone.is_empty() {
        bail!("left-out.txt names tests that do not exist: {gone:?}; those that do: {tests:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{LeftOut, check, parse};

    #[test]
    fn entries_are_told_by_suite() {
        let text = "# A comment.\n\none a::b - why - not\ntwo c - because\n";
        let expected = vec![LeftOut { name: "a::b".into(), reason: "why - not".into() }];
        assert_eq!(parse(text, "one").unwrap(), expected);
        assert!(parse("one a::b\n", "one").is_err(), "an entry needs a reason");
    }

    #[test]
    fn entries_name_tests_that_exist() {
        let entry = LeftOut { name: "a".into(), reason: "b".into() };
        assert!(check(std::slice::from_ref(&entry), &["a".into()]).is_ok());
        assert!(check(&[entry], &["aa".into()]).is_err());
    }
}
