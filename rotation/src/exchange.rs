//! How a request goes on once a signer has begun it.

use std::fmt;

use crate::conversation::Conversation;
use crate::health::Health;
use crate::progress::{Issued, Progress};
use crate::sign_error::SignError;

/// A conversation with a signer that ends with a certificate.
pub trait SignerConversation: Conversation<Outcome = Result<Issued, SignError>> + fmt::Debug + Send {
    /// Where the request stands.
    fn progress(&self) -> Progress;

    /// What the last answer told of the server; `None` before the first.
    fn health(&self) -> Option<Health> {
        None
    }
}

/// A request under way, to be brought to its end by a runtime. To give up a request, drop its exchange.
#[derive(Debug)]
#[non_exhaustive]
pub enum Exchange {
    /// Bytes to and from a server.
    Conversation(Box<dyn SignerConversation>),
}

impl Exchange {
    /// An exchange that is this conversation.
    pub fn conversation(conversation: impl SignerConversation + 'static) -> Self {
        Self::Conversation(Box::new(conversation))
    }
}
