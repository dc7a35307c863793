//! How a request goes on once a signer has begun it.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use perennial::{Failure, printable};

use crate::cancel::Cancel;
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

type BlockingWork = Box<dyn FnOnce(&Cancel) -> Result<Issued, SignError> + Send>;

/// A request under way, to be brought to its end by a runtime. To give up a request, drop its exchange. Every runtime can
/// run every kind.
pub enum Exchange {
    /// Bytes to and from a server.
    Conversation(Box<dyn SignerConversation>),
    /// Code that may block: run it on a thread that may.
    Blocking(BlockingWork),
    /// A future. It is polled on a thread of its own or by the executor of the rotation, and brings its own reactor if it
    /// needs one.
    Future(Pin<Box<dyn Future<Output = Result<Issued, SignError>> + Send>>),
}

impl Exchange {
    /// An exchange that is this conversation.
    pub fn conversation(conversation: impl SignerConversation + 'static) -> Self {
        Self::Conversation(Box::new(conversation))
    }

    /// An exchange that is blocking code. A panic in it fails the request.
    pub fn blocking(work: impl FnOnce(&Cancel) -> Result<Issued, SignError> + Send + 'static) -> Self {
        Self::Blocking(Box::new(move |cancel| {
            catch_unwind(AssertUnwindSafe(|| work(cancel))).unwrap_or_else(|panic| Err(panicked(&*panic)))
        }))
    }

    /// An exchange that is a future. A panic in it fails the request.
    pub fn future(future: impl Future<Output = Result<Issued, SignError>> + Send + 'static) -> Self {
        Self::Future(Box::pin(Contained(Box::pin(future))))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conversation(conversation) => f.debug_tuple("Conversation").field(conversation).finish(),
            Self::Blocking(_) => f.write_str("Blocking(..)"),
            Self::Future(_) => f.write_str("Future(..)"),
        }
    }
}

/// Ends with an error where `F` panics.
struct Contained<F>(Pin<Box<F>>);

impl<F: Future<Output = Result<Issued, SignError>>> Future for Contained<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context)))
            .unwrap_or_else(|panic| Poll::Ready(Err(panicked(&*panic))))
    }
}

fn panicked(panic: &(dyn Any + Send)) -> SignError {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.map_or_else(String::new, |text| format!(": {}", printable(text)));
    SignError::new(Failure::Local, format!("the signer panicked{text}"))
}
