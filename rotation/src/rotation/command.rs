//! [`Command`]: the I/O that a runtime carries out for a rotation.

use std::sync::Arc;

use perennial::RequestId;
use perennial_pki::Credential;

use super::record::Record;
use crate::{Exchange, KeyCall};

/// An operation that the runtime carries out, returned by [`Rotation::handle`](super::Rotation::handle).
#[derive(Debug)]
pub enum Command {
    /// Drop the exchange of this request, if the exchange has not ended.
    Drop {
        /// The request whose exchange to drop.
        id: RequestId,
    },
    /// Make this call of the key source, off the loop, and report with [`Input::Keyed`](crate::Input::Keyed).
    Key {
        /// The id to return in [`Input::Keyed`](crate::Input::Keyed).
        id: RequestId,
        /// The call, which may block.
        call: KeyCall,
    },
    /// Make this credential durable.
    Write {
        /// The id to return in [`Input::Written`](crate::Input::Written).
        id: RequestId,
        /// The pair to write.
        credential: Arc<Credential>,
        /// True: the credential is served (the snapshot already has it); make it the current credential of the store,
        /// too. False: the credential is not valid yet; store it beside the current credential.
        serve: bool,
    },
    /// Make this record durable before carrying out the commands after it, and report with
    /// [`Input::Saved`](crate::Input::Saved). If saving fails, carry out the later commands nevertheless: requests do
    /// not depend on the disk.
    Save {
        /// The record, which replaces the previous record. Pass it to the next start as
        /// [`Start::pending`](super::Start::pending).
        record: Box<Record>,
    },
    /// Drive this exchange to its end, and report with [`Input::Progressed`](crate::Input::Progressed) and
    /// [`Input::Finished`](crate::Input::Finished).
    Drive {
        /// The id to return in [`Input::Finished`](crate::Input::Finished).
        id: RequestId,
        /// The exchange to drive.
        exchange: Exchange,
    },
}
