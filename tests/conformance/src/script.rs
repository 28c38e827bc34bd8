//! Scripts of etcdctl's commands, each a text of lines:
//!
//! ```text
//! # a comment
//! $ get a --hex            a command, whose output is compared with that of etcd
//! < text                   its input, a line each
//! ! reason                 why it differs from etcd on purpose; etcd is not asked then
//! > text                   what is expected instead, a line each
//! ? 2 get a                a command that is repeated until it writes so many lines
//! & w watch a              a command that goes on in the background, called w
//! . w 4                    waits until it has written so many lines, ends it, and compares them
//! ```
//!
//! In arguments, quotes group words, and `{name}` stands for what it is at each server: `{client}`, its address; `{other}`, that
//! of a second server; `{member}`, its member's identifier; `{dir}`, a folder; `{id1}`, the first identifier that it has told.

use anyhow::{Context, Result, bail, ensure};

/// What a script does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Runs a command to its end.
    Run {
        /// The command.
        command: Command,
        /// What is expected instead of what etcd does.
        differs: Option<Differs>,
    },
    /// Repeats a command until it writes so many lines.
    Repeat {
        /// The command.
        command: Command,
        /// How many lines.
        lines: usize,
    },
    /// Starts a command that goes on.
    Start {
        /// What it is called.
        name: String,
        /// The command.
        command: Command,
    },
    /// Waits until a command in the background has written so many lines, and ends it.
    Stop {
        /// What it is called.
        name: String,
        /// How many lines.
        lines: usize,
    },
}

/// A command of etcdctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// As it was written.
    pub text: String,
    /// Its arguments, with names in braces.
    pub arguments: Vec<String>,
    /// What it is given to read.
    pub input: String,
}

impl Command {
    fn parse(text: &str) -> Result<Self> {
        Ok(Self { text: text.to_owned(), arguments: split(text)?, input: String::new() })
    }
}

/// A difference from etcd that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differs {
    /// Why it is wanted.
    pub reason: String,
    /// The expected output.
    pub output: String,
}

/// Reads a script.
pub fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        parse_line(line, &mut steps).with_context(|| format!("line {}: {line}", number + 1))?;
    }
    for step in &steps {
        if let Step::Run { command, differs: Some(differs) } = step {
            ensure!(!differs.reason.is_empty(), "{}: what differs needs a reason", command.text);
        }
    }
    Ok(steps)
}

fn parse_line(line: &str, steps: &mut Vec<Step>) -> Result<()> {
    let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
    let last = steps.last_mut();
    match (mark, last) {
        ("$", _) => steps.push(Step::Run { command: Command::parse(rest)?, differs: None }),
        ("?", _) => {
            let (lines, rest) = rest.split_once(' ').context("no count of lines")?;
            steps.push(Step::Repeat { command: Command::parse(rest)?, lines: lines.parse()? });
        }
        ("&", _) => {
            let (name, rest) = rest.split_once(' ').context("no name")?;
            steps.push(Step::Start { name: name.to_owned(), command: Command::parse(rest)? });
        }
        (".", _) => {
            let (name, lines) = rest.split_once(' ').context("no count of lines")?;
            steps.push(Step::Stop { name: name.to_owned(), lines: lines.parse()? });
        }
        ("<", Some(Step::Run { command, .. } | Step::Start { command, .. })) => {
            command.input.push_str(rest);
            command.input.push('\n');
        }
        ("!", Some(Step::Run { differs, .. })) => differs.get_or_insert_default().reason.push_str(rest),
        (">", Some(Step::Run { differs, .. })) => {
            let output = &mut differs.get_or_insert_default().output;
            output.push_str(rest);
            output.push('\n');
        }
        _ => bail!("it belongs to no command, or starts with no known mark"),
    }
    Ok(())
}

/// Words, as a shell splits them, with both kinds of quotes and nothing else.
fn split(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in text.chars() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    ensure!(quote.is_none(), "a quote is not closed");
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::{Command, Differs, Step, parse, split};

    #[test]
    fn words_are_split() {
        assert_eq!(split(r#"put a "b 'c'" '' d"e"f"#).unwrap(), ["put", "a", "b 'c'", "", "def"]);
        assert!(split("put 'a").is_err());
    }

    #[test]
    fn lines_belong_to_the_command_before() {
        let command = Command { text: "a".into(), arguments: vec!["a".into()], input: "b\n\n".into() };
        let differs = Some(Differs { reason: "c".into(), output: "d\n".into() });
        assert_eq!(parse("# e\n\n$ a\n< b\n<\n! c\n> d\n").unwrap(), [Step::Run { command, differs }]);
        assert!(parse("< b\n").is_err());
        assert!(parse("$ a\n> b\n").is_err(), "what differs needs a reason");
    }
}
