//! The CAs a server is checked against.

use std::sync::Arc;

use perennial_pki::Roots;

/// CAs, and where they were found.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The CAs.
    pub roots: Roots,
    /// Where the CAs are from, for messages: `/etc/kubernetes/pki/ca.crt, read at 2026-11-23T00:00:00Z`.
    pub origin: String,
    /// No CA was named: these are the system's.
    pub of_system: bool,
}

/// Returns the CAs for one connection, since a CA file may have changed after the last one. Called on the loop, which
/// waits meanwhile: read a file, but do not use the network.
pub type TrustSource = Arc<dyn Fn() -> Result<Trust, String> + Send + Sync>;
