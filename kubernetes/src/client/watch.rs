//! Reads the events of a watch, and lists of request objects.

use std::borrow::Cow;

use perennial_rotation::Token;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::echo::hide_token;
use crate::cluster::printable;
use crate::objects::{ListMeta, ObjectMeta, Status};

/// The longest event, in bytes: 1.5 MiB, etcd's limit on a request.
const LONGEST_LINE: usize = 3 << 19;

/// Assembles the lines of a watch, each of which is one event, from pieces of the stream.
#[derive(Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// The number of bytes at the front of the buffer that are known to hold no line end.
    scanned: usize,
}

/// An error for a line that is longer than an event may be.
pub(crate) struct TooLong;

impl Lines {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next complete line, without the token of the request: errors quote lines.
    pub(crate) fn next(&mut self, token: Option<&Token>) -> Result<Option<Vec<u8>>, TooLong> {
        let end = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n').map(|at| at + self.scanned);
        if end.unwrap_or(self.buffer.len()) > LONGEST_LINE {
            return Err(TooLong);
        }
        self.scanned = if end.is_some() { 0 } else { self.buffer.len() };
        let mut line = end.map(|end| self.buffer.drain(..=end).collect());
        token.into_iter().zip(&mut line).for_each(|(token, line)| hide_token(token, line));
        Ok(line)
    }
}

/// An event of a watch.
pub(crate) enum WatchEvent {
    /// The object of this name was added or changed to this state.
    Object { name: String, object: Box<RawValue> },
    /// The object of this name was deleted.
    Deleted { name: String },
    /// An empty line, or an event of an unknown type.
    Nothing,
    /// A bookmark: the server has delivered all events up to this version.
    Bookmark(String),
    /// The server does not remember the version to watch from (410).
    Expired,
    /// The watch cannot go on; contains the reason.
    Over(String),
}

pub(crate) fn decode(line: &[u8]) -> WatchEvent {
    if line.trim_ascii().is_empty() {
        return WatchEvent::Nothing;
    }
    read(line).unwrap_or_else(|error| WatchEvent::Over(unreadable(&error)))
}

/// Why a watch with an event that cannot be read is over.
pub(crate) fn unreadable(error: &serde_json::Error) -> String {
    format!("an event of the watch cannot be read: {error}")
}

/// The name of an object in JSON, of any kind.
pub(crate) fn name_of(object: &RawValue) -> serde_json::Result<String> {
    let Described { metadata } = serde_json::from_str(object.get())?;
    Ok(metadata.name)
}

fn read(line: &[u8]) -> serde_json::Result<WatchEvent> {
    let RawEvent { kind, object } = serde_json::from_slice(line)?;
    Ok(match &*kind {
        "ADDED" | "MODIFIED" => WatchEvent::Object { name: name_of(object)?, object: object.to_owned() },
        "DELETED" => WatchEvent::Deleted { name: name_of(object)? },
        "ERROR" => {
            let status: Status = serde_json::from_str(object.get())?;
            if status.code == 410 {
                return Ok(WatchEvent::Expired);
            }
            WatchEvent::Over(format!("the watch reported {} {}", status.code, printable(&status.message)))
        }
        "BOOKMARK" => {
            let Described { metadata } = serde_json::from_str(object.get())?;
            WatchEvent::Bookmark(metadata.resource_version)
        }
        // Later versions of Kubernetes may add types.
        _ => WatchEvent::Nothing,
    })
}

/// `metav1.WatchEvent`. The type of the event determines whether `object` is a request object, a [`Status`] or an
/// object that has only metadata.
#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// An object of any kind. The object of a bookmark has only a version.
#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// A list of request objects.
#[derive(Deserialize)]
pub(crate) struct List<'a> {
    #[serde(default)]
    pub(crate) metadata: ListMeta,
    /// The objects. A server written in Go may send `null` for an empty list. A list without this field is malformed.
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    pub(crate) items: Option<Vec<&'a RawValue>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_lines_are_read_however_their_bytes_are_split() {
        for size in 1..12 {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            for piece in b"one\n\ntwo three\nrest".chunks(size) {
                lines.push(piece);
                while let Ok(Some(line)) = lines.next(None) {
                    got.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(got, ["one\n", "\n", "two three\n"]);
        }
    }

    #[test]
    fn watch_line_over_limit_is_refused() {
        for (length, fits) in [(LONGEST_LINE, true), (LONGEST_LINE + 1, false)] {
            let mut lines = Lines::default();
            lines.push(&vec![b'x'; length]);
            assert_eq!(lines.next(None).is_ok(), fits);
            lines.push(b"\n");
            assert_eq!(lines.next(None).is_ok_and(|line| line.is_some()), fits);
        }
    }
}
