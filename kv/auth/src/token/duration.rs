//! Durations as etcd's options have them: `90s`, `10m`, `1h30m`, `1.5h`.

use std::time::Duration;

const NANOS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
];

/// `None` if it isn't one, or a negative one, or longer than 584 years.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos: u128 = 0;
    loop {
        let number = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let unit = rest[number..].find(|c: char| c == '.' || c.is_ascii_digit()).map_or(rest.len(), |at| number + at);
        let (_, scale) = NANOS.iter().find(|(name, _)| *name == &rest[number..unit])?;
        nanos = nanos.checked_add(scaled(&rest[..number], *scale)?)?;
        rest = &rest[unit..];
        if rest.is_empty() {
            return u64::try_from(nanos).ok().map(Duration::from_nanos);
        }
    }
}

/// A decimal number times `scale`, rounded down.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
    let mut total = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.chars() {
        place /= 10;
        total = total.checked_add(u128::from(digit.to_digit(10)?) * place)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("0", 0),
            ("5m", 300_000_000_000),
            ("+90s", 90_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("2.s", 2_000_000_000),
            ("1us1µs1μs", 3_000),
            ("1ms2ns", 1_000_002),
        ] {
            assert_eq!(parse(text).map(|parsed| parsed.as_nanos()), Some(nanos), "{text}");
        }
        for text in ["", "5", "-5m", "m", ".", ".s", "1d", "5m3", "1..2s", "1 h", "99999999999999h", "é", "1é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
