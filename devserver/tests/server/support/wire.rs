//! A server, a client and the wire between them, in memory.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now};
use perennial_dev::{Api, Authority, Options, Random, Session, Tls, User};
use perennial_pki::Credential;
use rustls::ClientConnection;
use rustls::pki_types::{ServerName, UnixTime as TlsTime};
use rustls::time_provider::TimeProvider;

use super::{DAY, NOW, TOKEN, YEAR};

/// A clock that always shows [`NOW`].
#[derive(Debug)]
pub(crate) struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<TlsTime> {
        Some(TlsTime::since_unix_epoch(Duration::from_millis(NOW.as_millis() as u64)))
    }
}

/// A server, one TLS client, and the wire between them: a test moves the bytes and sets the time.
pub(crate) struct Wire {
    pub(crate) api: Api,
    pub(crate) tls: Tls,
    pub(crate) session: Session,
    pub(crate) client: ClientConnection,
    /// Largest number of bytes that server or client gets at once.
    piece: usize,
    pub(crate) millis: u64,
    pub(crate) received: Vec<u8>,
    pub(crate) error: Option<rustls::Error>,
}

impl Wire {
    pub(crate) fn new(options: Options, piece: usize) -> Self {
        Self::with_client(options, piece, |_, _| None)
    }

    /// A wire whose client presents the certificate that `credential` returns.
    pub(crate) fn with_client(
        options: Options,
        piece: usize,
        credential: impl FnOnce(&Authority, &mut Random) -> Option<Credential>,
    ) -> Self {
        let mut random = Random::from_seed([8; 32]);
        let authority = Authority::generate(&mut random, NOW, YEAR).unwrap();
        let serving = authority.server_credential(&["localhost"], &[], &mut random, NOW, DAY).unwrap();
        let tls = Tls::with_clock(&authority, &serving, Arc::new(Clock)).unwrap();
        let credential = credential(&authority, &mut random);
        let client = client(&authority, credential.as_ref());
        let mut api = Api::new(options, authority, random);
        api.add_token(TOKEN, User::bootstrap("abcdef"));
        let session = Session::new(&tls, Instant::default()).unwrap();
        Self { api, tls, session, client, piece, millis: 0, received: Vec::new(), error: None }
    }

    pub(crate) fn now(&self) -> Now {
        Now { instant: Instant::from_millis(self.millis), unix: NOW.after(Duration::from_millis(self.millis)) }
    }

    pub(crate) fn drive(&mut self) {
        let now = self.now();
        self.session.drive(&mut self.api, now);
    }

    /// Moves bytes both ways until neither side has more to send.
    pub(crate) fn pump(&mut self) {
        loop {
            let mut to_server = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut to_server).unwrap();
            }
            for piece in to_server.chunks(self.piece) {
                self.session.receive(piece);
                self.drive();
            }
            self.drive();
            let mut to_client = Vec::new();
            self.session.transmit(&mut to_client, self.now().instant);
            self.take(&to_client);
            if to_server.is_empty() && to_client.is_empty() {
                return;
            }
        }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        for mut piece in bytes.chunks(self.piece) {
            while !piece.is_empty() {
                self.client.read_tls(&mut piece).unwrap();
                match self.client.process_new_packets() {
                    Ok(state) => {
                        let mut plain = vec![0; state.plaintext_bytes_to_read()];
                        self.client.reader().read_exact(&mut plain).unwrap();
                        self.received.extend(plain);
                    }
                    Err(error) => {
                        self.error = Some(error);
                        return;
                    }
                }
            }
        }
    }

    /// Sends plaintext of the client, and returns the plaintext that the client receives.
    pub(crate) fn exchange(&mut self, bytes: &[u8]) -> String {
        self.client.set_buffer_limit(None);
        self.client.writer().write_all(bytes).unwrap();
        self.pump();
        self.read()
    }

    pub(crate) fn read(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.received)).unwrap()
    }
}

pub(crate) fn client(authority: &Authority, credential: Option<&Credential>) -> ClientConnection {
    let config = perennial_tests::tls::client(&authority.roots().unwrap(), credential, Arc::new(Clock));
    ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap()
}
