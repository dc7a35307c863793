//! Verifies a server's certificate, which must have a chain to one of the CAs, or be in the CA bundle itself.

use std::sync::{Arc, OnceLock};

use perennial::UnixTime;
use perennial_pki::{Chain, Roots, Usage, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime as TlsTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

use super::exchange_error::ExchangeError;
use crate::cluster::Cluster;

/// Accepts a server certificate that has a chain to one of the CAs, or is itself in the CA bundle, byte for byte.
/// webpki alone refuses a certificate in the bundle that is self-signed with CA:TRUE, or is a leaf whose issuer is not
/// in the bundle.
///
/// Source: Go's `x509.Certificate.Verify`, which takes a certificate among the roots for a complete chain. Such a
/// certificate must pass all other checks, too: name, validity, extended key usage and the signature of the handshake.
#[derive(derive_more::Debug)]
#[debug("Verifier(..)")]
pub(super) struct Verifier {
    /// The verifier of chains, and the CA bundle. `None` if any certificate is accepted (kubeconfig
    /// `insecure-skip-tls-verify`).
    trusted: Option<(Arc<WebPkiServerVerifier>, Roots)>,
    presented: Presented,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The chain that the server presented, its certificate first. Kept for messages: rustls drops a chain that is not
/// trusted.
pub(super) type Presented = Arc<OnceLock<Vec<CertificateDer<'static>>>>;

impl Verifier {
    /// Makes a verifier for one connection, which stores the server's chain in `presented`. Without `roots`, accepts
    /// any certificate.
    ///
    /// # Errors
    /// [`ExchangeError::Setup`] if the CAs cannot be used.
    pub(super) fn new(roots: Option<Roots>, presented: Presented) -> Result<Self, ExchangeError> {
        let algorithms = provider().signature_verification_algorithms;
        let Some(roots) = roots else { return Ok(Self { trusted: None, presented, algorithms }) };
        let chains = WebPkiServerVerifier::builder_with_provider(roots.store(), provider()).build();
        Ok(Self { trusted: Some((chains.map_err(ExchangeError::setup)?, roots)), presented, algorithms })
    }
}

/// Returns the CAs to verify the server with now; `None` if any certificate is accepted.
///
/// # Errors
/// [`ExchangeError::NoRoots`] without CAs, unless verification is off; [`ExchangeError::Setup`] if the CAs cannot be
/// read.
pub(super) fn trusted_roots(cluster: &Cluster) -> Result<Option<Roots>, ExchangeError> {
    if cluster.insecure_skip_tls_verify() {
        return Ok(None);
    }
    let source = cluster.roots().ok_or(ExchangeError::NoRoots)?;
    source.roots().map(Some).map_err(|error| ExchangeError::Setup(error.to_string()))
}

fn holds(roots: &Roots, certificate: &CertificateDer<'_>) -> bool {
    CertificateDer::pem_slice_iter(roots.pem().as_bytes()).flatten().any(|root| root == *certificate)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: TlsTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = || [end_entity].into_iter().chain(intermediates).map(|der| der.clone().into_owned()).collect();
        self.presented.get_or_init(chain);
        let Some((chains, roots)) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        match chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(_) if holds(roots, end_entity) => as_itself(end_entity, server_name, now),
            done => done,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies name, validity and extended key usage of a server's certificate that is itself in the CA bundle.
fn as_itself(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: TlsTime,
) -> Result<ServerCertVerified, rustls::Error> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
    let chain = Chain::from_der(vec![certificate.clone().into_owned()]).map_err(|_| CertificateError::BadEncoding)?;
    let validity = chain.certificate().validity;
    let now = UnixTime::from_secs(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if now < validity.not_before() {
        return Err(CertificateError::NotValidYet.into());
    }
    if validity.expired(now) {
        return Err(CertificateError::Expired.into());
    }
    if !chain.is_for(Usage::ServerAuth) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(ServerCertVerified::assertion())
}
