//! Describes errors of rustls and webpki for people, since these libraries describe their errors by the names of Rust
//! enums.

use perennial::{Escaped, UnixTime};
use rustls::pki_types::{self, CertificateDer};
use rustls::{CertificateError, Error, ExtendedKeyPurpose, OtherError};
use x509_parser::asn1_rs::{FromDer, Oid};

use crate::{names, x509};

/// The name of the crypto library in messages.
const LIBRARY: &str = "perennial's crypto library (ring)";

/// Describes an error of rustls as a clause, for use in a message such as "the server's certificate is not trusted: …".
/// The clause never contains a Rust identifier, `Debug` output or a control character.
///
/// `presented` is the chain that was verified, the leaf first. From this chain, the clause names the certificate at
/// fault. A caller that does not have the chain passes an empty slice.
pub fn describe(error: &Error, presented: &[CertificateDer<'_>]) -> String {
    let fixed = match error {
        Error::InvalidCertificate(error) => return certificate(error, presented),
        Error::General(why) => return Escaped(why).to_string(),
        Error::Other(OtherError(error)) => match error.downcast_ref() {
            Some(error) => return webpki(error, presented),
            None => "the TLS library failed with an internal error",
        },
        Error::NoCertificatesPresented => "the other side presented no certificate",
        Error::UnsupportedNameType => "the name of the server is neither a DNS name nor an IP address",
        Error::FailedToGetCurrentTime => "the clock shows a time before 1970; set it",
        Error::FailedToGetRandomBytes => "the operating system returned no random bytes",
        Error::InconsistentKeys(_) => "certificate and private key do not belong together",
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } | Error::PeerMisbehaved(_) => {
            "the other side broke the rules of TLS"
        }
        Error::InvalidMessage(_) | Error::PeerSentOversizedRecord | Error::DecryptError => {
            "the other side sent something that is not valid TLS"
        }
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
            "the two sides have no version, cipher suite or signature algorithm of TLS in common"
        }
        Error::AlertReceived(_) => "the other side ended the TLS connection with an alert",
        _ => "TLS failed on the local side",
    };
    fixed.to_owned()
}

fn certificate(error: &CertificateError, presented: &[CertificateDer<'_>]) -> String {
    let leaf = Named(presented.first());
    match error {
        CertificateError::BadEncoding => format!("{leaf} is not correctly encoded; have a new certificate issued"),
        CertificateError::Expired => {
            format!("{leaf} or its issuer has expired; replace the certificate, or check the clocks")
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "{} expired at {}, and the time here is {}; replace the certificate, or check the clocks",
            Named(bounded_by(presented, *not_after, false)),
            moment(*not_after),
            moment(*time)
        ),
        CertificateError::NotValidYet => format!("{leaf} or its issuer is not valid yet; check the clocks"),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "{} is not valid before {}, and the time here is {}; check the clocks",
            Named(bounded_by(presented, *not_before, true)),
            moment(*not_before),
            moment(*time)
        ),
        CertificateError::UnknownIssuer => "it is signed by a CA that is not among the configured ones".to_owned(),
        CertificateError::BadSignature => {
            "the signature does not verify with the key of the issuer: another CA of the \
                                           same name signed it, or the certificate was altered"
                .to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            unsupported(signature_algorithm_id, None, presented)
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id,
            public_key_algorithm_id,
        } => unsupported(signature_algorithm_id, Some(public_key_algorithm_id), presented),
        CertificateError::NotValidForNameContext { expected, presented: named } => {
            not_for_name(&leaf, &expected.to_str(), named)
        }
        CertificateError::InvalidPurpose => format!("the extended key usage of {leaf} excludes this purpose"),
        CertificateError::InvalidPurposeContext { required, presented: allowed } => {
            let allowed: Vec<_> = allowed.iter().map(purpose).collect();
            let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
            format!("the extended key usage of {leaf} lacks {}; it allows {allowed}", purpose(required))
        }
        CertificateError::Other(OtherError(error)) if let Some(error) = error.downcast_ref() => {
            webpki(error, presented)
        }
        // For example revocation, which cannot occur: the verifiers are given no revocation lists.
        _ => format!("{leaf} was refused for a reason the TLS library does not name"),
    }
}

/// Describes an error of webpki as a clause. rustls passes such errors on in [`CertificateError::Other`] or
/// [`Error::Other`].
#[allow(clippy::wildcard_enum_match_arm, reason = "a foreign, growing list; rustls has words of its own for the rest")]
pub(crate) fn webpki(error: &webpki::Error, presented: &[CertificateDer<'_>]) -> String {
    let leaf = Named(presented.first());
    // webpki does not report which certificate of a chain is at fault.
    let one = if presented.len() > 1 { "a certificate of the chain".to_owned() } else { leaf.to_string() };
    match error {
        webpki::Error::CaUsedAsEndEntity => format!(
            "{leaf} is a CA certificate (CA:TRUE), which TLS does not allow here; have the CA issue a server or client \
             certificate, or trust this very certificate by naming it in the CA bundle"
        ),
        webpki::Error::EndEntityUsedAsCa => {
            "an issuer in the chain, or in the CA bundle, is not a CA certificate (CA:TRUE is missing); give the \
             certificate of the CA"
                .to_owned()
        }
        webpki::Error::BadDer | webpki::Error::TrailingData(_) => format!("{one} is not correctly encoded DER"),
        webpki::Error::BadDerTime => format!("a date in {one} is not correctly encoded"),
        webpki::Error::EmptyEkuExtension => format!("the extended key usage of {one} is empty"),
        webpki::Error::ExtensionValueInvalid | webpki::Error::MalformedExtensions => {
            format!("an extension of {one} is malformed")
        }
        webpki::Error::InvalidSerialNumber => format!("the serial number of {one} is malformed"),
        webpki::Error::MalformedDnsIdentifier => format!("a DNS name in {one} is malformed"),
        webpki::Error::MalformedNameConstraint | webpki::Error::InvalidNetworkMaskConstraint => {
            "a name constraint of an issuer is malformed".to_owned()
        }
        webpki::Error::NameConstraintViolation => {
            format!("the name constraints of an issuer exclude a name in {leaf}")
        }
        webpki::Error::PathLenConstraintViolated => {
            "the chain has more intermediates than an issuer allows (pathlen)".to_owned()
        }
        webpki::Error::MaximumNameConstraintComparisonsExceeded
        | webpki::Error::MaximumPathBuildCallsExceeded
        | webpki::Error::MaximumPathDepthExceeded
        | webpki::Error::MaximumSignatureChecksExceeded => {
            "the chain is too long or too complex to verify; configure the peer to send the certificate and its \
             intermediates only"
                .to_owned()
        }
        webpki::Error::SignatureAlgorithmMismatch => {
            format!("{one} names two different signature algorithms, inside and outside of what is signed")
        }
        webpki::Error::UnsupportedCertVersion => format!("{one} is not an X.509 certificate of version 3"),
        webpki::Error::UnsupportedCriticalExtension => {
            format!("{one} has a critical extension that TLS peers do not know")
        }
        _ => format!("{one} is refused by the library that verifies certificates"),
    }
}

/// Describes an unsupported signature algorithm: names the certificate, the algorithm, and the supported algorithms.
/// `key` is the algorithm of the issuer's key. It is given if the signature algorithm is supported, but not with such a
/// key.
fn unsupported(signature: &[u8], key: Option<&[u8]>, presented: &[CertificateDer<'_>]) -> String {
    let signed_with = |der: &&CertificateDer<'_>| {
        x509::parse(der).is_ok_and(|it| oid(signature) == Some(it.signature_algorithm.algorithm))
    };
    let (which, how) = (Named(presented.iter().find(signed_with)), algorithm(signature));
    let by = key.map_or_else(String::new, |key| format!(" by a key of kind {}", algorithm(key)));
    format!(
        "{which} is signed with {how}{by}, which {LIBRARY} does not support; use a CA whose key is ECDSA P-256 or \
         P-384, RSA of 2048 bits or more with SHA-256, or Ed25519"
    )
}

fn oid(identifier: &[u8]) -> Option<Oid<'_>> {
    Oid::from_der(identifier).ok().map(|(_, oid)| oid)
}

/// The name of an algorithm, from the content of its `AlgorithmIdentifier`. The name for an ECDSA key includes the
/// curve.
fn algorithm(identifier: &[u8]) -> String {
    let Ok((parameters, kind)) = Oid::from_der(identifier) else { return "an unreadable algorithm".to_owned() };
    let kind = kind.to_id_string();
    let named = match kind.as_str() {
        "1.2.840.10045.4.1" => "ECDSA with SHA-1",
        "1.2.840.10045.4.3.1" => "ECDSA with SHA-224",
        "1.2.840.10045.4.3.2" => "ECDSA with SHA-256",
        "1.2.840.10045.4.3.3" => "ECDSA with SHA-384",
        "1.2.840.10045.4.3.4" => "ECDSA with SHA-512 (as P-521 keys do)",
        "1.2.840.113549.1.1.1" => "RSA",
        "1.2.840.113549.1.1.4" => "RSA with MD5",
        "1.2.840.113549.1.1.5" => "RSA with SHA-1",
        "1.2.840.113549.1.1.10" => "RSA-PSS with these parameters",
        "1.2.840.113549.1.1.11" => "RSA with SHA-256",
        "1.2.840.113549.1.1.12" => "RSA with SHA-384",
        "1.2.840.113549.1.1.13" => "RSA with SHA-512",
        "1.2.840.113549.1.1.14" => "RSA with SHA-224",
        "1.2.840.10040.4.1" => "DSA",
        "1.2.840.10040.4.3" => "DSA with SHA-1",
        "2.16.840.1.101.3.4.3.2" => "DSA with SHA-256",
        "1.3.101.112" => "Ed25519",
        "1.3.101.113" => "Ed448",
        "1.2.840.10045.2.1" => {
            return oid(parameters).map_or_else(|| "ECDSA".to_owned(), |it| format!("ECDSA {}", curve(&it)));
        }
        _ => return format!("the algorithm {kind}"),
    };
    named.to_owned()
}

/// The usual name of an elliptic curve, such as `P-521`; for a rare curve, its object identifier.
pub(crate) fn curve(identifier: &Oid<'_>) -> String {
    let identifier = identifier.to_id_string();
    let name = match identifier.as_str() {
        "1.2.840.10045.3.1.7" => "P-256",
        "1.3.132.0.34" => "P-384",
        "1.3.132.0.35" => "P-521",
        "1.3.132.0.33" => "P-224",
        "1.3.132.0.10" => "secp256k1",
        other => other,
    };
    name.to_owned()
}

fn not_for_name(leaf: &Named<'_>, expected: &str, named: &[String]) -> String {
    const SHOWN: usize = 8;
    if named.is_empty() {
        return format!("{leaf} is not valid for {expected}: it names no DNS name or IP address (subjectAltName)");
    }
    // webpki's own form of a name is `DnsName("a")` or `IpAddress(10.0.0.1)`.
    let bare = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')'));
        Escaped(inner.trim_matches('"')).to_string()
    };
    let shown: Vec<String> = named.iter().take(SHOWN).map(bare).collect();
    let more = if named.len() > SHOWN { format!(" and {} more", named.len() - SHOWN) } else { String::new() };
    format!("{leaf} is not valid for {expected}, only for {}{more}", shown.join(", "))
}

fn purpose(purpose: &ExtendedKeyPurpose) -> String {
    match purpose {
        ExtendedKeyPurpose::ClientAuth => "client auth".to_owned(),
        ExtendedKeyPurpose::ServerAuth => "server auth".to_owned(),
        ExtendedKeyPurpose::Other(numbers) => numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join("."),
    }
}

/// Finds the certificate that caused an error about a validity: the first in `presented` whose notBefore (if `start`)
/// or notAfter (otherwise) is the time `bound`.
fn bounded_by<'a, 'b>(
    presented: &'a [CertificateDer<'b>],
    bound: pki_types::UnixTime,
    start: bool,
) -> Option<&'a CertificateDer<'b>> {
    let matches = |der: &&CertificateDer<'_>| {
        x509::parse(der).is_ok_and(|it| {
            let validity = it.validity();
            let time = if start { validity.not_before } else { validity.not_after };
            u64::try_from(time.timestamp()).is_ok_and(|seconds| seconds == bound.as_secs())
        })
    };
    presented.iter().find(matches)
}

fn moment(time: pki_types::UnixTime) -> UnixTime {
    UnixTime::from_secs(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

/// Displays a certificate for use in a sentence: by its subject, or as "a certificate" if the certificate is unknown or
/// has no subject.
struct Named<'a>(Option<&'a CertificateDer<'a>>);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let subject = self.0.and_then(|der| x509::parse(der).ok()).map(|it| names::display(it.subject()));
        match subject.filter(|subject| !subject.is_empty()) {
            Some(subject) => write!(f, "certificate `{subject}`"),
            None => f.write_str("a certificate"),
        }
    }
}
