//! Mutual TLS with axum and reqwest: both certificates rotate while requests arrive. Run
//! `cargo run -p perennial-examples --example axum`.
//!
//! The parts to copy are the lines from `Server:` and from `Client:`, each to the next empty line. All other lines
//! issue the certificates, and check that each side sees the rotations of the other.

use std::error::Error;
use std::net::TcpListener;
use std::sync::Arc;

use axum::{Extension, Router, routing::get};
use axum_server::{tls::TlsInfo, tls_rustls::RustlsConfig};
use perennial_dev::TestCluster;
use perennial_examples::witness::{Witness, fingerprint};
use perennial_std::tls::{client_config, mutual_server_config};
use perennial_std::{Roots, Rotator, Template, Usage};

/// Answers with the fingerprint of the client's certificate.
async fn who(tls: Extension<Arc<TlsInfo>>) -> String {
    tls.peer_certificates.first().map_or_else(String::new, |leaf| fingerprint(leaf))
}

/// Sends a request. Returns the fingerprints of the certificates that the client and the server saw.
async fn call(client: &reqwest::Client, url: &str) -> Result<[String; 2], Box<dyn Error>> {
    let response = client.get(url).send().await?.error_for_status()?;
    let tls = response.extensions().get::<reqwest::tls::TlsInfo>();
    let server = tls.and_then(|tls| tls.peer_certificate()).ok_or("a connection without a certificate")?;
    Ok([fingerprint(server), response.text().await?])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let roots = Roots::from_pem(cluster.ca_pem())?;
    let issue = |template, usage| {
        perennial_std::start(Rotator::new().template(template).signer(cluster.signer("example.com/mesh", usage)))
    };
    let server = issue(Template::new("orders").with_dns_names(["localhost"]), Usage::ServerAuth)?;
    let client = issue(Template::new("billing"), Usage::ClientAuth)?;
    server.ready().await?;
    client.ready().await?;
    let mut witness = Witness::of([("server", &server), ("client", &client)]);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let url = format!("https://localhost:{}/", listener.local_addr()?.port());
    let app = Router::new().route("/", get(who));

    // Server: accepts only clients with a certificate of these CAs.
    let tls = mutual_server_config(&server, roots.clone());
    let serving = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(tls)))?;
    tokio::spawn(serving.serve(app.into_make_service()));

    // Client: keeps no idle connections, since a connection presents the certificate of its handshake for ever.
    let tls = client_config(&client, roots);
    let http = reqwest::Client::builder().tls_backend_preconfigured(tls).pool_max_idle_per_host(0);

    let http = http.tls_info(true).no_proxy().build()?;
    while witness.goes_on() {
        witness.record(call(&http, &url).await);
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
