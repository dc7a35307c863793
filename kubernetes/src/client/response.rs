//! The answer of an API server, and the text of an error answer.

use std::time::Duration;

use perennial::{Escaped, printable};
use perennial_rotation::ServerDate;

use super::exchange_error::ExchangeError;
use crate::objects::Status;

/// A complete answer of an API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// `Retry-After`, as the time to wait. If the header is a date, the time counts from the answer's own `Date`.
    /// `None` if the header is absent or malformed, or is a date in an answer without a `Date`.
    pub retry_after: Option<Duration>,
    /// `Content-Type`, empty if there was none.
    pub content_type: String,
    /// `Location`, empty if there was none.
    pub location: String,
    /// `Date`, if the server's certificate was verified.
    pub date: Option<ServerDate>,
    /// The body, without transfer coding.
    pub body: Vec<u8>,
}

/// News of the current HTTP request, as `Session::event` returns it: the answer, a part of a stream, or the failure of
/// the request.
#[derive(Debug)]
pub(crate) enum Event {
    /// The complete answer. If a stream was requested, this is the answer by which the server refuses the stream.
    Answer(Response),
    /// The stream was accepted; pieces follow.
    Opened,
    Piece(Vec<u8>),
    /// The server ended the stream properly.
    Closed,
    /// The request failed: there is no answer, or no complete one. The connection is closed.
    Lost(ExchangeError),
}

/// Most characters of an API server's message. Messages of admission plugins and of policies end with the reason, after
/// the names of the request, the policy and its binding, each of up to 253 characters.
const LONGEST_MESSAGE: usize = 1000;

/// The text of an error answer, and how long the server wants the client to wait.
pub(crate) struct ErrorAnswer {
    pub(crate) text: String,
    pub(crate) retry_after: Option<Duration>,
    /// True if the answer is a `Status` object: it then comes from the API itself, not from a proxy or another server.
    pub(crate) by_the_api: bool,
}

impl ErrorAnswer {
    pub(crate) fn read(response: &Response) -> Self {
        let status = serde_json::from_slice::<Status>(&response.body).ok().filter(|status| status.kind == "Status");
        let Some(Status { reason, message, details, .. }) = status else {
            return Self { text: foreign(response), retry_after: None, by_the_api: false };
        };
        let retry_after = details.and_then(|details| details.retry_after_seconds);
        Self {
            text: sentence(response.status, &reason, &line(&message)),
            retry_after: retry_after.map(|seconds| Duration::from_secs(seconds.into())),
            by_the_api: true,
        }
    }

    /// True for the 404 that Go's HTTP server gives for an unknown path. API servers give this answer for an API group
    /// or version that they do not serve.
    pub(crate) fn is_no_path(response: &Response) -> bool {
        response.status == 404 && response.body.trim_ascii() == b"404 page not found"
    }
}

/// The shortened text of an answer that comes not from the API, but from a proxy or another server.
fn foreign(response: &Response) -> String {
    const EXCERPT: usize = 400;
    let start = &response.body[..response.body.len().min(EXCERPT)];
    let kind = match response.content_type.as_str() {
        "" => String::new(),
        kind => format!("with {kind}"),
    };
    sentence(response.status, &kind, &printable(&String::from_utf8_lossy(start)))
}

/// Makes one line of a message of an API server, as [`printable`] does of a shorter text. An ellipsis replaces the text
/// after [`LONGEST_MESSAGE`] characters.
fn line(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    let line = Escaped(&words.join(" ")).to_string();
    match line.char_indices().nth(LONGEST_MESSAGE) {
        Some((at, _)) => line[..at].to_owned() + "…",
        None => line,
    }
}

/// Joins a status with a reason and a printable explanation, both of which are optional.
fn sentence(status: u16, reason: &str, explanation: &str) -> String {
    match (&*printable(reason), explanation) {
        ("", "") => format!("{status} without an explanation"),
        ("", explanation) => format!("{status}: {explanation}"),
        (reason, "") => format!("{status} {reason}"),
        (reason, explanation) => format!("{status} {reason}: {explanation}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_text_omits_absent_reason_and_message() {
        let text = |reason, message| sentence(401, reason, message);
        assert_eq!(text("Unauthorized", "no token"), "401 Unauthorized: no token");
        assert_eq!(text("", "no token"), "401: no token");
        assert_eq!(text("Unauthorized", ""), "401 Unauthorized");
        assert_eq!(text("", ""), "401 without an explanation");
    }

    #[test]
    fn message_keeps_its_end_up_to_the_longest_length() {
        let longest = "ä".repeat(LONGEST_MESSAGE);
        assert_eq!(line(&longest), longest);
        assert_eq!(line(&format!("{longest}b")), longest + "…");
        assert_eq!(line("denied\n by\u{1b}[1m policy"), "denied by\\u{1b}[1m policy");
    }
}
