//! A chain and the key it was issued for.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::{Chain, ChainError, KeyError, KeyPair};

/// A certificate chain and the private key of its leaf: what one serves and asks with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credential {
    chain: Chain,
    key: Arc<KeyPair>,
    /// Made when first asked for.
    certified: OnceLock<Arc<CertifiedKey>>,
}

impl Credential {
    /// Joins a chain with its key.
    ///
    /// # Errors
    /// [`CredentialError::KeyMismatch`] if the leaf was issued for another key.
    pub fn new(chain: Chain, key: Arc<KeyPair>) -> Result<Self, CredentialError> {
        if chain.public_key_der() == key.public_key_der() {
            Ok(Self { chain, key, certified: OnceLock::new() })
        } else {
            Err(CredentialError::KeyMismatch { serial: chain.serial().to_owned() })
        }
    }

    /// Reads certificates and key from one PEM text, in any order: a kubelet's `-current.pem`.
    ///
    /// # Errors
    /// [`CredentialError`]: an unreadable chain, an unreadable key, or two that do not belong together.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, CredentialError> {
        let chain = Chain::from_pem(bundle).map_err(CredentialError::Chain)?;
        let key = KeyPair::from_pem(bundle).map_err(CredentialError::Key)?;
        Self::new(chain, Arc::new(key))
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

/// Why there is no credential.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialError {
    /// The chain cannot be read.
    Chain(ChainError),
    /// The key cannot be read.
    Key(KeyError),
    /// The leaf was issued for another key.
    KeyMismatch {
        /// The serial number of the leaf.
        serial: String,
    },
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
            Self::KeyMismatch { serial } => write!(
                f,
                "the first certificate (serial {serial}) was issued for another private key; \
                 check that both files are of the same rotation, and that the leaf comes first"
            ),
        }
    }
}

impl std::error::Error for CredentialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Chain(error) => Some(error),
            Self::Key(error) => Some(error),
            Self::KeyMismatch { .. } => None,
        }
    }
}
