//! [`KeyError`]: why a private key cannot be generated, read or used.

use perennial::printable;

use super::KeyAlgorithm;
use crate::PemError;

/// The supported curves, for messages.
pub(crate) const CURVES: &str = if cfg!(feature = "aws-lc-rs") {
    "P-256, P-384 and P-521"
} else {
    "P-256 and P-384 (P-521 in a build with the feature aws-lc-rs)"
};

/// Error of a private key that cannot be generated or read. Contains no part of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// This build cannot generate keys of this algorithm.
    #[error(
        "{algorithm} keys can be {} by this build of perennial, which lacks the feature aws-lc-rs; choose {}",
        if algorithm.is_rsa() { "imported but not generated" } else { "neither generated nor imported" },
        KeyAlgorithm::default()
    )]
    NotGenerated {
        /// The algorithm of the key to generate.
        algorithm: KeyAlgorithm,
    },
    /// The operating system returned no random bytes.
    #[error("cannot generate a key: the operating system returned no random bytes")]
    Generation,
    /// The input is damaged PEM, not PEM, or too large.
    #[error("{0}")]
    Pem(#[from] PemError),
    /// The input contains no private key.
    #[error("no private key found; expected a PEM block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY")]
    NoKey,
    /// The key is encrypted with a passphrase.
    #[error(
        "the private key is encrypted, and a service cannot prompt for the passphrase; store the key decrypted \
         (`openssl pkey`)"
    )]
    Encrypted,
    /// The RSA key is too short to be safe, or too long for the crypto provider.
    #[error(
        "RSA keys of {bits} bits are not supported by perennial: too {}; supported are 2048 to 4096 bits",
        if *bits < 2048 { "weak" } else { "long" }
    )]
    RsaSize {
        /// The length of the modulus in bits.
        bits: usize,
    },
    /// The key is an ECDSA key on a curve that perennial does not support.
    #[error("ECDSA keys on {curve} are not supported by perennial; supported are the curves {CURVES}")]
    Curve {
        /// The name of the curve; for a rare curve, its object identifier.
        curve: String,
    },
    /// The key is of a kind that perennial does not support, such as Ed448.
    #[error(
        "private keys of kind {kind} are not supported by perennial; supported are ECDSA on {CURVES}, \
         Ed25519, and RSA of 2048 to 4096 bits"
    )]
    Unsupported {
        /// The name of the kind; for a rare kind, its object identifier.
        kind: String,
    },
    /// The EC key lacks its public key, and no certificate with the public key was given.
    #[error(
        "the private key lacks its public key, and there is no certificate to take it from; \
         `openssl pkey -in FILE -out FILE.pem` adds it"
    )]
    NoPublicKey,
    /// The content of the PEM block is not a private key, or is cut short.
    #[error("the private key is malformed; is the file damaged?")]
    Malformed,
    /// The key stays elsewhere, and cannot be found or used there now.
    #[error("the private key {} cannot be used: {why}", printable(reference))]
    External {
        /// The reference of the key.
        reference: String,
        /// The problem with the key, as a clause.
        why: String,
    },
    /// The input has a reference to a key that stays elsewhere, and the caller gave no source of such keys (see
    /// [`KeyPair::from_pem_with`](crate::KeyPair::from_pem_with)).
    #[error(
        "the private key stays elsewhere, as {}; only a program with a source of such keys can use it",
        printable(reference)
    )]
    Elsewhere {
        /// The reference of the key.
        reference: String,
    },
}

impl KeyError {
    /// True if the key is well-formed, but of a kind that perennial does not support. Other programs may support the
    /// key.
    pub const fn is_unsupported(&self) -> bool {
        matches!(self, Self::RsaSize { .. } | Self::Curve { .. } | Self::Unsupported { .. } | Self::Elsewhere { .. })
    }
}
