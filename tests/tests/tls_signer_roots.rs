//! Mutual TLS in which each side trusts the CAs in the chains that its own signer issued (`SignerRoots`). The CA
//! changes while both sides run.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial::{Failure, Template, Validity};
use perennial_pki::{
    Chain, Credential, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Terms, Usage, read_request, self_signed,
};
use perennial_rotation::tls::{client_config, mutual_server_config};
use perennial_rotation::{Handle, RootsSource as _, Rotator, SignError, SignRequest, SignWith, SignerRoots, clock};
use perennial_tests::loopback::{BOUND, Runtime, issued, on_both, policy, start};
use perennial_tests::tls::{answer, connect, fingerprint, hex, server, try_answer};
use rustls::ClientConfig;

/// A CA of the program, and the certificates that the CA appends to each leaf, as PEM text.
#[derive(Clone)]
struct Mesh(Arc<Mutex<(Issuer, String)>>);

impl Mesh {
    fn new(ca: Issuer) -> Self {
        let appended = own(&ca);
        Self(Arc::new(Mutex::new((ca, appended))))
    }

    /// Replaces the CA by `ca`. From now on, only the certificate of `ca` is appended to a leaf.
    fn replace(&self, ca: Issuer) {
        let appended = own(&ca);
        *self.0.lock().unwrap() = (ca, appended);
    }

    fn sign(&self, request: &SignRequest, usage: Usage) -> Result<Chain, SignError> {
        let (ca, appended) = &*self.0.lock().unwrap();
        let key_usages = &[KeyUsage::DigitalSignature];
        let terms = Terms { serial: &[2], validity: validity(24), key_usages, extended_key_usages: &[usage] };
        let request = read_request(request.csr.pem.as_bytes()).unwrap();
        let leaf = ca.issue(&request, &terms).unwrap();
        let pem = [leaf.pem().as_str(), appended].concat();
        Chain::from_pem(pem.as_bytes()).map_err(|error| SignError::new(Failure::BadCertificate, error.to_string()))
    }

    /// Starts a rotation that requests certificates of this usage.
    fn rotate(&self, runtime: Runtime, template: Template, usage: Usage) -> Handle {
        let mesh = self.clone();
        let signer = SignWith::blocking("example.com/mesh", move |request, _| mesh.sign(&request, usage));
        start(runtime, Rotator::new().template(template).policy(policy()).signer(signer.usages([usage])))
    }
}

/// The CA's own certificate.
fn own(ca: &Issuer) -> String {
    ca.credential().chain().pem().to_owned()
}

/// A CA certificate with the name and the key of `old`, signed by `new`.
fn cross_certificate(old: &Issuer, new: &Issuer) -> String {
    let of = |ca: &Issuer| {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        // In the encoding of the CA's own certificate, since names are compared as bytes.
        let name = rcgen::DnValue::PrintableString(name(ca).try_into().unwrap());
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params, rcgen::KeyPair::from_pem(&ca.credential().key().to_pem()).unwrap())
    };
    let ((params, key), (new_params, new_key)) = (of(old), of(new));
    params.signed_by(&key, &rcgen::Issuer::new(new_params, new_key)).unwrap().pem()
}

fn name(ca: &Issuer) -> String {
    ca.credential().chain().certificate().common_name().to_owned()
}

fn new_ca(name: &str) -> Issuer {
    let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let chain = self_signed(name, &key, &[1], validity(48)).unwrap();
    Issuer::new(Credential::new(chain, key).unwrap()).unwrap()
}

/// A validity period from a minute ago, for this many hours.
fn validity(hours: u64) -> Validity {
    let begin = clock::now().unix.before(Duration::from_secs(60));
    Validity::new(begin, begin.after(Duration::from_secs(hours * 3600))).unwrap()
}

/// Makes two connections, and checks that each side sees the current certificate of the other.
fn meet(address: SocketAddr, config: &Arc<ClientConfig>, [serving, calling]: [&Handle; 2]) {
    for _ in 0..2 {
        let mut stream = connect(address, config.clone());
        assert_eq!(answer(&mut stream), (fingerprint(&calling.credential().unwrap()), false));
        let shown = hex(&stream.get_ref().conn.peer_certificates().unwrap()[0]);
        assert_eq!(shown, fingerprint(&serving.credential().unwrap()));
    }
}

#[test]
fn mutual_tls_survives_change_of_ca_with_cross_certificate() {
    on_both(|runtime| {
        let mesh = Mesh::new(new_ca("old"));
        let serving = mesh.rotate(runtime, Template::new("server").with_dns_names(["localhost"]), Usage::ServerAuth);
        let calling = mesh.rotate(runtime, Template::new("client"), Usage::ClientAuth);
        let address = server(mutual_server_config(&serving, SignerRoots::new(&serving)));
        let config = Arc::new(client_config(&calling, SignerRoots::new(&calling)));
        issued(&serving, 1);
        issued(&calling, 1);
        meet(address, &config, [&serving, &calling]);

        // Both sides rotate, one after the other, after each change.
        let rotate = |n| {
            for side in [&serving, &calling] {
                side.rotate_now();
                issued(side, n);
                meet(address, &config, [&serving, &calling]);
            }
        };
        let new = new_ca("new");
        {
            let (old, appended) = &mut *mesh.0.lock().unwrap();
            *appended = cross_certificate(old, &new) + &own(&new);
        }
        rotate(2);
        mesh.replace(new);
        rotate(3);
        serving.shutdown().within(BOUND);
        calling.shutdown().within(BOUND);
    });
}

#[test]
fn peer_of_new_ca_is_refused_until_own_certificate_is_from_new_ca() {
    let mesh = Mesh::new(new_ca("old"));
    let template = Template::new("server").with_dns_names(["localhost"]);
    let serving = mesh.rotate(Runtime::Std, template, Usage::ServerAuth);
    let calling = mesh.rotate(Runtime::Std, Template::new("client"), Usage::ClientAuth);
    let address = server(mutual_server_config(&serving, SignerRoots::new(&serving)));
    let config = Arc::new(client_config(&calling, SignerRoots::new(&calling)));
    issued(&serving, 1);
    issued(&calling, 1);
    mesh.replace(new_ca("new"));
    serving.rotate_now();
    issued(&serving, 2);
    let refused = try_answer(&mut connect(address, config.clone())).unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    calling.rotate_now();
    issued(&calling, 2);
    meet(address, &config, [&serving, &calling]);
    serving.shutdown().within(BOUND);
    calling.shutdown().within(BOUND);
}

#[test]
fn ca_of_each_chain_is_trusted_even_without_handshake() {
    on_both(|runtime| {
        let mesh = Mesh::new(new_ca("old"));
        let handle = mesh.rotate(runtime, Template::new("peer"), Usage::ClientAuth);
        let roots = SignerRoots::new(&handle);
        issued(&handle, 1);
        mesh.replace(new_ca("new"));
        handle.rotate_now();
        issued(&handle, 2);
        let subjects: Vec<String> = roots.roots().unwrap().subjects().collect();
        assert_eq!(subjects, ["CN=old", "CN=new"]);
        handle.shutdown().within(BOUND);
        assert_eq!(roots.roots().unwrap().subjects().count(), 2);
    });
}
