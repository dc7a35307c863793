//! Where the identity of a request comes from.

use std::sync::Arc;

use perennial_pki::Credential;

use crate::handle::Handle;
use crate::identity::{Identity, Token};

/// Gives the identity that a request shows. Asked anew for each request, since a token file may have changed.
///
/// Called on the loop of the rotation, which waits meanwhile: read a file, but do not use the network.
pub trait IdentitySource: Send + Sync {
    /// The identity to show now.
    ///
    /// # Errors
    /// [`NotYet`]: there is no identity so far. Its reason is shown to people. A request then fails, and is retried with
    /// backoff. With [`Authentication::Other`](crate::Authentication::Other), a request waits for an identity that is
    /// [coming](NotYet::coming).
    fn identity(&self) -> Result<Identity, NotYet>;
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

    /// The identity will come by itself, as another certificate does. With
    /// [`Authentication::Other`](crate::Authentication::Other) no request is submitted until then, and nothing counts as a
    /// failure: the source is polled after a second, later every ten seconds. As the bootstrap identity of
    /// [`Authentication::Own`](crate::Authentication::Own) this counts as any other `NotYet`.
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

/// The certificate of another rotation, once there is a valid one.
impl IdentitySource for Handle {
    fn identity(&self) -> Result<Identity, NotYet> {
        let coming = || NotYet::coming("the certificate to authenticate with has not been issued yet");
        self.credential().map(Identity::Certificate).ok_or_else(coming)
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
