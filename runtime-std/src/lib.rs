//! perennial on plain threads: one thread for each rotated certificate or for a fleet of them, and further threads while a
//! request is in flight or the store works.
//!
//! A kubelet client certificate from a Kubernetes API server:
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//! use perennial_kubernetes::CsrSigner;
//! use perennial_kubernetes::cluster::Cluster;
//! use perennial_std::{Directory, Rotator, Template};
//!
//! # use perennial_std::{Roots, Token};
//! # fn example(roots: Roots, token: Token) -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Arc::new(Cluster::from_url("https://10.0.0.1:6443")?.with_roots(roots));
//! let rotator = Rotator::new()
//!     .template(Template::node("worker-1"))
//!     .signer(CsrSigner::kubelet_client(cluster, Some(Arc::new(token))))
//!     .store(Directory::open("/var/lib/kubelet/pki", "kubelet-client")?);
//! let handle = perennial_std::start(rotator)?;
//! let first = handle.ready().within(Duration::from_secs(60))?; // an error names the last failure
//! let credential = handle.credential(); // for each new connection
//! handle.shutdown().wait();
//! # Ok(()) }
//! ```
//!
//! [`start`] reads the store, starts the thread and returns; the thread ends after [`Handle::shutdown`]. The crate
//! re-exports `perennial-rotation`, whose documentation has the details.
//!
//! TLS with the certificate, for any program that takes a configuration of rustls. Each configuration is set once, and
//! each new connection begins with the current certificate and the current CAs:
//!
//! ```no_run
//! use perennial_std::{RootFiles, tls};
//!
//! # fn example(handle: perennial_std::Handle) -> Result<(), perennial_std::RootsError> {
//! let mut server = tls::mutual_server_config(&handle, RootFiles::open(["/etc/mesh/ca.crt"])?);
//! server.alpn_protocols = vec![b"h2".to_vec()];
//! let client = tls::client_config(&handle, RootFiles::open(["/etc/mesh/ca.crt"])?);
//! # Ok(()) }
//! ```
//!
//! A pair that another program rotates, such as a volume of a Secret or a credential bundle of a `podCertificate`
//! projection. [`watch`] reads the files on a thread of its own until its receiver is dropped:
//!
//! ```no_run
//! use perennial_std::{FileCredential, tls};
//!
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let files = FileCredential::open("/etc/tls/tls.crt", "/etc/tls/tls.key")?;
//! let server = tls::server_config(&files); // each new connection presents the current pair
//! let mut rotations = perennial_std::watch(&files)?;
//! while let Some(rotated) = rotations.recv().wait() {
//!     println!("from now on: {}", rotated.new.chain().serial());
//! }
//! # Ok(()) }
//! ```
//!
//! Any number of certificates on one thread: [`fleet`]. [`Fleet::add`] reads the store and returns a handle like that of
//! [`start`]; requests wait for their turn, so that a signer never has more than [`Limits::in_flight`] of them. Further
//! threads exist only while requests are in flight and stores are called:
//!
//! ```
//! use std::sync::Arc;
//! use perennial_std::{Limits, News, Rotator, SignWith, Template};
//!
//! # use perennial_std::{Chain, Failure, SignError};
//! # fn sign(request: &str) -> Result<Chain, SignError> { Err(SignError::new(Failure::Unreachable, request.len().to_string())) }
//! # fn main() -> Result<(), perennial_std::StartError> {
//! let fleet = perennial_std::fleet(Limits { in_flight: 8.try_into().unwrap(), ..Limits::default() })?;
//! let signer = Arc::new(SignWith::blocking("example.com/mesh", |request, _cancel| sign(&request.csr.pem)));
//! let mut notices = fleet.notices(1000);
//! for tenant in ["orders", "billing"] {
//!     let rotator = Rotator::new().name(tenant).template(Template::new(tenant)).signer(signer.clone());
//!     let handle = fleet.add(rotator)?; // for `tls::server_config(&handle)`; its `shutdown` removes this member
//! }
//! while let Some(news) = notices.recv().wait() {
//!     if let News::Failed { error, .. } = &news.notice.news {
//!         println!("{}: {error}", news.member.name());
//! #       break;
//!     }
//! }
//! fleet.shutdown().wait();
//! # Ok(()) }
//! ```
//!
//! A signer of your own is a closure, which may block:
//!
//! ```
//! use perennial_std::{Chain, Failure, Rotator, SignError, Template};
//!
//! # fn my_ca(_csr_pem: &str) -> std::io::Result<String> { std::fs::read_to_string("issued.pem") }
//! # fn main() -> Result<(), perennial_std::StartError> {
//! let rotator = Rotator::new().template(Template::new("mesh-1")).sign_with("example.com/mesh", |request, _cancel| {
//!     let pem = my_ca(&request.csr.pem).map_err(|error| SignError::new(Failure::Unreachable, error.to_string()))?;
//!     Chain::from_issued(pem.as_bytes()).map_err(|error| SignError::new(Failure::BadCertificate, error.to_string()))
//! });
//! let handle = perennial_std::start(rotator)?;
//! # handle.shutdown().wait();
//! # Ok(()) }
//! ```
//!
//! The documentation of `perennial-rotation` continues with waiting for the first certificate, closing old connections,
//! observers, signers, stores and event loops of your own, and tests.

#![forbid(unsafe_code)]

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod drive;
mod fleet;
mod pool;
mod run;
mod threads;

pub use drive::drive;
pub use fleet::fleet;
pub use perennial_rotation::*;
pub use run::{spawn, start, watch};
