//! A private CA as a signer in a closure, and a TLS server whose certificates are valid for four seconds. Run
//! `cargo run -p perennial-examples --example own_signer`.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use perennial::{Failure, Policy, Template};
use perennial_pki::{Chain, Usage};
use perennial_rotation::tls::ServerCert;
use perennial_rotation::{Rotator, SignError, SignWith};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

type Ca = Issuer<'static, KeyPair>;

const LIFETIME: Duration = Duration::from_secs(4);
const SERVICE: &str = "orders.mesh.example";

/// Issues a certificate for a CSR, valid for [`LIFETIME`]. perennial then checks the chain, as for every signer.
fn sign(ca: &Ca, csr_pem: &str) -> Result<Chain, Box<dyn Error>> {
    let mut csr = CertificateSigningRequestParams::from_pem(csr_pem)?;
    csr.params.not_before = SystemTime::now().into();
    csr.params.not_after = (SystemTime::now() + LIFETIME).into();
    csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(Chain::from_pem(csr.signed_by(ca)?.pem().as_bytes())?)
}

/// Greets a client over TLS. The handshake presents the current certificate.
fn greet(stream: TcpStream, config: &Arc<ServerConfig>) -> Result<(), Box<dyn Error>> {
    let mut tls = StreamOwned::new(ServerConnection::new(config.clone())?, stream);
    tls.write_all(b"hello")?;
    tls.conn.send_close_notify();
    Ok(tls.flush()?)
}

/// Connects, verifies the server, and returns the serial number of its certificate.
fn call(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<String, Box<dyn Error>> {
    let connection = ClientConnection::new(config.clone(), ServerName::try_from(SERVICE)?)?;
    let (mut tls, mut greeting) = (StreamOwned::new(connection, TcpStream::connect(address)?), String::new());
    tls.read_to_string(&mut greeting)?;
    let served = tls.conn.peer_certificates().ok_or("no certificate")?;
    Ok(Chain::from_der(served.to_vec())?.serial().to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate()?);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key)?.der().clone();
    let ca = Issuer::new(params, key);

    let signer = SignWith::blocking("example.com/mesh", move |request, _cancel| {
        sign(&ca, &request.csr.pem).map_err(|error| SignError::new(Failure::SignerFailed, error.to_string()))
    });
    let template = Template::new(SERVICE).with_dns_names([SERVICE]);
    let policy = Policy::for_lifetime(LIFETIME);
    let rotator = Rotator::new().template(template).policy(policy).signer(signer.usages([Usage::ServerAuth]));
    let handle = perennial_std::start(rotator)?;
    let first = handle.ready().within(Duration::from_secs(30))?;
    let mut rotations = handle.rotations();

    let tls = ServerConfig::builder().with_no_client_auth();
    let mut server = tls.with_cert_resolver(Arc::new(ServerCert::new(&handle)));
    // A resumed session would keep the certificate of its first handshake.
    server.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    roots.add(root)?;
    let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, server) = (listener.local_addr()?, Arc::new(server));
    thread::spawn(move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.map_err(Into::into).and_then(|stream| greet(stream, &server)) {
                eprintln!("connection failed: {error}");
            }
        }
    });

    println!("issued {}, served {}", first.chain().serial(), call(address, &client)?);
    for _ in 0..2 {
        let rotated = rotations.recv().within(Duration::from_secs(30)).ok_or("no rotation within 30 s")?;
        println!("rotated to {}, served {}", rotated.new.chain().serial(), call(address, &client)?);
    }
    handle.shutdown().wait();
    Ok(())
}
