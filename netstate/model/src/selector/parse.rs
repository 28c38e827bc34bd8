//! Reading selectors. Goes once through the text, without recursion, so that no text can exhaust the stack.

use super::{Requirement, Selector, SelectorError, Test};
use crate::{limits, text::Quoted};

/// Characters of keys and values that need no quotes.
pub(super) fn bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/')
}

/// Reads a whole selector.
pub(super) fn selector(text: &str) -> Result<Selector, SelectorError> {
    if text.len() > limits::SELECTOR_BYTES_MAX {
        return Err(SelectorError::TooLong { bytes: text.len() });
    }
    let mut parser = Parser { text, at: 0 };
    let mut requirements = vec![parser.requirement()?];
    while parser.skip_space() < text.len() {
        parser.expect(',', "a comma")?;
        requirements.push(parser.requirement()?);
    }
    Ok(Selector::of(requirements))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.take('!') {
            let key = self.key("a label's key")?;
            return Ok(Requirement { key, test: Test::Absent });
        }
        let key = self.key("a label's key or !")?;
        let test = if self.take('=') {
            self.take('=');
            Test::In([self.value()?].into())
        } else if self.take('!') {
            self.expect('=', "=")?;
            Test::NotIn([self.value()?].into())
        } else if self.take_word("in") {
            Test::In(self.values()?)
        } else if self.take_word("notin") {
            Test::NotIn(self.values()?)
        } else {
            Test::Present
        };
        Ok(Requirement { key, test })
    }

    fn key(&mut self, expected: &'static str) -> Result<Box<str>, SelectorError> {
        let at = self.skip_space();
        let key = self.word(expected)?;
        let fits = !key.is_empty() && key.len() <= limits::LABEL_KEY_BYTES_MAX;
        if fits { Ok(key) } else { Err(SelectorError::Word { selector: Quoted::new(self.text), at, what: "key" }) }
    }

    fn value(&mut self) -> Result<Box<str>, SelectorError> {
        let at = self.skip_space();
        let value = self.word("a label's value")?;
        let fits = value.len() <= limits::LABEL_VALUE_BYTES_MAX;
        if fits { Ok(value) } else { Err(SelectorError::Word { selector: Quoted::new(self.text), at, what: "value" }) }
    }

    fn values(&mut self) -> Result<Box<[Box<str>]>, SelectorError> {
        self.expect('(', "an opening parenthesis")?;
        let mut values = vec![self.value()?];
        while !self.take(')') {
            self.expect(',', "a comma or closing parenthesis")?;
            values.push(self.value()?);
        }
        values.sort();
        values.dedup();
        Ok(values.into())
    }

    fn word(&mut self, expected: &'static str) -> Result<Box<str>, SelectorError> {
        self.skip_space();
        if self.take('"') {
            return self.quoted();
        }
        let length = self.rest().find(|c| !bare(c)).unwrap_or(self.rest().len());
        if length == 0 {
            return Err(self.unexpected(expected));
        }
        let word = self.rest()[..length].into();
        self.at += length;
        Ok(word)
    }

    /// The rest of a quoted word, its closing quote included.
    fn quoted(&mut self) -> Result<Box<str>, SelectorError> {
        let mut word = String::new();
        loop {
            let next = self.rest().chars().next();
            match next {
                Some('"') => {
                    self.at += 1;
                    return Ok(word.into());
                }
                Some('\\') => {
                    self.at += 1;
                    let escaped = self.rest().chars().next().filter(|c| matches!(c, '"' | '\\'));
                    word.push(escaped.ok_or_else(|| self.unexpected("a quote or backslash"))?);
                    self.at += 1;
                }
                Some(c) if !c.is_control() => {
                    word.push(c);
                    self.at += c.len_utf8();
                }
                _ => return Err(self.unexpected("a closing quote")),
            }
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) -> usize {
        self.at += self.rest().len() - self.rest().trim_start_matches(' ').len();
        self.at
    }

    fn take(&mut self, wanted: char) -> bool {
        self.skip_space();
        let there = self.rest().starts_with(wanted);
        if there {
            self.at += wanted.len_utf8();
        }
        there
    }

    /// Takes a bare word that stands alone.
    fn take_word(&mut self, wanted: &str) -> bool {
        self.skip_space();
        let there = self.rest().strip_prefix(wanted).is_some_and(|after| !after.starts_with(bare));
        if there {
            self.at += wanted.len();
        }
        there
    }

    fn expect(&mut self, wanted: char, expected: &'static str) -> Result<(), SelectorError> {
        if self.take(wanted) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn unexpected(&self, expected: &'static str) -> SelectorError {
        let next = self.rest().chars().next();
        let found = next.map_or_else(|| "its end".to_owned(), |c| format!("{c:?}"));
        SelectorError::Syntax { selector: Quoted::new(self.text), at: self.at, found, expected }
    }
}
