//! Numbers as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes, with three digits and a binary unit.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if size < 10.0 => format!("{size:.2} {}", UNITS[unit]),
        _ if size < 100.0 => format!("{size:.1} {}", UNITS[unit]),
        _ => format!("{size:.0} {}", UNITS[unit]),
    }
}

/// A count with its thousands set apart.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of things that have a plain plural: `1 host`, `2,000 hosts`.
pub(crate) fn things(many: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(many), if many == 1 { "" } else { "s" })
}

/// A time span with two units at most: `1d 3h`, `12m 5s`, `350ms`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let pair = |large: u64, unit: char, small: u64, subunit: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit} {small}{subunit}"),
    };
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..=59 => format!("{seconds}s"),
        60..=3599 => pair(seconds / 60, 'm', seconds % 60, 's'),
        3600..=86_399 => pair(seconds / 3600, 'h', seconds / 60 % 60, 'm'),
        _ => pair(seconds / 86_400, 'd', seconds / 3600 % 24, 'h'),
    }
}

/// Milliseconds with what precision they deserve, from microseconds.
pub(crate) fn millis(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1000.0)
}

/// The present, in microseconds since the Unix epoch.
pub(crate) fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A span as the API gives it, in microseconds; none is negative.
pub(crate) fn micros(micros: i64) -> Duration {
    Duration::from_micros(micros.max(0).unsigned_abs())
}

/// How long ago, or `-` for a time that is not set.
pub(crate) fn ago(at: i64, now: i64) -> String {
    match at {
        0 => "-".to_owned(),
        at => span(micros(now.saturating_sub(at))),
    }
}

/// How long yet, `never` for a time that is not set, `over` for one that has passed.
pub(crate) fn until(at: i64, now: i64) -> String {
    match at {
        0 => "never".to_owned(),
        at if at <= now => "over".to_owned(),
        at => format!("in {}", span(Duration::from_micros(at.abs_diff(now)))),
    }
}

/// A moment in universal time: `2026-11-23 10:41:07.123Z`.
pub(crate) fn moment(micros: i64) -> String {
    let (seconds, millis) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000) / 1000);
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date of a day counted from 1970-01-01, after Howard Hinnant's `civil_from_days`: years begin in March, so that the
/// leap day is the last of its year.
pub(crate) fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        let cases =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (12_345_678, "11.8 MiB"), (u64::MAX, "16777216 TiB")];
        for (size, expected) in cases {
            assert_eq!(bytes(size), expected);
        }
        for (number, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), expected);
        }
    }

    #[test]
    fn spans() {
        let cases =
            [(0, "0ms"), (350, "350ms"), (59_999, "59s"), (60_000, "1m"), (725_000, "12m 5s"), (97_200_000, "1d 3h")];
        for (millis, expected) in cases {
            assert_eq!(span(Duration::from_millis(millis)), expected);
        }
        assert_eq!(ago(0, 5), "-");
        assert_eq!(until(0, 5), "never");
        assert_eq!(until(3, 5), "over");
        assert_eq!(until(7_200_000_005, 5), "in 2h");
    }

    #[test]
    fn moments() {
        assert_eq!(moment(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(moment(951_827_696_789_000), "2000-02-29 12:34:56.789Z");
        assert_eq!(moment(-1), "1969-12-31 23:59:59.999Z");
        assert_eq!(moment(1_795_430_467_123_456), "2026-11-23 10:41:07.123Z");
    }
}
