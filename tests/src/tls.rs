//! TLS clients of servers under test.

use std::sync::Arc;

use perennial_pki::{Credential, Roots, provider};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;

/// A client at the time of `clock` that trusts `roots` and shows `credential`, if given. Resumes no session: each
/// connection is to show which certificate the server takes it by.
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
