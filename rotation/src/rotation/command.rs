//! What a runtime is to do.

use std::sync::Arc;

use perennial::RequestId;
use perennial_pki::Credential;

use super::record::Record;
use crate::Exchange;

/// Something to do, in a runtime's terms; and a Tick is due at [`Rotation::deadline`](super::Rotation::deadline).
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
        /// True: the credential is served (the snapshot already has it), so put it in use in the store too. False: the
        /// credential is not valid yet, and the one in use stays.
        serve: bool,
    },
    /// Make this record durable before doing anything that comes after it, and report with [`Input::Saved`](crate::Input::Saved).
    /// Whatever comes of that, what comes after it is done: asking does not depend on the disk.
    Save {
        /// Takes the place of the one before. To be given to the next start, as [`Start::pending`](super::Start::pending).
        record: Box<Record>,
    },
    /// Bring this exchange to its end.
    Drive {
        /// To be echoed in [`Input::Finished`](crate::Input::Finished).
        id: RequestId,
        /// The exchange.
        exchange: Exchange,
    },
}
