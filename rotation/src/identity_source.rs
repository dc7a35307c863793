//! [`IdentitySource`]: provides the identity that requests authenticate with.

use std::sync::Arc;
use std::task::Waker;

use perennial_pki::Credential;

use crate::identity::{Identity, Token};

/// Source of the identity that requests authenticate with. The rotation reads the identity anew for each request, since
/// a token file, for example, may have changed.
///
/// The loop of the rotation calls the methods of the source and waits for them: an implementation may read a file, but
/// must not use the network.
#[auto_impl::auto_impl(Arc)]
pub trait IdentitySource: Send + Sync {
    /// Returns the identity to authenticate with now.
    ///
    /// # Errors
    /// [`NotYet`]: there is no identity so far. If the identity is [coming](NotYet::coming), the request waits for the
    /// identity. Otherwise the request fails, and is retried with backoff. The reason is shown to people.
    fn identity(&self) -> Result<Identity, NotYet>;

    /// Wakes `waker` once, as soon as [`identity`](Self::identity) may return another identity or error. A rotation calls
    /// this whenever the identity is [coming](NotYet::coming), and then reads the identity again. The default
    /// implementation does nothing. A rotation that waits does not depend on the waker: it also polls the source, after one second and then
    /// at intervals that double up to ten seconds.
    fn wake_on_change(&self, waker: &Waker) {
        let _ = waker;
    }

    /// Reports that a server rejected an identity of this source (HTTP 401, a TLS alert). The default implementation
    /// does nothing.
    fn identity_refused(&self, identity: &Identity) {
        let _ = identity;
    }
}

/// Error of an [`IdentitySource`] that has no identity so far.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotYet {
    reason: String,
    is_coming: bool,
}

impl NotYet {
    /// Makes an error that fails the request. The rotation retries with backoff. `reason` is one line for people,
    /// without secrets.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_coming: false }
    }

    /// Makes an error for an identity that will be available without further action, such as the certificate of another
    /// rotation. The request waits for the identity; this wait is no failure
    /// ([`SignerStatus::NotReady`](perennial::SignerStatus::NotReady)). A rotation whose own certificate is valid
    /// authenticates with that certificate, and does not wait for a bootstrap identity. `reason` is one line for
    /// people, without secrets.
    pub fn coming(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_coming: true }
    }

    /// True if the identity will be available without further action: see [`coming`](Self::coming).
    pub const fn is_coming(&self) -> bool {
        self.is_coming
    }
}

impl<F: Fn() -> Result<Identity, NotYet> + Send + Sync> IdentitySource for F {
    fn identity(&self) -> Result<Identity, NotYet> {
        self()
    }
}

/// Every request authenticates with this token.
impl IdentitySource for Token {
    fn identity(&self) -> Result<Identity, NotYet> {
        Ok(Identity::Token(self.clone()))
    }
}

/// Every request authenticates with this certificate.
impl IdentitySource for Arc<Credential> {
    fn identity(&self) -> Result<Identity, NotYet> {
        Ok(Identity::Certificate(self.clone()))
    }
}

/// Every request authenticates with this identity.
impl IdentitySource for Identity {
    fn identity(&self) -> Result<Identity, NotYet> {
        Ok(self.clone())
    }
}
