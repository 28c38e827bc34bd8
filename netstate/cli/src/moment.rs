//! Moments as they are written on a command line.

use std::str::FromStr;

use crate::human::civil;

/// A moment: `2026-11-28T05:00:00Z`, with a fraction of a second or without, in UTC or with an offset; or as the audit trail
/// shows it, `2026-11-28 05:00:00.123Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(i64);

impl Moment {
    /// Microseconds since the Unix epoch.
    pub(crate) fn micros(self) -> i64 {
        self.0
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{:?} is no time; write it as 2026-11-28T05:00:00Z", text.chars().take(40).collect::<String>());
        moment(text).map(Moment).ok_or_else(wrong)
    }
}

fn moment(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once(['T', ' '])?;
    let (clock, offset) = match rest.strip_suffix('Z') {
        Some(clock) => (clock, 0),
        None => {
            let at = rest.rfind(['+', '-'])?;
            let minutes = minutes(&rest[at + 1..])?;
            (&rest[..at], if rest[at..].starts_with('-') { -minutes } else { minutes })
        }
    };
    let mut date = date.split('-');
    let (year, month, day) = (digits(date.next()?, 4)?, digits(date.next()?, 2)?, digits(date.next()?, 2)?);
    let days = days(year, month, day);
    if date.next().is_some() || civil(days) != (year, month, day) {
        return None;
    }
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let (hours, second) = clock.rsplit_once(':').filter(|(hours, _)| hours.contains(':'))?;
    let second = digits(second, 2).filter(|second| *second < 60)?;
    if fraction.is_empty() || fraction.len() > 6 {
        return None;
    }
    let micros = digits(fraction, fraction.len())? * 10i64.pow(6 - u32::try_from(fraction.len()).ok()?);
    let seconds = days * 86_400 + (minutes(hours)? - offset) * 60 + second;
    Some(seconds * 1_000_000 + micros)
}

/// `05:30` as minutes.
fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

/// A number of so many digits.
fn digits(text: &str, many: usize) -> Option<i64> {
    (text.len() == many && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The day of a date, counted from 1970-01-01, after Howard Hinnant's `days_from_civil`. Of a date that there is not, some
/// day or other.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_written() {
        let good = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56.789Z", 951_827_696_789_000),
            ("2000-02-29 12:34:56.789Z", 951_827_696_789_000),
            ("2000-02-29T14:04:56.789+01:30", 951_827_696_789_000),
            ("1969-12-31T23:00:00.000001-01:00", 1),
        ];
        for (text, micros) in good {
            assert_eq!(text.parse(), Ok(Moment(micros)), "{text}");
        }
        for bad in [
            "",
            "now",
            "2026-11-28",
            "2026-11-28T05:00:00",
            "2026-11-28T05:00Z",
            "2026-02-29T05:00:00Z",
            "2026-13-01T05:00:00Z",
            "2026-11-28T24:00:00Z",
            "2026-11-28T05:00:60Z",
            "2026-11-28T05:00:00.1234567Z",
            "+026-11-28T05:00:00Z",
            "2026-11-28T05:00:00.Z",
            "2026-11-28T05:00:00+1:00",
        ] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }
}
