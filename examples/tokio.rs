//! Mutual TLS on tokio, with a runtime of the program's own: no thread of perennial. Run
//! `cargo run -p perennial-examples --example tokio`.
//!
//! To copy: `tokio_loop.rs`, the lines at `Rotation:`, and those from `Server:` and from `Client:` to the next empty
//! line. The rest issues the certificates, and checks that each side sees the rotations of the other.

use std::error::Error;
use std::io;
use std::sync::Arc;

use perennial_dev::TestCluster;
use perennial_examples::tokio_loop;
use perennial_examples::witness::{Witness, leaf};
use perennial_rotation::tls::{client_config, mutual_server_config};
use perennial_rotation::{Handle, Roots, Rotator, StartError, Template, Usage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Rotation: runs as a task of tokio.
fn start(rotator: Rotator) -> Result<Handle, StartError> {
    let (handle, task) = rotator.prepare()?;
    tokio::spawn(tokio_loop::run(task));
    Ok(handle)
}

/// Answers with the fingerprint of the client's certificate.
async fn greet(acceptor: TlsAcceptor, tcp: TcpStream) -> io::Result<()> {
    let mut tls = acceptor.accept(tcp).await?;
    let client = leaf(tls.get_ref().1.peer_certificates());
    tls.write_all(client.as_bytes()).await?;
    tls.shutdown().await
}

/// Returns the fingerprints of the certificates that the client and the server saw.
async fn call(connector: &TlsConnector, port: u16) -> Result<[String; 2], Box<dyn Error>> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut tls, mut client) = (connector.connect("localhost".try_into()?, tcp).await?, String::new());
    tls.read_to_string(&mut client).await?;
    Ok([leaf(tls.get_ref().1.peer_certificates()), client])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let roots = Roots::from_pem(cluster.ca_pem())?;
    let issue =
        |template, usage| start(Rotator::new().template(template).signer(cluster.signer("example.com/mesh", usage)));
    let server = issue(Template::new("orders").with_dns_names(["localhost"]), Usage::ServerAuth)?;
    let client = issue(Template::new("billing"), Usage::ClientAuth)?;
    server.ready().await?;
    client.ready().await?;
    let mut witness = Witness::of([("server", &server), ("client", &client)]);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();

    // Server: accepts only clients with a certificate of these CAs.
    let acceptor = TlsAcceptor::from(Arc::new(mutual_server_config(&server, roots.clone())));

    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(greet(acceptor.clone(), tcp));
        }
    });

    // Client: presents the certificate of the moment in each handshake.
    let connector = TlsConnector::from(Arc::new(client_config(&client, roots)));

    while witness.goes_on() {
        witness.record(call(&connector, port).await);
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
