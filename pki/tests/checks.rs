//! `Expected::check` refuses exactly the issued chains that are unusable in TLS.

mod authority;

use std::time::Duration;

use authority::{Authority, NOT_AFTER, NOT_BEFORE};
use perennial::UnixTime;
use perennial_pki::{BadCertificate, Chain, Expected, KeyAlgorithm, KeyPair, Roots, Usage};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

const SKEW: Duration = Duration::from_secs(60);

fn key() -> KeyPair {
    KeyPair::from_pem(include_str!("data/p256.sec1.pem")).unwrap()
}

fn noon() -> UnixTime {
    UnixTime::from_secs(NOT_BEFORE + 1800)
}

fn check(pem: &str, usage: Usage, roots: Option<&Roots>, now: UnixTime) -> Result<(), BadCertificate> {
    let key = key();
    let expected = Expected { public_key_der: key.public_key_der(), usages: &[usage], skew: SKEW, roots };
    expected.check(&Chain::from_pem(pem.as_bytes()).unwrap(), now)
}

fn check_client(pem: &str) -> Result<(), BadCertificate> {
    check(pem, Usage::ClientAuth, None, noon())
}

fn adjusted(adjust: impl FnOnce(&mut CertificateParams)) -> String {
    Authority::root("root").issue(&key(), adjust)
}

#[test]
fn check_accepts_valid_client_certificate_for_requested_key() {
    assert_eq!(check_client(&adjusted(|_| {})), Ok(()));
}

#[test]
fn check_accepts_chain_with_any_names() {
    assert_eq!(check_client(&adjusted(|params| params.distinguished_name = rcgen::DistinguishedName::new())), Ok(()));
}

#[test]
fn check_refuses_certificate_for_another_key() {
    let other = KeyPair::generate(KeyAlgorithm::default()).unwrap();
    let pem = Authority::root("root").issue(&other, |_| {});
    assert_eq!(check_client(&pem), Err(BadCertificate::NotOurKey));
}

#[test]
fn check_requires_usage_if_extended_key_usage_present() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    let check = |purposes: &[ExtendedKeyUsagePurpose], usage| {
        check(&adjusted(|params| params.extended_key_usages = purposes.to_vec()), usage, None, noon())
    };
    let refused = |wanted| Err(BadCertificate::WrongUsage { wanted });
    for usage in [Usage::ClientAuth, Usage::ServerAuth] {
        assert_eq!(check(&[], usage), Ok(()));
        assert_eq!(check(&[Any], usage), Ok(()));
        assert_eq!(check(&[ClientAuth, ServerAuth], usage), Ok(()));
        assert_eq!(check(&[CodeSigning], usage), refused(usage));
    }
    assert_eq!(check(&[ServerAuth], Usage::ClientAuth), refused(Usage::ClientAuth));
    assert_eq!(check(&[ClientAuth], Usage::ServerAuth), refused(Usage::ServerAuth));
}

#[test]
fn check_requires_digital_signature_if_key_usage_present() {
    assert_eq!(check_client(&adjusted(|params| params.key_usages.clear())), Ok(()));
    let pem = adjusted(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    assert_eq!(check_client(&pem), Err(BadCertificate::NoDigitalSignature));
}

#[test]
fn check_refuses_ca_certificate() {
    let pem = adjusted(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(check_client(&pem), Err(BadCertificate::CertificateAuthority));
}

#[test]
fn check_accepts_chain_before_validity_but_not_after() {
    let root = Authority::root("root");
    let roots = Roots::from_pem(root.pem.as_bytes()).unwrap();
    let pem = root.issue(&key(), |_| {});
    let (not_before, not_after) = (UnixTime::from_secs(NOT_BEFORE), UnixTime::from_secs(NOT_AFTER));
    let tick = Duration::from_millis(1);
    for roots in [None, Some(&roots)] {
        for usage in [Usage::ClientAuth, Usage::ServerAuth] {
            let pem =
                if usage == Usage::ClientAuth { &pem } else { &root.issue(&key(), |p| p.extended_key_usages.clear()) };
            let at = |now| check(pem, usage, roots, now);
            assert_eq!(at(not_before.before(SKEW).before(tick)), Ok(()), "what is not valid yet will be");
            assert_eq!(at(not_after.after(SKEW)), Ok(()));
            assert_eq!(at(not_after.after(SKEW).after(tick)), Err(BadCertificate::Expired { not_after }));
        }
    }
    assert_eq!(check(&pem, Usage::ClientAuth, None, UnixTime::from_secs(i64::MIN)), Ok(()));
    assert!(matches!(
        check(&pem, Usage::ClientAuth, None, UnixTime::from_secs(i64::MAX)),
        Err(BadCertificate::Expired { .. })
    ));
}

#[test]
fn check_refuses_issuers_out_of_order() {
    let root = Authority::root("root");
    let (a, b) = (root.intermediate("a"), root.intermediate("b"));
    let leaf = a.issue(&key(), |_| {});
    assert_eq!(check_client(&format!("{leaf}{}", a.pem)), Ok(()));
    assert_eq!(check_client(&format!("{leaf}{}{}", a.pem, root.pem)), Ok(()));
    assert_eq!(
        check_client(&format!("{leaf}{}{}", root.pem, a.pem)),
        Err(BadCertificate::ForeignIssuer { position: 2 })
    );
    assert_eq!(check_client(&format!("{leaf}{}{}", a.pem, b.pem)), Err(BadCertificate::ForeignIssuer { position: 3 }));

    let impostor = root.intermediate("a");
    assert_eq!(
        check_client(&format!("{leaf}{}", impostor.pem)),
        Err(BadCertificate::ForeignIssuer { position: 2 }),
        "same name, other key"
    );
}

#[test]
fn check_with_roots_requires_trusted_issuer() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let middle = root.intermediate("middle");
    let roots = Roots::from_pem(format!("{}{}", other.pem, root.pem).as_bytes()).unwrap();
    let stranger = Roots::from_pem(other.pem.as_bytes()).unwrap();
    for (usage, purpose) in [
        (Usage::ClientAuth, ExtendedKeyUsagePurpose::ClientAuth),
        (Usage::ServerAuth, ExtendedKeyUsagePurpose::ServerAuth),
    ] {
        let leaf = middle.issue(&key(), |params| params.extended_key_usages = vec![purpose]);
        let whole = format!("{leaf}{}", middle.pem);
        assert_eq!(check(&whole, usage, Some(&roots), noon()), Ok(()));
        for (pem, roots) in [(&leaf, &roots), (&whole, &stranger)] {
            let error = check(pem, usage, Some(roots), noon()).unwrap_err();
            assert!(
                matches!(&error, BadCertificate::UntrustedIssuer { issuer, .. } if issuer.contains("CN=middle")),
                "{error:?}"
            );
        }
    }
}

#[test]
fn check_refuses_issuer_that_shares_only_the_name_of_root() {
    let (root, impostor) = (Authority::root("root"), Authority::root("root"));
    let roots = Roots::from_pem(root.pem.as_bytes()).unwrap();
    let pem = impostor.issue(&key(), |_| {});
    let result = check(&pem, Usage::ClientAuth, Some(&roots), noon());
    assert!(matches!(result, Err(BadCertificate::UntrustedIssuer { .. })));
}

#[test]
fn check_errors_name_the_requirement_that_failed() {
    let hour = UnixTime::from_secs(NOT_AFTER);
    for (refusal, message) in [
        (BadCertificate::NotOurKey, "the certificate was issued for another key than the request's"),
        (
            BadCertificate::CertificateAuthority,
            "the certificate is a CA certificate (basicConstraints CA:TRUE); no peer accepts it in TLS",
        ),
        (
            BadCertificate::NoDigitalSignature,
            "the certificate's key usage lacks digitalSignature, which TLS needs; check which key usages the signer grants",
        ),
        (
            BadCertificate::WrongUsage { wanted: Usage::ClientAuth },
            "the certificate's extended key usage lacks `client auth`, which was requested; check which usages the signer \
             grants",
        ),
        (
            BadCertificate::WrongUsage { wanted: Usage::ServerAuth },
            "the certificate's extended key usage lacks `server auth`, which was requested; check which usages the signer \
             grants",
        ),
        (
            BadCertificate::Expired { not_after: hour },
            "the certificate expired at 2026-01-01T01:00:00Z; if it is new, check the clocks",
        ),
        (
            BadCertificate::ForeignIssuer { position: 2 },
            "certificate 2 of the chain issued no certificate before it; the signer's chain is out of order",
        ),
        (
            BadCertificate::UntrustedIssuer { issuer: "CN=a".into(), reason: "UnknownIssuer".into() },
            "the certificate, issued by `CN=a`, does not lead to a trusted CA: UnknownIssuer",
        ),
    ] {
        assert_eq!(refusal.to_string(), message);
    }
}

#[test]
fn check_without_usages_accepts_every_extended_key_usage() {
    let (root, key) = (Authority::root("root"), key());
    let roots = Roots::from_pem(root.pem.as_bytes()).unwrap();
    let check = |purposes: &[ExtendedKeyUsagePurpose], roots: Option<&Roots>| {
        let pem = root.issue(&key, |params| params.extended_key_usages = purposes.to_vec());
        let expected = Expected { public_key_der: key.public_key_der(), usages: &[], skew: SKEW, roots };
        expected.check(&Chain::from_pem(pem.as_bytes()).unwrap(), noon())
    };
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    for purposes in [&[][..], &[ClientAuth], &[ServerAuth], &[CodeSigning]] {
        assert_eq!(check(purposes, None), Ok(()), "{purposes:?}");
        let verified = check(purposes, Some(&roots));
        // rustls verifies the chains of TLS peers only.
        assert_eq!(verified.is_ok(), purposes != [CodeSigning], "{purposes:?}: {verified:?}");
    }
    let other = Roots::from_pem(Authority::root("other").pem.as_bytes()).unwrap();
    assert!(matches!(check(&[ServerAuth], Some(&other)), Err(BadCertificate::UntrustedIssuer { .. })));
}
