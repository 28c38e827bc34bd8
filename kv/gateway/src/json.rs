//! A JSON value that was found well-formed, as it was written.
//!
//! Must hold: numbers and strings keep their text. A number may be an int64 or not, and a string may be a number, the
//! name of an enum's value or base64: which one only the field that it is for tells.

use std::borrow::Cow;

use crate::malformed::Malformed;

/// A value, borrowing its text.
#[derive(Debug, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    /// What stands between the quotes, escapes and all.
    String(&'a [u8]),
    Array(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads one value. The scanner has accepted the text, so what is told of a text that it hasn't is vague.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, Malformed> {
        Reader { rest: text }.value().ok_or(Malformed::BodyTruncated)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next byte that is not space.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn skip(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (skipped, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(skipped)
    }

    fn value(&mut self) -> Option<Json<'a>> {
        match self.peek()? {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => self.string().map(Json::String),
            b't' => self.skip("true".len()).map(|_| Json::Bool(true)),
            b'f' => self.skip("false".len()).map(|_| Json::Bool(false)),
            b'n' => self.skip("null".len()).map(|_| Json::Null),
            _ => self.number(),
        }
    }

    fn object(&mut self) -> Option<Json<'a>> {
        let mut members = Vec::new();
        self.skip(1)?;
        while self.peek()? != b'}' {
            let name = unescape(self.string()?);
            self.peek()?;
            self.skip(":".len())?;
            members.push((name, self.value()?));
            if self.peek()? == b',' {
                self.skip(1)?;
                self.peek()?;
            }
        }
        self.skip(1)?;
        Some(Json::Object(members))
    }

    fn array(&mut self) -> Option<Json<'a>> {
        let mut elements = Vec::new();
        self.skip(1)?;
        while self.peek()? != b']' {
            elements.push(self.value()?);
            if self.peek()? == b',' {
                self.skip(1)?;
            }
        }
        self.skip(1)?;
        Some(Json::Array(elements))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        self.skip(1)?;
        let mut length = 0;
        loop {
            match self.rest.get(length)? {
                b'"' => break,
                b'\\' => length += 2,
                _ => length += 1,
            }
        }
        let raw = self.skip(length)?;
        self.skip(1)?;
        Some(raw)
    }

    fn number(&mut self) -> Option<Json<'a>> {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = self.rest.iter().take_while(|byte| is_part(byte)).count();
        let text = std::str::from_utf8(self.skip(length)?).ok()?;
        (!text.is_empty()).then_some(Json::Number(text))
    }
}

/// The text that stands for itself or is escaped between quotes. What is not Unicode becomes U+FFFD, as in Go.
pub(crate) fn unescape(raw: &[u8]) -> Cow<'_, str> {
    if !raw.contains(&b'\\') {
        return String::from_utf8_lossy(raw);
    }
    let (mut text, mut rest) = (String::with_capacity(raw.len()), raw);
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        text.push_str(&String::from_utf8_lossy(&rest[..at]));
        let (character, length) = escape(&rest[at..]);
        text.push(character);
        rest = &rest[at + length..];
    }
    text.push_str(&String::from_utf8_lossy(rest));
    text.into()
}

/// The character that an escape stands for, and how long the escape is.
fn escape(raw: &[u8]) -> (char, usize) {
    let simple = match raw.get(1) {
        Some(b'u') => return unicode_escape(raw),
        Some(b'b') => '\x08',
        Some(b'f') => '\x0c',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(itself) => char::from(*itself),
        None => return (char::REPLACEMENT_CHARACTER, 1),
    };
    (simple, 2)
}

/// `\uXXXX`, or two of them if they are the halves of one character.
fn unicode_escape(raw: &[u8]) -> (char, usize) {
    const LENGTH: usize = r"\uXXXX".len();
    let high = code_unit(raw);
    if let Some(character) = char::from_u32(high) {
        return (character, LENGTH.min(raw.len()));
    }
    let low = raw.get(LENGTH..).filter(|next| next.starts_with(b"\\u")).map_or(0, code_unit);
    match char::decode_utf16([high as u16, low as u16]).next() {
        Some(Ok(character)) => (character, 2 * LENGTH),
        _ => (char::REPLACEMENT_CHARACTER, LENGTH.min(raw.len())),
    }
}

fn code_unit(raw: &[u8]) -> u32 {
    let digits = raw.get(2..6).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
    u32::from_str_radix(digits, 16).unwrap_or(u32::from(char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_text() {
        let text = br#" {"a" : [1, -2.50 ,"3\"", true,false,null,[ ],{ }] , "\u0062":{"c":"x"}} "#;
        let expected = Json::Object(vec![
            (
                "a".into(),
                Json::Array(vec![
                    Json::Number("1"),
                    Json::Number("-2.50"),
                    Json::String(br#"3\""#),
                    Json::Bool(true),
                    Json::Bool(false),
                    Json::Null,
                    Json::Array(vec![]),
                    Json::Object(vec![]),
                ]),
            ),
            ("b".into(), Json::Object(vec![("c".into(), Json::String(b"x"))])),
        ]);
        assert_eq!(Json::parse(text), Ok(expected));
    }

    #[test]
    fn strings_are_unescaped() {
        let cases: [(&[u8], &str); 8] = [
            (b"plain", "plain"),
            (br#"\"\\\/\b\f\n\r\t"#, "\"\\/\x08\x0c\n\r\t"),
            (br"\u00e9\u20AC!", "é€!"),
            (br"\ud83d\ude00", "😀"),
            (br"\ud83d", "\u{fffd}"),
            (br"\ud83dx\ude00", "\u{fffd}x\u{fffd}"),
            (br"\ud83d\u0041", "\u{fffd}A"),
            (b"\xff\\n", "\u{fffd}\n"),
        ];
        for (raw, expected) in cases {
            assert_eq!(unescape(raw), expected);
        }
    }

    #[test]
    fn what_the_scanner_would_refuse_is_refused() {
        for text in ["", "{", "[1", "\"x", "{\"a\"", "?"] {
            assert!(Json::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
