//! The health of the API server, derived from each event of a session.

use perennial::Now;
use perennial_rotation::{Answer, Health, ServerDate};

use super::exchange_error::ExchangeError;
use super::response::{ErrorAnswer, Event, Response};

/// Derives the health of the API server from an event. `None` if the event shows nothing about the server: an error on
/// this host or in the proxy, or the end of a stream.
pub(super) fn health(event: &Event, date: Option<ServerDate>, at: Now) -> Option<Health> {
    let answer = match event {
        Event::Answer(response) => answer(response),
        Event::Opened | Event::Piece(_) => Answer::Served,
        Event::Lost(ExchangeError::CertificateRefused(_)) => Answer::CertificateRefused,
        Event::Closed | Event::Lost(ExchangeError::NoRoots | ExchangeError::Setup(_) | ExchangeError::Proxy(_)) => {
            return None;
        }
        Event::Lost(_) => Answer::Unreachable,
    };
    Some(Health { answer, at, date })
}

fn answer(response: &Response) -> Answer {
    match response.status {
        // Every answer of the API is a JSON object. A page of HTML is that of a login portal or of another server.
        200..=299 if response.body.trim_ascii_start().starts_with(b"{") => Answer::Served,
        status if ErrorAnswer::read(response).by_the_api => Answer::Refused { status },
        status => Answer::Foreign { status },
    }
}

/// True if client-go's `ServerHealthy` would be true: for a successful answer, for any 401, and for the API's own 403
/// and 404.
///
/// Source: client-go `util/certificate/certificate_manager.go`, `updateServerError`.
pub const fn client_go_healthy(health: Health) -> bool {
    match health.answer {
        Answer::Served => true,
        Answer::Refused { status } => matches!(status, 401 | 403 | 404),
        Answer::Foreign { status } => status == 401,
        _ => false,
    }
}
