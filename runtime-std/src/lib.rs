//! perennial on plain threads: one thread for each rotated certificate, and one more while a request is out.
//!
//! ```no_run
//! use std::sync::Arc;
//! use perennial::Template;
//! use perennial_kubernetes::cluster::{Cluster, Identity};
//! use perennial_kubernetes::rotation::Signer;
//! use perennial_std::{Directory, Rotator};
//!
//! # use perennial_kubernetes::cluster::Token;
//! # use perennial_pki::Roots;
//! # fn example(roots: Roots, token: Token) -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Arc::new(Cluster::from_url("https://10.0.0.1:6443")?.with_roots(roots));
//! let bootstrap = Arc::new(move || Ok(Identity::Token(token.clone())));
//! let handle = Rotator::new()
//!     .template(Template::node("worker-1"))
//!     .signer(Signer::kubelet_client(cluster, Some(bootstrap)))
//!     .store(Directory::open("/var/lib/kubelet/pki", "kubelet-client")?)?
//!     .start()?;
//! let first = handle.wait_for(None, |now| now.due.is_none());
//! let credential = handle.credential(); // for each new connection
//! handle.shutdown();
//! # Ok(()) }
//! ```
//!
//! **Rotation and TLS session resumption.** A resumed TLS session keeps the identity it began with:
//! after a rotation, rustls' default client configuration goes on presenting the *old* certificate.
//! Make a new `ClientConfig` for each credential, or disable resumption.

#![forbid(unsafe_code)]

pub mod clock;
mod directory;
mod drive;
mod handle;
pub mod link;
mod log;
mod rotator;

pub use directory::{Contents, Directory, DirectoryError, Folder, Loaded, Volume};
pub use drive::{Cancel, drive};
pub use handle::Handle;
pub use rotator::{Rotator, remember, save, write};
