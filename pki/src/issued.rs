//! Is what was issued of any use? Whether it is *good* is the machine's to judge; what is refused here nobody could use.

use std::fmt;
use std::time::Duration;

use perennial::UnixTime;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::UnixTime as TlsTime;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::chain::{Chain, Roots};
use crate::provider::provider;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// To be presented by TLS clients.
    ClientAuth,
    /// To be presented by TLS servers.
    ServerAuth,
}

/// What a certificate has to be to be usable.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The key it must be issued for: SubjectPublicKeyInfo, DER.
    pub public_key_der: &'a [u8],
    /// What it must be good for.
    pub usage: Usage,
    /// How far our clock, or the signer's, may be off.
    pub skew: Duration,
    /// Whose it must be, if that is known.
    pub roots: Option<&'a Roots>,
}

impl Expected<'_> {
    /// Refuses what is unusable.
    ///
    /// # Errors
    /// [`BadCertificate`] says why.
    pub fn check(&self, chain: &Chain, now: UnixTime) -> Result<(), BadCertificate> {
        if chain.public_key_der() != self.public_key_der {
            return Err(BadCertificate::NotOurKey);
        }
        let leaf = chain.leaf().map_err(|error| BadCertificate::Malformed(error.to_string()))?;
        self.check_usage(&leaf)?;
        let validity = &chain.certificate().validity;
        if validity.expired(now.before(self.skew)) {
            return Err(BadCertificate::Expired { not_after: validity.not_after(), now });
        }
        if now.after(self.skew) < validity.not_before() {
            return Err(BadCertificate::NotYetValid { not_before: validity.not_before(), now });
        }
        check_order(chain)?;
        // Within the skew, the trust check is not to stumble over what was just allowed.
        let now = now.clamp(validity.not_before(), validity.not_after());
        self.roots.map_or(Ok(()), |roots| self.check_trust(chain, roots, now))
    }

    fn check_usage(&self, leaf: &X509Certificate<'_>) -> Result<(), BadCertificate> {
        let malformed = |error: x509_parser::error::X509Error| BadCertificate::Malformed(error.to_string());
        if leaf.basic_constraints().map_err(malformed)?.is_some_and(|basic| basic.value.ca) {
            return Err(BadCertificate::Authority);
        }
        if leaf.key_usage().map_err(malformed)?.is_some_and(|usage| !usage.value.digital_signature()) {
            return Err(BadCertificate::WrongUsage { missing: "digital signature" });
        }
        let Some(extended) = leaf.extended_key_usage().map_err(malformed)? else { return Ok(()) };
        let (has, missing) = match self.usage {
            Usage::ClientAuth => (extended.value.client_auth, "client auth"),
            Usage::ServerAuth => (extended.value.server_auth, "server auth"),
        };
        if has || extended.value.any { Ok(()) } else { Err(BadCertificate::WrongUsage { missing }) }
    }

    fn check_trust(&self, chain: &Chain, roots: &Roots, now: UnixTime) -> Result<(), BadCertificate> {
        let untrusted = |error: &dyn fmt::Display| BadCertificate::Untrusted(error.to_string());
        let (leaf, intermediates) = chain.der().split_first().ok_or(BadCertificate::NotOurKey)?;
        let now = TlsTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_secs()).unwrap_or(0)));
        match self.usage {
            Usage::ClientAuth => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.store(), provider()).build();
                let verifier = verifier.map_err(|error| untrusted(&error))?;
                verifier.verify_client_cert(leaf, intermediates, now).map_err(|error| untrusted(&error))?;
            }
            Usage::ServerAuth => {
                let leaf = ParsedCertificate::try_from(leaf).map_err(|error| untrusted(&error))?;
                let algorithms = provider().signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&leaf, &roots.store(), intermediates, now, algorithms)
                    .map_err(|error| untrusted(&error))?;
            }
        }
        Ok(())
    }
}

/// Each certificate must be followed by its issuer's: TLS peers rely on it (RFC 5246 §7.4.2).
fn check_order(chain: &Chain) -> Result<(), BadCertificate> {
    for (at, pair) in chain.der().windows(2).enumerate() {
        let malformed =
            |error: x509_parser::nom::Err<x509_parser::error::X509Error>| BadCertificate::Malformed(error.to_string());
        let (_, certificate) = X509Certificate::from_der(&pair[0]).map_err(malformed)?;
        let (_, issuer) = X509Certificate::from_der(&pair[1]).map_err(malformed)?;
        if certificate.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(BadCertificate::WrongOrder { number: at + 2 });
        }
    }
    Ok(())
}

/// An issued certificate nobody could use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadCertificate {
    /// It is for another key than the one that was sent.
    NotOurKey,
    /// It cannot be read.
    Malformed(String),
    /// It is an authority's.
    Authority,
    /// It is not good for what it is wanted for.
    WrongUsage {
        /// The usage it lacks.
        missing: &'static str,
    },
    /// It has expired, even if our clock is a little off.
    Expired {
        /// When.
        not_after: UnixTime,
        /// Our time.
        now: UnixTime,
    },
    /// It is not valid yet, even if our clock is a little off.
    NotYetValid {
        /// From when.
        not_before: UnixTime,
        /// Our time.
        now: UnixTime,
    },
    /// The chain is out of order: leaf first, each followed by its issuer.
    WrongOrder {
        /// The first certificate that is not its predecessor's issuer, counted from 1.
        number: usize,
    },
    /// It does not lead to an authority it must lead to.
    Untrusted(String),
}

impl fmt::Display for BadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the issued certificate ")?;
        match self {
            Self::NotOurKey => f.write_str("is for another key than the one in the request"),
            Self::Malformed(why) => write!(f, "cannot be read: {why}"),
            Self::Authority => f.write_str("is a certificate authority's"),
            Self::WrongUsage { missing } => write!(f, "lacks the usage \"{missing}\""),
            Self::Expired { not_after, now } => {
                write!(f, "expired at {not_after}, and it is {now} by our clock: check both clocks")
            }
            Self::NotYetValid { not_before, now } => {
                write!(f, "is valid from {not_before}, and it is {now} by our clock: check both clocks")
            }
            Self::WrongOrder { number } => {
                write!(
                    f,
                    "comes with a chain out of order: certificate {number} is not the issuer of the one before it"
                )
            }
            Self::Untrusted(why) => write!(f, "does not lead to the expected authority: {why}"),
        }
    }
}

impl std::error::Error for BadCertificate {}
