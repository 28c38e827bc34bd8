//! The plot: how many times better than etcd each figure is, with marks for what it has to be.

use std::fmt::Write;

use crate::results::Results;
use crate::rows::{Advantage, Judged, Verdict, judge};

const LABEL_WIDTH: f64 = 470.0;
const CHART_WIDTH: f64 = 440.0;
const FIGURE_WIDTH: f64 = 80.0;
const TOP: f64 = 64.0;
const LINE_HEIGHT: f64 = 26.0;
const BAR_HEIGHT: f64 = 14.0;
const BOTTOM: f64 = 12.0;
/// The ends of the axis, which is logarithmic. What lies beyond ends there, with its figure beside it.
const LEAST: f64 = 0.25;
const MOST: f64 = 32.0;
const GRID: [f64; 8] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];

/// Draws the rows for which both systems were measured.
pub(crate) fn svg(results: &Results) -> String {
    let drawn: Vec<_> = judge(results).into_iter().filter_map(|j| j.advantage().map(|a| (j, a))).collect();
    let width = LABEL_WIDTH + CHART_WIDTH + FIGURE_WIDTH;
    let bottom = TOP + LINE_HEIGHT * drawn.len() as f64;
    let height = bottom + BOTTOM;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="12" fill="#222">"##
    );
    let _ = writeln!(svg, r##"<rect width="{width}" height="{height}" fill="#fff"/>"##);
    legend(&mut svg);
    for factor in GRID {
        let (x, color) = (place(factor), if factor == 1.0 { "#555" } else { "#ddd" });
        let _ = writeln!(svg, r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}" stroke="{color}"/>"##);
        let y = TOP - 6.0;
        let _ = writeln!(svg, r##"<text x="{x:.1}" y="{y}" text-anchor="middle" fill="#666">{factor}×</text>"##);
    }
    for (at, (judged, advantage)) in drawn.iter().enumerate() {
        bar(&mut svg, TOP + LINE_HEIGHT * at as f64, judged, *advantage);
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    let _ = writeln!(
        svg,
        r##"<text x="10" y="22" font-size="15" font-weight="bold">How many times better than etcd</text>
<line x1="330" y1="10" x2="330" y2="26" stroke="#222" stroke-width="2.5"/><text x="338" y="22">at least</text>
<line x1="410" y1="10" x2="410" y2="26" stroke="#222" stroke-width="1.5" stroke-dasharray="3 2"/><text x="418" y="22">aim</text>
<rect x="470" y="11" width="14" height="14" fill="{met}"/><text x="490" y="22">met</text>
<rect x="540" y="11" width="14" height="14" fill="{unmet}"/><text x="560" y="22">not met</text>
<text x="640" y="22" fill="#666">1× is etcd; the axis is logarithmic</text>"##,
        met = color(Verdict::Met),
        unmet = color(Verdict::Unmet),
    );
}

fn bar(svg: &mut String, top: f64, judged: &Judged, advantage: Advantage) {
    let middle = top + LINE_HEIGHT / 2.0;
    let (text_y, label_x) = (middle + 4.0, LABEL_WIDTH - 10.0);
    let label = format!("{}: {}", judged.row.workload.name(), judged.row.metric.name);
    let _ = writeln!(svg, r##"<text x="{label_x}" y="{text_y}" text-anchor="end">{label}</text>"##);

    let (start, end) = (place(1.0), place(advantage.reached));
    let (x, length, y) = (start.min(end), (end - start).abs().max(1.0), middle - BAR_HEIGHT / 2.0);
    let color = color(judged.verdict());
    let _ = writeln!(svg, r##"<rect x="{x:.1}" y="{y}" width="{length:.1}" height="{BAR_HEIGHT}" fill="{color}"/>"##);
    mark(svg, middle, advantage.bar, r##"stroke-width="2.5""##);
    if let Some(aim) = advantage.aim {
        mark(svg, middle, aim, r##"stroke-width="1.5" stroke-dasharray="3 2""##);
    }
    let figure = match advantage.reached {
        factor if factor.is_finite() => format!("{}×", crate::metric::digits(factor)),
        _ => "∞".into(),
    };
    let figure_x = LABEL_WIDTH + CHART_WIDTH + 8.0;
    let _ = writeln!(svg, r##"<text x="{figure_x}" y="{text_y}">{figure}</text>"##);
}

fn mark(svg: &mut String, middle: f64, factor: f64, style: &str) {
    let (x, y1, y2) = (place(factor), middle - 10.0, middle + 10.0);
    let _ = writeln!(svg, r##"<line x1="{x:.1}" y1="{y1}" x2="{x:.1}" y2="{y2}" stroke="#222" {style}/>"##);
}

/// Where a factor is on the axis.
fn place(factor: f64) -> f64 {
    let part = (factor.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    LABEL_WIDTH + part * CHART_WIDTH
}

fn color(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::AimMet | Verdict::Met => "#4a9d6f",
        Verdict::Unmet => "#d9703f",
        Verdict::Unknown => "#999",
    }
}
