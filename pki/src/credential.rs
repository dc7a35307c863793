//! A chain and the key it was issued for.

use std::sync::{Arc, OnceLock};

use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::key::has_compressed_point;
use crate::{Chain, ChainError, KeyError, KeyPair};

/// A certificate chain and the private key of its leaf: what one serves and asks with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credential {
    chain: Chain,
    key: Arc<KeyPair>,
    /// Made when first asked for.
    certified: OnceLock<Arc<CertifiedKey>>,
}

/// Equal chains: a leaf was issued for one key only.
impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl Eq for Credential {}

impl Credential {
    /// Joins a chain with its key, which proves with a signature that it is the leaf's.
    ///
    /// # Errors
    /// [`CredentialError::KeyMismatch`] if the leaf was issued for another key; [`CredentialError::CompressedPoint`] if
    /// it has its key in a form that TLS does not use; [`KeyError::Malformed`] if the key does not sign.
    pub fn new(chain: Chain, key: Arc<KeyPair>) -> Result<Self, CredentialError> {
        if chain.public_key_der() != key.public_key_der() {
            return Err(mismatch(&chain));
        }
        const MESSAGE: &[u8] = b"perennial: this key is the certificate's";
        // The parts of an RSA key need not fit together, for one.
        let proof = key.sign(MESSAGE).map_err(|_| CredentialError::Key(KeyError::Malformed))?;
        if !key.verify(MESSAGE, &proof) {
            return Err(mismatch(&chain));
        }
        Ok(Self { chain, key, certified: OnceLock::new() })
    }

    /// Reads certificates and key from one file, in any order: a kubelet's `-current.pem`. What is passed over in it,
    /// [`Chain::skipped`] lists.
    ///
    /// # Errors
    /// [`CredentialError`]: an unreadable chain, an unreadable key, or two that do not belong together.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, CredentialError> {
        Self::from_pair(bundle, bundle)
    }

    /// Reads certificates and key from two files. What is passed over in them, [`Chain::skipped`] and
    /// [`KeyPair::skipped`] list.
    ///
    /// # Errors
    /// [`CredentialError`]: an unreadable chain, an unreadable key, or two that do not belong together.
    pub fn from_pair(certificate: &[u8], key: &[u8]) -> Result<Self, CredentialError> {
        let chain = Chain::from_pem(certificate)?;
        match KeyPair::from_pem_of(key, Some(chain.public_key_der())) {
            Ok(key) => Self::new(chain, Arc::new(key)),
            Err(KeyError::NoPublicKey) => Err(mismatch(&chain)),
            Err(error) => Err(CredentialError::Key(error)),
        }
    }

    /// The chain, then the key: kubelet's layout. Wiped on drop.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let (chain, key) = (self.chain.pem(), self.key.to_pem());
        let mut pem = Zeroizing::new(String::with_capacity(chain.len() + key.len()));
        pem.push_str(chain);
        pem.push_str(&key);
        pem
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The key.
    pub fn key(&self) -> &Arc<KeyPair> {
        &self.key
    }

    /// Both, as rustls wants them: the same each time.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        let make = || Arc::new(CertifiedKey::new(self.chain.der().to_vec(), self.key.signing_key()));
        self.certified.get_or_init(make).clone()
    }
}

/// Why the leaf of `chain` does not go with a key.
fn mismatch(chain: &Chain) -> CredentialError {
    if has_compressed_point(chain.public_key_der()) {
        CredentialError::CompressedPoint
    } else {
        CredentialError::KeyMismatch { serial: chain.serial().to_owned() }
    }
}

/// Why there is no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The chain cannot be read.
    #[error("{0}")]
    Chain(#[from] ChainError),
    /// The key cannot be read.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The leaf was issued for another key.
    #[error(
        "the first certificate (serial {serial}) was issued for another private key; \
         check that both files are of the same rotation, and that the leaf comes first"
    )]
    KeyMismatch {
        /// The serial number of the leaf.
        serial: String,
    },
    /// The leaf holds a compressed point as its public key, which neither Go nor TLS peers read.
    #[error(
        "the first certificate holds its public key as a compressed point, which TLS does not use; \
         have it issued for the uncompressed form (`openssl ec -conv_form uncompressed`)"
    )]
    CompressedPoint,
}

impl CredentialError {
    /// True for a pair that is in order but of a kind that perennial does not support; other programs may.
    pub const fn is_unsupported(&self) -> bool {
        match self {
            Self::Key(error) => error.is_unsupported(),
            Self::CompressedPoint => true,
            Self::Chain(_) | Self::KeyMismatch { .. } => false,
        }
    }
}
