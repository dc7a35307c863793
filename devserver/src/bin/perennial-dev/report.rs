//! Events on stdout: sentences for people, or one JSON object a line for programs.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use jiff::SignedDuration;
use perennial::{Escaped, UnixTime};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Reports events. Goes on without a reader.
pub(crate) struct Report {
    style: Style,
    /// The last line about waiting.
    waiting: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// One object a line.
    Json,
    /// Sentences; on a terminal the line about waiting is kept up to date.
    Sentences { live: bool },
}

impl Report {
    /// Sentences, or JSON.
    pub(crate) fn new(json: bool) -> Self {
        let live = io::stdout().is_terminal();
        Self { style: if json { Style::Json } else { Style::Sentences { live } }, waiting: String::new() }
    }

    /// Reports an event: `name` and `fields` to programs, `sentence` to people.
    pub(crate) fn event(&mut self, name: &str, mut fields: Value, sentence: &str) {
        self.waiting.clear();
        match self.style {
            Style::Json => {
                fields["event"] = name.into();
                // Programs read escaped control characters as before; a terminal does not act on them.
                print(&format!("{:#}\n", Escaped(&fields.to_string())));
            }
            Style::Sentences { live: true } => print(&format!("{CLEAR}{sentence}\n")),
            Style::Sentences { live: false } => print(&format!("{sentence}\n")),
        }
    }

    /// Reports a failure to programs. People read it on stderr.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        if self.style == Style::Json {
            self.event("failed", json!({ "reason": failure.to_string() }), "");
        }
    }

    /// Reports what the demo waits for: on a terminal in a line that is kept up to date, with `left` behind it;
    /// elsewhere once.
    pub(crate) fn waiting(&mut self, what: &str, left: &str) {
        match self.style {
            Style::Sentences { live: true } => print(&format!("{CLEAR}{NO_WRAP}{what}{left}{WRAP}")),
            Style::Sentences { live: false } if self.waiting != what => print(&format!("{what}\n")),
            Style::Sentences { live: false } | Style::Json => {}
        }
        what.clone_into(&mut self.waiting);
    }

    /// True if the line about waiting is kept up to date.
    pub(crate) fn is_live(&self) -> bool {
        self.style == Style::Sentences { live: true }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if self.is_live() && !self.waiting.is_empty() {
            print(CLEAR);
        }
    }
}

/// To the beginning of the line, and nothing on it.
const CLEAR: &str = "\r\x1b[K";
/// A line longer than the terminal is wide is cut: only one line can be written over.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The time of day in UTC: enough for what happens within a day.
pub(crate) fn time_of_day(at: UnixTime) -> String {
    let (_, _, _, hour, minute, second, _) = at.civil();
    format!("{hour:02}:{minute:02}:{second:02}")
}

/// A span as people write it, rounded to tenths of a second: `6s`, `1h 30m`.
pub(crate) fn words(span: Duration) -> String {
    let tenths = u64::try_from(span.as_millis() / 100).unwrap_or(u64::MAX);
    SignedDuration::try_from(Duration::from_millis(tenths.saturating_mul(100)))
        .map_or_else(|_| "ages".to_owned(), |span| format!("{span:#}"))
}
