//! A chain and the key it was issued for.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::chain::{Chain, ChainError};
use crate::key::{KeyError, KeyPair};

/// A chain and the key it was issued for: they belong together, or there is no `Credential`.
#[derive(Clone)]
pub struct Credential {
    chain: Chain,
    key: Arc<KeyPair>,
}

impl Credential {
    /// Joins the two.
    ///
    /// # Errors
    /// [`CredentialError::KeyMismatch`] if the first certificate names another key.
    pub fn new(chain: Chain, key: Arc<KeyPair>) -> Result<Self, CredentialError> {
        if chain.public_key_der() == key.public_key_der() {
            Ok(Self { chain, key })
        } else {
            Err(CredentialError::KeyMismatch { common_name: chain.certificate().common_name.clone() })
        }
    }

    /// Reads chain and key from one text, in any order, as kubelet keeps them.
    ///
    /// # Errors
    /// If either is missing or damaged, or they do not belong together.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, CredentialError> {
        let chain = Chain::from_pem(bundle).map_err(CredentialError::Chain)?;
        let text = std::str::from_utf8(bundle).map_err(|_| CredentialError::Key(KeyError::Malformed))?;
        let key = KeyPair::from_pem(text).map_err(CredentialError::Key)?;
        Self::new(chain, Arc::new(key))
    }

    /// Chain, then key, in one text.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let key = self.key.to_pem();
        let mut text = Zeroizing::new(String::with_capacity(self.chain.pem().len() + key.len()));
        text.push_str(self.chain.pem());
        text.push_str(&key);
        text
    }

    /// The chain.
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The key.
    pub const fn key(&self) -> &Arc<KeyPair> {
        &self.key
    }

    /// For TLS, client's or server's.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(self.chain.der().to_vec(), self.key.signing_key()))
    }
}

/// Shows the chain's facts and the kind of key, never the key.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("chain", &self.chain).field("key", &self.key).finish()
    }
}

/// A pair that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialError {
    /// The chain cannot be read.
    Chain(ChainError),
    /// The key cannot be read.
    Key(KeyError),
    /// They do not belong together.
    KeyMismatch {
        /// Whose certificate it is.
        common_name: String,
    },
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
            Self::KeyMismatch { common_name } => {
                write!(
                    f,
                    "certificate and key do not match: the certificate of {common_name:?} was issued for another key"
                )
            }
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
