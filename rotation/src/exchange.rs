//! Exchanges: the part of a request after a signer has begun it, in one of three forms for a runtime to run.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use perennial::{Failure, Now, printable};

use crate::cancel::Cancel;
use crate::conversation::{Conversation, IoEvent, IoRequest};
use crate::health::Health;
use crate::progress::{Issued, Progress};
use crate::sign_error::SignError;

/// A conversation with a signer that ends with a certificate.
pub trait SignerConversation: Conversation<Outcome = Result<Issued, SignError>> + fmt::Debug + Send {
    /// Progress of the request so far.
    fn progress(&self) -> Progress;

    /// Health of the server by its last answer; `None` before the first answer.
    fn health(&self) -> Option<Health> {
        None
    }
}

type SigningFuture = Pin<Box<dyn Future<Output = Result<Issued, SignError>> + Send>>;
type BlockingWork = Box<dyn FnOnce(&Cancel) -> Result<Issued, SignError> + Send>;

/// A request under way, which a runtime drives to its end. To give up a request, drop its exchange. Every runtime must
/// be able to run each of the three forms. A panic in an exchange that a rotation gives to its runtime fails the
/// request.
#[derive(derive_more::Debug)]
pub enum Exchange {
    /// Bytes to and from a server. The runtime connects, writes, reads and sleeps.
    Conversation(Box<dyn SignerConversation>),
    /// Code that may block: run it on a thread of its own, or of a pool for blocking code.
    #[debug("Blocking(..)")]
    Blocking(BlockingWork),
    /// A future, polled on a thread of its own or by the executor of the rotation. If the future needs a reactor
    /// (tokio), it must bring its own.
    #[debug("Future(..)")]
    Future(SigningFuture),
}

impl Exchange {
    /// An exchange that drives `conversation`.
    pub fn conversation(conversation: impl SignerConversation + 'static) -> Self {
        Self::Conversation(Box::new(conversation))
    }

    /// An exchange that runs `work`, which may block.
    pub fn blocking(work: impl FnOnce(&Cancel) -> Result<Issued, SignError> + Send + 'static) -> Self {
        Self::Blocking(Box::new(work))
    }

    /// An exchange that polls `future`.
    pub fn future(future: impl Future<Output = Result<Issued, SignError>> + Send + 'static) -> Self {
        Self::Future(Box::pin(future))
    }

    /// This exchange, whose result is an error if it panics.
    pub(crate) fn contained(self) -> Self {
        match self {
            Self::Conversation(conversation) => {
                Self::conversation(ContainedConversation { conversation, panicked: None })
            }
            Self::Blocking(work) => Self::blocking(|cancel| contain(|| work(cancel)).flatten()),
            Self::Future(future) => Self::future(ContainedFuture(future)),
        }
    }
}

/// A future that ends with an error where the inner one panics.
struct ContainedFuture(SigningFuture);

impl Future for ContainedFuture {
    type Output = Result<Issued, SignError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        contain(|| self.0.as_mut().poll(context)).unwrap_or_else(|error| Poll::Ready(Err(error)))
    }
}

/// A conversation that ends with an error where the inner one panics.
#[derive(Debug)]
struct ContainedConversation {
    conversation: Box<dyn SignerConversation>,
    panicked: Option<SignError>,
}

impl Conversation for ContainedConversation {
    type Outcome = Result<Issued, SignError>;

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        if self.panicked.is_none() {
            self.panicked = contain(|| self.conversation.handle(input, now)).err();
        }
    }

    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome> {
        match self.panicked.clone() {
            Some(error) => IoRequest::Done(Err(error)),
            None => contain(|| self.conversation.poll(now)).unwrap_or_else(|error| IoRequest::Done(Err(error))),
        }
    }
}

impl SignerConversation for ContainedConversation {
    fn progress(&self) -> Progress {
        contain(|| self.conversation.progress()).unwrap_or(Progress::Finished)
    }

    fn health(&self) -> Option<Health> {
        contain(|| self.conversation.health()).unwrap_or_default()
    }
}

/// Calls code of a signer or of its identity source, which may panic.
///
/// # Errors
/// The error of a request whose signer panicked.
pub(crate) fn contain<T>(call: impl FnOnce() -> T) -> Result<T, SignError> {
    let panicked = |panic: Box<dyn Any + Send>| format!("the signer panicked{}", text_of(&*panic));
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| SignError::new(Failure::Local, panicked(panic)))
}

/// The message of a panic after a colon; empty if its payload is no text.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.map_or_else(String::new, |text| format!(": {}", printable(text)))
}
