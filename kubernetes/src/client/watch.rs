//! Reading the events of watches and the answers of lists.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::cluster::printable;
use crate::objects::{CertificateSigningRequest, ListMeta, ObjectMeta, Status};

/// An event may not be longer: etcd's limit on an object, and what goes around it.
const LONGEST_LINE: usize = 3 << 19;

/// Puts lines together from pieces.
#[derive(Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// How much of the buffer holds no line's end.
    scanned: usize,
}

/// A line that is too long to be an event.
pub(crate) struct TooLong;

impl Lines {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let end = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n').map(|at| at + self.scanned);
        if end.unwrap_or(self.buffer.len()) > LONGEST_LINE {
            return Err(TooLong);
        }
        self.scanned = if end.is_some() { 0 } else { self.buffer.len() };
        Ok(end.map(|end| self.buffer.drain(..=end).collect()))
    }
}

/// What a line of a watch tells.
pub(crate) enum News {
    /// The object is now this.
    Object(Box<CertificateSigningRequest>),
    /// The object is gone. Carries its last state.
    Deleted(Box<CertificateSigningRequest>),
    /// Nothing of interest.
    Nothing,
    /// All events up to this version have been delivered.
    Bookmark(String),
    /// The server does not remember the version to watch from (410).
    Expired,
    /// The watch cannot go on, for this reason.
    Over(String),
}

pub(crate) fn news(line: &[u8]) -> News {
    if line.trim_ascii().is_empty() {
        return News::Nothing;
    }
    read(line).unwrap_or_else(|error| News::Over(format!("an event of the watch cannot be read: {error}")))
}

fn read(line: &[u8]) -> serde_json::Result<News> {
    let WatchEvent { kind, object } = serde_json::from_slice(line)?;
    let object = object.get().as_bytes();
    Ok(match &*kind {
        "ADDED" | "MODIFIED" => News::Object(serde_json::from_slice(object)?),
        "DELETED" => News::Deleted(serde_json::from_slice(object)?),
        "ERROR" => {
            let status: Status = serde_json::from_slice(object)?;
            if status.code == 410 {
                return Ok(News::Expired);
            }
            News::Over(format!("the watch reported {} {}", status.code, printable(&status.message)))
        }
        "BOOKMARK" => {
            let bookmark: Bookmark = serde_json::from_slice(object)?;
            News::Bookmark(bookmark.metadata.resource_version)
        }
        // What later versions may bring.
        _ => News::Nothing,
    })
}

/// `metav1.WatchEvent`. Its type says what the object is: a request, a [`Status`] or bare metadata.
#[derive(Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// An object of which only the version counts.
#[derive(Deserialize)]
struct Bookmark {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// A list of request objects.
#[derive(Deserialize)]
pub(crate) struct List {
    #[serde(default)]
    pub(crate) metadata: ListMeta,
    /// `null` in the list of a server written in Go that has none.
    #[serde(deserialize_with = "items")]
    pub(crate) items: Vec<CertificateSigningRequest>,
}

fn items<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CertificateSigningRequest>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

pub(crate) fn list(body: &[u8]) -> serde_json::Result<List> {
    serde_json::from_slice(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        for size in 1..12 {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            for piece in b"one\n\ntwo three\nrest".chunks(size) {
                lines.push(piece);
                while let Ok(Some(line)) = lines.next() {
                    got.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(got, ["one\n", "\n", "two three\n"]);
        }
    }

    #[test]
    fn the_longest_line_is_taken_and_a_longer_one_is_not() {
        for (length, fits) in [(LONGEST_LINE, true), (LONGEST_LINE + 1, false)] {
            let mut lines = Lines::default();
            lines.push(&vec![b'x'; length]);
            assert_eq!(lines.next().is_ok(), fits);
            lines.push(b"\n");
            assert_eq!(lines.next().is_ok_and(|line| line.is_some()), fits);
        }
    }
}
