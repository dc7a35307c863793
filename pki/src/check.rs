//! [`Expected`]: checks that an issued chain is usable in TLS and matches its request.

use std::slice;
use std::time::Duration;

use perennial::UnixTime;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use x509_parser::error::X509Error;

use crate::{Chain, Roots, Usage, describe, provider, strict, x509};

/// The requirements that [`check`](Self::check) compares an issued chain with. Names and lifetime are not among these
/// requirements: the machine judges both. A chain that is not valid yet passes, since it can be used later.
///
/// ```
/// use perennial::{Template, UnixTime, Validity};
/// use perennial_pki::{
///     Credential, Expected, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Terms, Usage, certificate_request, read_request,
///     self_signed,
/// };
/// # use std::{sync::Arc, time::Duration};
/// # let now = UnixTime::from_secs(1_800_000_000);
/// # let validity = Validity::new(now, now.after(Duration::from_secs(3600)))?;
/// # let ca_key = Arc::new(KeyPair::generate(KeyAlgorithm::default())?);
/// # let issuer = Issuer::new(Credential::new(self_signed("ca", &ca_key, &[1], validity)?, ca_key)?)?;
/// let key = KeyPair::generate(KeyAlgorithm::default())?;
/// let request = certificate_request(&Template::node("worker-1"), &key)?;
///
/// // The signer reads the request and issues a certificate.
/// let request = read_request(request.pem.as_bytes())?;
/// let (key_usages, extended_key_usages) = (&[KeyUsage::DigitalSignature], &[Usage::ClientAuth]);
/// let chain = issuer.issue(&request, &Terms { serial: &[2], validity, key_usages, extended_key_usages })?;
///
/// let skew = Duration::from_secs(300);
/// let expected =
///     Expected { public_key_der: key.public_key_der(), usages: &[Usage::ClientAuth], skew, roots: None };
/// expected.check(&chain, now)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Without [`roots`](Self::roots), the signature of the leaf is verified only if the chain has the issuer's
/// certificate.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The public key of the request, as a DER `SubjectPublicKeyInfo`. The public key of the leaf must have the same
    /// bytes.
    pub public_key_der: &'a [u8],
    /// The extended key usages that the leaf must allow. If there are none, the leaf may be for any usage.
    pub usages: &'a [Usage],
    /// Tolerance for a local clock that is ahead of the signer's: a chain passes until this long after the leaf's
    /// notAfter.
    pub skew: Duration,
    /// The CA certificates that the chain must lead to; `None` accepts every issuer. rustls verifies the chain, and
    /// does not accept `anyExtendedKeyUsage` in place of a usage. Without usages, rustls verifies the chain as that of a
    /// TLS server, or as that of a client if the leaf excludes servers.
    pub roots: Option<&'a Roots>,
}

impl Expected<'_> {
    /// Checks `chain` at the time `now`.
    ///
    /// # Errors
    /// [`BadCertificate`]: the first requirement that the chain does not meet. The caller should keep its current
    /// certificate in use.
    pub fn check(&self, chain: &Chain, now: UnixTime) -> Result<(), BadCertificate> {
        // First: a certificate for another key answers another request, whatever else is wrong with the chain.
        if chain.public_key_der() != self.public_key_der {
            return Err(BadCertificate::NotOurKey);
        }
        check_encoding(chain)?;
        self.check_usages(chain)?;
        self.check_validity(chain, now)?;
        check_order(chain)?;
        self.roots.map_or(Ok(()), |roots| self.check_trust(chain, roots, now))
    }

    fn check_usages(&self, chain: &Chain) -> Result<(), BadCertificate> {
        // webpki, as every peer of rustls, refuses a CA certificate as an end entity.
        if chain.constraints().is_ca {
            return Err(BadCertificate::CertificateAuthority);
        }
        if !chain.constraints().may_sign {
            return Err(BadCertificate::NoDigitalSignature);
        }
        match self.usages.iter().find(|usage| !chain.is_for(**usage)) {
            Some(wanted) => Err(BadCertificate::WrongUsage { wanted: *wanted }),
            None => Ok(()),
        }
    }

    fn check_validity(&self, chain: &Chain, now: UnixTime) -> Result<(), BadCertificate> {
        let validity = chain.certificate().validity;
        if validity.expired(now.before(self.skew)) {
            Err(BadCertificate::Expired { not_after: validity.not_after() })
        } else {
            Ok(())
        }
    }

    fn check_trust(&self, chain: &Chain, roots: &Roots, now: UnixTime) -> Result<(), BadCertificate> {
        let validity = chain.certificate().validity;
        // webpki knows neither skew nor waiting certificates, which `check_validity` has allowed: verify at a time
        // within the validity.
        let at = now.clamp(validity.not_before(), validity.not_after());
        let at = Duration::from_secs(at.as_secs().try_into().unwrap_or(0));
        let at = pki_types::UnixTime::since_unix_epoch(at);
        let any = if chain.is_for(Usage::ServerAuth) { Usage::ServerAuth } else { Usage::ClientAuth };
        let usages = if self.usages.is_empty() { slice::from_ref(&any) } else { self.usages };
        usages.iter().try_for_each(|usage| verify(chain, *usage, roots, at)).map_err(|error| {
            BadCertificate::UntrustedIssuer {
                issuer: chain.issuer().to_owned(),
                reason: describe(&error, &chain.der()),
            }
        })
    }
}

/// Verifies the chain as rustls verifies that of a peer with this usage.
fn verify(chain: &Chain, usage: Usage, roots: &Roots, at: pki_types::UnixTime) -> Result<(), rustls::Error> {
    let der = chain.der();
    let (leaf, issuers) = der.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    match usage {
        Usage::ClientAuth => WebPkiClientVerifier::builder_with_provider(roots.store(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_client_cert(leaf, issuers, at)
            .map(drop),
        // Not `WebPkiServerVerifier`, which requires a server name: the machine compares the names.
        Usage::ServerAuth => verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &roots.store(),
            issuers,
            at,
            provider().signature_verification_algorithms.all,
        ),
    }
}

/// Checks that Go, openssl and webpki can read the leaf, and that Go and openssl can read its issuers. Issuers may have
/// extensions that webpki does not know, since webpki ignores the extensions of trust anchors.
fn check_encoding(chain: &Chain) -> Result<(), BadCertificate> {
    for (index, der) in chain.der().iter().enumerate() {
        let read = if index == 0 { strict::leaf(der) } else { strict::any(der) };
        read.map_err(|reason| BadCertificate::Malformed { position: index + 1, reason })?;
    }
    Ok(())
}

/// Checks that each certificate after the leaf has issued one of the certificates that precede it in the chain. Chains
/// with cross-signed issuers pass.
fn check_order(chain: &Chain) -> Result<(), BadCertificate> {
    if chain.der().len() == 1 {
        return Ok(());
    }
    // `Chain` has parsed all of them, so that `filter_map` drops none and the positions stay.
    let der = chain.der();
    let certificates: Vec<_> = der.iter().filter_map(|der| x509::parse(der).ok()).collect();
    for (index, issuer) in certificates.iter().enumerate().skip(1) {
        let issued = certificates[..index].iter().any(|certificate| {
            certificate.issuer().as_raw() == issuer.subject().as_raw()
                && match certificate.verify_signature(Some(issuer.public_key())) {
                    // Peers may support an algorithm that this library does not, such as ECDSA on P-521.
                    Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => true,
                    Err(_) => false,
                }
        });
        if !issued {
            return Err(BadCertificate::ForeignIssuer { position: index + 1 });
        }
    }
    Ok(())
}

/// Error of an issued chain that does not meet a requirement of [`Expected`]. The caller should keep its current
/// certificate in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCertificate {
    /// The leaf was issued for another key than that of the request.
    #[error("the certificate was issued for another key than the request's")]
    NotOurKey,
    /// A certificate of the chain cannot be read by Go, openssl or webpki, so that peers would refuse the chain.
    #[error(
        "certificate {position} of the chain is malformed, and TLS peers would refuse it: {reason}; check the signer"
    )]
    Malformed {
        /// The position of the certificate in the chain, counted from 1, the leaf.
        position: usize,
        /// The problem with the certificate, as a clause.
        reason: String,
    },
    /// The leaf is a CA certificate.
    #[error("the certificate is a CA certificate (basicConstraints CA:TRUE); no peer accepts it in TLS")]
    CertificateAuthority,
    /// The leaf's key usage lacks digitalSignature, which TLS needs.
    #[error(
        "the certificate's key usage lacks digitalSignature, which TLS needs; check which key usages the signer grants"
    )]
    NoDigitalSignature,
    /// The leaf's extended key usage excludes the usage of the request.
    #[error(
        "the certificate's extended key usage lacks `{wanted}`, which was requested; check which usages the signer \
         grants"
    )]
    WrongUsage {
        /// The usage that the leaf lacks.
        wanted: Usage,
    },
    /// The leaf has expired, and its notAfter is more than [`Expected::skew`] ago.
    #[error("the certificate expired at {not_after}; if it is new, check the clocks")]
    Expired {
        /// The leaf's notAfter.
        not_after: UnixTime,
    },
    /// A certificate after the leaf has issued none of the certificates that precede it in the chain.
    #[error("certificate {position} of the chain issued no certificate before it; the signer's chain is out of order")]
    ForeignIssuer {
        /// The position of the certificate in the chain, counted from 1, the leaf.
        position: usize,
    },
    /// The chain does not lead to a trusted CA certificate ([`Expected::roots`]).
    #[error("the certificate, issued by `{issuer}`, does not lead to a trusted CA: {reason}")]
    UntrustedIssuer {
        /// The issuer of the leaf, as `O=…, CN=…`.
        issuer: String,
        /// The error of the verification, as a clause.
        reason: String,
    },
}
