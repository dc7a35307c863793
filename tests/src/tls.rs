//! TLS clients and servers for tests. The server reports to each client which client certificate it has seen.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use perennial_pki::{Credential, Roots, provider, sha256};
use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

/// A client configuration that trusts `roots`, presents `credential` if given, and reads the time from `clock`.
/// Sessions are not resumed, so that every connection makes a full handshake with the certificates of both sides.
///
/// # Panics
/// The provider of cryptography has no version of TLS.
pub fn client(roots: &Roots, credential: Option<&Credential>, clock: Arc<dyn TimeProvider>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_details(provider(), clock)
        .with_safe_default_protocol_versions()
        .expect("the provider has some")
        .with_root_certificates(roots.store());
    let mut config = match credential {
        Some(credential) => {
            let key = CertifiedKey::clone(&credential.certified_key());
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A connection to [`server`].
pub type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// Starts a TLS server that runs until the process ends. The server answers each line of a client with two facts: the
/// fingerprint of the client's certificate (empty without one), and whether the session was resumed.
pub fn server(config: ServerConfig) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, config) = (listener.local_addr().unwrap(), Arc::new(config));
    thread::spawn(move || {
        for socket in listener.incoming().map(Result::unwrap) {
            let tls = ServerConnection::new(config.clone()).unwrap();
            thread::spawn(move || serve_lines(BufReader::new(StreamOwned::new(tls, socket))));
        }
    });
    address
}

fn serve_lines(mut stream: BufReader<StreamOwned<ServerConnection, TcpStream>>) -> Option<()> {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let tls = &stream.get_ref().conn;
        let client = tls.peer_certificates().and_then(|chain| Some(hex(chain.first()?))).unwrap_or_default();
        let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        writeln!(stream.get_mut(), "{client} {resumed}").ok()?;
    }
}

/// The fingerprint of a certificate in DER: its SHA-256 in lower-case hexadecimal.
pub fn hex(der: &[u8]) -> String {
    sha256(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The fingerprint of the leaf of this credential, as [`hex`] writes it.
pub fn fingerprint(credential: &Credential) -> String {
    format!("{:x}", credential.chain().certificate().fingerprint)
}

/// Connects to a [`server`] under the name `localhost`. Only the first read or write begins the TLS handshake.
///
/// # Panics
/// The server does not listen.
pub fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Stream {
    let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    BufReader::new(StreamOwned::new(tls, TcpStream::connect(address).unwrap()))
}

/// Sends a line to the server, and returns the two facts in its answer: the fingerprint of the client's certificate
/// (empty for none), and whether the session was resumed.
///
/// # Panics
/// The handshake fails.
pub fn answer(stream: &mut Stream) -> (String, bool) {
    try_answer(stream).unwrap()
}

/// Like [`answer`], but returns an error instead of a panic.
///
/// # Errors
/// The handshake fails. Under TLS 1.3 the client completes its part of the handshake first, and receives the server's
/// alert with the first read.
pub fn try_answer(stream: &mut Stream) -> io::Result<(String, bool)> {
    stream.get_mut().write_all(b"who am I?\n")?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let (client, resumed) = line.trim_end().split_once(' ').ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((client.to_owned(), resumed == "true"))
}
