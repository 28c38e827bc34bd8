//! The plot: which part of deliveries took how long at most.

use std::fmt::Write as _;

use super::{Fleets, Scene};
use crate::system::System;

const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 320.0;
const RIGHT: f64 = 280.0;
const BOTTOM: f64 = 50.0;
/// The ends of the axis of time, in milliseconds, which is logarithmic.
const LEAST: f64 = 0.5;
const MOST: f64 = 20_000.0;
const TIMES: [f64; 5] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0];
/// Digits of the part, which is drawn by what is missing to all: 0, 90, 99, 99.9 and 99.99 %.
const DIGITS: f64 = 4.0;
const PARTS: [(f64, &str); 6] =
    [(0.0, "0"), (0.301, "50 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %")];

/// One line of the plot: its name, its colour, and where its points are.
const LINES: [(&str, &str, Scene, System, &str); 7] = [
    ("Netstate, 200 a second", "#7fc8ac", Scene::Compared, System::Netstate, "/calm/delivered_curve"),
    ("etcd, 200 a second", "#f0b196", Scene::Compared, System::Etcd, "/calm/delivered_curve"),
    ("Netstate, 1,000 a second", "#2a7f62", Scene::Compared, System::Netstate, "/change/delivered_curve"),
    ("etcd, 1,000 a second", "#d9703f", Scene::Compared, System::Etcd, "/change/delivered_curve"),
    ("Netstate, 10,000 hosts, 1,000 a second", "#3b6fb6", Scene::Full, System::Netstate, "/change/delivered_curve"),
    (
        "… while 9,500 return with nothing",
        "#8a63b5",
        Scene::Full,
        System::Netstate,
        "/returns/2/others_meanwhile/delivered_curve",
    ),
    ("… beside 1,000 slow hosts", "#999", Scene::Full, System::Netstate, "/slow/beside_slow_hosts/delivered_curve"),
];

/// Draws what was measured.
pub(super) fn svg(fleets: &Fleets) -> String {
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="12" fill="#222">
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="10" y="24" font-size="15" font-weight="bold">From before the call until a host has the change: which part took how long at most</text>"##
    );
    for time in TIMES {
        let (x, bottom) = (across(time), TOP + HEIGHT);
        let label = if time < 1000.0 { format!("{time} ms") } else { format!("{} s", time / 1000.0) };
        let _ = writeln!(
            svg,
            r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}" stroke="#ddd"/><text x="{x:.1}" y="{}" text-anchor="middle" fill="#666">{label}</text>"##,
            bottom + 18.0
        );
    }
    for (digits, label) in PARTS {
        let (y, right) = (up(digits), LEFT + WIDTH);
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#ddd"/><text x="{}" y="{:.1}" text-anchor="end" fill="#666">{label}</text>"##,
            LEFT - 8.0,
            y + 4.0
        );
    }
    let mut legend = TOP + 12.0;
    for (name, color, scene, system, pointer) in LINES {
        let points =
            fleets.told(scene, system).and_then(|told| told.pointer(pointer)).and_then(|curve| curve.as_array());
        let Some(points) = points else { continue };
        let place = |point: &serde_json::Value| {
            let (part, time) = (point.get(0)?.as_f64()?, point.get(1)?.as_f64()?);
            Some(format!("{:.1},{:.1}", across(time), up(-(1.0 - part).max(1e-9).log10())))
        };
        let places: Vec<_> = points.iter().filter_map(place).collect();
        let x = LEFT + WIDTH + 16.0;
        let _ = writeln!(
            svg,
            r##"<polyline points="{}" fill="none" stroke="{color}" stroke-width="2"/>
<line x1="{x}" y1="{legend}" x2="{}" y2="{legend}" stroke="{color}" stroke-width="2"/><text x="{}" y="{}">{name}</text>"##,
            places.join(" "),
            x + 16.0,
            x + 22.0,
            legend + 4.0
        );
        legend += 20.0;
    }
    svg.push_str("</svg>\n");
    svg
}

fn across(time: f64) -> f64 {
    LEFT + (time.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln() * WIDTH
}

fn up(digits: f64) -> f64 {
    TOP + HEIGHT - digits.clamp(0.0, DIGITS) / DIGITS * HEIGHT
}
