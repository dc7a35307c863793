//! [`KeyPair`]: a private key, generated or read from PEM as kubelet, Go and openssl write it.

mod error;
mod external;
mod form;
mod stack;

use std::sync::{Arc, OnceLock};

use rustls::pki_types::{
    AlgorithmIdentifier, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, alg_id,
};
use rustls::sign::SigningKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

pub(crate) use error::CURVES;
pub use error::KeyError;
use external::Remote;
pub use external::{ExternalKey, ExternalKeyError, ecdsa_signature};
pub(crate) use form::has_compressed_point;

use crate::facts::key_algorithm;
use crate::pem::{self, Block, Text};
use crate::{PemError, provider};
use stack::WipingKey;

/// The kind of a private key, with its curve and the hash of its signatures. `Display` is a name such as `ecdsa-p256`.
#[derive(Clone, Copy, Debug, derive_more::Display, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// ECDSA on P-256 with SHA-256, as kubelet uses: `ecdsa-p256`.
    #[default]
    #[display("ecdsa-p256")]
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384: `ecdsa-p384`.
    #[display("ecdsa-p384")]
    EcdsaP384,
    /// ECDSA on P-521 with SHA-512: `ecdsa-p521`. Only builds with the feature `aws-lc-rs` support such keys: other builds
    /// neither generate nor read them. Of the peers in TLS, not all support them.
    #[display("ecdsa-p521")]
    EcdsaP521,
    /// Ed25519: `ed25519`.
    #[display("ed25519")]
    Ed25519,
    /// RSA of 2048 to 4095 bits: `rsa`. Only builds with the feature `aws-lc-rs` can generate RSA keys; keys of this kind
    /// have 3072 bits.
    #[display("rsa")]
    Rsa,
    /// RSA of 4096 bits: `rsa-4096`. Only builds with the feature `aws-lc-rs` can generate RSA keys.
    #[display("rsa-4096")]
    Rsa4096,
}

impl KeyAlgorithm {
    /// True if this build of perennial can generate keys of this kind. Every build can import all kinds but
    /// [`EcdsaP521`](Self::EcdsaP521).
    pub const fn can_be_generated(self) -> bool {
        !matches!(self, Self::EcdsaP521 | Self::Rsa | Self::Rsa4096) || cfg!(feature = "aws-lc-rs")
    }

    /// True for RSA keys of any length.
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa | Self::Rsa4096)
    }

    /// True for ECDSA keys on any curve.
    pub const fn is_ecdsa(self) -> bool {
        matches!(self, Self::EcdsaP256 | Self::EcdsaP384 | Self::EcdsaP521)
    }

    /// True if a key of the kind `key` will do where one of this kind is wanted: the kinds are equal, or
    /// [`Rsa`](Self::Rsa) is wanted, for which an RSA key of any length will do.
    pub fn admits(self, key: Self) -> bool {
        self == key || (self == Self::Rsa && key.is_rsa())
    }

    /// The kind of signatures that keys of this kind make in TLS, as rustls names it.
    const fn of_tls(self) -> SignatureAlgorithm {
        match self {
            Self::EcdsaP256 | Self::EcdsaP384 | Self::EcdsaP521 => SignatureAlgorithm::ECDSA,
            Self::Ed25519 => SignatureAlgorithm::ED25519,
            Self::Rsa | Self::Rsa4096 => SignatureAlgorithm::RSA,
        }
    }

    /// The scheme in which keys of this kind sign CSRs and certificates: its identifier in TLS, and its identifier in
    /// X.509.
    const fn signature(self) -> (SignatureScheme, AlgorithmIdentifier) {
        match self {
            Self::EcdsaP256 => (SignatureScheme::ECDSA_NISTP256_SHA256, alg_id::ECDSA_SHA256),
            Self::EcdsaP384 => (SignatureScheme::ECDSA_NISTP384_SHA384, alg_id::ECDSA_SHA384),
            Self::EcdsaP521 => (SignatureScheme::ECDSA_NISTP521_SHA512, alg_id::ECDSA_SHA512),
            Self::Ed25519 => (SignatureScheme::ED25519, alg_id::ED25519),
            Self::Rsa | Self::Rsa4096 => (SignatureScheme::RSA_PKCS1_SHA256, alg_id::RSA_PKCS1_SHA256),
        }
    }
}

/// The encoding of a private key in PEM. All programs read PKCS#8; some old ones read only the encoding of one kind of
/// key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyEncoding {
    /// PKCS#8 (RFC 5208), for keys of all kinds: `PRIVATE KEY`.
    #[default]
    Pkcs8,
    /// PKCS#1 (RFC 8017 §A.1.2), for RSA keys: `RSA PRIVATE KEY`.
    Pkcs1,
    /// SEC 1 (RFC 5915), for ECDSA keys: `EC PRIVATE KEY`.
    Sec1,
}

impl KeyEncoding {
    /// The label of the PEM block.
    const fn label(self) -> &'static str {
        match self {
            Self::Pkcs8 => "PRIVATE KEY",
            Self::Pkcs1 => "RSA PRIVATE KEY",
            Self::Sec1 => "EC PRIVATE KEY",
        }
    }
}

/// A private key with its public key. The private key is in memory, or stays elsewhere ([`KeyPair::external`]).
///
/// Not `Clone`: share a `KeyPair` in an `Arc`. On drop, the encoding of the private key is wiped. The copies of the
/// crypto provider, which exist during a CSR's signature and in [`KeyPair::signing_key`], are not wiped.
#[derive(derive_more::Debug)]
#[debug("KeyPair {{ algorithm: {algorithm:?}, .. }}")]
pub struct KeyPair {
    held: Held,
    algorithm: KeyAlgorithm,
    skipped: Box<[PemError]>,
}

/// The place of a private key.
enum Held {
    /// The private key itself. Only its encoding: the form in which the crypto provider signs is several times as
    /// large, and is made when it is needed.
    Here(Encoded),
    /// A private key that stays elsewhere. `proven` is set once the key has made a signature that its public key
    /// verifies.
    Elsewhere { key: Arc<Remote>, proven: OnceLock<()> },
}

/// The encoding of a private key with its public key, in one allocation that is wiped on drop.
struct Encoded {
    /// The private key, then the public key.
    bytes: Zeroizing<Box<[u8]>>,
    private_length: usize,
    encoding: KeyEncoding,
}

impl Encoded {
    fn new(private_key: &PrivateKeyDer<'_>, public_key_der: &[u8]) -> Self {
        let encoding = match private_key {
            PrivateKeyDer::Pkcs1(_) => KeyEncoding::Pkcs1,
            PrivateKeyDer::Sec1(_) => KeyEncoding::Sec1,
            _ => KeyEncoding::Pkcs8,
        };
        let private_key = private_key.secret_der();
        let bytes = Zeroizing::new([private_key, public_key_der].concat().into_boxed_slice());
        Self { bytes, private_length: private_key.len(), encoding }
    }

    /// Borrows the private key.
    fn private_key(&self) -> PrivateKeyDer<'_> {
        let (private_key, _) = self.bytes.split_at(self.private_length);
        match self.encoding {
            KeyEncoding::Pkcs8 => PrivatePkcs8KeyDer::from(private_key).into(),
            KeyEncoding::Pkcs1 => PrivatePkcs1KeyDer::from(private_key).into(),
            KeyEncoding::Sec1 => PrivateSec1KeyDer::from(private_key).into(),
        }
    }

    fn public_key_der(&self) -> &[u8] {
        self.bytes.split_at(self.private_length).1
    }
}

impl KeyPair {
    /// Generates a key from the system's source of randomness.
    ///
    /// # Errors
    /// [`KeyError::NotGenerated`] for RSA and P-521 without the feature `aws-lc-rs`; [`KeyError::Generation`] if the operating
    /// system returns no random bytes.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        stack::wiped(|| {
            let der = match algorithm {
                _ if !algorithm.can_be_generated() => return Err(KeyError::NotGenerated { algorithm }),
                KeyAlgorithm::Ed25519 => {
                    provider::generate(algorithm).map(Zeroizing::new).and_then(|v2| ed25519_v1(&v2))
                }
                _ => provider::generate(algorithm),
            };
            Self::of_typed(PrivatePkcs8KeyDer::from(der.ok_or(KeyError::Generation)?).into(), None)
        })
    }

    /// Reads the first private key of a PEM text: PKCS#8, SEC 1 or PKCS#1 under any label `… PRIVATE KEY`, as Go's
    /// crypto/tls does. Skips text, headers, other blocks, and damage outside of the key; [`KeyPair::skipped`] lists
    /// the damage.
    ///
    /// # Errors
    /// [`KeyError`]: no key, an encrypted or malformed key, an RSA key of an unsupported size, or an unsupported kind.
    /// [`KeyError::NoPublicKey`] for an EC key without its public key: [`Credential::from_pem`] and
    /// [`Credential::from_pair`] read such a key, since they take the public key from the certificate.
    /// [`KeyError::Elsewhere`] for the reference of a key that stays elsewhere: see
    /// [`from_pem_with`](Self::from_pem_with).
    ///
    /// [`Credential::from_pem`]: crate::Credential::from_pem
    /// [`Credential::from_pair`]: crate::Credential::from_pair
    pub fn from_pem(pem: impl AsRef<[u8]>) -> Result<Self, KeyError> {
        Self::from_pem_of(pem.as_ref(), None)
    }

    /// Reads a private key in DER: PKCS#8, SEC 1 or PKCS#1, recognized by their contents. Copies `der`, which the
    /// caller should wipe.
    ///
    /// # Errors
    /// [`KeyError`]: not one DER private key, an encrypted key, an RSA key of an unsupported size, an unsupported kind,
    /// or an EC key without its public key.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        stack::wiped(|| Self::of_typed(form::typed(der.to_vec())?, None))
    }

    /// Reads a key as [`KeyPair::from_pem`] does. An EC key that lacks its public key gets `public_key_der`, the public
    /// key in the leaf of the same pair (`None` if there is no leaf).
    ///
    /// # Errors
    /// The errors of [`KeyPair::from_pem`]; [`KeyError::NoPublicKey`] also if `public_key_der` belongs to another key.
    pub(crate) fn from_pem_of(pem: &[u8], public_key_der: Option<&[u8]>) -> Result<Self, KeyError> {
        let text = pem::read(pem, pem::MAX_PAIR).and_then(Text::unglued)?;
        let Some(block) = text.blocks.iter().find(|block| block.is_key()) else {
            return Err(match text.blocks.iter().find(|block| block.label == pem::KEY_REFERENCE) {
                Some(block) => external::elsewhere(block),
                None => text.why_empty().map_or(KeyError::NoKey, KeyError::Pem),
            });
        };
        let key = Self::from_block(block, public_key_der)?;
        Ok(Self { skipped: text.damage.into(), ..key })
    }

    /// Reads the key in `block`, with `public_key_der` as for [`KeyPair::from_pem_of`].
    pub(crate) fn from_block(block: &Block<'_>, public_key_der: Option<&[u8]>) -> Result<Self, KeyError> {
        if block.is_encrypted_key() {
            return Err(KeyError::Encrypted);
        }
        stack::wiped(|| {
            let mut der = block.der()?;
            // Moved, not copied: `of_typed` wipes these bytes.
            Self::of_typed(form::typed(std::mem::take(&mut *der))?, public_key_der)
        })
    }

    /// Makes a `KeyPair` of a key in PKCS#8, SEC 1 or PKCS#1, with `public_key_der` as for [`KeyPair::from_pem_of`].
    fn of_typed(der: PrivateKeyDer<'static>, public_key_der: Option<&[u8]>) -> Result<Self, KeyError> {
        let mut der = Zeroizing::new(der);
        let signing_key = match provider::load(&der) {
            Ok(key) => key,
            Err(_) => match form::refusal(&der) {
                KeyError::Malformed => {
                    // RFC 5915 §3 lets an EC key come without its public key, but the provider requires it.
                    let incomplete = form::Incomplete::of(&der).ok_or(KeyError::Malformed)?;
                    let point = incomplete.point.or_else(|| incomplete.curve.point(public_key_der?));
                    let whole = incomplete.complete(point.ok_or(KeyError::NoPublicKey)?);
                    der = Zeroizing::new(whole);
                    // The provider computes the public key and refuses one that differs.
                    provider::load(&der).map_err(|_| KeyError::NoPublicKey)?
                }
                refusal => return Err(refusal),
            },
        };
        let unsupported = || KeyError::Unsupported { kind: "unknown".to_owned() };
        // By the public key, since rustls names the kind of a key, but not its curve or its length.
        let public_key = signing_key.public_key().ok_or_else(unsupported)?;
        let (_, info) = SubjectPublicKeyInfo::from_der(&public_key).map_err(|_| unsupported())?;
        let algorithm = key_algorithm(&info).ok_or_else(unsupported)?;
        let encoded = Encoded::new(&der, &public_key);
        Ok(Self { held: Held::Here(encoded), algorithm, skipped: Box::default() })
    }

    /// The damage in the PEM text that [`from_pem`](Self::from_pem) skipped. For warnings.
    pub fn skipped(&self) -> &[PemError] {
        &self.skipped
    }

    /// The key as one PEM block, wiped on drop. A generated key is in PKCS#8. A key that was read keeps its encoding,
    /// unless it is an EC key that had to be completed, such as by its public key: then it is in SEC 1. For a key that
    /// stays elsewhere, the block is a `KEY REFERENCE`: other programs skip this block, and find no key.
    pub fn to_pem(&self) -> Zeroizing<String> {
        match &self.held {
            Held::Here(key) => pem::encode(key.encoding.label(), key.private_key().secret_der()),
            Held::Elsewhere { key, .. } => pem::encode(pem::KEY_REFERENCE, key.reference().as_bytes()),
        }
    }

    /// The key as one PEM block in this encoding, wiped on drop. `None` if keys of this kind have no such encoding, or if
    /// the key stays elsewhere.
    pub fn to_pem_as(&self, encoding: KeyEncoding) -> Option<Zeroizing<String>> {
        let Held::Here(key) = &self.held else { return None };
        form::encoded(&key.private_key(), encoding, key.public_key_der()).map(|der| pem::encode(encoding.label(), &der))
    }

    /// The kind of the key.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The public key as a DER `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7).
    pub fn public_key_der(&self) -> &[u8] {
        match &self.held {
            Held::Here(key) => key.public_key_der(),
            Held::Elsewhere { key, .. } => key.public_key_der(),
        }
    }

    /// The private key in the form in which rustls signs handshakes. Each call makes that form of a key in memory anew:
    /// retain the result, as [`Credential::certified_key`](crate::Credential::certified_key) does.
    pub fn signing_key(&self) -> Arc<dyn SigningKey> {
        match &self.held {
            Held::Here(key) => Arc::new(WipingKey::load(&key.private_key(), self.algorithm)),
            Held::Elsewhere { key, .. } => key.clone(),
        }
    }

    /// The signature algorithm of [`KeyPair::sign`]: the content of an X.509 `AlgorithmIdentifier`.
    pub(crate) fn signature_algorithm(&self) -> AlgorithmIdentifier {
        self.algorithm.signature().1
    }

    /// Checks that the private key belongs to the public key. Returns false if an RSA key in memory makes a signature
    /// that does not verify. Other keys in memory need no test signature: the provider has computed the public key from
    /// the private key, and refuses a key with another public key. A key elsewhere makes one test signature only,
    /// since such a key may be slow.
    ///
    /// # Errors
    /// [`KeyError::External`] if a key elsewhere does not sign, or makes a wrong signature; [`KeyError::Malformed`] if
    /// an RSA key in memory does not sign.
    pub(crate) fn is_whole(&self) -> Result<bool, KeyError> {
        const MESSAGE: &[u8] = b"perennial: this key is the certificate's";
        match &self.held {
            Held::Elsewhere { proven, .. } if proven.get().is_some() => Ok(true),
            Held::Elsewhere { key, .. } => match self.sign(MESSAGE) {
                Ok(_) => Ok(true),
                Err(error) => {
                    let why = crate::describe(&error, &[]);
                    Err(KeyError::External { reference: key.reference().to_owned(), why })
                }
            },
            Held::Here(_) if !self.algorithm.is_rsa() => Ok(true),
            Held::Here(_) => {
                let proof = self.sign(MESSAGE).map_err(|_| KeyError::Malformed)?;
                Ok(self.verify(MESSAGE, &proof))
            }
        }
    }

    /// True if `signature` over `message` verifies with this key and the algorithm of [`KeyPair::sign`].
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok((_, public_key)) = SubjectPublicKeyInfo::from_der(self.public_key_der()) else { return false };
        let (scheme, _) = self.algorithm.signature();
        provider::verify(scheme, &public_key.subject_public_key.data, message, signature)
    }

    /// Signs `message` with the algorithm of [`KeyPair::signature_algorithm`]. Fails if a key that stays elsewhere
    /// makes a signature that its public key does not verify.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let (scheme, _) = self.algorithm.signature();
        let signer = self.signing_key().choose_scheme(&[scheme]);
        let unable = || rustls::Error::General(format!("the {} key cannot sign", self.algorithm));
        let signature = signer.ok_or_else(unable)?.sign(message)?;
        if let Held::Elsewhere { key, proven } = &self.held {
            // Without this check, a peer would find the wrong signature, and could not name the cause.
            if !self.verify(message, &signature) {
                return Err(external::unverified(key.reference()));
            }
            let _ = proven.set(());
        }
        Ok(signature)
    }
}

/// Converts an Ed25519 key from PKCS#8 version 2, which *ring* writes and openssl does not read, to version 1, which
/// has no public key (RFC 8410 §7). `None` if `v2` does not have the layout that *ring* writes.
fn ed25519_v1(v2: &[u8]) -> Option<Vec<u8>> {
    const HEADER: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    let private_key = v2.get(12..)?.strip_prefix(&HEADER[12..])?.get(..32)?;
    let mut v1 = Vec::with_capacity(HEADER.len() + private_key.len());
    v1.extend_from_slice(HEADER);
    v1.extend_from_slice(private_key);
    Some(v1)
}
