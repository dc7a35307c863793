//! A client of kube-rs whose identity rotates. Run `cargo run -p perennial-examples --example kube_client`.
//!
//! To copy: the lines from `Client:` to the next empty line. The rest issues a node's certificate and asks the API
//! server which certificate the server sees.

use std::error::Error;

use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use perennial_dev::TestCluster;
use perennial_examples::{review, witness::Witness};
use perennial_std::tls::client_config;
use perennial_std::{Roots, Rotator, Template};
use tower::service_fn;

/// The fingerprint of the client's certificate, as the API server sees it.
async fn seen(client: &kube::Client) -> Result<[String; 1], Box<dyn Error>> {
    let reviews = Api::<SelfSubjectReview>::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    Ok([review::fingerprint(&serde_json::to_vec(&answer)?)?])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let roots = Roots::from_pem(cluster.ca_pem())?;
    let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
    let handle = perennial_std::start(rotator)?;
    handle.ready().await?;
    let mut witness = Witness::of([("client", &handle)]);
    let config = kube::Config::new(cluster.url().parse()?);

    // Client: after a rotation, a new pool. Requests and watches in flight continue on the connections of the old pool.
    let tls = client_config(&handle, roots);
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    let pool = move || Client::builder(TokioExecutor::new()).build(https.clone());
    let (mut rotations, mut http) = (handle.rotations(), pool());
    let service = service_fn(move |request: http::Request<Body>| {
        rotations.try_recv().is_some().then(|| http = pool());
        http.request(request)
    });
    let client = ClientBuilder::new(service, "default").with_layer(&config.base_uri_layer()).build();

    while witness.goes_on() {
        witness.record(seen(&client).await);
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
