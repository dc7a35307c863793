//! A session of the embedded server with a TLS client, in virtual time.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now, Template};
use perennial_dev::{Api, Authority, Options, Random, Session, Tls, User};
use perennial_pki::Usage;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::super::pki::{Clock, HOST, Pki};
use super::TOKEN;
use crate::mint::EPOCH;
use crate::tls;

/// The number of timeouts after which a session counts as endless. Every session ends earlier, even a watch, which has
/// a timeout each minute to send a bookmark.
const ROUNDS: usize = 1000;

/// The authority and the TLS configurations of the server and of its clients, from which every session begins.
pub(super) struct Stage {
    authority: String,
    tls: Tls,
    /// Configurations of an anonymous client, a node, an administrator, and a user without permissions.
    clients: [Arc<ClientConfig>; 4],
}

impl Stage {
    pub(super) fn new(pki: &Pki) -> Self {
        let bundle = pki.issuer.credential().to_pem().to_string();
        let authority = Authority::from_pem(&bundle).expect("an authority");
        let serving = pki.credential(&Template::new(HOST).with_dns_names([HOST]), Usage::ServerAuth);
        let tls = Tls::with_clock(&authority, &serving, Arc::new(Clock)).expect("a usable configuration");
        let admin = Template::new("admin").with_organizations(["system:masters"]);
        let users = [None, Some(Template::node("a")), Some(admin), Some(Template::new("stranger"))];
        let roots = authority.roots().expect("an authority");
        let clients = users.map(|user| {
            let credential = user.map(|user| pki.credential(&user, Usage::ClientAuth));
            tls::client(&roots, credential.as_ref(), Arc::new(Clock))
        });
        Self { authority: bundle, tls, clients }
    }
}

pub(super) struct Wire {
    pub(super) api: Api,
    session: Session,
    client: ClientConnection,
    portion: usize,
    elapsed: Duration,
    /// All bytes that the client has received from the server, decrypted.
    pub(super) received: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stage: &Stage, options: Options, user: u8, portion: usize) -> Self {
        let authority = Authority::from_pem(&stage.authority).expect("the same bytes could be read before");
        let mut api = Api::new(options, authority, Random::from_seed([7; 32]));
        api.add_token(TOKEN, User::bootstrap("abcdef"));
        let config = Arc::clone(&stage.clients[usize::from(user)]);
        let host = ServerName::try_from(HOST).expect("a name");
        let mut client = ClientConnection::new(config, host).expect("a usable configuration");
        client.set_buffer_limit(None);
        let session = Session::new(&stage.tls, Instant::default()).expect("a usable configuration");
        let mut wire = Self { api, session, client, portion, elapsed: Duration::ZERO, received: Vec::new() };
        wire.pump();
        wire
    }

    fn now(&self) -> Now {
        Now { instant: Instant::default().after(self.elapsed), unix: EPOCH.after(self.elapsed) }
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.elapsed += span;
        self.api.tick(self.now().unix);
        self.pump();
    }

    /// Sends this text from the client to the server, each portion in a TLS record of its own.
    pub(super) fn send(&mut self, text: &[u8]) {
        for record in text.chunks(self.portion) {
            self.client.writer().write_all(record).expect("room for it");
            self.pump();
        }
    }

    /// Moves bytes between client and server until neither has more to send.
    fn pump(&mut self) {
        loop {
            let mut to_server = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut to_server).expect("room in a Vec");
            }
            let now = self.now();
            for portion in to_server.chunks(self.portion) {
                self.session.receive(portion);
                self.session.drive(&mut self.api, now);
            }
            self.session.drive(&mut self.api, now);
            let mut to_client = Vec::new();
            self.session.transmit(&mut to_client, now.instant);
            assert!(to_client.len() < 64 << 10, "{} bytes at once", to_client.len());
            self.receive(&to_client);
            if to_server.is_empty() && to_client.is_empty() {
                return;
            }
        }
    }

    fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.client.read_tls(&mut bytes).is_ok_and(|read| read > 0) {
            self.client.process_new_packets().expect("the server speaks TLS");
            // The reader returns "would block" once there is no more plaintext.
            let _would_block = self.client.reader().read_to_end(&mut self.received);
        }
    }

    /// Lets time pass until the session ends. The client sends nothing more. If the session would watch for ever, the
    /// client closes the connection.
    pub(super) fn end(&mut self) {
        for _ in 0..ROUNDS {
            if self.session.is_closed() {
                return;
            }
            let left = self.session.deadline().since(self.now().instant);
            assert!(!left.is_zero(), "what was due is done");
            if self.session.is_watching() && left > Duration::from_secs(86_400) {
                // A client may watch for ever.
                return self.session.receive_eof();
            }
            self.pass(left);
        }
        panic!("no end in sight");
    }
}
