//! An answer of an API server, and what an error answer says.

use std::time::Duration;

use perennial::printable;
use perennial_rotation::{ServerDate, Token};

use super::exchange_error::ExchangeError;
use super::head::Head;
use crate::objects::Status;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, if it was sent in seconds.
    pub retry_after: Option<Duration>,
    /// `Content-Type`, empty if there was none.
    pub content_type: String,
    /// `Location`, empty if there was none.
    pub location: String,
    /// `Date`, over a connection whose certificate was verified.
    pub date: Option<ServerDate>,
    /// The body.
    pub body: Vec<u8>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Event {
    /// The whole answer. For a stream: it was refused.
    Answer(Response),
    /// The stream was accepted; pieces follow.
    Opened,
    Piece(Vec<u8>),
    /// The stream ended in order.
    Closed,
    /// There is no answer, or no more of it. The connection is gone.
    Lost(ExchangeError),
}

impl From<Head> for Response {
    fn from(head: Head) -> Self {
        let Head { status, retry_after, content_type, location, .. } = head;
        Self { status, retry_after, content_type, location, date: None, body: Vec::new() }
    }
}

impl Response {
    /// The response with every copy of the token that a server echoes blotted out: answers are quoted in logs.
    pub(super) fn without(self, token: &Token) -> Self {
        /// Shorter ones are no secret, and may be part of any word.
        const SHORTEST: usize = 8;
        let secret = token.reveal();
        if secret.len() < SHORTEST {
            return self;
        }
        let blot = |text: String| text.replace(secret, BLOT);
        let Self { content_type, location, mut body, .. } = self;
        let mut from = 0;
        while let Some(at) = find(&body[from..], secret.as_bytes()) {
            body.splice(from + at..from + at + secret.len(), BLOT.bytes());
            from += at + BLOT.len();
        }
        Self { content_type: blot(content_type), location: blot(location), body, ..self }
    }
}

/// Stands for a token that a server echoed.
const BLOT: &str = "[token]";

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// What an error answer says.
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) retry_after: Option<Duration>,
    /// It is a `Status`: the API itself speaks, not something in between.
    pub(crate) by_the_api: bool,
}

impl Said {
    pub(crate) fn read(response: &Response) -> Self {
        let status = serde_json::from_slice::<Status>(&response.body).ok().filter(|status| status.kind == "Status");
        match status {
            Some(status) => Self {
                text: said_by_the_api(response.status, &status),
                retry_after: status
                    .details
                    .and_then(|details| details.retry_after_seconds)
                    .map(|seconds| Duration::from_secs(seconds.into())),
                by_the_api: true,
            },
            None => Self { text: foreign(response), retry_after: None, by_the_api: false },
        }
    }

    /// What API servers say of a path that none of their APIs has: they leave that to Go.
    pub(crate) fn is_no_path(response: &Response) -> bool {
        response.status == 404 && response.body.trim_ascii() == b"404 page not found"
    }
}

/// What a `Status` says; its reason and message are optional.
fn said_by_the_api(status: u16, said: &Status) -> String {
    let (reason, message) = (printable(&said.reason), printable(&said.message));
    let separator = if reason.is_empty() { "" } else { " " };
    match message.as_str() {
        "" if reason.is_empty() => format!("{status}, no explanation"),
        "" => format!("{status}{separator}{reason}"),
        message => format!("{status}{separator}{reason}: {message}"),
    }
}

/// An answer that is not the API's, in a few words.
fn foreign(response: &Response) -> String {
    const EXCERPT: usize = 400;
    let start = &response.body[..response.body.len().min(EXCERPT)];
    let excerpt = printable(&String::from_utf8_lossy(start));
    let kind = match response.content_type.as_str() {
        "" => String::new(),
        kind => format!(" with {}", printable(kind)),
    };
    match excerpt.as_str() {
        "" => format!("{}{kind}, no explanation", response.status),
        text => format!("{}{kind}: {text}", response.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_without_reason_or_message_reads_well() {
        let said = |reason: &str, message: &str| {
            let status = Status { reason: reason.into(), message: message.into(), ..Status::default() };
            said_by_the_api(401, &status)
        };
        assert_eq!(said("Unauthorized", "no token"), "401 Unauthorized: no token");
        assert_eq!(said("", "no token"), "401: no token");
        assert_eq!(said("Unauthorized", ""), "401 Unauthorized");
        assert_eq!(said("", ""), "401, no explanation");
    }
}
