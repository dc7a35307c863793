//! The lines of a watch.

use serde_json::Value;

use crate::objects::{CertificateSigningRequest, Status, WatchEvent};

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
    /// The watch cannot go on.
    Error(Status),
    /// The line makes no sense.
    Garbled(String),
}

pub(crate) fn news(line: &[u8]) -> News {
    if line.trim_ascii().is_empty() {
        return News::Nothing;
    }
    let event: WatchEvent = match serde_json::from_slice(line) {
        Ok(event) => event,
        Err(error) => return News::Garbled(error.to_string()),
    };
    let object = |value: Value| serde_json::from_value(value).map(Box::new);
    let read = match event.type_.as_str() {
        "ADDED" | "MODIFIED" => object(event.object).map(News::Object),
        "DELETED" => object(event.object).map(News::Deleted),
        "ERROR" => serde_json::from_value(event.object).map(News::Error),
        // Bookmarks, and what later versions may bring.
        _ => Ok(News::Nothing),
    };
    read.unwrap_or_else(|error| News::Garbled(error.to_string()))
}
