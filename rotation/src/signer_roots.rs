//! [`SignerRoots`]: the CAs in the chains that a signer issues.

use std::sync::{Mutex, PoisonError};

use perennial::{Fingerprint, UnixTime};
use perennial_pki::{Chain, Roots};

use crate::handle::Handle;
use crate::{NotYet, RootsSource, clock};

/// Source of CAs: the CA certificates in the chains that the signer of a rotation issues. A peer with a certificate of
/// the same signer is then trusted. The signer has to append its CA certificates to the leaf, which Kubernetes signers
/// seldom do.
///
/// The CAs of a chain are trusted until its leaf expires, also after a rotation: peers do not all rotate at the same
/// time.
#[derive(Debug)]
pub struct SignerRoots {
    handle: Handle,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The latest chain.
    leaf: Option<Fingerprint>,
    /// The different CAs of the chains so far, each until the last expiry of a leaf.
    issuers: Vec<(Roots, UnixTime)>,
    /// All of `issuers`; `None` if they have changed.
    joined: Option<Roots>,
}

impl SignerRoots {
    /// Makes a source of the CAs of this rotation's signer.
    pub fn new(handle: &Handle) -> Self {
        Self { handle: handle.clone(), seen: Mutex::default() }
    }
}

impl RootsSource for SignerRoots {
    fn roots(&self) -> Result<Roots, NotYet> {
        let credential = self.handle.credential();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget_expired(clock::now().unix);
        if let Some(credential) = credential {
            seen.add(credential.chain());
        }
        seen.joined().ok_or_else(|| {
            NotYet::new(match seen.leaf {
                None => "no certificate has been issued yet",
                Some(_) => "the signer issues chains without a CA certificate; read the CA from a file instead",
            })
        })
    }

    fn origin(&self) -> String {
        "the chains that the signer issued".to_owned()
    }
}

impl Seen {
    fn forget_expired(&mut self, now: UnixTime) {
        let before = self.issuers.len();
        self.issuers.retain(|(_, until)| now <= *until);
        if self.issuers.len() < before {
            self.joined = None;
        }
    }

    fn add(&mut self, chain: &Chain) {
        let leaf = chain.certificate();
        if self.leaf.replace(leaf.fingerprint) == Some(leaf.fingerprint) {
            return;
        }
        let Ok(roots) = chain.issuers() else { return };
        let until = leaf.validity.not_after();
        match self.issuers.iter_mut().find(|(known, _)| *known == roots) {
            Some((_, last)) => *last = until.max(*last),
            None => {
                self.issuers.push((roots, until));
                self.joined = None;
            }
        }
    }

    fn joined(&mut self) -> Option<Roots> {
        if self.joined.is_none() {
            self.joined = Roots::joined(self.issuers.iter().map(|(roots, _)| roots)).ok();
        }
        self.joined.clone()
    }
}
