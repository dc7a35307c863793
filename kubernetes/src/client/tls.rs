//! TLS settings for one connection: fresh each time, so that a rotated certificate is never bypassed
//! by a resumed session, and so that the server is judged by the driver's clock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial::UnixTime;
use perennial_pki::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime as TlsTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use super::exchange_error::ExchangeError;
use super::trust::{Presented, Trusted};
use crate::cluster::Cluster;
use perennial_rotation::Identity;

/// A client connection to `cluster` as `identity`, the server's certificate judged as of `now`.
pub(crate) fn connection(
    cluster: &Cluster,
    identity: &Identity,
    now: UnixTime,
) -> Result<(ClientConnection, Presented), ExchangeError> {
    let provider = provider();
    let settings = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(FixedTime::new(now)))
        .with_safe_default_protocol_versions()
        .map_err(ExchangeError::setup)?;
    let presented = Presented::default();
    let verifier: Arc<dyn ServerCertVerifier> = if cluster.insecure_skip_tls_verify() {
        Arc::new(TakenAtItsWord(provider))
    } else {
        let trust = cluster.trust().map_err(ExchangeError::Setup)?.ok_or(ExchangeError::NoRoots)?;
        Arc::new(Trusted::new(&trust.roots, provider, presented.clone())?)
    };
    let settings = settings.dangerous().with_custom_certificate_verifier(verifier);
    let mut settings = match identity.certificate() {
        None => settings.with_no_client_auth(),
        Some(credential) => settings.with_client_cert_resolver(Arc::new(Only(credential.certified_key()))),
    };
    settings.resumption = Resumption::disabled();
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(cluster.tls_server_name().to_owned()).map_err(ExchangeError::setup)?;
    let connection = ClientConnection::new(Arc::new(settings), name).map_err(ExchangeError::setup)?;
    Ok((connection, presented))
}

/// Presents one certificate whatever the server hints at: a server that will not have it must say so.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesClientCert for Only {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _sigschemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The driver's wall clock when the connection was made; a handshake is over in seconds.
#[derive(Debug)]
struct FixedTime(Option<TlsTime>);

impl FixedTime {
    fn new(now: UnixTime) -> Self {
        let seconds = u64::try_from(now.as_secs()).ok();
        Self(seconds.map(|seconds| TlsTime::since_unix_epoch(Duration::from_secs(seconds))))
    }
}

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<TlsTime> {
        self.0
    }
}

/// Accepts any server certificate; only the handshake signatures are checked.
struct TakenAtItsWord(Arc<CryptoProvider>);

impl fmt::Debug for TakenAtItsWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TakenAtItsWord")
    }
}

impl ServerCertVerifier for TakenAtItsWord {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: TlsTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
