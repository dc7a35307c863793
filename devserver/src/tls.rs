//! TLS configuration of the server.

use std::fmt;
use std::sync::Arc;

use derive_more::Debug;
use perennial_pki::Credential;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ServerConfig, ServerConnection};

use crate::authority::Authority;

/// TLS configuration of the server: HTTP/1.1 only, client certificates requested but not required. Cheap to clone.
#[derive(Clone, Debug)]
// `Debug` omits the configuration, which contains the server's key.
pub struct Tls(#[debug(skip)] Arc<ServerConfig>);

impl Tls {
    /// A configuration that presents the certificate `serving`, and verifies client certificates by `authority`.
    ///
    /// A client certificate that does not verify, such as an expired one, ends the handshake with an alert.
    ///
    /// # Errors
    /// [`TlsError`] if the credential or the authority cannot be used.
    pub fn new(authority: &Authority, serving: &Credential) -> Result<Self, TlsError> {
        Self::with_clock(authority, serving, Arc::new(DefaultTimeProvider))
    }

    /// A configuration as by [`Tls::new`] that verifies client certificates at the time of `clock`.
    ///
    /// # Errors
    /// [`TlsError`] if the credential or the authority cannot be used.
    pub fn with_clock(
        authority: &Authority,
        serving: &Credential,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, TlsError> {
        let broken = |error: &dyn fmt::Display| TlsError(error.to_string());
        let roots = authority.roots().map_err(|error| broken(&error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.store(), perennial_pki::provider())
            // Holders of a bearer token have no certificate yet.
            .allow_unauthenticated()
            .build()
            .map_err(|error| broken(&error))?;
        let serving = CertifiedKey::clone(&serving.certified_key());
        let mut config = ServerConfig::builder_with_details(perennial_pki::provider(), clock)
            .with_safe_default_protocol_versions()
            .map_err(|error| broken(&error))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(serving)));
        // Keeps Go clients from HTTP/2, which they offer first.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// A configuration with the clock of `self`, but for another server certificate and another authority.
    pub(crate) fn serving(&self, authority: &Authority, serving: &Credential) -> Result<Self, TlsError> {
        Self::with_clock(authority, serving, Arc::clone(&self.0.time_provider))
    }

    /// The TLS connection for a client that has just connected.
    pub(crate) fn connection(&self) -> Result<ServerConnection, TlsError> {
        ServerConnection::new(self.0.clone()).map_err(|error| TlsError(error.to_string()))
    }
}

/// Error of a TLS configuration that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TLS of the API server: {0}")]
pub struct TlsError(String);
