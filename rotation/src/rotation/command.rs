//! Commands: the I/O that a runtime carries out for a rotation.

use std::sync::Arc;

use perennial::RequestId;
use perennial_pki::Credential;

use super::record::Record;
use crate::Exchange;

/// An operation that the runtime carries out. Beside commands, the runtime passes a Tick at
/// [`Rotation::deadline`](super::Rotation::deadline).
#[derive(Debug)]
pub enum Command {
    /// Drop this request's exchange, if it still runs.
    Drop {
        /// The request.
        id: RequestId,
    },
    /// Make this credential durable.
    Write {
        /// To be echoed in [`Input::Written`](crate::Input::Written).
        id: RequestId,
        /// The pair.
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
    /// Drive this exchange to its end.
    Drive {
        /// To be echoed in [`Input::Finished`](crate::Input::Finished).
        id: RequestId,
        /// The exchange.
        exchange: Exchange,
    },
}
