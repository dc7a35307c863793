//! An exchange with the embedded server. Bytes go from the exchange to the server and back directly, without a network.

use perennial::{Instant, Now};
use perennial_dev::{Break, Session};
use perennial_rotation::{Conversation, IoEvent, IoRequest, Issued, SignError, SignerConversation};

use super::Server;

/// An exchange and its connection to the embedded server.
pub struct Wire {
    exchange: Box<dyn SignerConversation>,
    session: Option<Session>,
    /// When to call [`carry`](Self::carry) next.
    pub until: Instant,
    /// The number of connections that the server refused.
    pub refused: usize,
}

impl Wire {
    /// Begins an exchange.
    pub fn new(exchange: Box<dyn SignerConversation>, now: Now) -> Self {
        Self { exchange, session: None, until: now.instant, refused: 0 }
    }

    /// Carries bytes until the exchange has to wait. Returns the result once the exchange has ended.
    pub fn carry(&mut self, server: &mut Server) -> Option<Result<Issued, SignError>> {
        let now = server.now();
        let Server { api, tls, .. } = server;
        let reset = || IoEvent::Failed("connection reset by peer".into());
        let mut bytes = Vec::new();
        for _ in 0..50_000 {
            bytes.clear();
            let input = match (self.exchange.poll(now), self.session.as_mut()) {
                (IoRequest::Done(result), _) => return Some(result),
                (IoRequest::Disconnect, _) => {
                    self.session = None;
                    continue;
                }
                (IoRequest::Keep(kept), _) => {
                    self.session.take().into_iter().for_each(|session| kept.put(session));
                    continue;
                }
                (IoRequest::Reuse(kept), _) => {
                    self.session = kept.take();
                    match self.session {
                        Some(_) => IoEvent::Connected,
                        None => IoEvent::Failed("the connection was closed".into()),
                    }
                }
                (IoRequest::Wait { until }, _) | (IoRequest::Receive { until }, None) if until > now.instant => {
                    self.until = until;
                    return None;
                }
                (IoRequest::Wait { .. } | IoRequest::Receive { .. } | IoRequest::Transmit { .. }, None) => {
                    IoEvent::Ended
                }
                (IoRequest::Wait { .. }, Some(_)) => continue,
                (IoRequest::Connect { .. }, _) => {
                    let opened = self.session.insert(Session::new(tls, now.instant).unwrap());
                    opened.drive(api, now);
                    match opened.breaks() {
                        Some(Break::Refused) => {
                            self.refused += 1;
                            IoEvent::Failed("connection refused".into())
                        }
                        Some(Break::Reset | Break::Midway) | None => IoEvent::Connected,
                    }
                }
                (IoRequest::Transmit { .. }, Some(open)) if open.breaks().is_some() => reset(),
                (IoRequest::Transmit { bytes: sent, .. }, Some(open)) => {
                    open.receive(&sent);
                    open.drive(api, now);
                    continue;
                }
                (IoRequest::Receive { until }, Some(open)) => {
                    open.drive(api, now);
                    open.transmit(&mut bytes, now.instant);
                    if !bytes.is_empty() {
                        IoEvent::Received(&bytes)
                    } else if open.breaks() == Some(Break::Midway) {
                        reset()
                    } else if open.is_closed() || open.breaks().is_some() {
                        IoEvent::Ended
                    } else if until > now.instant {
                        self.until = until.min(open.deadline());
                        return None;
                    } else {
                        continue;
                    }
                }
            };
            self.exchange.handle(input, now);
        }
        panic!("the exchange spins: {:?}", self.exchange);
    }
}
