//! The crypto provider: the only place that names it.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::hash::{Hash, HashAlgorithm};

/// The provider every key, signature and TLS connection of perennial uses: *ring*.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// SHA-256, from the provider's own hash.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    let hash = sha256_of(&rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256);
    digest.copy_from_slice(hash.hash(bytes).as_ref());
    digest
}

fn sha256_of(suite: &'static rustls::SupportedCipherSuite) -> &'static dyn Hash {
    let hash = match suite {
        rustls::SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
        rustls::SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
    };
    debug_assert_eq!(hash.algorithm(), HashAlgorithm::SHA256);
    hash
}
