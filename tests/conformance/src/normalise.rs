//! Takes out of etcdctl's output what may differ between two correct servers: identifiers, times, sizes, terms and versions.
//!
//! Must hold: a value is replaced, not dropped, so that a missing one remains a difference (but for one, at its place); and an identifier gets the same name
//! wherever it appears, in hexadecimal digits or decimal ones, so that taking one for another remains a difference, too.

use std::fmt::Write as _;

use serde_json::Value;

/// From how many digits on a word of hexadecimal digits is an identifier.
const IDENTIFIER_DIGITS_MIN: usize = 10;
/// How etcdctl's own log lines begin. They tell of repetitions and tell times.
const LOG_LINE: &str = r#"{"level":"#;

/// Identifiers in the order in which a server has told them.
#[derive(Clone, Debug, Default)]
pub struct Identifiers(Vec<u64>);

impl Identifiers {
    /// The nth identifier, from 1, in the digits that etcdctl takes.
    pub fn get(&self, number: usize) -> Option<String> {
        self.0.get(number.checked_sub(1)?).map(|id| format!("{id:x}"))
    }

    fn name(&mut self, id: u64) -> String {
        if id == 0 {
            return "no id".to_owned();
        }
        let place = self.0.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.0.push(id);
            self.0.len() - 1
        });
        format!("id{}", place + 1)
    }
}

/// What is known of a server.
#[derive(Debug, Default)]
pub struct Known {
    /// What is replaced by a name wherever it appears.
    pub texts: Vec<(String, &'static str)>,
    /// Identifiers told so far.
    pub ids: Identifiers,
}

impl Known {
    /// The comparable form of what a command wrote.
    pub fn normalise(&mut self, arguments: &[String], output: &[u8]) -> String {
        let has = |word: &str| arguments.iter().any(|argument| argument == word);
        if has("protobuf") {
            return protobuf(output);
        }
        let mut text = String::from_utf8_lossy(output).into_owned();
        for (known, name) in &self.texts {
            text = text.replace(known, name);
        }
        let lines = text.lines().filter(|line| !line.starts_with(LOG_LINE));
        if arguments.first().is_some_and(|first| first == "check") {
            return lines.filter_map(verdict).collect();
        }
        let (columns, of_member) = (columns(arguments), arguments.first().is_some_and(|first| first == "member"));
        let mut normal = String::new();
        for line in lines {
            let line = match serde_json::from_str::<Value>(line) {
                Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
                    self.json(&mut value, false);
                    value.to_string()
                }
                _ => self.line(line, columns, of_member),
            };
            normal.push_str(line.trim_end());
            normal.push('\n');
            if line.starts_with("panic: ") {
                // What follows are addresses in etcdctl.
                break;
            }
        }
        normal
    }

    fn line(&mut self, line: &str, columns: &[usize], of_member: bool) -> String {
        // A line of a log that begins with the time.
        let line = line.split_once(" C | ").map_or(line, |(_, message)| message);
        if line.starts_with("+--") {
            // The frame of a table is as wide as what is in it.
            return "+--+".to_owned();
        }
        if let Some((name, value)) = line.strip_prefix('"').and_then(|rest| rest.split_once("\" : ")) {
            return format!("\"{name}\" : {}", self.field(name, value, of_member));
        }
        let line = if line.starts_with('|') {
            let cells = line.trim_matches('|').split('|').map(str::trim);
            row(cells, columns, " | ")
        } else if !columns.is_empty() && line.contains(", ") {
            row(line.split(", "), columns, ", ")
        } else {
            line.to_owned()
        };
        if let Some((from, to)) =
            line.strip_prefix("Leadership transferred from ").and_then(|ids| ids.split_once(" to "))
        {
            return format!("Leadership transferred {}", if from == to { "to where it was" } else { "elsewhere" });
        }
        let line = between(&line, "took = ", "", "a time");
        let line = between(&line, "remaining(", ")", "a time");
        self.words(&line)
    }

    /// A line of `--write-out=fields`.
    fn field(&mut self, name: &str, value: &str, of_member: bool) -> String {
        match name {
            "ID" | "Lease" | "PrevLease" if !of_member => match value.parse() {
                Ok(id) => self.ids.name(id),
                Err(_) => self.words(value),
            },
            "ID" | "ClusterID" | "MemberID" | "Leader" | "RaftTerm" | "RaftIndex" | "RaftAppliedIndex" | "DBSize"
            | "Hash" | "Took" | "TTL" => "some".to_owned(),
            // Keys have a version as well, a number.
            "Version" if value.starts_with('"') => "a version".to_owned(),
            _ => self.words(value),
        }
    }

    fn json(&mut self, value: &mut Value, of_member: bool) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.json(item, of_member)),
            Value::Object(fields) => {
                // etcd's file of keys has pages that are free; here there is no such file.
                fields.remove("dbSizeInUse");
                for (name, value) in fields {
                    match (name.as_str(), value.as_u64()) {
                        ("ID" | "id" | "lease", Some(id)) if !of_member => *value = self.ids.name(id).into(),
                        (
                            "ID" | "cluster_id" | "member_id" | "memberID" | "leader" | "raft_term" | "raftTerm"
                            | "raftIndex" | "raftAppliedIndex" | "dbSize" | "hash" | "ttl",
                            Some(_),
                        ) => *value = "some".into(),
                        ("version", None) => *value = "a version".into(),
                        ("took", _) => *value = "a time".into(),
                        _ => self.json(value, of_member || name == "members"),
                    }
                }
            }
            _ => {}
        }
    }

    /// Names the identifiers among a line's words.
    fn words(&mut self, line: &str) -> String {
        let mut normal = String::new();
        for part in line.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
            let word = part.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
            match u64::from_str_radix(word, 16) {
                Ok(id) if word.len() >= IDENTIFIER_DIGITS_MIN => {
                    normal.push_str(&self.ids.name(id));
                    normal.push_str(&part[word.len()..]);
                }
                _ => normal.push_str(part),
            }
        }
        normal
    }
}

/// Columns of a command's rows that tell identifiers, versions, sizes, terms, times or hashes.
fn columns(arguments: &[String]) -> &'static [usize] {
    let words: Vec<&str> = arguments.iter().map(String::as_str).take(2).collect();
    match words.as_slice() {
        ["member", "list"] => &[0],
        ["endpoint", "status"] => &[1, 2, 3, 6, 7, 8],
        ["endpoint", "hashkv"] => &[1],
        ["endpoint", "health"] => &[2],
        _ => &[],
    }
}

fn row<'a>(cells: impl Iterator<Item = &'a str>, columns: &[usize], separator: &str) -> String {
    // A table's own names of columns, in capitals, stay.
    let is_name =
        |cell: &str| cell.len() > 1 && cell.chars().all(|letter| letter.is_ascii_uppercase() || letter == ' ');
    let cells = cells.enumerate().map(|(place, cell)| match columns.contains(&place) {
        true if !cell.is_empty() && !is_name(cell) => "some",
        _ => cell,
    });
    cells.collect::<Vec<_>>().join(separator)
}

/// Replaces what stands between two texts.
fn between(line: &str, before: &str, after: &str, name: &str) -> String {
    let Some((start, rest)) = line.split_once(before) else { return line.to_owned() };
    let end = if after.is_empty() { rest.len() } else { rest.find(after).unwrap_or(rest.len()) };
    format!("{start}{before}{name}{}", &rest[end..])
}

/// What `check` says was measured; not the verdict, which depends on the machine, nor its progress before.
fn verdict(line: &str) -> Option<String> {
    let line = line.rsplit('\r').next()?;
    // Progress, which may not have come to its end of line when the next is said.
    let line = match line.split_once('%') {
        Some((_, rest)) => &rest[rest.find(|letter: char| letter.is_ascii_uppercase())?..],
        None => line,
    };
    match line.split_once(": ") {
        Some(("PASS" | "FAIL", measured)) => measured.split(' ').next().map(|word| format!("{word} was measured\n")),
        // These say FAIL only at the end.
        Some((what @ ("Slowest request took too long" | "Stddev too high"), _)) => {
            what.split(' ').next().map(|word| format!("{word} was measured\n"))
        }
        _ if line == "PASS" || line == "FAIL" => None,
        // How many writes fit into the time.
        _ => Some(between(line, " revision ", "", "some") + "\n"),
    }
}

/// An answer as protobuf: its header's fields by number, of which the revision is the third, and the rest as it is.
fn protobuf(output: &[u8]) -> String {
    let Some(([0x0a, length], rest)) = output.split_first_chunk() else { return format!("no header: {output:?}\n") };
    let Some((mut header, body)) = rest.split_at_checked(usize::from(*length)) else {
        return format!("a cut header: {output:?}\n");
    };
    let mut text = "header".to_owned();
    while let Some((tag, more)) = header.split_first() {
        let end = more.iter().position(|byte| byte & 0x80 == 0).map_or(more.len(), |end| end + 1);
        let (value, more) = more.split_at(end);
        let value = if tag >> 3 == 3 { format!("{value:?}") } else { "some".to_owned() };
        let _ = write!(text, " {}={value}", tag >> 3);
        header = more;
    }
    format!("{text}\nbody {body:?}\n")
}

#[cfg(test)]
mod tests {
    use super::Known;

    fn normalise(known: &mut Known, command: &str, output: &str) -> String {
        let arguments: Vec<String> = command.split(' ').map(str::to_owned).collect();
        known.normalise(&arguments, output.as_bytes())
    }

    #[test]
    fn an_identifier_has_one_name() {
        let mut known = Known::default();
        let granted = normalise(&mut known, "lease grant 9", "lease 694da20962d4f310 granted with TTL(9s)\n");
        assert_eq!(granted, "lease id1 granted with TTL(9s)\n");
        let json = r#"{"leases":[{"id":7587899108385682194},{"id":7587899108385682192}]}"#;
        let listed = normalise(&mut known, "lease list", json);
        assert_eq!(listed, "{\"leases\":[{\"id\":\"id2\"},{\"id\":\"id1\"}]}\n");
        assert_eq!(known.ids.get(1).as_deref(), Some("694da20962d4f310"));
    }

    #[test]
    fn columns_are_replaced_and_not_dropped() {
        let mut known = Known { texts: vec![("127.0.0.1:1".into(), "CLIENT")], ..Known::default() };
        let listed = normalise(&mut known, "member list", "1, started, one, http://127.0.0.1:1, false\n");
        assert_eq!(listed, "some, started, one, http://CLIENT, false\n");
        let table = "+--------+-----+\n|   ID   | SIZE |\n| 8e9e05 |  x  |\n";
        assert_eq!(normalise(&mut known, "member list", table), "+--+\nID | SIZE\nsome | x\n");
    }

    #[test]
    fn of_checks_only_what_was_measured_is_told() {
        let output = "\r 1 / 60\r 60 / 60  100.00% 1m0s\nPASS: Throughput is 150 writes/s\n\
                      Slowest request took too long: 0.5s\nStddev too high: 1s\nFAIL\n";
        let told = "Throughput was measured\nSlowest was measured\nStddev was measured\n";
        assert_eq!(normalise(&mut Known::default(), "check perf", output), told);
    }
}
