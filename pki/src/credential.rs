//! [`Credential`]: a certificate chain with the private key of its leaf.

use std::sync::{Arc, OnceLock};

use perennial::Template;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::key::has_compressed_point;
use crate::{Chain, ChainError, ExternalKey, ExternalKeyError, KeyError, KeyPair};

/// A certificate chain and the private key of its leaf, for TLS as a server or a client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credential {
    chain: Chain,
    key: Arc<KeyPair>,
    /// Chain and key in the form of rustls, made by the first call of `certified_key`.
    certified: OnceLock<Arc<CertifiedKey>>,
}

/// Two credentials are equal if their chains are equal, since equal leaves have equal keys.
impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl Eq for Credential {}

impl Credential {
    /// Joins a chain with the key of its leaf. Checks that the key belongs to the leaf; for an RSA key and for a key
    /// that stays elsewhere, by a test signature.
    ///
    /// # Errors
    /// [`CredentialError::KeyMismatch`] if the leaf was issued for another key; [`CredentialError::CompressedPoint`] if
    /// the public key in the leaf is a compressed point, which TLS does not use; [`KeyError::Malformed`] or
    /// [`KeyError::External`] if the key does not sign.
    pub fn new(chain: Chain, key: Arc<KeyPair>) -> Result<Self, CredentialError> {
        if chain.public_key_der() != key.public_key_der() {
            return Err(mismatch(&chain));
        }
        // Equal public keys are not enough: the private part of an RSA key need not fit its public part.
        if !key.is_whole()? {
            return Err(mismatch(&chain));
        }
        Ok(Self { chain, key, certified: OnceLock::new() })
    }

    /// Reads a chain and its key from the content of one file, such as kubelet's `kubelet-client-current.pem`. Chain
    /// and key may come in any order. [`Chain::skipped`] lists the damage that was skipped.
    ///
    /// # Errors
    /// [`CredentialError`]: an unreadable chain, an unreadable key, or a key that does not belong to the chain.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, CredentialError> {
        Self::from_pair(bundle, bundle)
    }

    /// Reads a bundle as [`from_pem`](Self::from_pem) does. If the bundle contains the reference of a key that stays
    /// elsewhere, `find` gets the reference and returns the key.
    ///
    /// # Errors
    /// [`CredentialError`]: the errors of [`from_pem`](Self::from_pem); [`KeyError::External`] if `find` fails, or if
    /// the key that it returns does not sign.
    pub fn from_pem_with(
        bundle: &[u8],
        find: impl FnOnce(&str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError>,
    ) -> Result<Self, CredentialError> {
        match Self::from_pem(bundle) {
            Err(CredentialError::Key(KeyError::Elsewhere { reference })) => {
                Self::new(Chain::from_pem(bundle)?, Arc::new(KeyPair::found(reference, find)?))
            }
            read => read,
        }
    }

    /// Reads the certificates from one file and the key from another. [`Chain::skipped`] and [`KeyPair::skipped`] list
    /// the damage that was skipped.
    ///
    /// # Errors
    /// [`CredentialError`]: an unreadable chain, an unreadable key, or a key that does not belong to the chain.
    pub fn from_pair(certificate: &[u8], key: &[u8]) -> Result<Self, CredentialError> {
        let chain = Chain::from_pem(certificate)?;
        match KeyPair::from_pem_of(key, Some(chain.public_key_der())) {
            Ok(key) => Self::new(chain, Arc::new(key)),
            // The key lacks its public key, and the one in the leaf does not fit it: the leaf belongs to another key.
            Err(KeyError::NoPublicKey) => Err(mismatch(&chain)),
            Err(error) => Err(CredentialError::Key(error)),
        }
    }

    /// Chain and key as PEM, in this order, as kubelet writes its files. If the key stays elsewhere, the text contains
    /// its reference in place of the key ([`KeyPair::to_pem`]). The text is wiped on drop.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let (chain, key) = (self.chain.pem(), self.key.to_pem());
        // Room for all of it at once: a string that grows leaves copies of itself behind.
        let mut pem = Zeroizing::new(String::with_capacity(chain.len() + key.len()));
        pem.push_str(&chain);
        pem.push_str(&key);
        pem
    }

    /// The certificate chain of the credential.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Shares the names of the certificate with an equal template: see [`Chain::share_names`].
    pub fn share_names(&mut self, template: &Arc<Template>) {
        self.chain.share_names(template);
    }

    /// The private key of the leaf.
    pub fn key(&self) -> &Arc<KeyPair> {
        &self.key
    }

    /// Chain and key for rustls. Each call returns the same `Arc`.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        let make = || Arc::new(CertifiedKey::new(self.owned_der(), self.key.signing_key()));
        self.certified.get_or_init(make).clone()
    }

    fn owned_der(&self) -> Vec<CertificateDer<'static>> {
        self.chain.der().into_iter().map(CertificateDer::into_owned).collect()
    }
}

/// Makes the error for a key that does not belong to the leaf of `chain`.
fn mismatch(chain: &Chain) -> CredentialError {
    if has_compressed_point(chain.public_key_der()) {
        CredentialError::CompressedPoint
    } else {
        CredentialError::KeyMismatch { serial: chain.serial().to_owned() }
    }
}

/// Error of a chain and a key that cannot be read, or do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The chain cannot be read.
    #[error("{0}")]
    Chain(#[from] ChainError),
    /// The key cannot be read.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The leaf was issued for another key than the one given.
    #[error(
        "the first certificate (serial {serial}) was issued for another private key; \
         check that both files are of the same rotation, and that the leaf comes first"
    )]
    KeyMismatch {
        /// The serial number of the leaf, in upper-case hexadecimal.
        serial: String,
    },
    /// The public key in the leaf is a compressed point, which neither Go nor TLS peers read.
    #[error(
        "the first certificate holds its public key as a compressed point, which TLS does not use; \
         have it issued for the uncompressed form (`openssl ec -conv_form uncompressed`)"
    )]
    CompressedPoint,
}

impl CredentialError {
    /// True if the pair is well-formed, but of a kind that perennial does not support. Other programs may support the
    /// pair.
    pub const fn is_unsupported(&self) -> bool {
        match self {
            Self::Key(error) => error.is_unsupported(),
            Self::CompressedPoint => true,
            Self::Chain(_) | Self::KeyMismatch { .. } => false,
        }
    }
}
