//! `Chain`, `Roots` and `Credential` read good PEM and refuse unreadable input. `Credential` also refuses a chain with
//! the key of another certificate.

mod authority;

use std::sync::Arc;

use authority::{Authority, NOT_AFTER, NOT_BEFORE, at};
use perennial::UnixTime;
use perennial_pki::{Chain, ChainError, Credential, CredentialError, KeyAlgorithm, KeyError, KeyPair, PemError, Roots};
use proptest::prelude::*;
use rcgen::{CustomExtension, SanType, SerialNumber};

const P256: &str = include_str!("data/p256.sec1.pem");

fn key() -> KeyPair {
    KeyPair::from_pem(P256).unwrap()
}

fn chain(pem: &str) -> Chain {
    Chain::from_pem(pem.as_bytes()).unwrap()
}

#[test]
fn chain_facts_are_those_of_leaf() {
    let pem = Authority::root("the root").issue(&key(), |params| {
        params.serial_number = Some(SerialNumber::from_slice(&[0x00, 0xab, 0x0c]));
        params.subject_alt_names = vec![
            SanType::DnsName("n1.example".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::IpAddress("::ffff:10.0.0.2".parse().unwrap()),
            SanType::URI("spiffe://x".try_into().unwrap()),
        ];
    });
    let chain = chain(&pem);
    let facts = chain.certificate();
    assert_eq!(facts.common_name(), "system:node:n1");
    assert!(facts.names.organizations().eq(["system:nodes"]), "{facts:?}");
    assert!(facts.names.dns_names().eq(["n1.example"]), "{facts:?}");
    assert!(
        facts.names.ip_addresses().eq(["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap())),
        "{facts:?}"
    );
    assert_eq!(facts.validity.not_before(), UnixTime::from_secs(NOT_BEFORE));
    assert_eq!(facts.validity.not_after(), UnixTime::from_secs(NOT_AFTER));
    assert_eq!(facts.fingerprint.0, perennial_pki::sha256(&chain.der()[0]));
    assert!(!facts.provisional);
    assert_eq!(chain.serial(), "AB0C");
    assert!(chain.uris().eq(["spiffe://x"]), "{chain:?}");
    assert!(chain.issuer().contains("CN=the root"), "{}", chain.issuer());
    assert_eq!(chain.public_key_der(), key().public_key_der());
}

#[test]
fn chain_with_key_of_every_algorithm_is_read() {
    let root = Authority::root("root");
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519] {
        let key = KeyPair::generate(algorithm).unwrap();
        assert_eq!(chain(&root.issue(&key, |_| {})).public_key_der(), key.public_key_der());
    }
    let rsa = KeyPair::from_pem(include_str!("data/rsa2048.pkcs1.pem")).unwrap();
    assert_eq!(chain(&root.issue(&rsa, |_| {})).public_key_der(), rsa.public_key_der());
}

#[test]
fn subject_in_teletexstring_or_bmpstring_is_read() {
    for pem in [include_str!("data/teletex.crt.pem"), include_str!("data/bmp.crt.pem")] {
        let facts = chain(pem).certificate().clone();
        assert_eq!((facts.common_name(), facts.names.organizations().collect::<Vec<_>>()), ("knöten", vec!["Bücher"]));
    }
}

#[test]
fn certificate_facts_have_last_common_name_and_all_organizations() {
    let facts = chain(include_str!("data/multi.crt.pem")).certificate().clone();
    assert_eq!(facts.common_name(), "second");
    assert!(facts.names.organizations().eq(["a", "b"]), "{facts:?}");
}

#[test]
fn chain_pem_omits_text_keys_and_carriage_returns() {
    let root = Authority::root("root");
    let leaf = root.issue(&key(), |_| {});
    let messy = format!("subject=x\r\n{}{P256}\n\n# the issuer\n{}end", leaf.replace('\n', "\r\n"), root.pem);
    let read = chain(&messy);
    assert_eq!(read.der().len(), 2);
    assert_eq!(read, chain(&format!("{leaf}{}", root.pem)));
    assert_eq!(read, chain(&read.pem()));
    assert!(!read.pem().contains("PRIVATE") && !read.pem().contains('\r') && !read.pem().contains('#'));
}

#[test]
fn chain_refuses_bad_input_and_names_the_problem() {
    let root = Authority::root("root");
    let leaf = root.issue(&key(), |_| {});
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let refused = |pem: &str| Chain::from_pem(pem.as_bytes()).unwrap_err();

    assert_eq!(refused(""), ChainError::Empty);
    assert_eq!(refused(P256), ChainError::Empty);
    assert_eq!(refused(&leaf.replace("CERTIFICATE", "X509 CRL")), ChainError::Empty);
    assert!(matches!(refused(garbage), ChainError::Certificate { position: 1, .. }));
    assert!(matches!(refused(&leaf[..leaf.len() - 40]), ChainError::Pem(PemError::Unclosed { block: 1, line: 1, .. })));
    assert_eq!(refused(&leaf.repeat(17)), ChainError::TooLong { certificates: 17 });
    assert!(matches!(refused(&"x".repeat(2 << 20)), ChainError::Pem(PemError::TooLarge { .. })));
}

#[test]
fn chain_refuses_bytes_behind_certificate() {
    use base64::Engine;
    let mut der = chain(&Authority::root("root").issue(&key(), |_| {})).der()[0].to_vec();
    der.push(0);
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    let error = Chain::from_pem(pem.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "certificate 1 cannot be read: 1 bytes follow the certificate");
}

#[test]
fn chain_refuses_leaf_that_is_never_valid() {
    let pem = Authority::root("root").issue(&key(), |params| params.not_after = at(NOT_BEFORE - 1));
    assert!(matches!(Chain::from_pem(pem.as_bytes()), Err(ChainError::Validity(_))));
}

#[test]
fn chain_refuses_leaf_with_malformed_extension() {
    let root = Authority::root("root");
    let extension = |oid: &[u64], content: &[u8]| CustomExtension::from_oid_content(oid, content.to_vec());
    let ip_of_five_bytes = [0x30, 7, 0x87, 5, 1, 2, 3, 4, 5];
    for bad in [
        extension(&[2, 5, 29, 17], &ip_of_five_bytes),
        extension(&[2, 5, 29, 17], &[0x30, 0x05]),
        extension(&[2, 5, 29, 19], &[0x04, 0x00]),
    ] {
        let pem = root.issue(&key(), |params| params.custom_extensions = vec![bad]);
        assert!(matches!(Chain::from_pem(pem.as_bytes()), Err(ChainError::Certificate { position: 1, .. })));
    }
}

#[test]
fn chain_accepts_unknown_extension() {
    let unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![0xff]);
    chain(&Authority::root("root").issue(&key(), |params| params.custom_extensions = vec![unknown]));
}

#[test]
fn credential_reads_chain_and_key_in_any_order() {
    let root = Authority::root("root");
    let leaf = root.issue(&key(), |_| {});
    let credential = Credential::new(chain(&format!("{leaf}{}", root.pem)), Arc::new(key())).unwrap();
    let pem = credential.to_pem();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && pem.ends_with("-----END EC PRIVATE KEY-----\n"));

    let key_first = format!("{P256}{leaf}{}", root.pem);
    for bundle in [&*pem, &key_first] {
        let read = Credential::from_pem(bundle.as_bytes()).unwrap();
        assert_eq!(read.chain(), credential.chain());
        assert_eq!(*read.to_pem(), *pem);
    }
    credential.certified_key().keys_match().unwrap();
    assert_eq!(credential.certified_key().cert.len(), 2);
}

#[test]
fn credential_refuses_key_of_other_certificate() {
    let pem = Authority::root("root").issue(&key(), |params| params.serial_number = Some(vec![0x2a].into()));
    let stranger = KeyPair::generate(KeyAlgorithm::default()).unwrap();
    let error = Credential::new(chain(&pem), Arc::new(stranger)).unwrap_err();
    assert_eq!(error, CredentialError::KeyMismatch { serial: "2A".into() });
    assert!(error.to_string().contains("serial 2A"), "{error}");
}

#[test]
fn credential_refuses_chain_or_key_alone() {
    let leaf = Authority::root("root").issue(&key(), |_| {});
    let refused = |pem: &str| Credential::from_pem(pem.as_bytes()).unwrap_err();
    assert_eq!(refused(&leaf), CredentialError::Key(KeyError::NoKey));
    assert_eq!(refused(P256), CredentialError::Chain(ChainError::Empty));
}

#[test]
fn credential_debug_hides_key() {
    let credential = Credential::new(chain(&Authority::root("root").issue(&key(), |_| {})), Arc::new(key())).unwrap();
    let shown = format!("{credential:?}");
    assert!(shown.contains("system:node:n1") && !shown.contains("BEGIN"), "{shown}");
    assert!(shown.len() < 600, "{shown}");
}

#[test]
fn issuer_with_control_characters_is_escaped() {
    let read = chain(&Authority::root("a\u{1b}[2Jb\nc").issue(&key(), |_| {}));
    assert!(!read.issuer().contains(char::is_control), "{:?}", read.issuer());
}

#[test]
fn roots_keep_usable_certificates_among_other_blocks() {
    let [a, b] = ["a", "b"].map(Authority::root);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let roots = Roots::from_pem(format!("# CAs\n{}{garbage}{P256}{}", a.pem, b.pem).as_bytes()).unwrap();
    assert_eq!(roots.store().len(), 2);
    assert_eq!(roots.pem(), format!("{}{}", a.pem, b.pem).replace("\r\n", "\n"));
    assert_eq!(format!("{roots:?}"), "Roots { certificates: 2 }");

    let first = PemError::Unusable {
        block: 1,
        line: 1,
        reason: "it is not valid DER: cut short, damaged, or no certificate at all".into(),
    };
    assert_eq!(Roots::from_pem(garbage.as_bytes()).unwrap_err(), ChainError::NoUsableRoot { certificates: 1, first });
    assert_eq!(Roots::from_pem(b"none").unwrap_err(), ChainError::Empty);
}

#[test]
fn trust_bundle_with_any_damage_is_refused() {
    let [a, b] = ["a", "b"].map(|name| Authority::root(name).pem.replace("\r\n", "\n"));
    let good = Roots::from_trust_bundle(format!("# CAs\n{b}\nbetween\n{a}{b}").as_bytes()).unwrap();
    assert_eq!(good.pem(), format!("{b}{a}"), "in the order of the bundle, each once");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let headers = a.replacen("-----\n", "-----\nName: value\n\n", 1);
    let cut = &a[..a.len() / 2];
    for (bad, why) in [
        (format!("{a}{P256}"), "is a EC PARAMETERS; only CERTIFICATE blocks are allowed"),
        (format!("{a}{garbage}"), "cannot be used: it is not valid DER"),
        (format!("{a}{headers}"), "has headers"),
        (format!("{a}{cut}"), "is cut short"),
        (format!("{}{b}", a.trim_end()), "holds a PEM boundary and something else"),
        (String::new(), "no certificate found"),
        ("none".to_owned(), "no certificate found"),
        (format!("{a}{}", " ".repeat(1 << 20)), "exceed the limit of 1 MiB"),
    ] {
        let error = Roots::from_trust_bundle(bad.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_chain_with_altered_byte_never_panics(position: usize, byte: u8) {
        let mut pem = include_bytes!("data/multi.crt.pem").to_vec();
        let position = position % pem.len();
        pem[position] = byte;
        let _ = Chain::from_pem(&pem);
        let _ = Roots::from_pem(&pem);
        let _ = Roots::from_trust_bundle(&pem);
    }
}
