//! What figures are of, and how they are written.

use serde::{Deserialize, Serialize};

/// One thing measured by a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    PerSecond,
    Seconds,
    Milliseconds,
    Microseconds,
    Mebibytes,
    Count,
}

impl Metric {
    pub(crate) const fn new(name: &'static str, unit: Unit) -> Metric {
        Metric { name, unit }
    }
}

impl Unit {
    /// The figure with its unit, to three digits where that many matter.
    pub(crate) fn show(self, value: f64) -> String {
        self.attach(digits(value))
    }

    /// The unit after a number.
    pub(crate) fn attach(self, number: String) -> String {
        match self {
            Unit::PerSecond => format!("{number}/s"),
            Unit::Seconds => format!("{number} s"),
            Unit::Milliseconds => format!("{number} ms"),
            Unit::Microseconds => format!("{number} µs"),
            Unit::Mebibytes => format!("{number} MiB"),
            Unit::Count => number,
        }
    }
}

/// A number to three digits, or as a whole number with its thousands apart.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        x if x < 1.0 => format!("{value:.3}"),
        x if x < 10.0 => format!("{value:.2}"),
        x if x < 100.0 => format!("{value:.1}"),
        _ => thousands(value),
    }
}

/// A limit, which is a round number or a simple fraction, as briefly as it can be written.
pub(crate) fn limit_digits(limit: f64) -> String {
    let text = format!("{limit:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn thousands(value: f64) -> String {
    let whole = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let shown = [
            (Unit::PerSecond, 1_234_567.8, "1,234,568/s"),
            (Unit::PerSecond, 999.9, "1,000/s"),
            (Unit::Milliseconds, 1.534, "1.53 ms"),
            (Unit::Seconds, 0.0421, "0.042 s"),
            (Unit::Mebibytes, -123.4, "-123 MiB"),
            (Unit::Count, 0.0, "0"),
        ];
        for (unit, value, expected) in shown {
            assert_eq!(unit.show(value), expected);
        }
    }

    #[test]
    fn limits() {
        for (limit, expected) in [(2.0, "2"), (3.5, "3.5"), (1.0 / 3.0, "0.33"), (0.25, "0.25"), (60.0, "60")] {
            assert_eq!(limit_digits(limit), expected);
        }
    }
}
