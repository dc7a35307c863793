//! One rotated certificate with its hands, for any signer and any runtime: no thread, no socket, no executor in here.
//!
//! - [`Conversation`]: what a signer's exchange asks of a runtime: connect, write, read, wait.
//! - [`Store`]: where a rotation keeps its credential; [`Directory`] and [`Memory`] are stores.
//! - [`Directory`]: the credential directory, in kubelet's layout.
//! - [`Identity`], [`Token`]: the credential that a request for a certificate shows.
//! - [`SignError`], [`Issued`], [`Progress`], [`Health`]: how a request goes and how it ends.
//! - [`clock`]: both clocks of the machine.

#![forbid(unsafe_code)]

pub mod clock;
mod conversation;
mod directory;
mod health;
mod identity;
mod progress;
mod sign_error;
mod store;

pub use conversation::{Conversation, Input, Step};
pub use directory::{Contents, Directory, DirectoryError, Distrust, Folder, Loaded, Stamp, Volume};
pub use health::{Answer, Health, ServerDate};
pub use identity::{Identity, InvalidToken, Token};
pub use progress::{Issued, Progress};
pub use sign_error::SignError;
pub use store::{LoadRequest, Memory, Store, StoreError, Stored};
