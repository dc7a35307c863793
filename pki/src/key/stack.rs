//! Wipes the stack after calls of a crypto library, since the library leaves copies of private keys there: scalars,
//! encodings, intermediate values.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use zeroize::Zeroize as _;

use super::KeyAlgorithm;
use crate::provider;

/// The number of bytes of stack to wipe: more than crypto libraries use to generate, parse or sign, even in debug
/// builds.
const ROOM: usize = 32 << 10;

/// Runs `work`, and wipes the part of the stack below the caller's frame that `work` may have used.
pub(super) fn wiped<T>(work: impl FnOnce() -> T) -> T {
    let done = below(work);
    wipe();
    done
}

/// Runs `work` in a stack frame of its own. The frame of [`wipe`], which is called next, begins at the same place, and
/// so overwrites everything that `work` has left there.
#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn wipe() {
    // Words of 64 bits: `zeroize` writes one element at a time.
    let mut room = [0_u64; ROOM / size_of::<u64>()];
    // Volatile writes: the compiler drops plain stores to an array that is never read.
    room.zeroize();
}

/// A signing key that wipes the stack after each signature.
#[derive(Debug)]
pub(super) struct WipingKey {
    /// `None` if the provider could not load the key: it then signs in no scheme. The encoding was loaded once before,
    /// so that only a lack of random bytes can be the cause.
    loaded: Option<Arc<dyn SigningKey>>,
    algorithm: KeyAlgorithm,
}

impl WipingKey {
    /// Makes a signing key of the encoding of a [`KeyPair`](super::KeyPair).
    pub(super) fn load(der: &PrivateKeyDer<'_>, algorithm: KeyAlgorithm) -> Self {
        Self { loaded: wiped(|| provider::load(der).ok()), algorithm }
    }
}

impl SigningKey for WipingKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.loaded.as_ref()?.choose_scheme(offered)?;
        Some(Box::new(WipingSigner(signer)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.loaded.as_ref()?.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm.of_tls()
    }
}

#[derive(Debug)]
struct WipingSigner(Box<dyn Signer>);

impl Signer for WipingSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        wiped(|| self.0.sign(message))
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
