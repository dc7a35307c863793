//! The cryptography that *ring* lacks, by aws-lc-rs: generating RSA keys.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};

use crate::KeyAlgorithm;

/// Generates a key of a kind that *ring* does not generate, in PKCS#8 version 1. `None` for other kinds, and if the
/// operating system returns no random bytes.
pub(super) fn generate(algorithm: KeyAlgorithm) -> Option<Vec<u8>> {
    let size = match algorithm {
        KeyAlgorithm::Rsa => KeySize::Rsa3072,
        KeyAlgorithm::Rsa4096 => KeySize::Rsa4096,
        _ => return None,
    };
    let key: Pkcs8V1Der<'_> = KeyPair::generate(size).ok()?.as_der().ok()?;
    Some(key.as_ref().to_vec())
}
