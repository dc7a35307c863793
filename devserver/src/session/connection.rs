//! One client's connection: HTTP over TLS, without a socket. Takes the bytes that the client sent, and returns the
//! bytes to send.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::ServerConnection;

use super::http::Http;
use crate::api::faults::Delivery;
use crate::api::user::User;
use crate::tls::{Tls, TlsError};

/// Greatest size of the plaintext in one TLS record, in bytes.
const RECORD: usize = 16 * 1024;
/// Bytes that [`Connection::transmit`] returns at a time, approximately.
const TRANSMIT: usize = RECORD;

/// TLS and HTTP of one client.
pub(super) struct Connection {
    tls: ServerConnection,
    pub(super) http: Http,
    /// True if nothing is read any more: the client has closed its side, or its bytes are invalid.
    pub(super) done_reading: bool,
    /// True if no further answer will be written; unsent bytes are still sent.
    pub(super) concluded: bool,
    tls_closed: bool,
    pub(super) delivery: Delivery,
    /// `Some` replaces TLS. Once the client has sent bytes, the inner bytes are sent and the connection closes; for an
    /// inner `None`, nothing is sent, and the connection stays open. The outer `None` leaves TLS in place.
    raw_reply: Option<Option<Vec<u8>>>,
    received_any: bool,
}

impl Connection {
    pub(super) fn new(tls: &Tls) -> Result<Self, TlsError> {
        let mut tls = tls.connection()?;
        // No limit of rustls is needed: `transmit` sends each record before it encrypts the next.
        tls.set_buffer_limit(None);
        Ok(Self {
            tls,
            http: Http::default(),
            done_reading: false,
            concluded: false,
            tls_closed: false,
            delivery: Delivery::default(),
            raw_reply: None,
            received_any: false,
        })
    }

    /// Replaces TLS. Once the client has sent bytes, sends `raw_reply` and closes the connection; for `None`, sends
    /// nothing and keeps the connection open.
    pub(super) fn bypass_tls(&mut self, raw_reply: Option<Vec<u8>>) {
        self.raw_reply = Some(raw_reply);
    }

    /// Takes bytes from the client.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) {
        self.received_any |= !bytes.is_empty();
        if self.raw_reply.is_some() {
            return;
        }
        let was_handshaking = self.tls.is_handshaking();
        while !bytes.is_empty() && !self.done_reading {
            // rustls queues an alert for an error of the TLS layer; `transmit` sends it.
            let read = self.tls.read_tls(&mut bytes).is_ok_and(|read| read > 0);
            match self.tls.process_new_packets() {
                Ok(state) if read => {
                    self.read_plaintext(state.plaintext_bytes_to_read());
                    self.done_reading |= state.peer_has_closed();
                }
                Ok(_) | Err(_) => self.done_reading = true,
            }
        }
        // The client certificate is known once the handshake has ended.
        if was_handshaking && !self.tls.is_handshaking() {
            let leaf = self.tls.peer_certificates().and_then(|chain| chain.first());
            self.http.peer = leaf.and_then(|leaf| User::from_certificate(leaf)).map(Arc::new);
        }
    }

    fn read_plaintext(&mut self, length: usize) {
        let mut plain = vec![0; length];
        if self.tls.reader().read_exact(&mut plain).is_ok() {
            self.http.receive(&plain);
        } else {
            self.done_reading = true;
        }
    }

    pub(super) fn wants_read(&self) -> bool {
        !self.done_reading && !self.is_closing() && self.http.wants_read()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Plaintext that `transmit` has not encrypted yet.
    pub(super) fn unsent(&self) -> &[u8] {
        self.delivery.replacement.as_deref().unwrap_or_else(|| self.http.unsent())
    }

    fn is_closing(&self) -> bool {
        self.http.is_closing() || self.delivery.replacement.is_some()
    }

    /// True once nothing is left to send and nothing will be read.
    pub(super) fn is_done(&self) -> bool {
        let over = self.concluded || self.is_closing();
        over && self.tls_closed && !self.tls.wants_write()
    }

    /// Appends bytes for the client to `out`, about 16 KiB at most. Call this again once these bytes have been sent.
    pub(super) fn transmit(&mut self, out: &mut Vec<u8>) {
        if let Some(raw_reply) = &self.raw_reply {
            if let (true, Some(raw_reply)) = (self.received_any && !self.tls_closed, raw_reply) {
                out.extend_from_slice(raw_reply);
                self.end_without_alert();
            }
            return;
        }
        while out.len() < TRANSMIT {
            // Records first: rustls would queue further ones without a limit.
            if self.tls.wants_write() {
                if self.tls.write_tls(out).is_err() {
                    self.done_reading = true;
                    return;
                }
                continue;
            }
            // A cut concerns answers: the handshake is completed first.
            if self.delivery.allowance == Some(0) && !self.tls.is_handshaking() {
                return self.end_without_alert();
            }
            if !self.unsent().is_empty() && !self.tls.is_handshaking() {
                if !self.encrypt() {
                    self.done_reading = true;
                    return;
                }
                // Returns after each record: the session pauses before the next one.
                if self.delivery.bytewise {
                    self.done_reading |= self.tls.write_tls(out).is_err();
                    return;
                }
            } else if (self.concluded || self.is_closing()) && !self.tls_closed {
                self.tls_closed = true;
                self.tls.send_close_notify();
            } else {
                return;
            }
        }
    }

    /// Encrypts unsent plaintext into one TLS record. Returns false if rustls takes no more.
    fn encrypt(&mut self) -> bool {
        let allowed = self.delivery.allowance.unwrap_or(RECORD);
        let most = if self.delivery.bytewise { 1 } else { RECORD };
        let unsent = self.delivery.replacement.as_deref().unwrap_or_else(|| self.http.unsent());
        let record = &unsent[..unsent.len().min(allowed).min(most)];
        let Ok(written) = self.tls.writer().write(record) else { return false };
        match &mut self.delivery.replacement {
            Some(replacement) => drop(replacement.drain(..written)),
            None => self.http.sent(written),
        }
        self.delivery.allowance = self.delivery.allowance.map(|allowed| allowed - written);
        true
    }

    /// Ends the connection without a TLS alert.
    fn end_without_alert(&mut self) {
        self.done_reading = true;
        self.concluded = true;
        self.tls_closed = true;
    }
}
