//! [`Rotations`]: receiver of the rotations of one certificate.

use std::sync::Arc;

use perennial_pki::Credential;

use super::link::Link;
use super::until_ended;
use super::wait::Wait;

/// Receiver of rotations, in order. A slow receiver gets only the latest of several rotations: [`Rotated::old`] is then
/// the credential that this receiver got last.
#[derive(Debug)]
pub struct Rotations {
    link: Arc<Link>,
    seen: Option<Arc<Credential>>,
}

/// A rotation: a new credential has replaced the current one.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The previous credential, if there was one. It may still be valid, and its connections stay open.
    pub old: Option<Arc<Credential>>,
    /// The credential for new connections.
    pub new: Arc<Credential>,
}

impl Rotations {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { seen: link.snapshot().credential.clone(), link }
    }

    /// Returns the rotation since the last call, if there was one. Does not wait.
    pub fn try_recv(&mut self) -> Option<Rotated> {
        let new = self.link.snapshot().credential.clone()?;
        let fingerprint = |credential: &Arc<Credential>| credential.chain().certificate().fingerprint;
        if self.seen.as_ref().map(fingerprint) == Some(fingerprint(&new)) {
            return None;
        }
        Some(Rotated { old: self.seen.replace(new.clone()), new })
    }

    /// Waits for the next rotation; `None` if the rotation ends, or the wait takes too long, before that.
    pub fn recv(&mut self) -> Wait<'_, Option<Rotated>> {
        let link = self.link.clone();
        let mut check = until_ended(|_| self.try_recv());
        Wait::new(&link.clone().changed, move || check(&link), || None)
    }
}
