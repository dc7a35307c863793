//! Fuzzes the readers of certificates, keys, requests and CA bundles with any bytes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::{Template, Validity};
use perennial_dev::Authority;
use perennial_pki::{
    BadCertificate, Chain, Credential, Expected, GoVerdict, KeyPair, Roots, Terms, Usage, certificate_request,
    go_verdict, read_request, sha256,
};
use rustls::SignatureScheme;

use super::pki::{DAY, Pki};
use super::text;
use crate::mint::EPOCH;

static PKI: LazyLock<Pki> = LazyLock::new(Pki::new);

/// Checks the readers with any bytes. An object that was read must have consistent facts, and must be the same after it
/// is written and read again.
///
/// The first byte selects what the other bytes are: PEM, the content of a PEM block, or the body of a certificate or
/// request, which this function signs.
pub fn pem_x509(bytes: &[u8]) {
    let (how, rest) = text::first(bytes);
    let pem = match how % 8 {
        1 => block("CERTIFICATE", rest),
        2 => block("CERTIFICATE REQUEST", rest),
        3 => block("PRIVATE KEY", rest),
        4 => block("EC PRIVATE KEY", rest),
        5 => block("RSA PRIVATE KEY", rest),
        6 => block("CERTIFICATE", &signed(rest, PKI.issuer.credential().key())),
        7 => block("CERTIFICATE REQUEST", &signed(rest, &PKI.ours)),
        _ => rest.to_vec(),
    };
    chain(&pem);
    key(&pem);
    credential(&pem);
    request(&pem);
    roots(&pem);
    authority(&pem);
}

fn chain(pem: &[u8]) {
    issued(pem);
    let Ok(chain) = Chain::from_pem(pem) else { return };
    let again = Chain::from_pem(chain.pem().as_bytes()).expect("our own encoding can be read");
    assert_eq!(again, chain);
    assert_eq!(Chain::from_der(chain.der()).expect("the same bytes could be read before"), chain);
    let facts = chain.certificate();
    assert_eq!(again.certificate(), facts);
    assert_eq!(facts.fingerprint.0, sha256(&chain.der()[0]));
    assert!(facts.names.ip_addresses().all(|address| address.to_canonical() == address));
    assert_eq!(format!("{chain:?}"), format!("{again:?}"));
    assert!(!chain.issuer().contains(char::is_control));

    let validity = facts.validity;
    let own = Roots::from_pem(pem).ok();
    let authority = Roots::from_pem(PKI.issuer.credential().chain().pem().as_bytes()).expect("an authority");
    for usages in [&[][..], &[Usage::ClientAuth], &[Usage::ServerAuth], &[Usage::ClientAuth, Usage::ServerAuth]] {
        for roots in [None, own.as_ref(), Some(&authority)] {
            let skew = Duration::from_secs(300);
            let expected = Expected { public_key_der: chain.public_key_der(), usages, skew, roots };
            for now in [EPOCH, validity.not_before(), validity.not_after()] {
                let usable = expected.check(&chain, now);
                assert_eq!(expected.check(&again, now), usable);
                assert!(!validity.expired(now.before(skew)) || usable.is_err());
            }
            let other = Expected { public_key_der: PKI.another.public_key_der(), ..expected };
            let ours = chain.public_key_der() == PKI.another.public_key_der();
            assert!(ours || other.check(&chain, EPOCH) == Err(BadCertificate::NotOurKey));
        }
    }
}

/// Checks that every chain which the strict reader `Chain::from_issued` accepts is also accepted by `Chain::from_pem`,
/// the lenient reader of files, and that `Chain::from_pem` skips no block of such a chain.
fn issued(pem: &[u8]) {
    let Ok(issued) = Chain::from_issued(pem) else { return };
    let found = Chain::from_pem(pem).expect("a file has to meet fewer conditions");
    assert_eq!((found.skipped(), &found), (&[][..], &issued));
    assert_eq!(Chain::from_issued(issued.pem().as_bytes()).expect("our own encoding can be read"), issued);
}

fn key(pem: &[u8]) {
    let Ok(key) = KeyPair::from_pem(pem) else { return };
    let again = KeyPair::from_pem(key.to_pem().as_bytes()).expect("our own encoding can be read");
    assert_eq!((again.algorithm(), again.public_key_der()), (key.algorithm(), key.public_key_der()));
    assert_eq!(*again.to_pem(), *key.to_pem());
    assert!(format!("{key:?}").len() < 60, "{key:?}");
    let template = Template::node("a").with_dns_names(["a.example"]);
    let request = match certificate_request(&template, &key) {
        Ok(request) => request,
        // RSA keys are checked for consistency only when they sign.
        Err(error) => return assert!(key.algorithm().is_rsa(), "{error}"),
    };
    let facts = read_request(request.pem.as_bytes()).expect("a request of ours");
    assert_eq!(facts.public_key_der, key.public_key_der());
    assert_eq!(facts.key_algorithm, key.algorithm());
    assert_eq!((facts.common_name, facts.names.dns_names), ("system:node:a".to_owned(), vec!["a.example".to_owned()]));
}

fn credential(pem: &[u8]) {
    // `go_verdict` accepts any bytes. Of a pair that Go loads, perennial reads the same leaf.
    if let (GoVerdict::Loads(chain), Ok(credential)) = (go_verdict(pem, pem), Credential::from_pem(pem)) {
        assert_eq!(chain.public_key_der(), credential.chain().public_key_der());
    }
    let Ok(credential) = Credential::from_pem(pem) else { return };
    assert_eq!(credential.chain().public_key_der(), credential.key().public_key_der());
    let again = Credential::from_pem(credential.to_pem().as_bytes()).expect("our own encoding can be read");
    assert_eq!(again.chain(), credential.chain());
    assert_eq!(again.key().public_key_der(), credential.key().public_key_der());
    assert_eq!((again.chain().skipped(), again.key().skipped()), (&[][..], &[][..]));
    let pair =
        Credential::from_pair(credential.chain().pem().as_bytes(), pem).expect("the pair can be read from two files");
    assert_eq!(pair.chain(), credential.chain());
    Credential::new(credential.chain().clone(), Arc::clone(&PKI.another)).expect_err("another key");
}

/// Reads the input as a request. If that succeeds, issues a certificate for the request, and checks that the
/// certificate has the key and the names of the request.
fn request(pem: &[u8]) {
    let Ok(facts) = read_request(pem) else { return };
    assert!(facts.same_identity(&facts));
    assert_eq!(read_request(&block("CERTIFICATE REQUEST", &facts.der)).expect("the same"), facts);
    let terms = Terms {
        serial: &[3],
        validity: Validity::new(EPOCH, EPOCH.after(DAY)).expect("in order"),
        key_usages: &[],
        extended_key_usages: &[Usage::ClientAuth],
    };
    let Ok(chain) = PKI.issuer.issue(&facts, &terms) else { return };
    assert_eq!(chain.public_key_der(), facts.public_key_der);
    let issued = chain.certificate();
    let requested = Template::new(facts.common_name)
        .with_organizations(facts.organizations)
        .with_organizational_units(facts.organizational_units)
        .with_serial_number(facts.serial_number)
        .with_dns_names(facts.names.dns_names)
        .with_ip_addresses(facts.names.ip_addresses)
        .with_uris(facts.names.uris);
    assert_eq!(*issued.names, requested);
}

fn roots(pem: &[u8]) {
    let Ok(roots) = Roots::from_pem(pem) else { return };
    let again = Roots::from_pem(roots.pem().as_bytes()).expect("our own encoding can be read");
    assert_eq!((again.pem(), again.store().len()), (roots.pem(), roots.store().len()));
}

fn authority(pem: &[u8]) {
    let Ok(authority) = str::from_utf8(pem).map_err(drop).and_then(|pem| Authority::from_pem(pem).map_err(drop)) else {
        return;
    };
    let again = Authority::from_pem(&authority.to_pem()).expect("our own encoding can be read");
    assert_eq!(again.certificate_pem(), authority.certificate_pem());
    assert_eq!(again.validity(), authority.validity());
}

fn block(label: &str, der: &[u8]) -> Vec<u8> {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der)).into_bytes()
}

/// DER of a signed X.509 structure: the body, the algorithm (Ed25519) and the signature.
fn signed(body: &[u8], key: &KeyPair) -> Vec<u8> {
    let key = key.signing_key();
    let signer = key.choose_scheme(&[SignatureScheme::ED25519]).expect("an Ed25519 key");
    let signature = signer.sign(body).expect("an Ed25519 key signs anything");
    let algorithm = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
    let content = [body, &algorithm, &[3, 65, 0], &signature].concat();
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0x30, 0x82, length[0], length[1]], content.as_slice()].concat()
}
