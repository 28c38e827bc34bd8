//! Words of a script's line: separated by spaces; in double quotes with `\n`, `\e` and `\"`; `x*1000` in backquotes is
//! a text that many times.

/// The words of a line, taken one by one.
pub(crate) struct Words {
    words: std::collections::VecDeque<String>,
}

impl Words {
    pub(crate) fn of(line: &str) -> Self {
        let mut words = std::collections::VecDeque::new();
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let (word, after) = match first {
                '"' => quoted(&rest[1..]),
                '`' => repeated(&rest[1..]),
                _ => {
                    let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
                    (word.to_owned(), after)
                }
            };
            words.push_back(word);
            rest = after.trim_start();
        }
        Words { words }
    }

    pub(crate) fn next(&mut self) -> String {
        self.words.pop_front().expect("another word")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Takes a word if it comes next.
    pub(crate) fn take(&mut self, word: &str) -> bool {
        let there = self.words.front().is_some_and(|next| next == word);
        if there {
            self.words.pop_front();
        }
        there
    }

    /// The word after a keyword, if that comes next.
    pub(crate) fn after(&mut self, keyword: &str) -> Option<String> {
        self.take(keyword).then(|| self.next())
    }
}

fn quoted(rest: &str) -> (String, &str) {
    let mut word = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (word, &rest[at + 1..]),
            '\\' => word.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, 'e')) => '\u{1b}',
                Some((_, c)) => c,
                None => panic!("nothing after a backslash"),
            }),
            c => word.push(c),
        }
    }
    panic!("no closing quote in {rest}")
}

fn repeated(rest: &str) -> (String, &str) {
    let (inner, after) = rest.split_once('`').expect("a closing backquote");
    let (text, times) = inner.split_once('*').expect("text*times");
    (text.repeat(times.parse().expect("a number")), after)
}
