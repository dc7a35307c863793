//! A [`SignerConversation`] that never ends, as with a signer that never answers.

use std::time::Duration;

use perennial::Now;
use perennial_rotation::{Conversation, IoEvent, IoRequest, Issued, Progress, SignError, SignerConversation};

#[derive(Debug)]
pub(crate) struct Silence;

impl Conversation for Silence {
    type Outcome = Result<Issued, SignError>;

    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome> {
        IoRequest::Wait { until: now.instant.after(Duration::from_secs(60)) }
    }

    fn handle(&mut self, _event: IoEvent<'_>, _now: Now) {}
}

impl SignerConversation for Silence {
    fn progress(&self) -> Progress {
        Progress::Submitting
    }
}
