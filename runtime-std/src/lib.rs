//! perennial on plain threads: one thread for each rotated certificate, and one more while a request is out.
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
//!
//! # TLS of your own
//!
//! A [`Handle`] hands out a chain and its key. With the feature `rustls`, `tls` puts them into handshakes, and is right
//! about session resumption, by which a rotated client would otherwise go on being known by its *old* certificate:
//!
//! ```no_run
//! # #[cfg(feature = "rustls")]
//! # fn example(handle: perennial_std::Handle, server: rustls::ConfigBuilder<rustls::ServerConfig, rustls::server::WantsServerCert>, client: rustls::ClientConfig) {
//! use std::sync::Arc;
//! use perennial_std::tls::{ClientConfigs, ServerCert};
//!
//! // A server: every new connection is served with the certificate in use.
//! let server = server.with_cert_resolver(Arc::new(ServerCert::new(&handle)));
//! // A client: take a configuration for each new connection.
//! let configs = ClientConfigs::new(&handle, client);
//! let config = configs.current();
//! // Who wants to drain old connections is told when to.
//! let mut rotations = handle.rotations();
//! while let Some(rotated) = rotations.next().wait() {
//!     println!("from now on: {}", rotated.new.chain().serial());
//! }
//! # }
//! ```
//!
//! Elsewhere (OpenSSL, another rustls) the same holds: make a new client configuration for each credential, or turn
//! resumption off.
//!
//! # Looking on
//!
//! [`Rotator::observer`] sees every step: what happened, what followed. Metrics, logs and journals are made of it:
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! let failures = Arc::new(AtomicU64::new(0));
//! let count = failures.clone();
//! let rotator = perennial_std::Rotator::new().observer(move |step| {
//!     count.fetch_add(step.failure().is_some().into(), Ordering::Relaxed);
//! });
//! ```

//!
//! # Keys
//!
//! A [`Directory`] keeps keys in files that only their owner can read (mode 0600), not encrypted, and says so if it finds
//! others that hold one: they are made private, but their keys may be known. In memory, keys are wiped when they are
//! dropped as far as that is within reach; [`perennial_pki`] says how far that is. A credential, and so its key, is
//! alive as long as anybody holds the `Arc` of it.

#![forbid(unsafe_code)]

mod drive;
mod files;
mod handle;
mod jobs;
mod link;
mod log;
mod rotator;
mod run;
mod task;
#[cfg(feature = "rustls")]
pub mod tls;
mod wait;

pub use drive::{Cancel, drive};
pub use files::{FileCredential, FileError};
pub use handle::{Handle, Left, NotReady, Rotated, Rotations};
pub use jobs::Job;
pub use perennial_rotation::clock;
pub use perennial_rotation::{Contents, Directory, DirectoryError, Distrust, Folder, Loaded, Stamp, Volume};
pub use rotator::{Rotator, StartError};
pub use run::{spawn, start};
pub use task::{Reporter, Task, Work};
pub use wait::Wait;
