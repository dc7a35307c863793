//! The CAs that verify an API server.

use std::sync::Arc;

use perennial_pki::Roots;

/// The CAs for one connection to an API server, and their origin.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The CA certificates.
    pub roots: Roots,
    /// The origin of the CAs for messages, such as `/etc/kubernetes/pki/ca.crt, read at 2026-11-23T00:00:00Z`.
    pub origin: String,
    /// True if the configuration names no CA and `roots` are the system's.
    pub of_system: bool,
}

/// A function that returns the CAs for one connection: a CA file may have changed since the connection before. Called
/// on the runtime's loop, which waits meanwhile: the function may read a file, but must not use the network.
///
/// Its error is a sentence for messages.
pub type TrustSource = Arc<dyn Fn() -> Result<Trust, String> + Send + Sync>;
