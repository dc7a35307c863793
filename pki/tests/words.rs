//! `describe` turns errors of rustls and webpki into text for operators.

mod authority;

use std::sync::Arc;
use std::time::Duration;

use authority::{Authority, NOT_AFTER, NOT_BEFORE};
use perennial_pki::{Chain, KeyPair, describe, provider};
#[cfg(not(feature = "aws-lc-rs"))]
use perennial_tests::openssl::{openssl, self_signed};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerMisbehaved, RootCertStore};

/// The text of `describe` for the error of a client that trusts only `root`: a server presents `chain` for the name
/// `n1.example` at `now`.
fn description(chain: &[CertificateDer<'static>], root: &CertificateDer<'static>, now: i64) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap()));
    let name = ServerName::try_from("n1.example").unwrap();
    let error = verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).unwrap_err();
    describe(&error, chain)
}

fn der(pem: &str) -> Vec<CertificateDer<'static>> {
    Chain::from_pem(pem.as_bytes()).unwrap().der().into_iter().map(CertificateDer::into_owned).collect()
}

fn key() -> KeyPair {
    KeyPair::from_pem(include_str!("data/p256.sec1.pem")).unwrap()
}

#[test]
fn describe_explains_why_server_certificate_is_refused() {
    let noon = NOT_BEFORE + 1800;
    let root = Authority::root("root");
    let trusted = der(&root.pem).remove(0);
    let server = |adjust: fn(&mut rcgen::CertificateParams)| {
        der(&root.issue(&key(), |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names = vec![rcgen::SanType::DnsName("n1.example".try_into().unwrap())];
            adjust(params);
        }))
    };
    let who = "certificate `O=system:nodes, CN=system:node:n1`";
    for (chain, trusted, now, expected) in [
        (
            server(|_| {}),
            &trusted,
            NOT_AFTER + 1,
            format!(
                "{who} expired at 2026-01-01T01:00:00Z, and the time here is 2026-01-01T01:00:01Z; \
                 replace the certificate, or check the clocks"
            ),
        ),
        (
            server(|_| {}),
            &trusted,
            NOT_BEFORE - 1,
            format!(
                "{who} is not valid before 2026-01-01T00:00:00Z, and the time here is 2025-12-31T23:59:59Z; check the \
                 clocks"
            ),
        ),
        (
            server(|_| {}),
            &der(&Authority::root("other").pem)[0],
            noon,
            "it is signed by a CA that is not among the configured ones".into(),
        ),
        (
            server(|_| {}),
            &der(&Authority::root("root").pem)[0],
            noon,
            "the signature does not verify with the key of the issuer: another CA of the same name signed it, or the \
             certificate was altered"
                .into(),
        ),
        (
            server(|params| params.subject_alt_names.clear()),
            &trusted,
            noon,
            format!("{who} is not valid for n1.example: it names no DNS name or IP address (subjectAltName)"),
        ),
        (
            server(|params| {
                params.subject_alt_names = vec![
                    rcgen::SanType::DnsName("n2.example".try_into().unwrap()),
                    rcgen::SanType::IpAddress("10.0.0.1".parse().unwrap()),
                ];
            }),
            &trusted,
            noon,
            format!("{who} is not valid for n1.example, only for n2.example, 10.0.0.1"),
        ),
        (
            server(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            &trusted,
            noon,
            format!("the extended key usage of {who} lacks server auth; it allows client auth"),
        ),
        (
            server(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            &trusted,
            noon,
            format!(
                "{who} is a CA certificate (CA:TRUE), which TLS does not allow here; have the CA issue a server or \
                 client certificate, or trust this very certificate by naming it in the CA bundle"
            ),
        ),
    ] {
        assert_eq!(description(&chain, trusted, now), expected);
    }
}

/// From the field, an issuer with a P-521 key, and an error that is hard to understand:
/// <https://github.com/rustls/rustls/issues/2536>, <https://github.com/rustls/rustls/issues/1335>
#[cfg(not(feature = "aws-lc-rs"))]
#[test]
fn p521_issuer_error_names_supported_algorithms() {
    let ca =
        self_signed("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "-sha512", "-addext basicConstraints=CA:TRUE");
    let now =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, &ca).unwrap();
    let request = openssl(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj /CN=api \
         -addext subjectAltName=DNS:n1.example",
        "",
    );
    for (digest, how) in [
        ("-sha512", "ECDSA with SHA-512 (as P-521 keys do)"),
        ("-sha256", "ECDSA with SHA-256 by a key of kind ECDSA P-521"),
    ] {
        let line = format!("x509 -req -CA {0} -CAkey {0} -copy_extensions copy -days 1 {digest}", ca_file.display());
        let leaf = openssl(&line, request.as_bytes());
        let expected = format!(
            "certificate `CN=api` is signed with {how}, which perennial's crypto library (ring) does not support; \
             use a CA whose key is ECDSA P-256 or P-384, RSA of 2048 bits or more with SHA-256, or Ed25519"
        );
        assert_eq!(description(&der(&leaf), &der(&ca)[0], now + 60), expected, "{digest}");
    }
}

/// Covers every error of rustls and webpki that a test can construct.
#[test]
#[allow(deprecated, reason = "rustls may still return what it deprecates")]
fn describe_shows_no_rust_identifier() {
    let other = |error: webpki::Error| CertificateError::Other(OtherError(Arc::new(error)));
    let time = UnixTime::since_unix_epoch(Duration::from_secs(1_767_225_600));
    let certificate = [
        CertificateError::BadEncoding,
        CertificateError::Expired,
        CertificateError::ExpiredContext { time, not_after: time },
        CertificateError::NotValidYet,
        CertificateError::NotValidYetContext { time, not_before: time },
        CertificateError::Revoked,
        CertificateError::UnhandledCriticalExtension,
        CertificateError::UnknownIssuer,
        CertificateError::UnknownRevocationStatus,
        CertificateError::ExpiredRevocationList,
        CertificateError::ExpiredRevocationListContext { time, next_update: time },
        CertificateError::BadSignature,
        CertificateError::UnsupportedSignatureAlgorithm,
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![6, 2, 0x2a, 3],
            supported_algorithms: vec![],
        },
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![],
            public_key_algorithm_id: vec![6, 3, 0x2b, 0x65, 0x71],
        },
        CertificateError::NotValidForName,
        CertificateError::InvalidPurpose,
        CertificateError::InvalidOcspResponse,
        CertificateError::ApplicationVerificationFailure,
        CertificateError::Other(OtherError(Arc::new(std::fmt::Error))),
        other(webpki::Error::BadDer),
        other(webpki::Error::BadDerTime),
        other(webpki::Error::CaUsedAsEndEntity),
        other(webpki::Error::CertDistrusted),
        other(webpki::Error::EmptyEkuExtension),
        other(webpki::Error::EndEntityUsedAsCa),
        other(webpki::Error::ExtensionValueInvalid),
        other(webpki::Error::InvalidCertValidity),
        other(webpki::Error::InvalidNetworkMaskConstraint),
        other(webpki::Error::InvalidSerialNumber),
        other(webpki::Error::InvalidSignatureForPublicKey),
        other(webpki::Error::MalformedDnsIdentifier),
        other(webpki::Error::MalformedExtensions),
        other(webpki::Error::MalformedNameConstraint),
        other(webpki::Error::MaximumNameConstraintComparisonsExceeded),
        other(webpki::Error::MaximumPathBuildCallsExceeded),
        other(webpki::Error::MaximumPathDepthExceeded),
        other(webpki::Error::MaximumSignatureChecksExceeded),
        other(webpki::Error::NameConstraintViolation),
        other(webpki::Error::PathLenConstraintViolated),
        other(webpki::Error::SignatureAlgorithmMismatch),
        other(webpki::Error::UnsupportedCertVersion),
        other(webpki::Error::UnsupportedCriticalExtension),
        other(webpki::Error::UnsupportedNameType),
    ];
    let others = [
        Error::NoCertificatesPresented,
        Error::UnsupportedNameType,
        Error::DecryptError,
        Error::EncryptError,
        Error::AlertReceived(AlertDescription::HandshakeFailure),
        Error::InvalidMessage(InvalidMessage::MessageTooLarge),
        Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedCipherSuite),
        Error::General("the key\u{1b}[1m is gone".into()),
        Error::FailedToGetCurrentTime,
        Error::FailedToGetRandomBytes,
        Error::PeerSentOversizedRecord,
        Error::Other(OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity))),
        Error::Other(OtherError(Arc::new(std::fmt::Error))),
    ];
    for error in certificate.map(Error::InvalidCertificate).into_iter().chain(others) {
        let sentence = describe(&error, &[]);
        let is_rust = |word: &str| {
            let inner = word.trim_matches(|c: char| !c.is_alphanumeric());
            let known = ["subjectAltName"].contains(&inner);
            !known
                && (word.contains("::")
                    || inner
                        .as_bytes()
                        .windows(2)
                        .any(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase()))
        };
        assert!(sentence.len() > 20 && !sentence.contains(char::is_control), "{error:?}: {sentence}");
        assert!(!sentence.split_whitespace().any(is_rust), "{error:?}: {sentence}");
    }
}
