//! Why HTTP failed.

use std::fmt;

/// What went wrong with HTTP itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// The request cannot be expressed.
    Request(String),
    /// The response is not HTTP/1.1, for this reason.
    Response(&'static str),
    /// Something in the response is longer than this client will take.
    TooLong(&'static str),
    /// The connection ended in the middle of the response.
    Truncated,
}

impl HttpError {
    pub(super) fn request(error: impl fmt::Display) -> Self {
        Self::Request(error.to_string())
    }

    /// ureq-proto's own words name its types.
    #[allow(clippy::needless_pass_by_value, reason = "given to `map_err`")]
    pub(super) fn response(_: ureq_proto::Error) -> Self {
        Self::Response("its body is not framed as its head says")
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(why) => write!(f, "the HTTP request cannot be made: {why}"),
            Self::Response(why) => write!(f, "the answer is not proper HTTP/1.1: {why}"),
            Self::TooLong(what) => write!(f, "the {what} is longer than this client accepts"),
            Self::Truncated => f.write_str("it ended in the middle of an answer"),
        }
    }
}
