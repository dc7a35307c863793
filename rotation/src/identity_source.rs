//! Where the identity of a request comes from.

use std::sync::Arc;
use std::task::Waker;

use perennial_pki::Credential;

use crate::identity::{Identity, Token};

/// Gives the identity that a request shows. Asked anew for each request, since a token file may have changed.
///
/// Called on the loop of the rotation, which waits meanwhile: read a file, but do not use the network.
pub trait IdentitySource: Send + Sync {
    /// The identity to show now.
    ///
    /// # Errors
    /// [`NotYet`]: there is no identity so far. Its reason is shown to people. A request then fails, and is retried with
    /// backoff; if the identity is [coming](NotYet::coming), the request waits for it instead.
    fn identity(&self) -> Result<Identity, NotYet>;

    /// Has `waker` woken once, as soon as [`identity`](Self::identity) may return something else. Called before an identity
    /// that may be coming is read. A source that cannot know does nothing, and is polled: after a second, later every ten.
    fn wake_on_change(&self, waker: &Waker) {
        let _ = waker;
    }

    /// Learns that a server did not accept this identity (HTTP 401, a TLS alert), which the source had given.
    fn identity_refused(&self, identity: &Identity) {
        let _ = identity;
    }
}

/// There is no identity to show so far, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotYet {
    reason: String,
    is_coming: bool,
}

impl NotYet {
    /// `reason` is one line for people, without secrets.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_coming: false }
    }

    /// The identity will come by itself, as another certificate does. No request is submitted until then, and nothing counts
    /// as a failure: [`SignerStatus::NotReady`](perennial::SignerStatus::NotReady). A rotation whose own certificate is valid
    /// shows that one rather than wait for a bootstrap identity.
    pub fn coming(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_coming: true }
    }

    /// True if the identity will come by itself.
    pub const fn is_coming(&self) -> bool {
        self.is_coming
    }
}

impl<F: Fn() -> Result<Identity, NotYet> + Send + Sync> IdentitySource for F {
    fn identity(&self) -> Result<Identity, NotYet> {
        self()
    }
}

/// As the source does that is shared.
impl<S: IdentitySource + ?Sized> IdentitySource for Arc<S> {
    fn identity(&self) -> Result<Identity, NotYet> {
        (**self).identity()
    }

    fn wake_on_change(&self, waker: &Waker) {
        (**self).wake_on_change(waker);
    }

    fn identity_refused(&self, identity: &Identity) {
        (**self).identity_refused(identity);
    }
}

/// Always this token.
impl IdentitySource for Token {
    fn identity(&self) -> Result<Identity, NotYet> {
        Ok(Identity::Token(self.clone()))
    }
}

/// Always this certificate.
impl IdentitySource for Arc<Credential> {
    fn identity(&self) -> Result<Identity, NotYet> {
        Ok(Identity::Certificate(self.clone()))
    }
}

/// Always this identity.
impl IdentitySource for Identity {
    fn identity(&self) -> Result<Identity, NotYet> {
        Ok(self.clone())
    }
}
