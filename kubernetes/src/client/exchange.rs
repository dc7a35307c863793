//! One TLS connection and the HTTP requests that it carries, one after another. Bytes in, bytes out.

use std::io::{Read as _, Write as _};

use perennial::UnixTime;
use perennial_pki::Roots;
use rustls::ClientConnection;
use zeroize::Zeroizing;

use super::exchange_error::ExchangeError;
use super::http::{Part, Request, ResponseReader};
use super::tls;
use super::trust::Presented;
use super::tunnel::Tunnel;
use crate::cluster::Cluster;
use perennial_rotation::Identity;

/// A connection to an API server.
pub(crate) struct Exchange {
    /// The CONNECT request to a proxy, until the proxy has opened the tunnel. `None` afterwards, and without a proxy.
    tunnel: Option<Tunnel>,
    tls: ClientConnection,
    /// The CAs that have verified the server; `None` if any certificate is accepted.
    roots: Option<Roots>,
    presented: Presented,
    /// The bytes of the HTTP request that TLS has not taken yet. TLS takes them once the handshake is over.
    outgoing: Zeroizing<Vec<u8>>,
    /// Decrypted bytes that are not parsed yet: at most the bytes of one call of `receive`, and an incomplete response
    /// head.
    plain: Vec<u8>,
    response: Option<ResponseReader>,
    /// True once the first byte of the current response has arrived.
    heard: bool,
    ended: bool,
    failure: Option<ExchangeError>,
}

impl Exchange {
    /// Makes a connection to `cluster`, authenticated as `identity`. The server's certificate is verified with `roots`,
    /// at the time `now`; without `roots`, any certificate is accepted.
    pub(crate) fn new(
        cluster: &Cluster,
        roots: Option<Roots>,
        identity: &Identity,
        now: UnixTime,
    ) -> Result<Self, ExchangeError> {
        let (tls, presented) = tls::connection(cluster, roots.clone(), identity, now)?;
        Ok(Self {
            tunnel: cluster.proxy().map(|proxy| Tunnel::new(proxy, cluster)),
            tls,
            roots,
            presented,
            outgoing: Zeroizing::default(),
            plain: Vec::new(),
            response: None,
            heard: false,
            ended: false,
            failure: None,
        })
    }

    /// Begins an HTTP request. The response to the previous one must have ended.
    pub(crate) fn send(&mut self, request: &Request, cluster: &Cluster, identity: &Identity) {
        match request.encode(cluster, identity.token()) {
            Ok(wire) => {
                self.outgoing = wire;
                self.response = Some(ResponseReader::default());
                self.heard = false;
            }
            Err(error) => self.fail(error),
        }
    }

    /// The bytes to write to the socket now; empty if there are none.
    pub(crate) fn transmit(&mut self) -> Vec<u8> {
        if let Some(tunnel) = &mut self.tunnel {
            return tunnel.transmit();
        }
        let mut bytes = Vec::new();
        loop {
            if !self.tls.is_handshaking() && !self.outgoing.is_empty() {
                // rustls buffers 64 KiB at most, so a longer body goes through in turns.
                let taken = self.tls.writer().write(&self.outgoing).unwrap_or(0);
                let rest = Zeroizing::new(self.outgoing.split_off(taken));
                self.outgoing = rest;
            }
            // Writing to a Vec cannot fail.
            if !self.tls.wants_write() || self.tls.write_tls(&mut bytes).is_err() {
                return bytes;
            }
        }
    }

    /// The CAs that have verified the server; `None` if any certificate is accepted.
    pub(crate) const fn roots(&self) -> Option<&Roots> {
        self.roots.as_ref()
    }

    /// True if the connection is open, and all bytes of the last response have been read: another request can follow.
    pub(crate) fn is_idle(&self) -> bool {
        let is_read = self.response.is_none() && self.plain.is_empty() && self.outgoing.is_empty();
        is_read && !self.ended && self.failure.is_none() && !self.tls.is_handshaking() && !self.tls.wants_write()
    }

    /// The bytes to write before the socket is closed: an alert if TLS has failed, and a close_notify. Empty while a
    /// tunnel through a proxy is not open yet.
    pub(crate) fn close(mut self) -> Vec<u8> {
        if self.tunnel.is_some() {
            return Vec::new();
        }
        self.outgoing.clear();
        self.tls.send_close_notify();
        self.transmit()
    }

    /// Processes bytes that were read from the socket.
    pub(crate) fn receive(&mut self, mut bytes: &[u8]) {
        match self.tunnel.as_mut().map(|tunnel| tunnel.receive(&mut bytes)) {
            None => {}
            Some(Ok(true)) => self.tunnel = None,
            Some(Ok(false)) => return,
            Some(Err(why)) => return self.fail(ExchangeError::Proxy(why)),
        }
        while !bytes.is_empty() && self.failure.is_none() {
            // A close_notify ends the stream; whatever follows it does not count.
            if matches!(self.tls.read_tls(&mut bytes), Ok(0) | Err(_)) {
                self.ended = true;
                return;
            }
            let processed = self.tls.process_new_packets();
            // The reader returns "would block" if there is no more plaintext for now.
            let _would_block = self.tls.reader().read_to_end(&mut self.plain);
            self.heard |= !self.plain.is_empty();
            match processed {
                Ok(state) => self.ended |= state.peer_has_closed(),
                Err(error) => {
                    let presented = self.presented.get().map_or(&[][..], Vec::as_slice);
                    self.fail(ExchangeError::from_tls(&error, presented));
                }
            }
        }
    }

    /// Notes that the server has closed the TCP connection.
    pub(crate) fn received_eof(&mut self) {
        self.ended = true;
    }

    /// Marks the connection as unusable because of `error`. If the connection has failed before, the first error is
    /// kept.
    pub(crate) fn fail(&mut self, error: ExchangeError) {
        self.failure.get_or_insert(error);
    }

    /// True if nothing of the current response has arrived yet.
    pub(crate) const fn unheard(&self) -> bool {
        !self.heard
    }

    /// The awaited part of the conversation as a noun phrase, for the message of a timeout.
    pub(crate) fn awaited(&self) -> &'static str {
        if self.tunnel.is_some() {
            "the proxy's answer"
        } else if self.tls.is_handshaking() {
            "the TLS handshake"
        } else if self.heard {
            "the rest of an answer"
        } else {
            "an answer"
        }
    }

    /// The next part of the response; `None` if more bytes are needed.
    pub(crate) fn poll(&mut self) -> Result<Option<Part>, ExchangeError> {
        if let Some(response) = &mut self.response {
            // After a failure a body must not pass for one that ended with the connection.
            let ended = self.ended && self.failure.is_none();
            match response.read(&mut self.plain, ended) {
                Ok(Some(part)) => {
                    if let Part::End { .. } = part {
                        self.response = None;
                    }
                    return Ok(Some(part));
                }
                Ok(None) => {}
                Err(ExchangeError::Closed) if self.heard => {
                    self.fail(ExchangeError::Broken("it ended in the middle of an answer".to_owned()));
                }
                Err(error) => self.fail(error),
            }
        }
        self.failure.clone().map_or(Ok(None), Err)
    }
}
