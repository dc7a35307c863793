//! [`RootsSource`]: provides the CAs with which peers are verified. The CAs may change while the program runs.

use perennial_pki::Roots;

use crate::NotYet;

/// Source of the CAs that verify a peer. [`Roots`] are a source of CAs that never change; [`RootFiles`] reads files
/// that another program replaces; [`SignerRoots`] takes the CAs from the chains that a signer issues; a closure returns
/// any others.
///
/// Handshakes call the methods of the source and wait for them: an implementation may read a file, but must not use the
/// network.
///
/// [`RootFiles`]: crate::RootFiles
/// [`SignerRoots`]: crate::SignerRoots
#[auto_impl::auto_impl(Arc)]
pub trait RootsSource: Send + Sync {
    /// Returns the CAs to trust now.
    ///
    /// # Errors
    /// [`NotYet`]: the source has no CAs now. The verifier then trusts the CAs that the source returned last. If the
    /// source never returned any, the handshake fails. People read the reason in the error.
    fn roots(&self) -> Result<Roots, NotYet>;

    /// The origin of the CAs for messages, such as `/etc/kubernetes/pki/ca.crt, read at 2026-11-23T00:00:00Z`. Empty by
    /// default.
    fn origin(&self) -> String {
        String::new()
    }

    /// True if the program was given no CAs, so that these are the CAs of the operating system. Error texts then advise
    /// to configure the CA of the server. False by default.
    fn of_system(&self) -> bool {
        false
    }
}

/// The CAs never change.
impl RootsSource for Roots {
    fn roots(&self) -> Result<Roots, NotYet> {
        Ok(self.clone())
    }
}

impl<F: Fn() -> Result<Roots, NotYet> + Send + Sync> RootsSource for F {
    fn roots(&self) -> Result<Roots, NotYet> {
        self()
    }
}
