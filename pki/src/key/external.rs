//! [`ExternalKey`]: a private key that stays elsewhere, such as in an HSM, and only signs.

use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use perennial::printable;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;
use yasna::construct_der;

use super::{CURVES, Held, KeyAlgorithm, KeyError, KeyPair};
use crate::facts::key_algorithm;
use crate::pem::Block;

/// The most bytes that a reference may have: room for the wrapped blob of a TPM key in base64.
const LONGEST: usize = 8 << 10;

/// Error of an [`ExternalKey`], or of the code with which a program finds one. People read its text: it should name the
/// device and the remedy, and contain no secret such as a PIN.
pub type ExternalKeyError = Box<dyn Error + Send + Sync>;

/// A private key that stays elsewhere and only signs: in an HSM (PKCS#11), a TPM or a key management service.
/// [`KeyPair::external`] makes a [`KeyPair`] of it, for CSRs, certificates and TLS.
///
/// Each CSR and each TLS handshake calls [`sign`](Self::sign) and waits for the result: rustls signs synchronously.
pub trait ExternalKey: Debug + Send + Sync {
    /// The public key as a DER `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7).
    fn public_key_der(&self) -> Vec<u8>;

    /// The text by which the program finds the key again after a restart, such as the URI of a PKCS#11 object (RFC
    /// 7512). It is stored in place of the key, and shown in errors: it must contain no secret, such as a PIN. At most
    /// 8 KiB, without control characters.
    fn reference(&self) -> String;

    /// Signs `message`, which is not hashed yet. `scheme` is the scheme of the key's kind: `ECDSA_NISTP256_SHA256`,
    /// `ECDSA_NISTP384_SHA384`, `ECDSA_NISTP521_SHA512` (with the feature `aws-lc-rs`) or `ED25519`; for an RSA key
    /// `RSA_PKCS1_SHA256` in CSRs and `RSA_PSS_SHA256` in TLS. An ECDSA signature must be a DER `Ecdsa-Sig-Value`;
    /// [`ecdsa_signature`] converts the numbers r and s, which PKCS#11 returns, to that form.
    ///
    /// # Errors
    /// The key cannot sign, for example since its device is absent. The CSR or the handshake then fails.
    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, ExternalKeyError>;
}

/// Encodes an ECDSA signature for X.509 and TLS, as a DER `Ecdsa-Sig-Value` (RFC 3279 §2.2.3). `r_and_s` is the
/// signature as PKCS#11 returns it: the number r, then the number s, both big-endian and of the same length.
pub fn ecdsa_signature(r_and_s: &[u8]) -> Vec<u8> {
    let (r, s) = r_and_s.split_at(r_and_s.len() / 2);
    construct_der(|writer| {
        writer.write_sequence(|numbers| {
            numbers.next().write_bigint_bytes(r, true);
            numbers.next().write_bigint_bytes(s, true);
        });
    })
}

impl KeyPair {
    /// Makes a key pair of a private key that stays elsewhere. [`to_pem`](Self::to_pem) writes the reference of the
    /// key.
    ///
    /// # Errors
    /// [`KeyError::External`]: the public key is malformed or of an unsupported kind, or the reference is empty, too
    /// long or contains control characters.
    pub fn external(key: Arc<dyn ExternalKey>) -> Result<Self, KeyError> {
        let (reference, public_key_der) = (key.reference(), key.public_key_der());
        let refuse = |why: &str| KeyError::External { reference: reference.clone(), why: why.to_owned() };
        if !is_reference(&reference) {
            return Err(refuse("its reference is empty, longer than 8 KiB, or contains control characters"));
        }
        let algorithm = match SubjectPublicKeyInfo::from_der(&public_key_der) {
            Ok(([], info)) => key_algorithm(&info),
            _ => return Err(refuse("its public key is not a DER SubjectPublicKeyInfo")),
        };
        let algorithm = algorithm.ok_or_else(|| {
            let why = "its kind is not supported; supported are ECDSA on";
            refuse(&format!("{why} {CURVES}, Ed25519, and RSA of 2048 bits"))
        })?;
        let remote = Remote { key, reference, algorithm, public_key_der };
        Ok(Self {
            held: Held::Elsewhere { key: Arc::new(remote), proven: OnceLock::new() },
            algorithm,
            skipped: Box::default(),
        })
    }

    /// Reads a key as [`from_pem`](Self::from_pem) does. If `pem` contains the reference of a key that stays elsewhere,
    /// `find` gets the reference and returns the key.
    ///
    /// # Errors
    /// The errors of [`from_pem`](Self::from_pem) and of [`external`](Self::external). [`KeyError::External`] also if
    /// `find` fails.
    pub fn from_pem_with(
        pem: impl AsRef<[u8]>,
        find: impl FnOnce(&str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError>,
    ) -> Result<Self, KeyError> {
        match Self::from_pem(pem) {
            Err(KeyError::Elsewhere { reference }) => Self::found(reference, find),
            read => read,
        }
    }

    /// Makes a key pair of the key that `find` returns for this reference.
    pub(crate) fn found(
        reference: String,
        find: impl FnOnce(&str) -> Result<Arc<dyn ExternalKey>, ExternalKeyError>,
    ) -> Result<Self, KeyError> {
        match find(&reference) {
            Ok(key) => Self::external(key),
            Err(error) => Err(KeyError::External { reference, why: printable(&error.to_string()) }),
        }
    }

    /// The reference of a key that stays elsewhere ([`ExternalKey::reference`]); `None` if the key is in memory.
    pub fn reference(&self) -> Option<&str> {
        match &self.held {
            Held::Here(_) => None,
            Held::Elsewhere { key, .. } => Some(key.reference()),
        }
    }
}

/// Makes the error for a key elsewhere whose signature its public key does not verify.
pub(super) fn unverified(reference: &str) -> rustls::Error {
    rustls::Error::General(format!(
        "the public key of {} does not verify its signature; is the message hashed once, and is an ECDSA signature in \
         DER (perennial_pki::ecdsa_signature)?",
        printable(reference)
    ))
}

/// Makes the error for a `KEY REFERENCE` block whose reader has no means to find the key.
pub(super) fn elsewhere(block: &Block<'_>) -> KeyError {
    let reference = match block.der() {
        Ok(text) => str::from_utf8(&text).ok().filter(|text| is_reference(text)).map(ToOwned::to_owned),
        Err(damage) => return damage.into(),
    };
    reference.map_or(KeyError::Malformed, |reference| KeyError::Elsewhere { reference })
}

/// True if `text` can be the reference of a key: one line of text that fits into a message.
fn is_reference(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control)
}

/// A key elsewhere in the form in which rustls signs handshakes.
#[derive(derive_more::Debug)]
pub(super) struct Remote {
    // The program's own type, which may hold a PIN: credentials end up in logs.
    #[debug(skip)]
    key: Arc<dyn ExternalKey>,
    reference: String,
    algorithm: KeyAlgorithm,
    public_key_der: Vec<u8>,
}

impl Remote {
    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    pub(super) fn public_key_der(&self) -> &[u8] {
        &self.public_key_der
    }
}

impl SigningKey for Remote {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let of_csr = self.algorithm.signature().0;
        // TLS 1.3 forbids PKCS#1 signatures in handshakes (RFC 8446 §4.2.3), so PSS goes first.
        let schemes = match self.algorithm {
            algorithm if algorithm.is_rsa() => &[SignatureScheme::RSA_PSS_SHA256, of_csr][..],
            _ => &[of_csr],
        };
        let scheme = *schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(RemoteSigner { key: self.key.clone(), reference: self.reference.clone(), scheme }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.public_key_der.as_slice().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm.of_tls()
    }
}

#[derive(derive_more::Debug)]
struct RemoteSigner {
    #[debug(skip)]
    key: Arc<dyn ExternalKey>,
    reference: String,
    scheme: SignatureScheme,
}

impl Signer for RemoteSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let unable = |error: ExternalKeyError| format!("the key {} cannot sign: {error}", printable(&self.reference));
        self.key.sign(self.scheme, message).map_err(|error| rustls::Error::General(unable(error)))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
