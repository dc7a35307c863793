//! [`Elsewhere`]: a key in memory that acts as a key that stays elsewhere, and misbehaves on request.

use std::sync::{Mutex, PoisonError};

use perennial_pki::{ExternalKey, ExternalKeyError, KeyPair};
use rustls::SignatureScheme;

/// The misbehaviour of an [`Elsewhere`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bug {
    None,
    /// The device is absent.
    Absent,
    /// Signatures are the numbers r and s as PKCS#11 returns them, not encoded in DER.
    Raw,
    /// Signatures are of another message.
    OtherMessage,
}

#[derive(Debug)]
pub(crate) struct Elsewhere {
    reference: String,
    key: KeyPair,
    public_key_der: Vec<u8>,
    bug: Mutex<Bug>,
}

impl Elsewhere {
    pub(crate) fn new(reference: &str, key: KeyPair) -> Self {
        let (reference, public_key_der) = (reference.to_owned(), key.public_key_der().to_vec());
        Self { reference, key, public_key_der, bug: Mutex::new(Bug::None) }
    }

    pub(crate) fn with_public_key(self, public_key_der: Vec<u8>) -> Self {
        Self { public_key_der, ..self }
    }

    pub(crate) fn set(&self, bug: Bug) {
        *self.bug.lock().unwrap_or_else(PoisonError::into_inner) = bug;
    }
}

impl ExternalKey for Elsewhere {
    fn public_key_der(&self) -> Vec<u8> {
        self.public_key_der.clone()
    }

    fn reference(&self) -> String {
        self.reference.clone()
    }

    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, ExternalKeyError> {
        let signer = self.key.signing_key().choose_scheme(&[scheme]).ok_or("unknown scheme")?;
        Ok(match *self.bug.lock().unwrap_or_else(PoisonError::into_inner) {
            Bug::None => signer.sign(message)?,
            Bug::Absent => return Err("no token in slot 0".into()),
            Bug::Raw => vec![0x42; 64],
            Bug::OtherMessage => signer.sign(b"another message")?,
        })
    }
}
