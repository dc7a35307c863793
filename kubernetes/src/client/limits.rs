//! [`Limits`]: the timeouts and the number of HTTP requests of one conversation.

use std::time::Duration;

use perennial::Instant;

/// The duration of a submission beyond which [`Limits::lasting`] raises [`Limits::requests`].
const PLAIN_WAIT: Duration = Duration::from_secs(15 * 60);
/// The span of time for which waiting for a decision takes at most one HTTP request. Polls, except the first few, are
/// at least 24 s apart. A poll takes two requests at most: if the server has closed the connection, the request is
/// repeated on a new connection. Watches that each last for a minute take fewer requests.
const QUIET: Duration = Duration::from_secs(12);

/// The timeouts of one conversation with an API server, and the greatest number of its HTTP requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The greatest number of HTTP requests in one submission, repetitions included. For a request that may take longer
    /// than 15 minutes, a rotation raises the number by [`lasting`](Self::lasting).
    pub requests: u32,
    /// The time to resolve the server's name and open a TCP connection.
    pub connect: Duration,
    /// The time from sending a request to the end of the answer; for a watch, to the end of the answer's head. On a new
    /// connection the time begins with the TLS handshake.
    pub answer: Duration,
    /// The time at which the certificate to be replaced expires; a rotation sets this field. Before that time, a pause
    /// between two requests lasts at most half of the time left, or one second if that is longer. Afterwards a pause
    /// lasts at most two minutes.
    pub needed_by: Instant,
}

impl Default for Limits {
    /// 64 HTTP requests, 10 s to connect, 30 s to answer, and no certificate that expires.
    fn default() -> Self {
        let (connect, answer) = (Duration::from_secs(10), Duration::from_secs(30));
        Self { requests: 64, connect, answer, needed_by: Instant::MAX }
    }
}

impl Limits {
    /// Raises the number of HTTP requests for a submission that may last `timeout`: by one for each 12 s beyond 15
    /// minutes. If nothing fails, the wait beyond 15 minutes takes only these added requests, so that the original
    /// number stays available for failures.
    #[must_use]
    pub fn lasting(self, timeout: Duration) -> Self {
        let beyond = timeout.saturating_sub(PLAIN_WAIT).as_secs() / QUIET.as_secs();
        let requests = self.requests.saturating_add(u32::try_from(beyond).unwrap_or(u32::MAX));
        Self { requests, ..self }
    }
}
