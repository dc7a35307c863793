//! Rotates one certificate: keys, requests, checks and the store, for any signer and any runtime. This crate starts no
//! thread, opens no socket and needs no executor.
//!
//! This example makes a TLS server and a TLS client whose certificates rotate. Each configuration is set once; each new
//! connection begins with the current certificate and the current CAs:
//!
//! ```no_run
//! # use perennial_rotation::{Handle, RootFiles, RootsError, Rotator, Signer, Template, tls};
//! # fn start(rotator: Rotator) -> Handle { rotator.prepare().unwrap().0 }
//! # fn example(server_signer: impl Signer + 'static, client_signer: impl Signer + 'static) -> Result<(), RootsError> {
//! let template = Template::new("api").with_dns_names(["api.example"]);
//! let handle = start(Rotator::new().template(template).signer(server_signer)); // `start` of a runtime
//! let server = tls::mutual_server_config(&handle, RootFiles::open(["/etc/mesh/ca.crt"])?);
//!
//! let handle = start(Rotator::new().template(Template::new("worker-1")).signer(client_signer));
//! let client = tls::client_config(&handle, RootFiles::open(["/etc/mesh/ca.crt"])?);
//! # Ok(()) }
//! ```
//!
//! The runtimes are `perennial-std` (threads) and `perennial-smol` (futures); for any other event loop, see [`Task`].
//! The configurations are those of rustls, for tokio-rustls, hyper, reqwest, tonic and others.
//!
//! For a program:
//! - [`Rotator`]: builder of a rotation. A runtime starts it; [`Rotator::prepare`] returns a [`Handle`] and a [`Task`].
//! - [`Handle`]: the current credential, waits, notices, changes, shutdown.
//! - [`Fleet`]: any number of rotations in one loop, with one stream of news.
//! - [`tls`]: configurations, resolvers and verifiers for rustls.
//! - [`RootsSource`]: the CAs that verify peers: [`Roots`], [`RootFiles`], [`SignerRoots`] or a closure.
//! - [`SignWith`]: a signer made of a closure. [`Signer`]: a signer with a protocol of its own.
//! - [`Store`]: keeps the credential and the pending record. [`Directory`] (kubelet's layout) and
//!   [`Memory`] are stores, and so is every [`KeyValue`], such as a table of a database.
//! - [`FileStore`]: a store for other programs: two files or a bundle, with owner, modes and key encoding.
//! - [`ProjectedVolume`]: a directory whose files switch together, as in volumes of Kubernetes. [`VolumeStore`]: the store
//!   of one of several certificates in such a volume.
//! - [`KeySource`]: keys that stay elsewhere, such as in an HSM.
//! - [`IdentitySource`]: the identity that requests authenticate with: a [`Token`], a [`TokenFile`], a credential, or
//!   the [`Handle`] of another certificate.
//! - [`FileCredential`]: a pair in files that another program rotates. The function `watch` of a runtime reports each
//!   new pair.
//! - [`journal`]: every step of a machine as a line of text, and its replay.
//!
//! For a runtime: [`Task`], [`FleetTask`], [`Work`], [`Watch`], [`Exchange`], [`Conversation`], [`Reporter`], [`clock`]. For a
//! simulation: [`Rotation`], the part of a task without store and handles; [`volume`], the disk below a [`Directory`].
//!
//! # Waiting for the first certificate
//!
//! [`Handle::ready`] waits for a valid certificate, in a thread (`.wait()`, `.within(timeout)`) or as a future. If the
//! wait ends without a certificate, its error names the last failure. Failed requests end no wait, and a future has no
//! timeout. Before the first certificate, handshakes of a server fail, and a client presents no certificate.
//!
//! # Closing old connections
//!
//! A connection keeps the certificate that it began with. [`Handle::rotations`] returns each new credential with the
//! previous one, so that a program can close its long-lived connections while the old certificate is still valid:
//!
//! ```no_run
//! # fn example(handle: perennial_rotation::Handle) {
//! let mut rotations = handle.rotations();
//! while let Some(rotated) = rotations.recv().wait() {
//!     println!("from now on: {}", rotated.new.chain().serial());
//! }
//! # }
//! ```
//!
//! # Observers
//!
//! [`Handle::notices`] returns a queue of all news in order: issued certificates, failures with their cause, each step
//! of the machine. A program makes its metrics and journals from these notices. For logs, a subscriber of the crate
//! `tracing` suffices: the rotation reports each request, rotation and failure to it. The queue is bounded, and no
//! rotation waits for an observer:
//!
//! ```
//! use perennial_rotation::{News, Rotator};
//!
//! let (handle, task) = Rotator::new().prepare()?;
//! // Called before the task runs, so the queue has the first step, too.
//! let mut notices = handle.notices(64);
//! # drop(task);
//! # handle.shutdown().wait();
//! let mut failures = 0;
//! while let Some(notice) = notices.recv().wait() {
//!     match notice.news {
//!         News::Failed { error, .. } => {
//!             failures += 1;
//!             eprintln!("{error}; next attempt at {:?}", notice.snapshot.next_attempt());
//!         }
//!         News::Missed { count, .. } => eprintln!("{count} notices dropped; now {}", notice.snapshot.state),
//!         _ => {}
//!     }
//! }
//! # Ok::<(), perennial_rotation::StartError>(())
//! ```
//!
//! # Many certificates
//!
//! The function `fleet` of a runtime starts a [`Fleet`]: one loop for any number of certificates. [`Fleet::add`] takes a
//! [`Rotator`] and returns a [`Handle`], at any time; [`Handle::shutdown`] removes a member. A fleet has common
//! [`Limits`], at most so many requests in flight and, if set, a submission budget; each member keeps its own policy,
//! too. A request that is due waits in [`State::Queued`]: the certificate that expires first goes first, and none waits
//! for ever. [`Fleet::notices`] has the news of all members.
//!
//! A member that rests costs no processor time, and a few kilobytes: its key, its chain and its state. Share the signer
//! among the members ([`Rotator::signer`] takes an `Arc`).
//!
//! # A signer of your own
//!
//! [`Rotator::sign_with`] takes a closure that turns a [`SignRequest`] into a [`Chain`], and may block;
//! [`Rotator::sign_with_async`] takes one that returns a future. An error names the kind of failure, which decides when
//! the rotation tries again: [`Failure::Unreachable`] for a CA that is out of order, [`Failure::Denied`] for a CA that
//! refuses the request:
//!
//! ```
//! use perennial_rotation::{Chain, Failure, Rotator, SignError, Template};
//!
//! # fn my_ca(_csr_pem: &str) -> std::io::Result<String> { std::fs::read_to_string("issued.pem") }
//! # fn example() -> Rotator {
//! Rotator::new().template(Template::new("mesh-1")).sign_with("example.com/mesh", |request, _cancel| {
//!     let pem = my_ca(&request.csr.pem).map_err(|error| SignError::new(Failure::Unreachable, error.to_string()))?;
//!     Chain::from_issued(pem.as_bytes()).map_err(|error| SignError::new(Failure::BadCertificate, error.to_string()))
//! })
//! # }
//! ```
//!
//! # A store of your own
//!
//! [`Rotator::store`] takes a [`Directory`], a [`Memory`], or any [`KeyValue`]: a function that reads the bytes below a
//! key, and one that writes them durably. The examples of the repository have a store in SQLite (`own_store`).
//!
//! # An event loop of your own
//!
//! A runtime is a loop around [`Task::step`]: carry out the [`Work`], then wait for [`Task::arrival`] until
//! [`Task::deadline`]. The examples have such a loop on tokio (`tokio_loop`). A program that makes keys and CSRs by
//! other means, such as on a microcontroller, uses the crate `perennial` alone; the examples `mio`, `epoll_timerfd`,
//! `calloop`, `io_uring`, `tokio_select` and `superloop` are loops around this crate.
//!
//! # Tests
//!
//! `TestCluster` of the crate `perennial-dev` is a Kubernetes API server inside of a test, and misbehaves on request.
//!
//! # Types of other crates
//!
//! This crate and the runtimes re-export the types of `perennial` and `perennial-pki` that most programs name, all of a
//! [`Policy`] included. A program that names others, such as those of a CA in memory (`Issuer`), depends on these
//! crates, too.
//!
//! # Keys
//!
//! A [`Directory`] keeps keys in files that only their owner can read (mode 0600), not encrypted, and reports a file
//! whose key other users can read ([`DirectoryError::Exposed`]). In memory, keys are wiped on drop within the limits
//! that [`perennial_pki`] documents. A credential and its key live as long as any clone of their `Arc`.
//!
//! With [`Rotator::keys`], keys never enter this process: a [`KeySource`] makes them in an HSM, a TPM or a key
//! management service, and the store keeps their references.

#![forbid(unsafe_code)]

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod cancel;
pub mod clock;
mod conversation;
mod directory;
mod disk_name;
mod exchange;
mod file_credential;
mod file_store;
mod files;
mod fleet;
mod followed;
mod handle;
mod health;
mod identity;
mod identity_source;
mod jobs;
pub mod journal;
mod kept_connection;
mod key_source;
mod log;
mod progress;
mod projected_volume;
mod rare_names;
mod reporter;
mod root_files;
mod roots_source;
mod rotation;
mod rotator;
mod sign_error;
mod sign_with;
mod signer;
mod signer_roots;
mod store;
mod task;
pub mod tls;
mod volume_store;

// Not `///`: rustdoc puts a comment of a re-export before the documentation of each of the types.
pub use perennial::{
    Backoff, Budget, Failure, Instant, Limits, MemberKey, Now, Policy, PolicyError, State, Template, TemplateError,
    UnixTime, Validity, Window,
};
pub use perennial_pki::{
    CertificateRequest, Chain, ChainError, Credential, CredentialError, ExternalKey, ExternalKeyError, KeyAlgorithm,
    KeyEncoding, KeyPair, Roots, Usage,
};
/// The version of rustls in the interfaces of [`tls`].
pub use rustls;
/// The type of texts and bytes that contain keys or tokens: wipes them on drop. Used by [`KeyValue`] and [`Record`].
pub use zeroize::Zeroizing;

pub use cancel::{Cancel, CancelOnDrop};
pub use conversation::{Conversation, IoEvent, IoRequest};
pub use directory::{Directory, DirectoryError, Distrust, Loaded, volume};
pub use exchange::{Exchange, SignerConversation};
pub use file_credential::{FileCredential, Watch};
pub use file_store::{CaCopy, CaFile, FileLayout, FileOptions, FileStore, FileStoreError, Restored, Unpublished};
pub use files::{FileError, TokenFile};
pub use fleet::{Fleet, FleetNotices, FleetTask};
pub use handle::{Handle, MemberNotice, NotReady, Notices, Rotated, Rotations, Wait};
pub use health::{Answer, Health, ServerDate};
pub use identity::{Identity, InvalidToken, Token};
pub use identity_source::{IdentitySource, NotYet};
pub use jobs::Job;
pub use kept_connection::KeptConnection;
pub use key_source::{KeyCall, KeySource, Keyed};
pub use progress::{Issued, Progress};
pub use projected_volume::{ProjectedFile, ProjectedVolume};
pub use reporter::Reporter;
pub use root_files::{RootFiles, RootsError};
pub use roots_source::RootsSource;
pub use rotation::{
    ClockOffset, Command, Input, News, Notice, Record, RecordError, Rotation, Snapshot, Start, Transition,
};
pub use rotator::{Rotator, StartError};
pub use sign_error::SignError;
pub use sign_with::SignWith;
pub use signer::{Authentication, Profile, SignRequest, Signer};
pub use signer_roots::SignerRoots;
pub use store::{KeyValue, LoadRequest, Memory, Store, StoreError, Stored};
pub use task::{Task, Work};
pub use volume_store::{Projection, VolumeStore};
