//! Finds where JSON values end, byte by byte, as they arrive.
//!
//! Must hold: a text is accepted exactly if Go's scanner accepts it, up to the limits; a refusal names the same
//! character and place. What is remembered grows with the depth of the value only, and not with its length.
//!
//! Left to others: keeping the bytes, and what they mean (`json`).
//!
//! ```text
//! Value -> String | Number* | Literal -> AfterValue -> (, Value | , Key | end)
//!       -> {  Key -> String -> AfterKey -> : Value
//! ```

use crate::{
    limits::{NESTING_MAX, VALUES_MAX},
    malformed::Malformed,
};

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is within the value, or is space before it.
    Inside,
    /// It is the last one of the value.
    Ended,
    /// The value ended before it, which only a number tells.
    EndedBefore,
}

/// What an open bracket stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Array,
    Object,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    AfterKey,
    AfterValue,
    String { key: bool },
    Escape { key: bool },
    Hex { key: bool, left: u8 },
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Literal { word: &'static str, at: usize },
}

/// Where in a value the scan is. After a value ended it is ready for the next one; after an error it is of no use.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
    open: Vec<Open>,
    values: usize,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self { state: State::Value, open: Vec::new(), values: 0 }
    }

    /// Whether no byte of a value was seen yet.
    pub(crate) fn is_before_value(&self) -> bool {
        self.values == 0
    }

    /// Takes the next byte.
    pub(crate) fn step(&mut self, byte: u8) -> Result<Step, Malformed> {
        match self.state {
            State::Value | State::ValueOrEnd | State::Key | State::KeyOrEnd | State::AfterKey | State::AfterValue => {
                if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') { Ok(Step::Inside) } else { self.structure(byte) }
            }
            State::String { .. } | State::Escape { .. } | State::Hex { .. } => self.string(byte),
            State::Literal { word, at } => self.literal(byte, word, at),
            _ => self.number(byte),
        }
    }

    fn structure(&mut self, byte: u8) -> Result<Step, Malformed> {
        match (self.state, byte) {
            (State::ValueOrEnd, b']') | (State::KeyOrEnd, b'}') => return Ok(self.close()),
            (State::Value | State::ValueOrEnd, _) => return self.begin(byte),
            (State::Key | State::KeyOrEnd, b'"') => self.state = State::String { key: true },
            (State::Key | State::KeyOrEnd, _) => return refused(byte, "looking for beginning of object key string"),
            (State::AfterKey, b':') => self.state = State::Value,
            (State::AfterKey, _) => return refused(byte, "after object key"),
            (_, _) => return self.after_value(byte),
        }
        Ok(Step::Inside)
    }

    fn begin(&mut self, byte: u8) -> Result<Step, Malformed> {
        self.state = match byte {
            b'{' => self.nest(byte, Open::Object)?,
            b'[' => self.nest(byte, Open::Array)?,
            b'"' => State::String { key: false },
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Integer,
            b't' => State::Literal { word: "true", at: 1 },
            b'f' => State::Literal { word: "false", at: 1 },
            b'n' => State::Literal { word: "null", at: 1 },
            _ => return refused(byte, "looking for beginning of value"),
        };
        self.values += 1;
        if self.values > VALUES_MAX { Err(Malformed::TooManyValues { limit: VALUES_MAX }) } else { Ok(Step::Inside) }
    }

    fn nest(&mut self, byte: u8, open: Open) -> Result<State, Malformed> {
        if self.open.len() >= NESTING_MAX {
            return refused(byte, "exceeded max depth");
        }
        self.open.push(open);
        Ok(match open {
            Open::Array => State::ValueOrEnd,
            Open::Object => State::KeyOrEnd,
        })
    }

    fn close(&mut self) -> Step {
        self.open.pop();
        self.end_value()
    }

    fn end_value(&mut self) -> Step {
        if self.open.is_empty() {
            *self = Self::new();
            return Step::Ended;
        }
        self.state = State::AfterValue;
        Step::Inside
    }

    fn after_value(&mut self, byte: u8) -> Result<Step, Malformed> {
        match (self.open.last(), byte) {
            (Some(Open::Array), b']') | (Some(Open::Object), b'}') => Ok(self.close()),
            (Some(Open::Array), b',') => {
                self.state = State::Value;
                Ok(Step::Inside)
            }
            (Some(Open::Object), b',') => {
                self.state = State::Key;
                Ok(Step::Inside)
            }
            (Some(Open::Object), _) => refused(byte, "after object key:value pair"),
            (Some(Open::Array), _) => refused(byte, "after array element"),
            (None, _) => Ok(Step::EndedBefore),
        }
    }

    fn string(&mut self, byte: u8) -> Result<Step, Malformed> {
        self.state = match (self.state, byte) {
            (State::String { key: true }, b'"') => State::AfterKey,
            (State::String { key: false }, b'"') => return Ok(self.end_value()),
            (State::String { key }, b'\\') => State::Escape { key },
            (State::String { .. }, 0..=0x1f) => return refused(byte, "in string literal"),
            (State::Escape { key }, b'u') => State::Hex { key, left: 4 },
            (State::Escape { key }, b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => State::String { key },
            (State::Escape { .. }, _) => return refused(byte, "in string escape code"),
            (State::Hex { .. }, _) if !byte.is_ascii_hexdigit() => {
                return refused(byte, r"in \u hexadecimal character escape");
            }
            (State::Hex { key, left: 1 }, _) => State::String { key },
            (State::Hex { key, left }, _) => State::Hex { key, left: left - 1 },
            (unchanged, _) => unchanged,
        };
        Ok(Step::Inside)
    }

    fn literal(&mut self, byte: u8, word: &'static str, at: usize) -> Result<Step, Malformed> {
        match word.as_bytes().get(at) {
            Some(expected) if *expected == byte && at + 1 == word.len() => Ok(self.end_value()),
            Some(expected) if *expected == byte => {
                self.state = State::Literal { word, at: at + 1 };
                Ok(Step::Inside)
            }
            expected => {
                let expected = expected.copied().map_or(' ', char::from);
                let place = format!("in literal {word} (expecting '{expected}')").into();
                Err(Malformed::Character { byte, place })
            }
        }
    }

    fn number(&mut self, byte: u8) -> Result<Step, Malformed> {
        self.state = match (self.state, byte) {
            (State::Minus, b'0') => State::Zero,
            (State::Minus, b'1'..=b'9') | (State::Integer, b'0'..=b'9') => State::Integer,
            (State::Minus, _) => return refused(byte, "in numeric literal"),
            (State::Zero | State::Integer, b'.') => State::Point,
            (State::Zero | State::Integer | State::Fraction, b'e' | b'E') => State::Exponent,
            (State::Point | State::Fraction, b'0'..=b'9') => State::Fraction,
            (State::Point, _) => return refused(byte, "after decimal point in numeric literal"),
            (State::Exponent, b'+' | b'-') => State::ExponentSign,
            (State::Exponent | State::ExponentSign | State::ExponentDigits, b'0'..=b'9') => State::ExponentDigits,
            (State::Exponent | State::ExponentSign, _) => {
                return refused(byte, "in exponent of numeric literal");
            }
            _ => return self.end_number(byte),
        };
        Ok(Step::Inside)
    }

    /// The byte is not of the number, so it is what follows it.
    fn end_number(&mut self, byte: u8) -> Result<Step, Malformed> {
        if self.end_value() == Step::Ended {
            return Ok(Step::EndedBefore);
        }
        self.step(byte)
    }
}

fn refused<T>(byte: u8, place: &'static str) -> Result<T, Malformed> {
    Err(Malformed::Character { byte, place: place.into() })
}

/// Whether a text is one value with nothing but space around it.
pub(crate) fn check_whole(text: &[u8]) -> Result<(), Malformed> {
    let mut scanner = Scanner::new();
    let mut ended = false;
    for byte in text {
        let after = match ended {
            true => true,
            false => {
                let step = scanner.step(*byte)?;
                ended = step != Step::Inside;
                step == Step::EndedBefore
            }
        };
        if after && !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return refused(*byte, "after top-level value");
        }
    }
    // Space ends a number, and nothing else.
    if ended || scanner.step(b' ')? == Step::EndedBefore { Ok(()) } else { Err(Malformed::TextTruncated) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of a text, as a body is split: `Err` ends it.
    fn split(text: &str) -> Vec<Result<String, String>> {
        let (mut scanner, mut values, mut begin, mut at) = (Scanner::new(), Vec::new(), 0, 0);
        while at < text.len() {
            match scanner.step(text.as_bytes()[at]) {
                Ok(Step::Inside) => at += 1,
                Ok(ended) => {
                    at += usize::from(ended == Step::Ended);
                    values.push(Ok(text[begin..at].trim().to_owned()));
                    begin = at;
                }
                Err(malformed) => {
                    values.push(Err(malformed.to_string()));
                    return values;
                }
            }
        }
        if !scanner.is_before_value() {
            let is_number = scanner.step(b' ') == Ok(Step::EndedBefore);
            values.push(if is_number { Ok(text[begin..].trim().to_owned()) } else { Err("truncated".to_owned()) });
        }
        values
    }

    #[test]
    fn values_follow_one_another() {
        let cases: [(&str, &[&str]); 6] = [
            ("", &[]),
            (" \n\t", &[]),
            ("{}{}", &["{}", "{}"]),
            ("{\"a\":[1,{\"b\":\"}\\\"\"}]}\n[2] ", &["{\"a\":[1,{\"b\":\"}\\\"\"}]}", "[2]"]),
            ("1 -2.5e+7\"x\"null true", &["1", "-2.5e+7", "\"x\"", "null", "true"]),
            ("0", &["0"]),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text), expected.iter().map(|value| Ok((*value).to_owned())).collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn refusals_name_the_character_and_the_place() {
        let cases = [
            ("x", "invalid character 'x' looking for beginning of value"),
            ("[,", "invalid character ',' looking for beginning of value"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[1}", "invalid character '}' after array element"),
            ("{1", "invalid character '1' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1", "invalid character '1' after object key"),
            ("{\"a\":1]", "invalid character ']' after object key:value pair"),
            ("\"a\n", r"invalid character '\n' in string literal"),
            (r#""\x"#, "invalid character 'x' in string escape code"),
            (r#""\u12g"#, r"invalid character 'g' in \u hexadecimal character escape"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e+x", "invalid character 'x' in exponent of numeric literal"),
            ("[01]", "invalid character '1' after array element"),
            ("nul}", "invalid character '}' in literal null (expecting 'l')"),
            ("{\"a\":", "truncated"),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text), [Err(expected.to_owned())], "{text}");
        }
    }

    #[test]
    fn depth_and_number_of_values_are_limited() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(split(&nested(NESTING_MAX))[0].is_ok());
        let refusal = Err("invalid character '[' exceeded max depth".to_owned());
        assert_eq!(split(&nested(NESTING_MAX + 1)), [refusal]);
        let list = |values: usize| format!("[{}]", vec!["0"; values].join(","));
        assert!(split(&list(VALUES_MAX - 1))[0].is_ok());
        assert!(split(&list(VALUES_MAX))[0].is_err());
        assert!(split(&list(VALUES_MAX - 1).repeat(2)).iter().all(Result::is_ok), "each value has its own limit");
    }

    #[test]
    fn a_whole_text_is_one_value() {
        for text in ["5", " -5 ", "null", "{} "] {
            assert_eq!(check_whole(text.as_bytes()), Ok(()), "{text}");
        }
        for text in ["", " ", "[", "{\"a\""] {
            assert_eq!(check_whole(text.as_bytes()), Err(Malformed::TextTruncated), "{text}");
        }
        let refusal = check_whole(b"-").unwrap_err().to_string();
        assert_eq!(refusal, "invalid character ' ' in numeric literal", "as if space followed");
        for text in ["5x", "5 x", "{}x"] {
            let refusal = check_whole(text.as_bytes()).unwrap_err().to_string();
            assert_eq!(refusal, "invalid character 'x' after top-level value", "{text}");
        }
    }
}
