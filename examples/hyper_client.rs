//! A client of hyper with a pool of connections for each certificate. Run
//! `cargo run -p perennial-examples --example hyper_client`.
//!
//! To copy: the lines from `Client:` to the next empty line. The rest issues a node's certificate and asks the API
//! server which certificate the server sees.

use std::error::Error;

use http_body_util::{BodyExt as _, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use perennial_dev::TestCluster;
use perennial_examples::{review, witness::Witness};
use perennial_std::tls::client_config;
use perennial_std::{Roots, Rotator, Template};
use tower::{Service as _, service_fn};

type Request = http::Request<Full<&'static [u8]>>;

/// Posts a review. The answer has the fingerprint of the client's certificate.
fn review_request(cluster: &TestCluster) -> Result<Request, http::Error> {
    let request = http::Request::post(format!("{}{}", cluster.url(), review::PATH));
    request.header("content-type", "application/json").body(review::BODY.as_bytes().into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let roots = Roots::from_pem(cluster.ca_pem())?;
    let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
    let handle = perennial_std::start(rotator)?;
    handle.ready().await?;
    let mut witness = Witness::of([("client", &handle)]);

    // Client: after a rotation, a new pool. Requests in flight end on the connections of the old pool.
    let tls = client_config(&handle, roots);
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    let pool = move || Client::builder(TokioExecutor::new()).build(https.clone());
    let (mut rotations, mut http) = (handle.rotations(), pool());
    let mut client = service_fn(move |request: Request| {
        rotations.try_recv().is_some().then(|| http = pool());
        http.request(request)
    });

    while witness.goes_on() {
        let call = async {
            let response = client.call(review_request(&cluster)?).await?;
            let answer = response.into_body().collect().await?.to_bytes();
            Ok::<_, Box<dyn Error>>([review::fingerprint(&answer)?])
        };
        witness.record(call.await);
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
