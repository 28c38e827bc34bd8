//! What is judged, and by what.

use super::{Fleets, Scene};
use crate::system::System;

/// One line of the table.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) netstate: Option<f64>,
    pub(super) etcd: Option<f64>,
    pub(super) unit: &'static str,
    pub(super) bar: Bar,
}

/// What a figure has to reach, and the aim beyond it.
#[derive(Clone, Copy)]
pub(super) enum Bar {
    /// At most so much.
    Under(f64, f64),
    /// At most so large a part of etcd's.
    PartOfEtcd(f64, f64),
    /// At least so many times etcd's.
    TimesEtcd(f64, f64),
    /// Told, not judged.
    None,
}

impl Row {
    /// Netstate's figure as a part of etcd's.
    pub(super) fn ratio(&self) -> Option<f64> {
        self.netstate.zip(self.etcd).map(|(netstate, etcd)| netstate / etcd)
    }

    /// Whether the bar is met, and whether the aim is.
    pub(super) fn met(&self) -> Option<(bool, bool)> {
        match self.bar {
            Bar::Under(bar, aim) => self.netstate.map(|figure| (figure <= bar, figure <= aim)),
            Bar::PartOfEtcd(bar, aim) => self.ratio().map(|ratio| (ratio <= bar, ratio <= aim)),
            Bar::TimesEtcd(bar, aim) => self.ratio().map(|ratio| (ratio >= bar, ratio >= aim)),
            Bar::None => None,
        }
    }

    /// The bar in words.
    pub(super) fn wanted(&self) -> [String; 2] {
        let unit = self.unit;
        match self.bar {
            Bar::Under(bar, aim) => [bar, aim].map(|limit| format!("{limit} {unit}")),
            Bar::PartOfEtcd(bar, aim) => [bar, aim].map(|limit| format!("{limit:.2} of etcd's")),
            Bar::TimesEtcd(bar, aim) => [bar, aim].map(|limit| format!("{limit} times etcd's")),
            Bar::None => [const { String::new() }; 2],
        }
    }
}

const MIB: f64 = 1024.0 * 1024.0;

/// All rows, of what was measured.
pub(super) fn rows(fleets: &Fleets) -> Vec<Row> {
    use Scene::{Compared, Full, Idle, OneOfFew, OneOfMany, Wide};
    let compared = |what: &str, scene, pointer: &str, part: f64, unit, bar| {
        let of = |system| fleets.figure(scene, system, pointer).map(|figure| figure / part);
        Row { what: what.to_owned(), netstate: of(System::Netstate), etcd: of(System::Etcd), unit, bar }
    };
    let both = |what: &str, pointer: &str, part, unit, bar| compared(what, Compared, pointer, part, unit, bar);
    let wide = |what: &str, pointer: &str, unit, bar| compared(what, Wide, pointer, 1.0, unit, bar);
    let own = |what: &str, scene, pointer: &str, part: f64, unit, bar| {
        let netstate = fleets.figure(scene, System::Netstate, pointer).map(|figure| figure / part);
        Row { what: what.to_owned(), netstate, etcd: None, unit, bar }
    };
    let mut rows = vec![
        own(
            "full: three servers together, all hosts connected",
            Full,
            "/server_bytes_with_idle_hosts",
            MIB,
            "MiB",
            Bar::Under(6144.0, 3072.0),
        ),
        own("full: all hosts arrive with nothing", Full, "/arrive/all_after_ms", 1000.0, "s", Bar::None),
        own(
            "idle: server memory of a host with some 20 networks",
            Idle,
            "/server_bytes_per_host",
            1024.0,
            "KiB",
            Bar::Under(64.0, 24.0),
        ),
        both(
            "commit to delivered, 1,000 changes a second for 50 hosts each, p50",
            "/change/delivered/p50_ms",
            1.0,
            "ms",
            Bar::Under(10.0, 5.0),
        ),
        both("the same, p99", "/change/delivered/p99_ms", 1.0, "ms", Bar::Under(100.0, 30.0)),
        both("the same at 200 changes a second, p50", "/calm/delivered/p50_ms", 1.0, "ms", Bar::None),
        both("… p99", "/calm/delivered/p99_ms", 1.0, "ms", Bar::None),
        both("changes a second when 1,000 are asked for", "/change/changes_per_second", 1.0, "/s", Bar::None),
        both("… servers' processor time for a delivery", "/change/server_micros_per_delivery", 1.0, "µs", Bar::None),
        both(
            "events delivered a second, saturated with changes for 50 hosts each",
            "/saturated/deliveries_per_second",
            1.0,
            "/s",
            Bar::TimesEtcd(5.0, 10.0),
        ),
        wide(
            "… with changes for some 600 hosts each",
            "/saturated/deliveries_per_second",
            "/s",
            Bar::TimesEtcd(5.0, 10.0),
        ),
        wide(
            "wide: 50 changes a second for some 600 hosts each, delivered, p50",
            "/change/delivered/p50_ms",
            "ms",
            Bar::None,
        ),
        wide("… p99", "/change/delivered/p99_ms", "ms", Bar::None),
        both("bytes for a delivered change", "/change/bytes_per_delivery", 1.0, "B", Bar::PartOfEtcd(1.0 / 3.0, 0.2)),
        both("servers' memory, all hosts connected", "/server_bytes_with_idle_hosts", MIB, "MiB", Bar::None),
        both("hosts arrive with nothing, until all are served", "/arrive/all_after_ms", 1000.0, "s", Bar::None),
        both("hosts return having missed nothing", "/returns/0/return/all_after_ms", 1000.0, "s", Bar::None),
    ];
    for (at, missed, bar, aim) in [(0, "nothing", 5.0, 2.0), (1, "1 %", 10.0, 5.0), (2, "everything", 60.0, 20.0)] {
        let pointer = |of: &str| format!("/returns/{at}/{of}");
        rows.extend([
            own(
                &format!("full: hosts return having missed {missed}"),
                Full,
                &pointer("return/all_after_ms"),
                1000.0,
                "s",
                Bar::Under(bar, aim),
            ),
            own(
                "… servers grow by",
                Full,
                &pointer("server_bytes_more_at_the_peak"),
                MIB,
                "MiB",
                Bar::Under(512.0, 512.0),
            ),
            own(
                "… hosts that stayed are told of changes, p99",
                Full,
                &pointer("others_meanwhile/delivered/p99_ms"),
                1.0,
                "ms",
                Bar::Under(500.0, 500.0),
            ),
        ]);
    }
    rows.extend([
        own("full: fast hosts, p99", Full, "/slow/alone/delivered/p99_ms", 1.0, "ms", Bar::None),
        own(
            "… beside 1,000 that read 1 KiB a second, p99",
            Full,
            "/slow/beside_slow_hosts/delivered/p99_ms",
            1.0,
            "ms",
            Bar::None,
        ),
        own("… servers grow by", Full, "/slow/server_bytes_more_at_the_peak", MIB, "MiB", Bar::None),
        own(
            "full: a server is killed; all its hosts are on others, complete",
            Full,
            "/killed/all_after_ms",
            1000.0,
            "s",
            Bar::Under(5.0, 2.0),
        ),
        own(
            "a change for one host of 10,000: servers' processor time",
            OneOfMany,
            "/change/server_micros_per_delivery",
            1.0,
            "µs",
            Bar::None,
        ),
        own("… for one host of 100", OneOfFew, "/change/server_micros_per_delivery", 1.0, "µs", Bar::None),
    ]);
    rows.retain(|row| row.netstate.is_some() || row.etcd.is_some());
    rows
}
