//! Verifying a server's certificate: by a chain to one of the CAs, or as exactly the trusted certificate.

use std::fmt;
use std::sync::{Arc, OnceLock};

use perennial_pki::Roots;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::exchange_error::ExchangeError;

/// Accepts what leads to one of the CAs, and beside that a certificate that is one of the bundle, byte for byte: a
/// self-signed one of a server, with or without CA:TRUE, which webpki never takes for a server's.
///
/// Source: Go's `x509.Certificate.Verify`, for which a certificate among the roots is a chain of its own. Name, validity
/// and extended key usage count all the same, and so does the signature of the handshake.
pub(super) struct Trusted {
    chains: Arc<WebPkiServerVerifier>,
    roots: Roots,
    presented: Presented,
}

/// The chain that a server presented: rustls keeps none that it does not trust, and a message has to name it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presented(Arc<OnceLock<Vec<CertificateDer<'static>>>>);

impl Presented {
    /// The leaf first; empty before the server has shown one.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        self.0.get().map_or(&[], Vec::as_slice)
    }
}

impl Trusted {
    /// Notes in `presented` what it is shown.
    pub(super) fn new(
        roots: &Roots,
        provider: Arc<CryptoProvider>,
        presented: Presented,
    ) -> Result<Self, ExchangeError> {
        let chains = WebPkiServerVerifier::builder_with_provider(roots.store(), provider).build();
        Ok(Self { chains: chains.map_err(ExchangeError::setup)?, roots: roots.clone(), presented })
    }

    fn holds(&self, certificate: &CertificateDer<'_>) -> bool {
        CertificateDer::pem_slice_iter(self.roots.pem().as_bytes()).flatten().any(|root| root == *certificate)
    }
}

impl fmt::Debug for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trusted").field("roots", &self.roots).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = || [end_entity].into_iter().chain(intermediates).map(|der| der.clone().into_owned()).collect();
        self.presented.0.get_or_init(chain);
        match self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(_) if self.holds(end_entity) => as_itself(end_entity, server_name, now),
            done => done,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Everything but the issuer, of a certificate that is trusted itself.
fn as_itself(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if seconds > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    let usage = parsed.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(ServerCertVerified::assertion())
}
