//! Configurations of TLS clients, for tests of servers.

use std::sync::Arc;

use perennial_pki::{Credential, Roots, provider};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;

/// A client configuration with the time of `clock`, which trusts `roots` and presents `credential`, if given. Sessions
/// are not resumed, so that every connection makes a full handshake with the certificates of both sides.
///
/// # Panics
/// The provider of cryptography has no version of TLS.
pub fn client(roots: &Roots, credential: Option<&Credential>, clock: Arc<dyn TimeProvider>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_details(provider(), clock)
        .with_safe_default_protocol_versions()
        .expect("the provider has some")
        .with_root_certificates(roots.store());
    let mut config = match credential {
        Some(credential) => {
            let key = CertifiedKey::clone(&credential.certified_key());
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
