//! Escaping of text from outside before a person reads it: names in certificates, messages of servers, names of files.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::{self, Display, Formatter, Write as _};

/// Shows text with its control characters escaped, such as `\n` and `\u{1b}`: a name must not control a terminal, forge
/// a log line, or change the direction of writing. The alternate form (`{:#}`) escapes as JSON does (`\u001b`), for
/// text that is a line of JSON already.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            c if !must_be_escaped(c) => f.write_char(c),
            // All these characters are in the basic plane, so that one escape of four digits is enough.
            c if f.alternate() => write!(f, "\\u{:04x}", u32::from(c)),
            c => c.escape_default().try_for_each(|c| f.write_char(c)),
        })
    }
}

/// True for characters that terminals act upon, and for Unicode's bidirectional and invisible formatting.
fn must_be_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Makes one line for a message: a run of white space becomes one space, control characters are [`Escaped`], and an
/// ellipsis replaces the text after 200 characters.
pub fn printable(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = Escaped(&words.join(" ")).to_string();
    match line.char_indices().nth(200) {
        Some((at, _)) => line[..at].to_owned() + "…",
        None => line,
    }
}
