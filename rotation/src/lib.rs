//! One rotated certificate with its hands, for any signer and any runtime: no thread, no socket, no executor in here.
//!
//! - [`Rotation`]: the machine joined to keys and requests; what a runtime drives.
//! - [`Signer`]: issues certificates; [`IdentitySource`]: the identity that a request shows.
//! - [`Conversation`]: what a signer's exchange asks of a runtime: connect, write, read, wait.
//! - [`Store`]: where a rotation keeps its credential; [`Directory`] and [`Memory`] are stores.
//! - [`Directory`]: the credential directory, in kubelet's layout.
//! - [`Identity`], [`Token`]: the credential that a request for a certificate shows.
//! - [`SignError`], [`Issued`], [`Progress`], [`Health`]: how a request goes and how it ends.
//! - [`journal`]: every step of a machine as a line of text, and its replay.
//! - [`clock`]: both clocks of the machine.
//!
//! # TLS of your own
//!
//! A [`Handle`] hands out a chain and its key. [`tls`] puts them into handshakes, and is right
//! about session resumption, by which a rotated client would otherwise go on being known by its *old* certificate:
//!
//! ```no_run
//! # fn example(handle: perennial_rotation::Handle, server: rustls::ConfigBuilder<rustls::ServerConfig, rustls::server::WantsServerCert>, client: rustls::ClientConfig) {
//! use std::sync::Arc;
//! use perennial_rotation::tls::{ClientConfigs, ServerCert};
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
//! # Observers
//!
//! [`Handle::notices`] gives every piece of news, in order: what was issued, what failed and why, each step of the machine.
//! Logs, metrics and journals are made of it. The queue of an observer is bounded, and no rotation waits for an observer:
//!
//! ```
//! use perennial_rotation::{News, Rotator};
//!
//! let (handle, task) = Rotator::new().prepare()?;
//! // Before the task runs: from the first step on.
//! let mut notices = handle.notices(64);
//! # drop(task);
//! # handle.shutdown().wait();
//! let mut failures = 0;
//! while let Some(notice) = notices.next().wait() {
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
//! # Keys
//!
//! A [`Directory`] keeps keys in files that only their owner can read (mode 0600), not encrypted, and says so if it finds
//! others that hold one: they are made private, but their keys may be known. In memory, keys are wiped when they are
//! dropped as far as that is within reach; [`perennial_pki`] says how far that is. A credential, and so its key, is
//! alive as long as anybody holds the `Arc` of it.

#![forbid(unsafe_code)]

mod cancel;
pub mod clock;
mod conversation;
mod directory;
mod disk_name;
mod exchange;
mod files;
mod handle;
mod health;
mod identity;
mod identity_source;
mod jobs;
pub mod journal;
mod link;
mod log;
mod notices;
mod progress;
mod rotation;
mod rotator;
mod sign_error;
mod sign_with;
mod signer;
mod store;
mod task;
pub mod tls;
mod wait;

pub use cancel::{Cancel, CancelOnDrop};
pub use conversation::{Conversation, IoEvent, IoRequest};
pub use directory::{Contents, Directory, DirectoryError, Distrust, Folder, Loaded, Stamp, Volume};
pub use exchange::{BlockingWork, Exchange, FutureWork, SignerConversation};
pub use files::{FileCredential, FileError};
pub use handle::{Handle, NotReady, Rotated, Rotations};
pub use health::{Answer, Health, ServerDate};
pub use identity::{Identity, InvalidToken, Token};
pub use identity_source::{IdentitySource, NotYet};
pub use jobs::Job;
pub use notices::Notices;
pub use progress::{Issued, Progress};
pub use rotation::{
    ClockOffset, Command, Input, News, Notice, Record, RecordError, Rotation, Snapshot, Start, Transition,
};
pub use rotator::{Rotator, StartError};
pub use sign_error::SignError;
pub use sign_with::SignWith;
pub use signer::{Authentication, Profile, SignRequest, Signer};
pub use store::{LoadRequest, Memory, Store, StoreError, Stored};
pub use task::{Reporter, Task, Work};
pub use wait::Wait;
