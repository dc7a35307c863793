//! A TLS server and client on threads, for examples whose subject is not TLS.

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, CommonState, ServerConfig, ServerConnection, StreamOwned};

use crate::witness::leaf;

type AnyError = Box<dyn Error + Send + Sync>;

/// The longest wait for bytes of the other side.
const SILENCE: Duration = Duration::from_secs(20);

/// Starts a server on threads, which answers each connection with the fingerprint of the client's certificate: empty if
/// the client presents none. Runs until the process ends.
///
/// # Errors
/// There is no free port.
pub fn serve(config: ServerConfig) -> io::Result<SocketAddr> {
    serve_if(config, |_| Ok(()))
}

/// Starts a server like [`serve`] that calls `accepts` after each handshake, and closes the connection if `accepts`
/// returns an error.
///
/// # Errors
/// There is no free port.
pub fn serve_if(
    config: ServerConfig,
    accepts: impl Fn(&CommonState) -> Result<(), AnyError> + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (address, shared) = (listener.local_addr()?, Arc::new((Arc::new(config), accepts)));
    thread::spawn(move || {
        for tcp in listener.incoming() {
            let shared = shared.clone();
            thread::spawn(move || {
                if let Err(error) = tcp.map_err(Into::into).and_then(|tcp| greet(tcp, shared.0.clone(), &shared.1)) {
                    println!("the server lost a connection: {error}");
                }
            });
        }
    });
    Ok(address)
}

fn greet(
    mut tcp: TcpStream,
    config: Arc<ServerConfig>,
    accepts: impl Fn(&CommonState) -> Result<(), AnyError>,
) -> Result<(), AnyError> {
    tcp.set_read_timeout(Some(SILENCE))?;
    let mut tls = ServerConnection::new(config)?;
    tls.complete_io(&mut tcp)?;
    accepts(&tls)?;
    let client = leaf(tls.peer_certificates());
    let mut stream = StreamOwned::new(tls, tcp);
    stream.write_all(client.as_bytes())?;
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

/// Connects to a server of [`serve`] that has this name. Returns the fingerprints of the certificates that the client
/// and the server saw.
///
/// # Errors
/// The connection fails, or a side refuses the certificate of the other.
pub fn call(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<[String; 2]> {
    let name = name.to_owned().try_into().map_err(io::Error::other)?;
    let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    let tcp = TcpStream::connect_timeout(&address, SILENCE)?;
    tcp.set_read_timeout(Some(SILENCE))?;
    let (mut stream, mut client) = (StreamOwned::new(tls, tcp), String::new());
    stream.read_to_string(&mut client)?;
    Ok([leaf(stream.conn.peer_certificates()), client])
}
