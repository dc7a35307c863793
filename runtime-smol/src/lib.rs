//! perennial on smol: one future for each rotated certificate.
//!
//! ```no_run
//! use std::sync::Arc;
//! use perennial::Template;
//! use perennial_kubernetes::CsrSigner;
//! use perennial_kubernetes::cluster::Cluster;
//! use perennial_smol::{Directory, Rotator};
//!
//! # use perennial_rotation::Token;
//! # use perennial_pki::Roots;
//! # fn example(roots: Roots, token: Token) -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Arc::new(Cluster::from_url("https://10.0.0.1:6443")?.with_roots(roots));
//! let rotator = Rotator::new()
//!     .template(Template::node("worker-1"))
//!     .signer(CsrSigner::kubelet_client(cluster, Some(Arc::new(token))))
//!     .store(Directory::open("/var/lib/kubelet/pki", "kubelet-client")?);
//! let (handle, rotation) = perennial_smol::start(rotator)?;
//! smol::block_on(async {
//!     let task = smol::spawn(rotation);
//!     let first = handle.ready().await;
//!     let credential = handle.credential(); // for each new connection
//!     handle.shutdown().await;
//!     task.await;
//! });
//! # Ok(()) }
//! ```
//!
//! **Rotation and TLS session resumption.** A resumed TLS session keeps the identity it began with:
//! after a rotation, rustls' default client configuration goes on presenting the *old* certificate.
//! Make a new `ClientConfig` for each credential, or disable resumption.

#![forbid(unsafe_code)]

mod drive;
mod run;

pub use drive::drive;
pub use perennial_rotation::{
    Directory, DirectoryError, FileCredential, FileError, Handle, Memory, NotReady, Rotated, Rotations, Rotator,
    StartError, Wait, tls,
};
pub use run::{run, start};
