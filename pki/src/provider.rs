//! The crypto provider, *ring*, and with the feature `aws-lc-rs` the cryptography that *ring* lacks. No other module of
//! this crate uses these libraries: another provider would replace them here.

#[cfg(feature = "aws-lc-rs")]
mod more;

use std::sync::{Arc, LazyLock};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring as chosen;
use rustls::pki_types::{PrivateKeyDer, alg_id};
use rustls::sign::SigningKey;

use crate::KeyAlgorithm;
use crate::der::{OBJECT_IDENTIFIER, take};

/// The crypto provider of all TLS and X.509 in perennial: *ring*. With the feature `aws-lc-rs`, it verifies signatures on
/// P-521 as well.
///
/// Pass this to rustls' `builder_with_provider`. perennial neither reads nor sets the process-wide default provider,
/// which becomes ambiguous as soon as another crate enables a second provider.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let provider = chosen::default_provider();
        #[cfg(feature = "aws-lc-rs")]
        let provider = more::with_p521(provider);
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// The SHA-256 digest of `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, data).as_ref());
    digest
}

/// Generates a key of this kind, in PKCS#8 (version 2 for Ed25519). `None` if this build cannot generate keys of the
/// kind, and if the operating system returns no random bytes. Copies of the key stay on the stack; the caller should wipe
/// them.
pub(crate) fn generate(algorithm: KeyAlgorithm) -> Option<Vec<u8>> {
    let random = SystemRandom::new();
    let key = match algorithm {
        KeyAlgorithm::EcdsaP256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random),
        KeyAlgorithm::EcdsaP384 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &random),
        KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
        #[cfg(feature = "aws-lc-rs")]
        other => return more::generate(other),
        #[cfg(not(feature = "aws-lc-rs"))]
        _ => return None,
    };
    Some(key.ok()?.as_ref().to_vec())
}

/// Makes a signing key from a borrowed encoding. [`rustls::crypto::KeyProvider`] is not used, since it would take a
/// copy of the encoding and drop the copy unwiped.
pub(crate) fn load(der: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
    let loaded = chosen::sign::any_supported_type(der);
    #[cfg(feature = "aws-lc-rs")]
    let loaded = loaded.or_else(|error| more::load_p521(der).ok_or(error));
    loaded
}

/// True if `signature` over `message` verifies with `public_key`, the bits of a `SubjectPublicKeyInfo`.
pub(crate) fn verify(scheme: SignatureScheme, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let algorithms = provider().signature_verification_algorithms.mapping.iter();
    let mut fitting = algorithms.filter(|(other, _)| *other == scheme).flat_map(|(_, algorithms)| algorithms.iter());
    fitting.any(|algorithm| algorithm.verify_signature(public_key, message, signature).is_ok())
}

/// True if `signature` over `message` verifies with the point `public_key` on P-521. `algorithm` is the content of the
/// object identifier of the signature's algorithm. False in a build that does not support P-521.
pub(crate) fn verify_p521(algorithm: &[u8], public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let algorithms = provider().signature_verification_algorithms.all.iter();
    let mut on_p521 = algorithms.filter(|known| known.public_key_alg_id() == alg_id::ECDSA_P521);
    on_p521.any(|known| {
        let is_it = take(OBJECT_IDENTIFIER, &known.signature_alg_id()).is_some_and(|(content, _)| content == algorithm);
        is_it && known.verify_signature(public_key, message, signature).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_matches_known_digest() {
        let hex: String = sha256(b"abc").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
