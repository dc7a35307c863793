//! Two services of a mesh, each a server and a client with one certificate, which know each other by SPIFFE IDs. Both
//! certificates rotate while they call each other. Run `cargo run -p perennial-examples --example spiffe_mesh`.
//!
//! To copy: `authorize`, and the lines from `Service:` to the next empty line. Verification by the CAs shows that the
//! other side belongs to the mesh; `authorize` checks which service it is.

use std::error::Error;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::{sync::Arc, time::Duration};

use perennial_dev::TestCluster;
use perennial_examples::{greeting, witness::Witness, witness::leaf};
use perennial_std::tls::{client_config, mutual_server_config};
use perennial_std::{Chain, Handle, Roots, Rotator, Template, Usage};
use rustls::{ClientConfig, ClientConnection, CommonState, StreamOwned};

type AnyError = Box<dyn Error + Send + Sync>;
/// A service: its certificate, the configuration of its calls, and its address.
type Service = (Handle, Arc<ClientConfig>, SocketAddr);

/// The SPIFFE ID of a service.
fn id(name: &str) -> String {
    format!("spiffe://mesh.example/ns/default/sa/{name}")
}

/// Checks that the other side is the service `name`, by the SPIFFE ID in its certificate.
fn authorize(tls: &CommonState, name: &str) -> Result<(), AnyError> {
    let chain = Chain::from_der(tls.peer_certificates().ok_or("no certificate")?.to_vec())?;
    if !chain.uris().eq([id(name)]) {
        let uris: Vec<_> = chain.uris().collect();
        return Err(format!("expected {}, not {uris:?}", id(name)).into());
    }
    Ok(())
}

/// Calls the service `name`. Returns the fingerprints of the certificates that the client and the server saw.
fn call(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> Result<[String; 2], AnyError> {
    let tls = ClientConnection::new(config.clone(), name.to_owned().try_into()?)?;
    let (mut stream, mut client) = (StreamOwned::new(tls, TcpStream::connect(address)?), String::new());
    stream.conn.complete_io(&mut stream.sock)?;
    authorize(&stream.conn, name)?;
    stream.read_to_string(&mut client)?;
    Ok([leaf(stream.conn.peer_certificates()), client])
}

/// A service that only the service `caller` may call.
fn start(cluster: &TestCluster, name: &str, caller: &'static str) -> Result<Service, AnyError> {
    let roots = Roots::from_pem(cluster.ca_pem())?;

    // Service: one certificate for both roles.
    let mut signer = cluster.signer("example.com/mesh", Usage::ServerAuth);
    signer.profile.usages.push(Usage::ClientAuth);
    let template = Template::new(name).with_dns_names([name]).with_uris([id(name)]);
    let handle = perennial_std::start(Rotator::new().template(template).signer(signer))?;
    let server = mutual_server_config(&handle, roots.clone());
    let client = client_config(&handle, roots);

    handle.ready().within(Duration::from_secs(30))?;
    let address = greeting::serve_if(server, move |tls| authorize(tls, caller))?;
    Ok((handle, Arc::new(client), address))
}

fn main() -> Result<(), AnyError> {
    let cluster = TestCluster::start()?;
    let (orders, by_orders, orders_at) = start(&cluster, "orders", "billing")?;
    let (billing, by_billing, billing_at) = start(&cluster, "billing", "orders")?;
    let mut witness = Witness::of([("orders", &orders), ("billing", &billing)]);
    while witness.goes_on() {
        witness.record(call(&by_orders, billing_at, "billing").map(|[server, client]| [client, server]));
        witness.record(call(&by_billing, orders_at, "orders"));
    }
    println!("{}", witness.verdict()?);
    Ok(())
}
