//! perennial on smol: one future for each rotated certificate, or for a fleet of them. The store works on a thread
//! that stays a few seconds for the next work.
//!
//! The future runs on any executor: sockets and timers are those of async-io, which has a thread of its own.
//!
//! A kubelet client certificate from a Kubernetes API server:
//!
//! ```no_run
//! use std::sync::Arc;
//! use perennial_kubernetes::CsrSigner;
//! use perennial_kubernetes::cluster::Cluster;
//! use perennial_smol::{Directory, Rotator, Template};
//!
//! # use perennial_smol::{Roots, Token};
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
//! [`start`] returns the handle and the future. Nothing happens until the future is polled, and dropping the future
//! ends the rotation. The crate re-exports `perennial-rotation`, whose documentation has the details.
//!
//! TLS with the certificate, for any program that takes a configuration of rustls. Each configuration is set once, and
//! each new connection begins with the current certificate and the current CAs:
//!
//! ```no_run
//! use perennial_smol::{RootFiles, tls};
//!
//! # fn example(handle: perennial_smol::Handle) -> Result<(), perennial_smol::RootsError> {
//! let mut server = tls::mutual_server_config(&handle, RootFiles::open(["/etc/mesh/ca.crt"])?);
//! server.alpn_protocols = vec![b"h2".to_vec()];
//! let client = tls::client_config(&handle, RootFiles::open(["/etc/mesh/ca.crt"])?);
//! # Ok(()) }
//! ```
//!
//! A pair that another program rotates, such as a volume of a Secret or a credential bundle of a `podCertificate`
//! projection. [`watch`] returns a future that reads the files until its receiver is dropped:
//!
//! ```no_run
//! use perennial_smol::{FileCredential, tls};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let files = FileCredential::open("/etc/tls/tls.crt", "/etc/tls/tls.key")?;
//! let server = tls::server_config(&files); // each new connection presents the current pair
//! let (mut rotations, watching) = perennial_smol::watch(&files);
//! smol::spawn(watching).detach();
//! while let Some(rotated) = rotations.recv().await {
//!     println!("from now on: {}", rotated.new.chain().serial());
//! }
//! # Ok(()) }
//! ```
//!
//! Any number of certificates as one future: [`fleet`]. [`Fleet::add`] reads the store and returns a handle like that of
//! [`start`]; requests wait for their turn, so that a signer never has more than [`Limits::in_flight`] of them:
//!
//! ```
//! use std::sync::Arc;
//! use perennial_smol::{Limits, News, Rotator, SignWith, Template};
//!
//! # use perennial_smol::{Chain, Failure, SignError};
//! # async fn sign(request: String) -> Result<Chain, SignError> { Err(SignError::new(Failure::Unreachable, request)) }
//! # fn main() -> Result<(), perennial_smol::StartError> {
//! let (fleet, running) = perennial_smol::fleet(Limits { in_flight: 8.try_into().unwrap(), ..Limits::default() });
//! let running = smol::spawn(running);
//! let signer = Arc::new(SignWith::future("example.com/mesh", |request| sign(request.csr.pem)));
//! let mut notices = fleet.notices(1000);
//! for tenant in ["orders", "billing"] {
//!     let rotator = Rotator::new().name(tenant).template(Template::new(tenant)).signer(signer.clone());
//!     let handle = fleet.add(rotator)?; // for `tls::server_config(&handle)`; its `shutdown` removes this member
//! }
//! smol::block_on(async {
//!     while let Some(news) = notices.recv().await {
//!         if let News::Failed { error, .. } = &news.notice.news {
//!             println!("{}: {error}", news.member.name());
//! #           break;
//!         }
//!     }
//!     fleet.shutdown().await;
//!     running.await;
//! });
//! # Ok(()) }
//! ```
//!
//! A signer of your own is a closure that returns a future:
//!
//! ```
//! use perennial_smol::{Chain, Failure, Rotator, SignError, Template};
//!
//! # async fn my_ca(_csr_pem: &str) -> std::io::Result<String> { std::fs::read_to_string("issued.pem") }
//! # fn main() -> Result<(), perennial_smol::StartError> {
//! let rotator = Rotator::new().template(Template::new("mesh-1"));
//! let rotator = rotator.sign_with_async("example.com/mesh", |request| async move {
//!     let answer = my_ca(&request.csr.pem).await;
//!     let pem = answer.map_err(|error| SignError::new(Failure::Unreachable, error.to_string()))?;
//!     Chain::from_issued(pem.as_bytes()).map_err(|error| SignError::new(Failure::BadCertificate, error.to_string()))
//! });
//! let (handle, rotation) = perennial_smol::start(rotator)?;
//! # handle.shutdown();
//! smol::spawn(rotation).detach();
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
mod run;
mod threads;

pub use drive::drive;
pub use fleet::fleet;
pub use perennial_rotation::*;
pub use run::{run, start, watch};
