//! perennial on plain threads: one thread for each rotated certificate, and one more while a
//! request is in flight or the store is at work.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//! use perennial::Template;
//! use perennial_kubernetes::CsrSigner;
//! use perennial_kubernetes::cluster::Cluster;
//! use perennial_std::{Directory, Rotator};
//!
//! # use perennial_rotation::Token;
//! # use perennial_pki::Roots;
//! # fn example(roots: Roots, token: Token) -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Arc::new(Cluster::from_url("https://10.0.0.1:6443")?.with_roots(roots));
//! let rotator = Rotator::new()
//!     .template(Template::node("worker-1"))
//!     .signer(CsrSigner::kubelet_client(cluster, Some(Arc::new(token))))
//!     .store(Directory::open("/var/lib/kubelet/pki", "kubelet-client")?);
//! let handle = perennial_std::start(rotator)?;
//! let first = handle.ready().within(Duration::from_secs(60))?;
//! let credential = handle.credential(); // for each new connection
//! handle.shutdown().wait();
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod drive;
mod run;

pub use drive::drive;
pub use perennial_rotation::{
    Cancel, Directory, DirectoryError, FileCredential, FileError, Handle, Memory, NotReady, Rotated, Rotations,
    Rotator, StartError, Wait, tls,
};
pub use run::{spawn, start};
