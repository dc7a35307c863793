//! Mutual TLS on plain threads, with rustls alone. Run `cargo run -p perennial-examples --example threads`.
//!
//! To copy: the lines from `Server:` and from `Client:` to the next empty line. The rest issues the certificates, and
//! checks that each side sees the rotations of the other.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use perennial_dev::TestCluster;
use perennial_examples::witness::{Witness, leaf};
use perennial_std::tls::{client_config, mutual_server_config};
use perennial_std::{Roots, Rotator, Template, Usage};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

/// Answers with the fingerprint of the client's certificate, and the kind of handshake: full, or a resumed session.
fn greet(config: Arc<ServerConfig>, mut tcp: TcpStream) -> Result<(), Box<dyn Error>> {
    let mut tls = ServerConnection::new(config)?;
    tls.complete_io(&mut tcp)?;
    let (client, kind) = (leaf(tls.peer_certificates()), tls.handshake_kind());
    let mut stream = StreamOwned::new(tls, tcp);
    write!(stream, "{client} {kind:?}")?;
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

/// Returns the fingerprints of the certificates that the client and the server saw.
fn call(config: &Arc<ClientConfig>, address: SocketAddr) -> Result<[String; 2], Box<dyn Error>> {
    let tls = ClientConnection::new(config.clone(), "localhost".try_into()?)?;
    let (mut stream, mut answer) = (StreamOwned::new(tls, TcpStream::connect(address)?), String::new());
    stream.read_to_string(&mut answer)?;
    let (client, kind) = answer.split_once(' ').ok_or("no answer")?;
    if kind != "Some(Full)" {
        return Err(format!("the session of an earlier connection goes on: {kind}").into());
    }
    Ok([leaf(stream.conn.peer_certificates()), client.to_owned()])
}

fn main() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let roots = Roots::from_pem(cluster.ca_pem())?;
    let issue = |template, usage| {
        perennial_std::start(Rotator::new().template(template).signer(cluster.signer("example.com/mesh", usage)))
    };
    let server = issue(Template::new("orders").with_dns_names(["localhost"]), Usage::ServerAuth)?;
    let client = issue(Template::new("billing"), Usage::ClientAuth)?;
    server.ready().within(Duration::from_secs(30))?;
    client.ready().within(Duration::from_secs(30))?;
    let mut witness = Witness::of([("server", &server), ("client", &client)]);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;

    // Server: accepts only clients with a certificate of these CAs.
    let config = Arc::new(mutual_server_config(&server, roots.clone()));

    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let config = config.clone();
            thread::spawn(|| greet(config, tcp).map_err(|error| eprintln!("connection failed: {error}")));
        }
    });

    // Client: presents the certificate of the moment in each handshake.
    let config = Arc::new(client_config(&client, roots));

    while witness.goes_on() {
        witness.record(call(&config, address));
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
