//! Standard output for data, standard error for talk.
//!
//! Must hold: a reader that goes away ends the command quietly; a program that reads the output gets it plain and whole.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::failure::Failure;

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: bytes and microseconds as they are.
    Json,
}

/// Says something to whoever sits there. Somebody who closed standard error does not want to know.
pub(crate) fn talk(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Where a command writes its data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    format: Format,
    /// Whether a person looks at standard output; and at standard error.
    terminal: bool,
    live: bool,
}

impl Console {
    pub(crate) fn new(format: Format) -> Self {
        Console { format, terminal: io::stdout().is_terminal(), live: io::stderr().is_terminal() }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Whether something that moves may be shown on standard error.
    pub(crate) fn is_live(self) -> bool {
        self.live
    }

    /// A line that says how far something is, on standard error while somebody looks.
    pub(crate) fn line(self) -> ProgressBar {
        let target = if self.is_live() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let line = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
            line.set_style(style);
        }
        line.enable_steady_tick(Duration::from_millis(100));
        line
    }

    /// Writes lines to standard output.
    pub(crate) fn print(self, text: impl Display) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(unwritten)
    }

    /// Writes bytes to standard output as they are.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(unwritten)
    }

    /// Writes one answer, in the format that was asked for.
    pub(crate) fn answer(self, json: impl FnOnce() -> Value, people: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.print(pretty(&json())),
            Format::Table => self.print(people().trim_end()),
        }
    }

    /// Lays out a table: with rules on a terminal, with spaces only where a program reads.
    pub(crate) fn table(self, header: &[&str], rows: Vec<Vec<String>>) -> String {
        table(self.terminal, header, rows)
    }
}

fn unwritten(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::refused(anyhow::Error::new(error).context("standard output can't be written")),
    }
}

fn pretty(value: &Value) -> String {
    // A value made of strings, numbers and lists can always be written.
    serde_json::to_string_pretty(value).expect("a JSON value is writable")
}

fn table(terminal: bool, header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    if terminal {
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_style(presets::NOTHING).force_no_tty();
    }
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    table.add_rows(rows);
    if !terminal {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_for_programs_has_columns_and_nothing_else() {
        let rows = vec![vec!["web".to_owned(), "12".to_owned()], vec!["database".to_owned(), "3".to_owned()]];
        let expected = "NAME      ENDPOINTS\nweb       12\ndatabase  3";
        assert_eq!(table(false, &["name", "endpoints"], rows), expected);
    }

    #[test]
    fn a_table_for_people_is_ruled() {
        let text = table(true, &["name"], vec![vec!["web".to_owned()]]);
        assert!(text.contains('─') && text.contains("web"), "{text}");
    }
}
