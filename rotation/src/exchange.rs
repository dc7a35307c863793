//! [`Exchange`]: the work on one request, from its submission to its result, in one of three forms for a runtime to
//! run.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use perennial::{Failure, Now, printable};

use crate::cancel::Cancel;
use crate::conversation::{Conversation, IoEvent, IoRequest};
use crate::handle::link;
use crate::health::Health;
use crate::progress::{Issued, Progress};
use crate::sign_error::SignError;

/// A conversation with a signer about one request, which ends with an issued chain or an error.
pub trait SignerConversation: Conversation<Outcome = Result<Issued, SignError>> + fmt::Debug + Send {
    /// Progress of the request so far.
    fn progress(&self) -> Progress;

    /// Health of the signer's server, which its last answer showed; `None` before the first answer.
    fn health(&self) -> Option<Health> {
        None
    }
}

type SigningFuture = Pin<Box<dyn Future<Output = Result<Issued, SignError>> + Send>>;
type BlockingWork = Box<dyn FnOnce(&Cancel) -> Result<Issued, SignError> + Send>;

/// The work on one request, which a runtime drives to its end. To give up a request, drop its exchange. Every runtime
/// must be able to run every variant. A panic in an exchange fails the request, not the runtime.
#[derive(derive_more::Debug)]
pub enum Exchange {
    /// A conversation with a server. The runtime connects, writes, reads and sleeps for it.
    Conversation(Box<dyn SignerConversation>),
    /// Code that may block. The runtime runs it on a thread of its own, or of a pool for blocking code.
    #[debug("Blocking(..)")]
    Blocking(BlockingWork),
    /// A future. The runtime polls it on a thread of its own or in its executor. A future that needs a reactor, such as
    /// tokio's, must bring one.
    #[debug("Future(..)")]
    Future(SigningFuture),
}

impl Exchange {
    /// Makes an exchange of a conversation with a server.
    pub fn conversation(conversation: impl SignerConversation + 'static) -> Self {
        Self::Conversation(Box::new(conversation))
    }

    /// Makes an exchange of a closure that may block.
    pub fn blocking(work: impl FnOnce(&Cancel) -> Result<Issued, SignError> + Send + 'static) -> Self {
        Self::Blocking(Box::new(work))
    }

    /// Makes an exchange of a future.
    pub fn future(future: impl Future<Output = Result<Issued, SignError>> + Send + 'static) -> Self {
        Self::Future(Box::pin(future))
    }

    /// Wraps this exchange: if its code panics, the exchange ends with an error instead. A panic of its drop is ignored.
    pub(crate) fn contained(self) -> Self {
        match self {
            Self::Conversation(conversation) => {
                Self::conversation(ContainedConversation { conversation: Contained::new(conversation), panicked: None })
            }
            Self::Blocking(work) => {
                let work = Contained::new(work);
                Self::blocking(|cancel| contain(|| work.into_inner()(cancel)).flatten())
            }
            Self::Future(future) => Self::future(ContainedFuture(Contained::new(future))),
        }
    }
}

/// Code of a signer whose drop may panic. The loop of a runtime drops the exchange of a request that is given up, and the
/// panic must not end the loop.
#[derive(derive_more::Debug)]
#[debug("{_0:?}")]
struct Contained<T>(
    /// `None` only while this is dropped.
    Option<T>,
);

const HELD: &str = "only the drop takes the code out";

impl<T> Contained<T> {
    const fn new(code: T) -> Self {
        Self(Some(code))
    }

    fn into_inner(mut self) -> T {
        self.0.take().expect(HELD)
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for Contained<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        link::contain(|| drop(self.0.take()));
    }
}

/// Wraps a future: if polling it panics, this future ends with an error instead.
struct ContainedFuture(Contained<SigningFuture>);

impl Future for ContainedFuture {
    type Output = Result<Issued, SignError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        contain(|| self.0.as_mut().poll(context)).unwrap_or_else(|error| Poll::Ready(Err(error)))
    }
}

/// Wraps a conversation: if its code panics, this conversation ends with an error instead.
#[derive(Debug)]
struct ContainedConversation {
    conversation: Contained<Box<dyn SignerConversation>>,
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
/// The code panicked. The error fails the request.
pub(crate) fn contain<T>(call: impl FnOnce() -> T) -> Result<T, SignError> {
    let panicked = |panic: Box<dyn Any + Send>| format!("the signer panicked{}", text_of(&*panic));
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| SignError::new(Failure::Local, panicked(panic)))
}

/// The message of a panic after a colon, to append to an error; empty if the panic has no text.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.map_or_else(String::new, |text| format!(": {}", printable(text)))
}
