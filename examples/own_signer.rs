//! A signer of the program's own: a closure that turns a request into a chain, here with a CA in memory. A TLS server
//! presents its certificates. Run `cargo run -p perennial-examples --example own_signer`.
//!
//! To copy: the lines from `Signer:` to the next empty line, with a function of your own for `sign`. The function may
//! block; with `SignWith::future`, it is async.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use perennial::Validity;
use perennial_examples::{greeting, witness::Witness};
use perennial_pki::{Credential, Issuer, KeyPair, KeyUsage, Terms, read_request, self_signed};
use perennial_std::tls::{Source, client_config, server_config};
use perennial_std::{Chain, Failure, KeyAlgorithm, Roots, Rotator, SignError, SignWith, Template, Usage, clock};

const HOUR: Duration = Duration::from_secs(3600);
const SERVICE: &str = "orders.mesh.example";

/// A validity period that ends `lifetime` from now. It began a minute ago, since the clock of another host may be
/// behind.
fn validity(lifetime: Duration) -> Result<Validity, Box<dyn Error>> {
    let now = clock::now().unix;
    Ok(Validity::new(now.before(Duration::from_secs(60)), now.after(lifetime))?)
}

fn new_ca() -> Result<Issuer, Box<dyn Error>> {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256)?;
    let chain = self_signed("mesh CA", &key, &[1], validity(24 * HOUR)?)?;
    Ok(Issuer::new(Credential::new(chain, Arc::new(key))?)?)
}

/// Issues a certificate for this CSR. A CA that serves others would check the names, too.
fn sign(ca: &Issuer, serial: u64, csr_pem: &str) -> Result<Chain, Box<dyn Error>> {
    let terms = Terms {
        serial: &serial.to_be_bytes(),
        validity: validity(HOUR)?,
        key_usages: &[KeyUsage::DigitalSignature],
        extended_key_usages: &[Usage::ServerAuth],
    };
    Ok(ca.issue(&read_request(csr_pem.as_bytes())?, &terms)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (ca, serials) = (new_ca()?, AtomicU64::new(2));
    let roots = Roots::from_pem(ca.credential().chain().pem().as_bytes())?;
    let template = Template::new(SERVICE).with_dns_names([SERVICE]);

    // Signer: the rotation makes keys, paces requests, checks the chain and retries after errors.
    let signer = SignWith::blocking("example.com/mesh", move |request, _cancel| {
        let serial = serials.fetch_add(1, Ordering::Relaxed);
        sign(&ca, serial, &request.csr.pem).map_err(|error| SignError::new(Failure::SignerFailed, error.to_string()))
    });
    let rotator = Rotator::new().template(template).signer(signer.usages([Usage::ServerAuth]));

    let handle = perennial_std::start(rotator)?;
    handle.ready().within(Duration::from_secs(30))?;
    let mut witness = Witness::of([("server", &handle)]);
    let address = greeting::serve(server_config(&handle))?;
    let client = Arc::new(client_config(Source::new(|| None), roots));
    while witness.goes_on() {
        witness.record(greeting::call(address, SERVICE, &client).map(|[server, _]| [server]));
    }
    println!("{}", witness.verdict()?);
    handle.shutdown().wait();
    Ok(())
}
