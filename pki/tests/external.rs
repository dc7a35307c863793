//! Keys that stay elsewhere sign CSRs, certificates and TLS handshakes. If a key cannot sign, the error names the
//! cause.

mod elsewhere;

use std::io;
use std::sync::Arc;

use elsewhere::{Bug, Elsewhere};
use perennial::{Template, UnixTime, Validity};
use perennial_pki::{
    Chain, Credential, CredentialError, ExternalKey as _, Issuer, KeyAlgorithm, KeyError, KeyPair, KeyUsage,
    RequestError, Terms, Usage, certificate_request, ecdsa_signature, provider, read_request, self_signed,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

const REFERENCE: &str = "pkcs11:token=node;object=kubelet-client";

fn software(algorithm: KeyAlgorithm) -> KeyPair {
    match algorithm {
        // Not every build can generate RSA keys.
        KeyAlgorithm::Rsa => KeyPair::from_pem(include_str!("data/rsa2048.pkcs8.pem")).unwrap(),
        _ => KeyPair::generate(algorithm).unwrap(),
    }
}

fn external(algorithm: KeyAlgorithm) -> (Arc<Elsewhere>, KeyPair) {
    let key = Arc::new(Elsewhere::new(REFERENCE, software(algorithm)));
    (key.clone(), KeyPair::external(key).unwrap())
}

const ALL: &[KeyAlgorithm] = &[
    KeyAlgorithm::EcdsaP256,
    KeyAlgorithm::EcdsaP384,
    KeyAlgorithm::Ed25519,
    KeyAlgorithm::Rsa,
    #[cfg(feature = "aws-lc-rs")]
    KeyAlgorithm::EcdsaP521,
];

fn validity() -> Validity {
    let now = UnixTime::from_secs(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().try_into().unwrap());
    let hour = std::time::Duration::from_secs(3600);
    Validity::new(now.before(hour), now.after(hour)).unwrap()
}

/// A CA whose own key stays elsewhere.
fn ca() -> Issuer {
    let (_, key) = external(KeyAlgorithm::EcdsaP256);
    let chain = self_signed("CA", &key, &[1], validity()).unwrap();
    Issuer::new(Credential::new(chain, Arc::new(key)).unwrap()).unwrap()
}

fn issue(ca: &Issuer, key: &KeyPair) -> Chain {
    let template = Template::new("node").with_dns_names(["node.example"]);
    let request = read_request(certificate_request(&template, key).unwrap().pem.as_bytes()).unwrap();
    let extended_key_usages = &[Usage::ClientAuth, Usage::ServerAuth];
    let key_usages = &[KeyUsage::DigitalSignature];
    ca.issue(&request, &Terms { serial: &[2], validity: validity(), key_usages, extended_key_usages }).unwrap()
}

/// Runs a handshake in memory. Returns the certificate of each side, as the other side sees it.
fn handshake(
    ca: &Issuer,
    server: &Credential,
    client: &Credential,
    version: &'static SupportedProtocolVersion,
) -> Result<[Vec<u8>; 2], rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.credential().chain().der()[0].clone()).unwrap();
    let roots = Arc::new(roots);
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build().unwrap();
    let of = |credential: &Credential| Arc::new(rustls::sign::SingleCertAndKey::from(credential.certified_key()));
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let config = config.with_client_cert_verifier(clients).with_cert_resolver(of(server));
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let config = config.with_root_certificates(roots).with_client_cert_resolver(of(client));
    let mut client = ClientConnection::new(Arc::new(config), "node.example".try_into().unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut sent = Vec::new();
        client.write_tls(&mut sent).unwrap();
        server.read_tls(&mut io::Cursor::new(sent)).unwrap();
        server.process_new_packets()?;
        let mut sent = Vec::new();
        server.write_tls(&mut sent).unwrap();
        client.read_tls(&mut io::Cursor::new(sent)).unwrap();
        client.process_new_packets()?;
    }
    let leaf = |chain: Option<&[rustls::pki_types::CertificateDer<'static>]>| chain.unwrap()[0].to_vec();
    Ok([leaf(client.peer_certificates()), leaf(server.peer_certificates())])
}

#[test]
fn external_key_signs_request_that_verifies() {
    for &algorithm in ALL {
        let (_, key) = external(algorithm);
        let request = certificate_request(&Template::node("worker-1"), &key).unwrap();
        let facts = read_request(request.pem.as_bytes()).unwrap();
        assert_eq!((facts.key_algorithm, &*facts.public_key_der), (algorithm, key.public_key_der()));
        assert_eq!((key.algorithm(), key.reference()), (algorithm, Some(REFERENCE)));
    }
}

#[test]
fn external_keys_of_both_sides_sign_handshakes() {
    let ca = ca();
    for &algorithm in ALL {
        let credential = || {
            let (_, key) = external(algorithm);
            Credential::new(issue(&ca, &key), Arc::new(key)).unwrap()
        };
        let (server, client) = (credential(), credential());
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let seen = handshake(&ca, &server, &client, version).unwrap();
            assert_eq!(seen, [&server, &client].map(|held| held.chain().der()[0].to_vec()), "{algorithm}");
        }
    }
}

#[test]
fn handshake_fails_with_message_if_external_key_cannot_sign() {
    let ca = ca();
    let server = software(KeyAlgorithm::EcdsaP256);
    let server = Credential::new(issue(&ca, &server), Arc::new(server)).unwrap();
    let (elsewhere, key) = external(KeyAlgorithm::EcdsaP256);
    let client = Credential::new(issue(&ca, &key), Arc::new(key)).unwrap();
    elsewhere.set(Bug::Absent);
    let error = handshake(&ca, &server, &client, &rustls::version::TLS13).unwrap_err();
    let expected = format!("the key {REFERENCE} cannot sign: no token in slot 0");
    assert_eq!(error, rustls::Error::General(expected));
    elsewhere.set(Bug::None);
    handshake(&ca, &server, &client, &rustls::version::TLS13).unwrap();
}

#[test]
fn request_fails_with_cause_if_external_key_does_not_sign_correctly() {
    for (bug, expected) in [
        (Bug::Absent, "cannot sign: no token in slot 0"),
        (Bug::Raw, "an ECDSA signature in DER (perennial_pki::ecdsa_signature)?"),
        (Bug::OtherMessage, "is the message hashed once"),
    ] {
        let (elsewhere, key) = external(KeyAlgorithm::EcdsaP256);
        elsewhere.set(bug);
        let error = certificate_request(&Template::node("worker-1"), &key).unwrap_err();
        assert!(matches!(error, RequestError::Signing(_)), "{error:?}");
        let error = error.to_string();
        assert!(error.contains(expected) && error.contains(REFERENCE), "{error}");
    }
}

#[test]
fn credential_is_refused_if_external_key_cannot_sign_and_never_has() {
    let ca = ca();
    let ours = software(KeyAlgorithm::EcdsaP256);
    let chain = issue(&ca, &ours);
    let elsewhere = Arc::new(Elsewhere::new(REFERENCE, ours));
    elsewhere.set(Bug::Absent);
    let join = |key: KeyPair| Credential::new(chain.clone(), Arc::new(key));
    let error = join(KeyPair::external(elsewhere.clone()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("cannot sign: no token in slot 0"), "{error}");

    // A key that has signed its CSR need not sign again.
    elsewhere.set(Bug::None);
    let key = KeyPair::external(elsewhere.clone()).unwrap();
    certificate_request(&Template::node("worker-1"), &key).unwrap();
    elsewhere.set(Bug::Absent);
    assert!(join(key).is_ok());
    assert!(join(external(KeyAlgorithm::EcdsaP256).1).unwrap_err().to_string().contains("another private key"));
}

#[test]
fn external_key_with_unusable_public_key_or_reference_is_refused() {
    // An X25519 key (RFC 8410 §4), which cannot sign.
    let x25519 = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00".as_slice(), &[1; 32]].concat();
    let (whole, _) = external(KeyAlgorithm::EcdsaP256);
    let whole = whole.public_key_der();
    for (reference, public_key_der, expected) in [
        (REFERENCE, x25519, "its kind is not supported"),
        (REFERENCE, whole[1..].to_vec(), "not a DER SubjectPublicKeyInfo"),
        (REFERENCE, [&*whole, &[0]].concat(), "not a DER SubjectPublicKeyInfo"),
        ("", whole.clone(), "its reference is empty"),
        ("two\nlines", whole.clone(), "contains control characters"),
        (&"x".repeat(8193), whole.clone(), "longer than 8 KiB"),
    ] {
        let key = Elsewhere::new(reference, software(KeyAlgorithm::EcdsaP256)).with_public_key(public_key_der);
        let error = KeyPair::external(Arc::new(key)).unwrap_err();
        assert!(matches!(error, KeyError::External { .. }) && error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains('\n') && error.to_string().len() < 500, "{error}");
    }
}

#[test]
fn pem_of_external_key_is_its_reference_and_no_key() {
    let (_, key) = external(KeyAlgorithm::EcdsaP256);
    assert_eq!(format!("{key:?}"), "KeyPair { algorithm: EcdsaP256, .. }");
    let pem = key.to_pem();
    assert!(pem.starts_with("-----BEGIN KEY REFERENCE-----\n") && !pem.contains("PRIVATE"), "{pem:?}");
}

#[test]
fn pair_with_reference_is_read_if_its_external_key_is_found() {
    let (ca, (elsewhere, key)) = (ca(), external(KeyAlgorithm::EcdsaP256));
    let written = Credential::new(issue(&ca, &key), Arc::new(key)).unwrap().to_pem();
    let read = |found: Result<Arc<Elsewhere>, &'static str>| {
        Credential::from_pem_with(written.as_bytes(), |reference| {
            assert_eq!(reference, REFERENCE);
            Ok(found?)
        })
    };
    let again = read(Ok(elsewhere.clone())).unwrap();
    assert_eq!((again.to_pem(), again.key().reference()), (written.clone(), Some(REFERENCE)));

    let error = read(Err("no token\nin slot 0")).unwrap_err().to_string();
    assert_eq!(error, format!("the private key {REFERENCE} cannot be used: no token in slot 0"));
    let error = read(Ok(external(KeyAlgorithm::EcdsaP256).0)).unwrap_err();
    assert!(matches!(error, CredentialError::KeyMismatch { .. }), "{error}");
    elsewhere.set(Bug::Absent);
    let error = read(Ok(elsewhere)).unwrap_err().to_string();
    assert!(error.contains("cannot sign: no token in slot 0"), "{error}");

    // A reader that has no means to find the key does not mistake the pair for a damaged one.
    let error = Credential::from_pem(written.as_bytes()).unwrap_err();
    assert_eq!(error, CredentialError::Key(KeyError::Elsewhere { reference: REFERENCE.into() }));
    assert!(error.is_unsupported());
}

#[test]
fn reading_key_in_memory_does_not_call_find() {
    let key = software(KeyAlgorithm::EcdsaP256);
    let never = |_: &str| unreachable!("the key is at hand");
    let again = KeyPair::from_pem_with(&*key.to_pem(), never).unwrap();
    assert_eq!((again.public_key_der(), again.reference()), (key.public_key_der(), None));
}

#[test]
fn damaged_key_reference_is_refused() {
    let block = |content: &str| format!("-----BEGIN KEY REFERENCE-----\n{content}\n-----END KEY REFERENCE-----\n");
    for (content, expected) in [("", KeyError::Malformed), ("/w==", KeyError::Malformed), ("Cg==", KeyError::Malformed)]
    {
        assert_eq!(KeyPair::from_pem(block(content)).unwrap_err(), expected, "{content}");
    }
    assert!(matches!(KeyPair::from_pem(block("!")).unwrap_err(), KeyError::Pem(_)));
}

#[test]
fn ecdsa_signature_is_written_in_der() {
    let [mut r_and_s, zero] = [[0x81; 64], [0; 64]];
    assert_eq!(ecdsa_signature(&r_and_s)[..6], [0x30, 0x46, 2, 0x21, 0, 0x81], "positive numbers");
    r_and_s[..32].fill(0);
    r_and_s[31] = 7;
    assert_eq!(ecdsa_signature(&r_and_s)[..5], [0x30, 0x26, 2, 1, 7], "no superfluous zeros");
    assert_eq!(ecdsa_signature(&zero), [0x30, 6, 2, 1, 0, 2, 1, 0]);
}

#[test]
fn debug_shows_nothing_of_the_programs_own_key_type() {
    let (elsewhere, key) = external(KeyAlgorithm::EcdsaP256);
    let credential = Credential::new(self_signed("node", &key, &[1], validity()).unwrap(), Arc::new(key)).unwrap();
    let certified = credential.certified_key();
    let signer = certified.key.choose_scheme(&[rustls::SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
    let shown = format!("{credential:?} {certified:?} {signer:?}");
    assert!(shown.contains(REFERENCE), "{shown}");
    assert!(!shown.contains(&format!("{elsewhere:?}")), "{shown}");
}
