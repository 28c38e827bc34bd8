//! Runs a script at etcd and at the system under test, and compares.
//!
//! Must hold: every command of a script is run, and all differences are told, not only the first.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::etcdctl::Etcdctl;
use crate::script::{self, Command, Differs, Step};
use crate::server::Kind;

/// Fails if etcdctl tells anything else of the system under test than of etcd, except what the script expects.
pub async fn check(name: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("etcdctl").join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let steps = script::parse(&text).with_context(|| format!("in {}", path.display()))?;
    let kind = Kind::subject()?;
    let (reference, subject) = tokio::try_join!(Etcdctl::start(Kind::Etcd), Etcdctl::start(kind))?;
    let mut pair = Pair { kind, reference, subject, differences: Vec::new() };
    for step in &steps {
        pair.step(step).await?;
    }
    if !pair.differences.is_empty() {
        bail!("etcdctl shows {} differences in {name}:\n{}", pair.differences.len(), pair.differences.join("\n"));
    }
    Ok(())
}

struct Pair {
    kind: Kind,
    reference: Etcdctl,
    subject: Etcdctl,
    differences: Vec<String>,
}

impl Pair {
    async fn step(&mut self, step: &Step) -> Result<()> {
        let (reference, subject) = (&mut self.reference, &mut self.subject);
        let (what, expected, actual) = match step {
            Step::Run { command, differs: Some(differs) } => return self.expect(command, differs).await,
            Step::Run { command, differs: None } => {
                let (expected, actual) = tokio::try_join!(reference.run(command), subject.run(command))?;
                (&command.text, expected, actual)
            }
            Step::Repeat { command, lines } => {
                let (expected, actual) =
                    tokio::join!(reference.repeat(command, *lines), subject.repeat(command, *lines));
                (&command.text, expected?, told(actual))
            }
            Step::Start { name, command } => {
                tokio::try_join!(reference.begin(name, command), subject.begin(name, command))?;
                return Ok(());
            }
            Step::Stop { name, lines } => {
                let (expected, actual) = tokio::join!(reference.end(name, *lines), subject.end(name, *lines));
                (name, expected?, told(actual))
            }
        };
        self.compare(what, &expected, &actual);
        Ok(())
    }

    /// What differs on purpose differs from a second etcd, too, in another way.
    async fn expect(&mut self, command: &Command, differs: &Differs) -> Result<()> {
        if self.kind == Kind::Netstate {
            let actual = self.subject.run(command).await?;
            self.compare(&command.text, &differs.output, &actual);
        }
        Ok(())
    }

    fn compare(&mut self, what: &str, expected: &str, actual: &str) {
        if expected != actual {
            let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
            self.differences.push(format!("$ {what}\n  expected\n{}  actual\n{}", indent(expected), indent(actual)));
        }
    }
}

/// A command that does not get there is a difference like others.
fn told(output: Result<String>) -> String {
    output.unwrap_or_else(|error| format!("{error:#}\n"))
}
