//! A client of reqwest that keeps connections, with a pool for each certificate. Run
//! `cargo run -p perennial-examples --example reqwest`.
//!
//! To copy: the lines from `Client:` to the next empty line. `axum.rs` has a client without idle connections, which
//! needs no new pool. The rest issues a node's certificate and asks the API server which certificate the server sees.

use std::error::Error;

use perennial_dev::TestCluster;
use perennial_examples::{review, witness::Witness};
use perennial_std::tls::client_config;
use perennial_std::{Roots, Rotator, Template};

/// The fingerprint of the client's certificate, as the API server sees it.
async fn seen(client: &reqwest::Client, url: &str) -> Result<[String; 1], Box<dyn Error>> {
    let request = client.post(url).header("content-type", "application/json").body(review::BODY);
    let answer = request.send().await?.error_for_status()?.bytes().await?;
    Ok([review::fingerprint(&answer)?])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let roots = Roots::from_pem(cluster.ca_pem())?;
    let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
    let handle = perennial_std::start(rotator)?;
    handle.ready().await?;
    let mut witness = Witness::of([("client", &handle)]);
    let url = format!("{}{}", cluster.url(), review::PATH);

    // Client: after a rotation, a new pool. Requests in flight end on the connections of the old pool.
    let tls = client_config(&handle, roots);
    let pool = || reqwest::Client::builder().tls_backend_preconfigured(tls.clone()).no_proxy().build();
    let (mut rotations, mut http) = (handle.rotations(), pool()?);
    let mut client = || {
        if rotations.try_recv().is_some() {
            http = pool()?;
        }
        Ok::<_, reqwest::Error>(http.clone())
    };

    while witness.goes_on() {
        witness.record(seen(&client()?, &url).await);
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
