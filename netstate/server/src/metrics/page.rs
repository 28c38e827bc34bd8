//! A page of metrics, in Prometheus' text format.
//!
//! Must hold: each metric is described before its samples, once, even when it has none.

use std::fmt::Write as _;

use kv_node::Buckets;

use super::{Kind, Metric};

/// Labels of a sample.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// What a page is called by who asks what it is.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page being written.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    /// Begins a metric; its samples follow.
    pub(crate) fn begin(&mut self, metric: &Metric) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let meaning = metric.meaning.replace('\\', r"\\").replace('\n', r"\n");
        self.line(format_args!("# HELP {} {meaning}", metric.name));
        self.line(format_args!("# TYPE {} {kind}", metric.name));
    }

    /// A sample of the metric that was begun last.
    pub(crate) fn sample(&mut self, metric: &Metric, labels: Labels<'_>, value: f64) {
        let labels = written(labels);
        self.line(format_args!("{}{labels} {value}", metric.name));
    }

    /// A metric with one sample.
    pub(crate) fn one(&mut self, metric: &Metric, value: f64) {
        self.begin(metric);
        self.sample(metric, &[], value);
    }

    /// A histogram of numbers, so many of which make one of the metric's unit.
    pub(crate) fn histogram(&mut self, metric: &Metric, buckets: &Buckets, in_unit: f64) {
        self.begin(metric);
        let name = metric.name;
        let mut all = 0;
        let bounds = buckets.bounds.iter().map(|bound| (*bound as f64 / in_unit).to_string());
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&buckets.counts) {
            all += count;
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {all}"));
        }
        self.line(format_args!("{name}_sum {}", buckets.sum as f64 / in_unit));
        self.line(format_args!("{name}_count {all}"));
    }

    /// The whole page.
    pub(crate) fn text(self) -> String {
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string has room for whatever memory has room for.
        let _ = writeln!(self.0, "{line}");
    }
}

fn written(labels: Labels<'_>) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escaped = |value: &str| value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
    let each = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
    format!("{{{}}}", each.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use kv_node::Histogram;

    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_has_it() {
        let metric = |name, kind| Metric { name, kind, meaning: "what it\nsays" };
        let (gauge, counter) = (metric("a_bytes", Kind::Gauge), metric("b_total", Kind::Counter));
        let histogram = metric("c_seconds", Kind::Histogram);
        let mut page = Page::default();
        page.one(&gauge, 1.5);
        page.begin(&counter);
        page.sample(&counter, &[("peer", "n\"1\\"), ("group", "g2")], 3.0);
        let spread = Histogram::of_micros();
        for micros in [50, 100, 3_000, 20_000_000] {
            spread.record(micros);
        }
        page.histogram(&histogram, &spread.buckets(), 1e6);
        let text = page.text();
        let first = "# HELP a_bytes what it\\nsays\n# TYPE a_bytes gauge\na_bytes 1.5\n# HELP b_total what it\\nsays\n\
                     # TYPE b_total counter\nb_total{peer=\"n\\\"1\\\\\",group=\"g2\"} 3\n";
        assert!(text.starts_with(first), "{text}");
        for line in [
            "c_seconds_bucket{le=\"0.0001\"} 2",
            "c_seconds_bucket{le=\"0.0025\"} 2",
            "c_seconds_bucket{le=\"0.005\"} 3",
            "c_seconds_bucket{le=\"10\"} 3",
            "c_seconds_bucket{le=\"+Inf\"} 4",
            "c_seconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
