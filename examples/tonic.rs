//! gRPC with mutual TLS: both certificates rotate while calls are in flight, and the channel is never rebuilt. Run
//! `cargo run -p perennial-examples --example tonic`.
//!
//! A connection keeps its certificates. So the server limits the age of connections, here to half a second: after
//! GOAWAY, calls in flight end on the old connection, and the client connects again. As a channel, a client of hyper
//! sends calls again that the old connection has not sent; the `Channel` of tonic reports them as `Cancelled`.
//!
//! To copy: the lines from `Server:` and from `Client:` to the next empty line, `serve_with_incoming` and `channel`.
//! The rest issues the certificates, and checks that each side sees the other rotate.

use std::{error::Error, io, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use perennial_dev::TestCluster;
use perennial_examples::witness::{Seen, Witness};
use perennial_std::tls::{client_config, mutual_server_config};
use perennial_std::{Roots, Rotator, Template, Usage};
use tokio::{net::TcpListener, time::timeout};
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::{pb::HealthCheckRequest, pb::health_client::HealthClient, server::health_reporter};
use tower::ServiceExt as _;

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
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url: http::Uri = format!("https://localhost:{}", listener.local_addr()?.port()).parse()?;
    let [by_client, by_server] = [Seen::default(), Seen::default()];
    let [to_client, to_server] = [by_client.clone(), by_server.clone()];

    // Server: handshakes run side by side, and none holds up the others.
    let mut tls = mutual_server_config(&server, roots.clone());
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let accept = move |tcp: io::Result<_>| {
        let acceptor = acceptor.clone();
        async move { timeout(Duration::from_secs(10), acceptor.accept(tcp?)).await? }
    };
    let incoming = TcpIncoming::from(listener).map(accept).buffer_unordered(64);
    let serving = Server::builder().max_connection_age(Duration::from_millis(500)).add_service(health_reporter().1);

    let incoming = incoming.inspect(move |tls| {
        to_server.set(tls.as_ref().ok().and_then(|tls| tls.get_ref().1.peer_certificates()));
    });
    tokio::spawn(serving.serve_with_incoming(incoming));

    // Client: connects by itself, with the certificate of the moment.
    let tls = client_config(&client, roots);
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http2().build();

    let https = https.map_response(move |stream| {
        if let MaybeHttpsStream::Https(tls) = &stream {
            to_client.set(tls.inner().get_ref().1.peer_certificates());
        }
        stream
    });
    let channel = Client::builder(TokioExecutor::new()).http2_only(true).build(https);

    while witness.goes_on() {
        let mut clients: [_; 8] = std::array::from_fn(|_| HealthClient::with_origin(channel.clone(), url.clone()));
        for answer in join_all(clients.iter_mut().map(|client| client.check(HealthCheckRequest::default()))).await {
            witness.record(answer.map(|_| [by_client.get(), by_server.get()]));
        }
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
