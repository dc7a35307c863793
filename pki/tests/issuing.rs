//! `Issuer::issue`: subject, alternative names and key come from the request, everything else from the terms.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Template, UnixTime, Validity};
use perennial_pki::{
    Chain, ChainError, Credential, Expected, IssueError, Issuer, KeyAlgorithm, KeyPair, KeyUsage, RequestFacts, Roots,
    Terms, Usage, certificate_request, read_request, self_signed,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The time at which the tests issue certificates: 2027-01-15T08:00:00Z.
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn hour() -> Validity {
    Validity::new(NOW, NOW.after(Duration::from_secs(3600))).unwrap()
}

fn issuer(key: KeyPair) -> Issuer {
    let chain = self_signed("root", &key, &[1], hour()).unwrap();
    Issuer::new(Credential::new(chain, Arc::new(key)).unwrap()).unwrap()
}

fn plain_issuer() -> Issuer {
    issuer(KeyPair::generate(KeyAlgorithm::default()).unwrap())
}

fn request_of(template: &Template, key: &KeyPair) -> RequestFacts {
    read_request(certificate_request(template, key).unwrap().pem.as_bytes()).unwrap()
}

fn terms(serial: &[u8]) -> Terms<'_> {
    Terms {
        serial,
        validity: hour(),
        key_usages: &[KeyUsage::DigitalSignature, KeyUsage::KeyEncipherment],
        extended_key_usages: &[Usage::ClientAuth],
    }
}

fn parse(chain: &Chain) -> X509Certificate<'_> {
    X509Certificate::from_der(chain.der()[0].to_vec().leak()).unwrap().1
}

#[test]
fn issuer_of_every_algorithm_issues_verifiable_certificate() {
    let kinds = [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::Ed25519,
        #[cfg(feature = "aws-lc-rs")]
        KeyAlgorithm::EcdsaP521,
    ];
    let generated = kinds.map(KeyPair::generate);
    let rsa = KeyPair::from_pem(include_str!("data/rsa2048.pkcs1.pem"));
    let key = KeyPair::generate(KeyAlgorithm::default()).unwrap();
    let template = Template::node("n1")
        .with_dns_names(["n1"])
        .with_ip_addresses(["fe80::1".parse().unwrap()])
        .with_uris(["spiffe://n.example/n1"])
        .with_organizational_units(["unit", "a"])
        .with_serial_number("A-17");
    let request = request_of(&template, &key);
    for issuing in generated.into_iter().chain([rsa]) {
        let issuer = issuer(issuing.unwrap());
        let chain = issuer.issue(&request, &terms(&[0x4d, 2])).unwrap();
        let roots = Roots::from_pem(issuer.credential().chain().pem().as_bytes()).unwrap();
        let expected = Expected {
            public_key_der: key.public_key_der(),
            usages: &[Usage::ClientAuth],
            skew: Duration::ZERO,
            roots: Some(&roots),
        };
        expected.check(&chain, NOW).unwrap();
        assert!(template.satisfied_by(chain.certificate()));
        assert_eq!((chain.serial(), chain.issuer()), ("4D02", "CN=root"));
        assert_eq!(chain.certificate().validity, hour());
        assert_eq!(parse(&chain).subject().as_raw(), request.subject_der);
        assert_eq!(parse(&chain).key_usage().unwrap().unwrap().value.flags, 0b101);
    }
}

#[test]
fn issue_without_usages_omits_usage_extensions() {
    let key = KeyPair::generate(KeyAlgorithm::default()).unwrap();
    let terms = Terms { key_usages: &[], extended_key_usages: &[], ..terms(&[1]) };
    let chain = plain_issuer().issue(&request_of(&Template::node("n1"), &key), &terms).unwrap();
    assert!(parse(&chain).key_usage().unwrap().is_none());
    assert!(parse(&chain).extended_key_usage().unwrap().is_none());
}

#[test]
fn alternative_names_are_critical_only_if_subject_is_empty() {
    let (issuer, key) = (plain_issuer(), KeyPair::generate(KeyAlgorithm::default()).unwrap());
    for (common_name, critical) in [("", true), ("x", false)] {
        let template = Template::new(common_name).with_dns_names(["x.example"]);
        let chain = issuer.issue(&request_of(&template, &key), &terms(&[1])).unwrap();
        assert_eq!(parse(&chain).subject_alternative_name().unwrap().unwrap().critical, critical);
    }
}

#[test]
fn serial_with_high_bit_stays_positive() {
    let key = KeyPair::generate(KeyAlgorithm::default()).unwrap();
    let chain = plain_issuer().issue(&request_of(&Template::node("n1"), &key), &terms(&[0xff, 0])).unwrap();
    assert_eq!(parse(&chain).raw_serial(), [0, 0xff, 0]);
    assert_eq!(chain.serial(), "FF00");
}

#[test]
fn issuer_from_leaf_certificate_is_refused() {
    let key = KeyPair::generate(KeyAlgorithm::default()).unwrap();
    let chain = plain_issuer().issue(&request_of(&Template::node("n1"), &key), &terms(&[1])).unwrap();
    let leaf = Credential::new(chain, Arc::new(key)).unwrap();
    assert_eq!(Issuer::new(leaf).map(drop), Err(IssueError::NotAnAuthority));
}

#[test]
fn self_signed_refuses_not_after_in_year_10000() {
    let key = KeyPair::generate(KeyAlgorithm::default()).unwrap();
    let year_10000 = UnixTime::from_secs(253_402_300_800);
    let at = |not_after| self_signed("root", &key, &[1], Validity::new(NOW, not_after).unwrap());
    assert!(at(year_10000.before(Duration::from_secs(1))).is_ok());
    assert!(matches!(at(year_10000), Err(IssueError::Certificate(ChainError::Certificate { position: 1, .. }))));
}

#[test]
fn issuer_debug_hides_key() {
    let issuer = plain_issuer();
    assert!(!format!("{issuer:?}").contains("PRIVATE"));
}
