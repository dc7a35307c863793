//! CSRs (PKCS#10): written and read back, read from openssl, and refused if altered or malformed.

use std::net::IpAddr;

use perennial::Template;
use perennial_pki::{KeyAlgorithm, KeyPair, PemError, RequestError, RequestFacts, certificate_request, read_request};
use proptest::prelude::*;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

const P256: &str = include_str!("data/p256.sec1.pem");

fn key() -> KeyPair {
    KeyPair::from_pem(P256).unwrap()
}

fn round_trip(template: &Template, key: &KeyPair) -> RequestFacts {
    read_request(certificate_request(template, key).unwrap().pem.as_bytes()).unwrap()
}

fn full() -> Template {
    Template::new("system:node:n1")
        .with_organizations(["system:nodes", "b", "a much longer organisation"])
        .with_dns_names(["n1.example", "n1"])
        .with_ip_addresses(["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()])
        .with_uris(["https://n.example/n1"])
        .with_organizational_units(["unit", "a"])
        .with_serial_number("A-17")
}

#[test]
fn request_signed_by_every_key_algorithm_verifies() {
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519] {
        let key = KeyPair::generate(algorithm).unwrap();
        let facts = round_trip(&full(), &key);
        assert_eq!(facts.key_algorithm, algorithm);
        assert_eq!(facts.public_key_der, key.public_key_der());
    }
}

#[test]
fn request_pem_and_der_have_same_content() {
    let request = certificate_request(&full(), &key()).unwrap();
    assert!(request.pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
    assert_eq!(read_request(request.pem.as_bytes()).unwrap().der, request.der);
}

#[test]
fn request_subject_has_organizations_before_common_name() {
    let der = certificate_request(&Template::node("n1"), &key()).unwrap().der;
    let position = |text: &[u8]| der.windows(text.len()).position(|window| window == text).unwrap();
    assert!(position(b"system:nodes") < position(b"system:node:n1"));
}

#[test]
fn request_without_alternative_names_has_no_extension_request() {
    let der = certificate_request(&Template::node("n1"), &key()).unwrap().der;
    assert!(!der.windows(3).any(|window| window == [0x55, 0x1d, 0x11]));
    assert!(der.windows(2).any(|window| window == [0xa0, 0x00]), "but the empty attributes PKCS#10 demands");
}

#[test]
fn request_with_empty_subject_is_read() {
    let facts = round_trip(&Template::default().with_dns_names(["x"]), &key());
    assert_eq!((facts.common_name.as_str(), facts.organizations.len()), ("", 0));
    assert_eq!(facts.names.dns_names, ["x"]);
}

#[test]
fn request_for_invalid_template_is_not_made() {
    for name in ["bücher.example", "", "a b", "a\0b"] {
        let template = Template::new("x").with_dns_names([name]);
        let error = certificate_request(&template, &key()).unwrap_err();
        assert_eq!(error, RequestError::Template(template.check().unwrap_err()));
    }
}

/// As upstream's `stubPKCS10Request`.
#[test]
fn request_for_template_without_names_has_empty_subject_and_no_attributes() {
    let der = certificate_request(&Template::default(), &key()).unwrap().der;
    let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
    let info = &request.certification_request_info;
    assert_eq!((info.subject.as_raw(), info.attributes().len()), (&[0x30, 0][..], 0));
    request.verify_signature().unwrap();
}

#[test]
fn request_made_by_openssl_is_read_in_full() {
    let facts = read_request(include_bytes!("data/p384-sha256.csr.pem")).unwrap();
    assert_eq!(facts.common_name, "second", "the last one, as in Go");
    assert_eq!(facts.organizations, ["b", "a"]);
    assert_eq!(facts.organizational_units, ["unit"]);
    assert_eq!(facts.other_attributes, ["2.5.4.6=XX"]);
    assert_eq!(facts.names.dns_names, ["x.example"]);
    assert_eq!(facts.names.ip_addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(facts.names.emails, ["a@x.example"]);
    assert_eq!(facts.names.uris, ["spiffe://x/y"]);
    assert_eq!(facts.key_algorithm, KeyAlgorithm::EcdsaP384, "though signed with SHA-256");
}

#[test]
fn request_with_weak_rsa_or_unsupported_p521_key_is_refused() {
    assert!(read_request(include_bytes!("data/rsa2048.csr.pem")).is_ok());
    assert_eq!(read_request(include_bytes!("data/rsa1024.csr.pem")), Err(RequestError::PublicKey));
    let read = read_request(include_bytes!("data/p521.csr.pem")).map(|facts| facts.key_algorithm);
    let supported = cfg!(feature = "aws-lc-rs").then_some(KeyAlgorithm::EcdsaP521);
    assert_eq!(read, supported.ok_or(RequestError::PublicKey), "signed with SHA-256, as openssl does");
}

#[test]
fn request_altered_after_signing_is_refused() {
    let request = certificate_request(&Template::new("honest"), &key()).unwrap();
    let mut forged = request.der;
    let at = forged.windows(6).position(|window| window == b"honest").unwrap();
    forged[at..at + 6].copy_from_slice(b"forged");
    assert_eq!(read_request(pem(&forged).as_bytes()), Err(RequestError::Signature));
}

#[test]
fn read_request_refuses_missing_repeated_or_malformed_request() {
    let request = certificate_request(&full(), &key()).unwrap();
    let labels =
        |labels: &[&str]| Err(RequestError::NotOneRequest { found: labels.iter().map(ToString::to_string).collect() });
    assert_eq!(read_request(b""), labels(&[]));
    assert_eq!(read_request(include_bytes!("data/multi.crt.pem")), labels(&["CERTIFICATE"]));
    assert_eq!(read_request(request.pem.repeat(2).as_bytes()), labels(&["CERTIFICATE REQUEST", "CERTIFICATE REQUEST"]));
    assert!(matches!(read_request(&[b' '; 2 << 20]), Err(RequestError::Pem(PemError::TooLarge { .. }))));

    let mut trailing = request.der.clone();
    trailing.push(0);
    for der in [&trailing, &request.der[..40], &[]] {
        assert!(matches!(read_request(pem(der).as_bytes()), Err(RequestError::Malformed { .. })));
    }
}

#[test]
fn read_request_skips_text_around_the_block() {
    let request = certificate_request(&full(), &key()).unwrap();
    assert!(read_request(format!("before\n{}after\n", request.pem).as_bytes()).is_ok());
}

#[test]
fn same_identity_ignores_name_order_case_and_signature() {
    let (key, other) = (key(), KeyPair::generate(KeyAlgorithm::default()).unwrap());
    let facts = round_trip(&full(), &key);
    let again = round_trip(&full(), &key);
    assert_ne!(facts.der, again.der, "signatures are random");
    assert!(facts.same_identity(&again));

    let mut shuffled = again;
    shuffled.organizations.reverse();
    shuffled.organizational_units.reverse();
    shuffled.names.dns_names.reverse();
    shuffled.names.ip_addresses.reverse();
    shuffled.names.dns_names.iter_mut().for_each(|name| *name = name.to_ascii_uppercase() + ".");
    assert!(facts.same_identity(&shuffled), "as an older version, or another client, wrote them");

    for different in [
        round_trip(&full(), &other),
        round_trip(&full().with_dns_names(["more"]), &key),
        round_trip(&full().with_organizations(["more"]), &key),
        round_trip(&full().with_ip_addresses(["::1".parse().unwrap()]), &key),
        round_trip(&full().with_uris(["a:b"]), &key),
        round_trip(&full().with_organizational_units(["more"]), &key),
        round_trip(&full().with_serial_number("A-18"), &key),
        round_trip(&Template::new("system:node:n1"), &key),
    ] {
        assert!(!facts.same_identity(&different));
        assert!(!different.same_identity(&facts));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn request_carries_all_names_of_any_template(
        common_name in r"\PC{1,64}",
        organizations in prop::collection::vec(r"\PC{1,64}", 0..4),
        dns_names in prop::collection::vec("[a-z0-9_]{1,60}([.][a-z0-9]{1,60}){0,2}", 0..4),
        ip_addresses in prop::collection::vec(any::<IpAddr>(), 0..4),
        uris in prop::collection::vec("[a-r][a-z+.-]{0,9}:[!$&-.0-;=?-Z_a-z~]{1,80}", 0..3),
        organizational_units in prop::collection::vec(r"\PC{1,64}", 0..3),
        serial_number in "[A-Z0-9-]{0,64}",
    ) {
        let template = Template::new(common_name)
            .with_organizations(organizations)
            .with_dns_names(dns_names)
            .with_ip_addresses(ip_addresses)
            .with_uris(uris)
            .with_organizational_units(organizational_units)
            .with_serial_number(serial_number);
        let facts = round_trip(&template, &key());
        let read = Template::new(facts.common_name)
            .with_organizations(facts.organizations)
            .with_dns_names(facts.names.dns_names)
            .with_ip_addresses(facts.names.ip_addresses)
            .with_uris(facts.names.uris)
            .with_organizational_units(facts.organizational_units)
            .with_serial_number(facts.serial_number);
        prop_assert_eq!(read, template);
    }

    #[test]
    fn reading_request_with_altered_byte_never_panics(position in 0..300_usize, byte: u8) {
        let mut der = certificate_request(&full(), &key()).unwrap().der;
        let position = position % der.len();
        der[position] = byte;
        let _ = read_request(pem(&der).as_bytes());
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}
