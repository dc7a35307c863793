//! Key pairs: generated here, or read from what others wrote.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::{Zeroize as _, Zeroizing};

use crate::pem;
use crate::provider::provider;

/// Smaller RSA keys are refused (client-go `validateKeyStrength`).
const WEAKEST_RSA: usize = 2048;

/// The kind of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// ECDSA on P-256, what kubelets use.
    #[default]
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519. Kubernetes' own tools do not all read such keys.
    Ed25519,
    /// RSA, 2048 bits or more. Read, but not generated.
    Rsa,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa => "rsa",
        })
    }
}

impl FromStr for KeyAlgorithm {
    type Err = KeyError;

    fn from_str(name: &str) -> Result<Self, KeyError> {
        let all = [Self::EcdsaP256, Self::EcdsaP384, Self::Ed25519, Self::Rsa];
        all.into_iter().find(|known| known.to_string() == name).ok_or_else(|| KeyError::UnknownAlgorithm(name.into()))
    }
}

/// A private key and its public half.
///
/// The encoded key is wiped from memory on drop. Not wiped, because the types do not allow it: the
/// copy inside the TLS library's signing key, and what the generator and the PEM reader held on their way.
pub struct KeyPair {
    der: PrivateKeyDer<'static>,
    public_key_der: Vec<u8>,
    algorithm: KeyAlgorithm,
    signing_key: Arc<dyn SigningKey>,
}

impl KeyPair {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::CannotGenerate`] for RSA, or if the system has no randomness to give.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let generator = match algorithm {
            KeyAlgorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Ed25519 => &rcgen::PKCS_ED25519,
            KeyAlgorithm::Rsa => {
                return Err(KeyError::CannotGenerate { algorithm, why: "use ECDSA or Ed25519".into() });
            }
        };
        let mut generated = rcgen::KeyPair::generate_for(generator)
            .map_err(|error| KeyError::CannotGenerate { algorithm, why: error.to_string() })?;
        let der = PrivatePkcs8KeyDer::from(generated.serialize_der()).into();
        generated.zeroize();
        Self::from_der(der)
    }

    /// The first private key in `text`: PKCS#8, SEC1 (as kubelet writes it) or PKCS#1. What else is there is skipped.
    ///
    /// # Errors
    /// If there is none, or it is of a kind or strength that is not accepted.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        use rustls::pki_types::pem::Error as PemError;
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| {
            if !matches!(error, PemError::NoItemsFound) {
                KeyError::Malformed
            } else if text.contains("ENCRYPTED PRIVATE KEY") {
                KeyError::Encrypted
            } else {
                KeyError::Missing
            }
        })?;
        Self::from_der(der)
    }

    fn from_der(der: PrivateKeyDer<'static>) -> Result<Self, KeyError> {
        let signing_key = provider().key_provider.load_private_key(der.clone_key()).map_err(|_| KeyError::Malformed)?;
        let public_key_der = signing_key.public_key().ok_or(KeyError::Malformed)?.as_ref().to_vec();
        let algorithm = algorithm_of(&public_key_der)?;
        Ok(Self { der, public_key_der, algorithm, signing_key })
    }

    /// The private key as PEM, in the encoding it came in; PKCS#8 for generated ones.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let label = if matches!(self.der, PrivateKeyDer::Pkcs1(_)) {
            "RSA PRIVATE KEY"
        } else if matches!(self.der, PrivateKeyDer::Sec1(_)) {
            "EC PRIVATE KEY"
        } else {
            "PRIVATE KEY"
        };
        Zeroizing::new(pem::encode(label, self.der.secret_der()))
    }

    /// What kind of key this is.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The public key: SubjectPublicKeyInfo, DER.
    pub fn public_key_der(&self) -> &[u8] {
        &self.public_key_der
    }

    /// For TLS.
    pub fn signing_key(&self) -> Arc<dyn SigningKey> {
        self.signing_key.clone()
    }

    /// A signature over `message`, with the hash that goes with the key.
    ///
    /// # Errors
    /// If the provider cannot sign.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let scheme = match self.algorithm {
            KeyAlgorithm::EcdsaP256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            KeyAlgorithm::EcdsaP384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            KeyAlgorithm::Ed25519 => SignatureScheme::ED25519,
            KeyAlgorithm::Rsa => SignatureScheme::RSA_PKCS1_SHA256,
        };
        let signer = self.signing_key.choose_scheme(&[scheme]).ok_or(KeyError::CannotSign)?;
        signer.sign(message).map_err(|_| KeyError::CannotSign)
    }
}

impl Drop for KeyPair {
    fn drop(&mut self) {
        self.der.zeroize();
    }
}

/// Shows the kind of key, never the key.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.algorithm)
    }
}

fn algorithm_of(public_key_der: &[u8]) -> Result<KeyAlgorithm, KeyError> {
    let (_, info) = SubjectPublicKeyInfo::from_der(public_key_der).map_err(|_| KeyError::Malformed)?;
    match info.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() < WEAKEST_RSA => Err(KeyError::Weak { bits: rsa.key_size() }),
        Ok(PublicKey::RSA(_)) => Ok(KeyAlgorithm::Rsa),
        Ok(PublicKey::EC(point)) if point.key_size() == 256 => Ok(KeyAlgorithm::EcdsaP256),
        Ok(PublicKey::EC(point)) if point.key_size() == 384 => Ok(KeyAlgorithm::EcdsaP384),
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => Ok(KeyAlgorithm::Ed25519),
        _ => Err(KeyError::Malformed),
    }
}

/// A key that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no private key in the text.
    Missing,
    /// It is encrypted.
    Encrypted,
    /// It is damaged, or of a kind that is not supported.
    Malformed,
    /// It is too short.
    Weak {
        /// Its size.
        bits: usize,
    },
    /// Keys of this kind cannot be generated here.
    CannotGenerate {
        /// The kind.
        algorithm: KeyAlgorithm,
        /// Why.
        why: String,
    },
    /// The provider did not sign.
    CannotSign,
    /// No kind of key has this name.
    UnknownAlgorithm(String),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => {
                f.write_str("there is no private key (PEM block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)")
            }
            Self::Encrypted => {
                f.write_str("the private key is encrypted; store it decrypted, readable by its owner only")
            }
            Self::Malformed => f.write_str(
                "the private key is damaged or of a kind that is not supported (P-256, P-384, Ed25519 and RSA are)",
            ),
            Self::Weak { bits } => write!(f, "an RSA key of {bits} bits is too weak; {WEAKEST_RSA} is the minimum"),
            Self::CannotGenerate { algorithm, why } => write!(f, "cannot generate a key of kind {algorithm}: {why}"),
            Self::CannotSign => f.write_str("the private key cannot sign"),
            Self::UnknownAlgorithm(name) => {
                write!(f, "{name:?} is no kind of key; use ecdsa-p256, ecdsa-p384 or ed25519")
            }
        }
    }
}

impl std::error::Error for KeyError {}
