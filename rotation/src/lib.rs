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

#![forbid(unsafe_code)]

pub mod clock;
mod conversation;
mod directory;
mod disk_name;
mod exchange;
mod health;
mod identity;
mod identity_source;
pub mod journal;
mod progress;
mod rotation;
mod sign_error;
mod signer;
mod store;

pub use conversation::{Conversation, IoEvent, IoRequest};
pub use directory::{Contents, Directory, DirectoryError, Distrust, Folder, Loaded, Stamp, Volume};
pub use exchange::{Exchange, SignerConversation};
pub use health::{Answer, Health, ServerDate};
pub use identity::{Identity, InvalidToken, Token};
pub use identity_source::{IdentitySource, NotYet};
pub use progress::{Issued, Progress};
pub use rotation::{ClockOffset, Command, Input, Observer, Record, RecordError, Rotation, Snapshot, Start, Transition};
pub use sign_error::SignError;
pub use signer::{Authentication, Profile, SignRequest, Signer};
pub use store::{LoadRequest, Memory, Store, StoreError, Stored};
