//! The table for the terminal and the page for the documentation.

use std::fmt::Write as _;

use super::Fleets;
use super::rows::{Row, rows};
use crate::metric::digits;
use crate::report::{columns, machine};

const HEADINGS: [&str; 7] = ["what", "netstate", "etcd", "ratio", "at least", "aim", "met"];
const METHOD: &str = "\
Servers and hosts share the processor: what the simulated hosts take is missing to the servers. Each host has a connection of
its own and, with Netstate, the client that agents have; it acknowledges every frame and programs nothing. The sizes of
networks follow Zipf's law; a network is on a host for each eight endpoints. A change attaches or detaches an endpoint that
a connection with a label selector names, so that every host of the two networks has to know of it. Deliveries count from
before the call until the host has the whole frame in its hands. Of 20 hosts one stays when the others leave and return.

Netstate has two Raft groups here, one for each core, as [scaling.md](scaling.md) advises; etcd is one.

With etcd a key is an endpoint, with the values as JSON that Netstate keeps of it, and each host lists and watches the
prefixes of its networks and of those connected with them: one stream of watches a host.

The scenes: *compared* is 5,000 hosts, 5,000 networks and 50,000 endpoints, on both; *wide* the same, with changes that
concern some 600 hosts each; *full* 10,000, 10,000 and 1,000,000; *idle* 2,000 hosts with some 20 networks each. Hosts that
read slowly come with nothing three seconds before the others are measured beside them.
";

fn cells(row: &Row) -> [String; HEADINGS.len()] {
    let show = |figure: Option<f64>| figure.map_or("–".into(), |figure| format!("{} {}", digits(figure), row.unit));
    let [bar, aim] = row.wanted();
    let met = match row.met() {
        None => "",
        Some((_, true)) => "yes, the aim too",
        Some((true, false)) => "yes",
        Some((false, _)) => "**no**",
    };
    let ratio = row.ratio().map_or(String::new(), |ratio| format!("{}×", digits(ratio)));
    [row.what.clone(), show(row.netstate), show(row.etcd), ratio, bar, aim, met.into()]
}

/// A table for a terminal.
pub(super) fn table(fleets: &Fleets) -> String {
    columns(HEADINGS, rows(fleets).iter().map(cells))
}

/// The page, with the plot of that file name in it.
pub(super) fn page(fleets: &Fleets, plot: &str) -> String {
    let mut page = String::from("# Fleets of hosts\n\nWritten by `make bench-fleet`; don't edit.\n\n");
    if fleets.quick {
        page.push_str("**A quick trial with a fiftieth of everything: these figures say nothing.**\n\n");
    }
    let _ = writeln!(page, "| {} |", HEADINGS.join(" | "));
    page.push_str("| --- | ---: | ---: | ---: | --- | --- | --- |\n");
    for row in rows(fleets) {
        let _ = writeln!(page, "| {} |", cells(&row).join(" | "));
    }
    let _ = writeln!(page, "\n![how long changes take to hosts]({plot})\n\n## How\n\n{METHOD}");
    machine(&mut page, &fleets.machine, &[]);
    page
}
