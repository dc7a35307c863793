//! A server of OpenSSL, with a context for each credential; its clients use rustls. Run
//! `cargo run -p perennial-examples --features openssl --example openssl`, with libssl-dev and pkg-config installed.
//!
//! To copy: `context`, and the lines from `Server:` to the next empty line. No session is resumed, since a resumed
//! session would use the certificates of an earlier connection. A client can use `context`, too, but must also set the
//! name that the server's certificate must have (`ssl.param_mut().set_host(name)`): OpenSSL checks no name by itself.

use std::net::{TcpListener, TcpStream};
use std::{error::Error, io::Write as _, sync::Arc, thread, time::Duration};

use openssl::ssl::{Ssl, SslContext, SslMethod, SslOptions, SslSessionCacheMode, SslVerifyMode};
use openssl::{pkey::PKey, x509::X509, x509::store::X509StoreBuilder};
use perennial_dev::TestCluster;
use perennial_examples::{greeting, witness::Witness, witness::fingerprint};
use perennial_std::{Credential, Roots, Rotator, Template, Usage, tls::client_config};

type AnyError = Box<dyn Error + Send + Sync>;

/// A context that presents this credential, and accepts only peers whose certificates verify by these CAs.
fn context(credential: &Credential, roots: &Roots) -> Result<SslContext, AnyError> {
    let (mut context, mut store) = (SslContext::builder(SslMethod::tls())?, X509StoreBuilder::new()?);
    let pem = credential.to_pem();
    let mut chain = X509::stack_from_pem(pem.as_bytes())?.into_iter();
    context.set_certificate(&*chain.next().ok_or("no certificate")?)?;
    chain.try_for_each(|issuer| context.add_extra_chain_cert(issuer))?;
    let key = PKey::private_key_from_pem(pem.as_bytes())?;
    context.set_private_key(&key)?;
    X509::stack_from_pem(roots.pem().as_bytes())?.into_iter().try_for_each(|ca| store.add_cert(ca))?;
    context.set_cert_store(store.build());
    context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_options(SslOptions::NO_TICKET);
    Ok(context.build())
}

/// Answers with the fingerprint of the client's certificate.
fn greet(ssl: Ssl, tcp: TcpStream) -> Result<(), AnyError> {
    let mut tls = ssl.accept(tcp)?;
    let client = tls.ssl().peer_certificate().ok_or("no certificate")?.to_der()?;
    tls.write_all(fingerprint(&client).as_bytes())?;
    tls.shutdown()?;
    Ok(())
}

fn main() -> Result<(), AnyError> {
    let cluster = TestCluster::start()?;
    let roots = Roots::from_pem(cluster.ca_pem())?;
    let issue = |template, usage| {
        perennial_std::start(Rotator::new().template(template).signer(cluster.signer("example.com/mesh", usage)))
    };
    let server = issue(Template::new("orders").with_dns_names(["localhost"]), Usage::ServerAuth)?;
    let client = issue(Template::new("billing"), Usage::ClientAuth)?;
    client.ready().within(Duration::from_secs(30))?;
    let mut witness = Witness::of([("server", &server), ("client", &client)]);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, client) = (listener.local_addr()?, Arc::new(client_config(&client, roots.clone())));

    // Server: checks for a new credential before each handshake.
    let mut rotations = server.rotations();
    let mut current = context(&*server.ready().within(Duration::from_secs(30))?, &roots)?;
    let mut accept = move || {
        if let Some(rotated) = rotations.try_recv() {
            current = context(&rotated.new, &roots)?;
        }
        Ok::<_, AnyError>(Ssl::new(&current)?)
    };

    thread::spawn(move || {
        for tcp in listener.incoming() {
            if let Err(error) = accept().and_then(|ssl| greet(ssl, tcp?)) {
                eprintln!("connection failed: {error}");
            }
        }
    });
    while witness.goes_on() {
        witness.record(greeting::call(address, "localhost", &client));
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
