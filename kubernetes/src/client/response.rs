//! The answer of an API server, and the text of an error answer.

use std::time::Duration;

use perennial::printable;
use perennial_rotation::ServerDate;

use super::exchange_error::ExchangeError;
use super::head::Head;
use crate::objects::Status;

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// `Retry-After`: seconds, or a time counted from the answer's own `Date`.
    pub retry_after: Option<Duration>,
    /// `Content-Type`, empty if there was none.
    pub content_type: String,
    /// `Location`, empty if there was none.
    pub location: String,
    /// `Date`, if the server's certificate was verified.
    pub date: Option<ServerDate>,
    /// The body.
    pub body: Vec<u8>,
}

/// An event of the current request.
#[derive(Debug)]
pub(crate) enum Event {
    /// The complete answer. For a stream: the server refused it.
    Answer(Response),
    /// The stream was accepted; pieces follow.
    Opened,
    Piece(Vec<u8>),
    /// The server ended the stream properly.
    Closed,
    /// The request failed: there is no answer, or no complete one. The connection is closed.
    Lost(ExchangeError),
}

impl From<Head> for Response {
    fn from(head: Head) -> Self {
        let Head { status, retry_after, content_type, location, .. } = head;
        Self { status, retry_after, content_type, location, date: None, body: Vec::new() }
    }
}

/// The text of an error answer.
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) retry_after: Option<Duration>,
    /// True for a `Status`, which comes from the API itself and not from a proxy or another server.
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

    /// True for the answer of Go's HTTP server to an unknown path, which API servers give for an API that they lack.
    pub(crate) fn is_no_path(response: &Response) -> bool {
        response.status == 404 && response.body.trim_ascii() == b"404 page not found"
    }
}

/// The text of a `Status`. Its reason and its message are optional.
fn said_by_the_api(status: u16, said: &Status) -> String {
    let (reason, message) = (printable(&said.reason), printable(&said.message));
    let separator = if reason.is_empty() { "" } else { " " };
    match message.as_str() {
        "" if reason.is_empty() => format!("{status}, no explanation"),
        "" => format!("{status}{separator}{reason}"),
        message => format!("{status}{separator}{reason}: {message}"),
    }
}

/// The text of an answer that is not the API's, shortened.
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
    fn status_text_omits_absent_reason_and_message() {
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
