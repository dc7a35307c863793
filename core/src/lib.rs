//! stub of the crate documentation
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod action;
mod certificate;
mod event;
mod template;
mod time;

pub use action::{Action, Actions, Key};
pub use certificate::{Certificate, Fingerprint, Validity, ValidityError};
pub use event::{Event, Failure, RequestId};
pub use template::Template;
pub use time::{Instant, Now, UnixTime};
