//! Attaching endpoints: from a file of lines, in batches.
//!
//! Must hold: a file is read and checked as a whole before anything is sent, and its mistakes are told together; what was
//! sent and refused is told network by network.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use netstate_model::limits;
use netstate_proto::v1 as pb;
use serde::Deserialize;
use serde_json::{Value, json};

use super::endpoint::row;
use crate::{console::talk, failure::Failure, human, json, session::Session};

/// Bytes in one line: all that an endpoint may carry, with room for spaces and escapes.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Mistakes told of one file.
const MISTAKES_MAX: usize = 20;
/// Refusals told of one command.
const REFUSALS_MAX: usize = 20;

/// One line of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    network: String,
    name: String,
    host: String,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    labels: HashMap<String, String>,
    #[serde(default)]
    workload: String,
    #[serde(default)]
    netns: String,
}

/// Reads a file of endpoints; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Vec<pb::AttachItem>, Failure> {
    let from = path.display();
    let unreadable =
        |error: io::Error| Failure::refused(anyhow::Error::new(error).context(format!("{from} can't be read")));
    let items = if path == Path::new("-") {
        parse(io::stdin().lock())
    } else {
        parse(BufReader::new(File::open(path).map_err(unreadable)?))
    };
    match items.map_err(unreadable)? {
        Ok(items) if items.is_empty() => Err(Failure::usage(format!("{from} holds no endpoint"))),
        Ok(items) => Ok(items),
        Err(mistakes) => Err(Failure::usage(format!("{from} refused, nothing is sent:\n  {}", mistakes.join("\n  ")))),
    }
}

/// All lines as items, or what is wrong with them.
fn parse(mut lines: impl BufRead) -> io::Result<Result<Vec<pb::AttachItem>, Vec<String>>> {
    let (mut items, mut mistakes) = (Vec::new(), Vec::new());
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if read as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
            mistakes.push(format!("line {number}: longer than {LINE_BYTES_MAX} bytes; is this a file of JSON lines?"));
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Line>(&line) {
            Ok(line) => items.push(item(line)),
            Err(error) => mistakes.push(format!("line {number}: {error}")),
        }
        if mistakes.len() == MISTAKES_MAX {
            mistakes.push("and perhaps more".to_owned());
            break;
        }
        if items.len() > limits::ENDPOINTS_MAX {
            mistakes.push(format!("more than {} endpoints; split the file", limits::ENDPOINTS_MAX));
            break;
        }
    }
    Ok(if mistakes.is_empty() { Ok(items) } else { Err(mistakes) })
}

fn item(line: Line) -> pb::AttachItem {
    pb::AttachItem {
        network: line.network,
        name: line.name,
        host: line.host,
        addresses: line.addresses,
        mac: line.mac,
        labels: line.labels,
        workload: line.workload,
        netns: line.netns,
    }
}

/// Attaches endpoints in batches, one after another, and writes those attached.
pub(super) async fn send(
    items: Vec<pb::AttachItem>,
    batch: usize,
    reason: &str,
    session: &Session,
) -> Result<(), Failure> {
    if items.len() > batch {
        session.without_request_id("attaching in several batches")?;
    }
    let asked = items.len() as u64;
    let (mut attached, mut positions, mut refusals) = (Vec::new(), BTreeMap::new(), Vec::new());
    for part in items.chunks(batch) {
        let request = pb::AttachRequest { origin: session.origin(reason), endpoints: part.to_vec() };
        let answer = match session.client.attach(request).await {
            Ok(answer) => answer,
            Err(error) => {
                // Those before are attached and stay so; whoever repeats the file has to know.
                if !attached.is_empty() {
                    talk(format_args!("{} endpoints of {asked} were attached before this", attached.len()));
                }
                return Err(error.into());
            }
        };
        for result in answer.results {
            attached.extend(result.endpoints);
            positions.extend(result.position.map(|position| (position.keyspace, position.revision)));
            refusals.extend(result.refusal.map(|refusal| (result.network, refusal)));
        }
    }
    session.console.answer(
        || {
            let endpoints: Vec<Value> = attached.iter().map(json::endpoint).collect();
            let refused = |(network, refusal): &(String, pb::Refusal)| {
                json!({ "network": network, "code": refusal.code, "message": refusal.message })
            };
            let positions = positions.iter().map(|(keyspace, revision)| {
                json!({ "keyspace": keyspace, "revision": revision })
            });
            json!({
                "endpoints": endpoints,
                "positions": positions.collect::<Vec<_>>(),
                "refusals": refusals.iter().map(refused).collect::<Vec<_>>(),
            })
        },
        || {
            let rows = attached.iter().map(row).collect();
            session.console.table(&["id", "endpoint", "host", "addresses", "labels", "state"], rows)
        },
    )?;
    if asked > 1 {
        let (done, asked) = (human::count(attached.len() as u64), human::count(asked));
        talk(format_args!("{done} of {asked} endpoints attached"));
    }
    conclude(refusals)
}

/// Tells what was refused, if anything.
pub(super) fn conclude(refusals: Vec<(String, pb::Refusal)>) -> Result<(), Failure> {
    let total = refusals.len();
    let line = |(network, refusal): (String, pb::Refusal)| format!("{network}: {}", refusal.message);
    let mut lines: Vec<String> = refusals.into_iter().take(REFUSALS_MAX).map(line).collect();
    if total > REFUSALS_MAX {
        lines.push(format!("and {} refusals more", total - REFUSALS_MAX));
    }
    match lines.is_empty() {
        true => Ok(()),
        false => Err(Failure::because(lines.join("\n"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        parse(text.as_bytes()).unwrap().unwrap_err()
    }

    #[test]
    fn lines_are_endpoints() {
        let text = "{\"network\":\"web\",\"name\":\"a\",\"host\":\"h\"}\n\n\
                    {\"network\":\"web\",\"name\":\"b\",\"host\":\"h\",\"addresses\":[\"10.0.0.9\"],\"labels\":{\"app\":\"shop\"}}";
        let items = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(items.len(), 2);
        assert_eq!(items[1].addresses, ["10.0.0.9"]);
        assert_eq!(items[1].labels["app"], "shop");
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let found = mistakes(
            "{\"network\":\"web\"}\nnonsense\n{\"network\":\"w\",\"name\":\"a\",\"host\":\"h\",\"colour\":1}\n",
        );
        assert_eq!(found.len(), 3, "{found:?}");
        for (mistake, parts) in found.iter().zip([["line 1", "name"], ["line 2", "expected"], ["line 3", "colour"]]) {
            assert!(parts.iter().all(|part| mistake.contains(part)), "{mistake}");
        }
    }

    #[test]
    fn a_file_of_something_else_ends_early() {
        assert!(mistakes(&"x".repeat(1 << 20))[0].contains("longer than"));
        assert_eq!(mistakes(&"x\n".repeat(1000)).len(), MISTAKES_MAX + 1);
        assert!(parse(&b"\xff\xfe\x00"[..]).unwrap().is_err());
    }
}
