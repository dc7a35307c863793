//! TLS with certificates and CAs that rotate, for rustls: [`server_config`], [`mutual_server_config`] and
//! [`client_config`].
//!
//! A program sets such a configuration once and never rebuilds it: every handshake presents the current credential, and
//! trusts the current CAs. Existing connections keep the credential of their handshake. Close long-lived connections
//! when [`Handle::rotations`](crate::Handle::rotations) reports a new credential.
//!
//! # Session resumption
//!
//! A resumed session keeps the identities of its first handshake: after a rotation, a server identifies a client that
//! resumes a session by the client's *old* certificate, and neither side verifies a certificate again. rustls does not
//! prevent this: the configuration is still the same, and a session ticket does not show with which certificate its
//! first connection began.
//!
//! For this reason, [`client_config`] resumes no session, and [`mutual_server_config`] offers no resumption; each
//! connection costs a full handshake. For clients that can choose a configuration for each connection,
//! [`ClientConfigs`] resumes the sessions of the current credential. In [`server_config`], resumption stays on. It is
//! harmless there: the clients have no certificates, and a client that resumes has verified the certificate of the
//! first handshake.
//!
//! With OpenSSL or another version of rustls, make a new client configuration for each credential, or turn resumption
//! off.

mod client_configs;
mod resolver;
mod verifier;

use std::sync::Arc;

use perennial_pki::provider;
use rustls::client::{ClientConfig, Resumption};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, ServerConfig};
use rustls::{ConfigBuilder, ConfigSide, WantsVerifier, WantsVersions};

use crate::RootsSource;
pub use client_configs::ClientConfigs;
pub use resolver::{ClientCert, ServerCert, Source};
pub use verifier::{ClientVerifier, ServerVerifier};

/// Makes a configuration for a TLS server that presents the current credential of `source`, and requests no
/// certificates from clients. Handshakes fail while there is no credential.
///
/// The other fields of the configuration, such as `alpn_protocols`, have the defaults of rustls and may be set.
pub fn server_config(source: impl Into<Source>) -> ServerConfig {
    server(source, Arc::new(NoClientAuth))
}

/// Makes a configuration for a TLS server that presents the current credential of `source`, and accepts only clients
/// with a certificate of one of the CAs of `roots` (mTLS). Handshakes fail while there is no credential. Offers no
/// session resumption: see the [module](self).
///
/// To accept clients without a certificate, too, build a configuration with [`ClientVerifier::optional`] and
/// [`ServerCert`], and turn resumption off: see [`ClientVerifier`].
pub fn mutual_server_config(source: impl Into<Source>, roots: impl RootsSource + 'static) -> ServerConfig {
    let mut config = server(source, Arc::new(ClientVerifier::new(roots)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Makes a configuration for a TLS client that accepts servers with a certificate of one of the CAs of `roots`, and
/// presents the current credential of `source` to servers that request one. Resumes no session: see the
/// [module](self).
///
/// The other fields of the configuration, such as `alpn_protocols`, have the defaults of rustls and may be set.
pub fn client_config(source: impl Into<Source>, roots: impl RootsSource + 'static) -> ClientConfig {
    client(source, ServerVerifier::new(roots))
}

fn client(source: impl Into<Source>, servers: ServerVerifier) -> ClientConfig {
    let mut config = of_default_versions(ClientConfig::builder_with_provider(provider()))
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers))
        .with_client_cert_resolver(Arc::new(ClientCert::new(source)));
    config.resumption = Resumption::disabled();
    config
}

fn server(source: impl Into<Source>, clients: Arc<dyn ClientCertVerifier>) -> ServerConfig {
    of_default_versions(ServerConfig::builder_with_provider(provider()))
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(ServerCert::new(source)))
}

fn of_default_versions<S: ConfigSide>(builder: ConfigBuilder<S, WantsVersions>) -> ConfigBuilder<S, WantsVerifier> {
    builder.with_safe_default_protocol_versions().expect("the provider has cipher suites of TLS 1.2 and 1.3")
}
