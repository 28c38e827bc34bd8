//! Why a JSON text is not the message that was expected, in the words of Go's JSON reader.
//!
//! Must hold: the texts are those of etcd's gateway to the letter, Go's names of types included, as clients and their
//! tests compare them.

use std::borrow::Cow;

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("invalid character {} {place}", quoted_byte(*byte))]
    Character { byte: u8, place: Cow<'static, str> },
    /// The body ended within a value.
    #[error("unexpected EOF")]
    BodyTruncated,
    /// A number in quotes ended within the number.
    #[error("unexpected end of JSON input")]
    TextTruncated,
    #[error("json: cannot unmarshal {found} into Go value of type {wanted}")]
    Mismatch { found: Cow<'static, str>, wanted: String },
    #[error("unknown value {} for enum {of}", quoted(name))]
    EnumValue { name: String, of: String },
    #[error("illegal base64 data at input byte {at}")]
    Base64 { at: usize },
    /// etcd's gateway loses the connection over these.
    #[error("json: null is not a message of the list {list}")]
    NullMessage { list: String },
    #[error("json: field {field} has a type without a JSON form here")]
    Unsupported { field: String },
    /// A limit that Go doesn't have.
    #[error("json: more than {limit} values in a message")]
    TooManyValues { limit: usize },
}

/// One byte as Go writes a character in an error: not decoded, and with the other quotes escaped.
fn quoted_byte(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        _ => format!("'{}'", escaped(char::from(byte))),
    }
}

/// A text as Go writes it with quotes.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            other => quoted.push_str(&escaped(other)),
        }
    }
    quoted.push('"');
    quoted
}

fn escaped(character: char) -> Cow<'static, str> {
    match character {
        '\\' => r"\\".into(),
        '\x07' => r"\a".into(),
        '\x08' => r"\b".into(),
        '\x0b' => r"\v".into(),
        '\x0c' => r"\f".into(),
        '\n' => r"\n".into(),
        '\r' => r"\r".into(),
        '\t' => r"\t".into(),
        '\0'..='\x1f' | '\x7f' => format!(r"\x{:02x}", u32::from(character)).into(),
        // Not printable: the C1 controls, the no-break space and the soft hyphen are all that one byte can be.
        '\u{80}'..='\u{a0}' | '\u{ad}' => format!(r"\u{:04x}", u32::from(character)).into(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_quoted_as_in_go() {
        let cases = [
            (b'x', "'x'"),
            (b'\'', r"'\''"),
            (b'"', "'\"'"),
            (b'\\', r"'\\'"),
            (b'\n', r"'\n'"),
            (0x00, r"'\x00'"),
            (0x7f, r"'\x7f'"),
            (0x80, r"'\u0080'"),
            (0xc3, "'Ã'"),
        ];
        for (byte, expected) in cases {
            assert_eq!(quoted_byte(byte), expected);
        }
        assert_eq!(quoted("a\"\\\u{1}é"), r#""a\"\\\x01é""#);
    }
}
