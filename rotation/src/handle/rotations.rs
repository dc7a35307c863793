//! [`Rotations`]: receiver of the rotations of one certificate.

use std::fmt;
use std::sync::Arc;

use event_listener::Event;
use perennial_pki::Credential;

use super::link::Link;
use super::wait::Wait;

/// A source of [`Rotations`], such as the link of a rotation: its credential is replaced again and again, until the
/// source ends.
pub(crate) trait Published: fmt::Debug + Send + Sync {
    /// The latest credential, if there is one.
    fn latest(&self) -> Option<Arc<Credential>>;

    /// True once the source has ended: its credential will not be replaced any more.
    fn has_ended(&self) -> bool;

    /// Notified after each replacement of the credential, and when the source ends.
    fn changed(&self) -> &Event;
}

impl Published for Link {
    fn latest(&self) -> Option<Arc<Credential>> {
        self.snapshot().credential.clone()
    }

    fn has_ended(&self) -> bool {
        self.has_ended()
    }

    fn changed(&self) -> &Event {
        &self.changed
    }
}

/// Receiver of rotations, in order. If several rotations happen between two calls, the receiver gets them as one: from
/// the credential that it got last ([`Rotated::old`]) to the latest credential.
#[derive(Debug)]
pub struct Rotations {
    source: Arc<dyn Published>,
    seen: Option<Arc<Credential>>,
}

/// A rotation: a new credential has replaced the current one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rotated {
    /// The previous credential, if there was one. It may still be valid; connections that were opened with it stay
    /// open.
    pub old: Option<Arc<Credential>>,
    /// The credential for new connections.
    pub new: Arc<Credential>,
}

impl Rotations {
    /// Makes a receiver of the rotations of this source from now on.
    pub(crate) fn new(source: Arc<dyn Published>) -> Self {
        Self { seen: source.latest(), source }
    }

    /// Returns the rotation since the last call, if there was one. Does not wait.
    pub fn try_recv(&mut self) -> Option<Rotated> {
        let new = self.source.latest()?;
        // Equal chains, not leaves: a mended chain of the same leaf is news for a program that copies it.
        if self.seen.as_ref() == Some(&new) {
            return None;
        }
        Some(Rotated { old: self.seen.replace(new.clone()), new })
    }

    /// Waits for the next rotation; `None` if the rotation or the watch of the files has ended, so that no rotation
    /// will follow, or if the wait times out.
    pub fn recv(&mut self) -> Wait<'_, Option<Rotated>> {
        let source = self.source.clone();
        let check = || {
            // Read `has_ended` before the credential. In the other order, the last credential could be published and
            // the rotation end between the two reads, and that credential would be missed.
            let ended = self.source.has_ended();
            self.try_recv().map(Some).or(ended.then_some(None))
        };
        Wait::new(move || source.changed().listen(), check, || None)
    }
}
