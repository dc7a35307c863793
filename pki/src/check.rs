//! The check of what was issued: is it usable at all?

use std::time::Duration;

use perennial::UnixTime;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use x509_parser::error::X509Error;

use crate::{Chain, Roots, Usage, describe, provider, strict, x509};

/// Requirements for an issued chain. Names and lifetime are not judged here. A chain that is not valid yet passes, since it
/// will be.
///
/// Without [`roots`](Self::roots), the signature of the leaf is verified only if its issuer is in the chain.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The key it was asked for, as a DER `SubjectPublicKeyInfo`.
    pub public_key_der: &'a [u8],
    /// What it is to be used for.
    pub usage: Usage,
    /// Allowance for this machine's clock being ahead of the signer's, before the chain counts as expired.
    pub skew: Duration,
    /// The CA certificates it must lead to; `None`: whoever issued it is trusted. Verified as rustls does it,
    /// which does not take `anyExtendedKeyUsage` for a usage.
    pub roots: Option<&'a Roots>,
}

impl Expected<'_> {
    /// Checks a chain.
    ///
    /// # Errors
    /// [`BadCertificate`]: the first thing that makes it unusable. What is held stays as it is.
    pub fn check(&self, chain: &Chain, now: UnixTime) -> Result<(), BadCertificate> {
        if chain.public_key_der() != self.public_key_der {
            return Err(BadCertificate::NotOurKey);
        }
        check_encoding(chain)?;
        self.check_usage(chain)?;
        self.check_validity(chain, now)?;
        check_order(chain)?;
        self.roots.map_or(Ok(()), |roots| self.check_trust(chain, roots, now))
    }

    fn check_usage(&self, chain: &Chain) -> Result<(), BadCertificate> {
        if chain.constraints().is_ca {
            return Err(BadCertificate::CertificateAuthority);
        }
        if !chain.constraints().may_sign {
            return Err(BadCertificate::NoDigitalSignature);
        }
        if !chain.is_for(self.usage) {
            return Err(BadCertificate::WrongUsage { wanted: self.usage });
        }
        Ok(())
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
        // The skew allowed above must not be taken back here.
        let at = now.clamp(validity.not_before(), validity.not_after());
        let at = Duration::from_secs(at.as_secs().try_into().unwrap_or(0));
        self.verify(chain, roots, pki_types::UnixTime::since_unix_epoch(at)).map_err(|error| {
            BadCertificate::UntrustedIssuer { issuer: chain.issuer().to_owned(), reason: describe(&error, chain.der()) }
        })
    }

    fn verify(&self, chain: &Chain, roots: &Roots, at: pki_types::UnixTime) -> Result<(), rustls::Error> {
        let (leaf, issuers) = chain.der().split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        match self.usage {
            Usage::ClientAuth => WebPkiClientVerifier::builder_with_provider(roots.store(), provider())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?
                .verify_client_cert(leaf, issuers, at)
                .map(drop),
            Usage::ServerAuth => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(leaf)?,
                &roots.store(),
                issuers,
                at,
                provider().signature_verification_algorithms.all,
            ),
        }
    }
}

/// What one kind of peer cannot read must not replace what all of them can. Issuers may have extensions that webpki does
/// not know: it ignores them where they are trust anchors, and Go and openssl know more.
fn check_encoding(chain: &Chain) -> Result<(), BadCertificate> {
    for (index, der) in chain.der().iter().enumerate() {
        let read = if index == 0 { strict::leaf(der) } else { strict::any(der) };
        read.map_err(|reason| BadCertificate::Malformed { position: index + 1, reason })?;
    }
    Ok(())
}

/// Every certificate behind the leaf must have issued one before it; cross-signed issuers are fine.
fn check_order(chain: &Chain) -> Result<(), BadCertificate> {
    if chain.der().len() == 1 {
        return Ok(());
    }
    // `Chain` parsed them all before, so none is lost here.
    let certificates: Vec<_> = chain.der().iter().filter_map(|der| x509::parse(der).ok()).collect();
    for (index, issuer) in certificates.iter().enumerate().skip(1) {
        let issued = certificates[..index].iter().any(|certificate| {
            certificate.issuer().as_raw() == issuer.subject().as_raw()
                && match certificate.verify_signature(Some(issuer.public_key())) {
                    // What we cannot verify a peer perhaps can, P-521 for one.
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

/// Why an issued certificate is unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCertificate {
    /// It was issued for another key.
    #[error("the certificate was issued for another key than the one of the request")]
    NotOurKey,
    /// A certificate of the chain is one that Go, openssl or webpki cannot read, so that peers would refuse it.
    #[error(
        "certificate {position} of the chain is malformed, and TLS peers would refuse it: {reason}; check the signer"
    )]
    Malformed {
        /// Which of the certificates, counted from 1.
        position: usize,
        /// The problem with the certificate, as a clause.
        reason: String,
    },
    /// It is a CA certificate.
    #[error("the certificate is a CA certificate (basicConstraints CA:TRUE); no peer accepts it in TLS")]
    CertificateAuthority,
    /// Its key may not sign (key usage), so it cannot take part in TLS.
    #[error("the certificate's key usage lacks digitalSignature, which TLS needs; check the signer's usages")]
    NoDigitalSignature,
    /// Its extended key usage excludes what it is needed for.
    #[error("the certificate's extended key usage lacks `{wanted}`; check the signer's usages")]
    WrongUsage {
        /// What it is needed for.
        wanted: Usage,
    },
    /// It is expired.
    #[error("the certificate expired at {not_after}; if it is new, check the clocks")]
    Expired {
        /// Since then.
        not_after: UnixTime,
    },
    /// The chain holds a certificate that issued none of those before it.
    #[error("certificate {position} of the chain issued none of those before it; the signer's chain is out of order")]
    ForeignIssuer {
        /// Which of the certificates, counted from 1.
        position: usize,
    },
    /// It does not lead to a CA certificate we trust.
    #[error("the certificate, issued by `{issuer}`, does not lead to a trusted CA: {reason}")]
    UntrustedIssuer {
        /// Who issued it.
        issuer: String,
        /// What the verification says.
        reason: String,
    },
}
