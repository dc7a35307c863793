//! How a request goes on once a signer has begun it.

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
#[derive(derive_more::Debug)]
pub enum Exchange {
    /// Bytes to and from a server.
    Conversation(Box<dyn SignerConversation>),
    /// Code that may block: run it on a thread that may.
    #[debug("Blocking(..)")]
    Blocking(BlockingWork),
    /// A future. It is polled on a thread of its own or by the executor of the rotation, and brings its own reactor if it
    /// needs one.
    #[debug("Future(..)")]
    Future(Pin<Box<dyn Future<Output = Result<Issued, SignError>> + Send>>),
}

impl Exchange {
    /// An exchange that is this conversation. A panic in it fails the request.
    pub fn conversation(conversation: impl SignerConversation + 'static) -> Self {
        Self::Conversation(Box::new(ContainedConversation { conversation, panicked: None }))
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

/// Ends with an error where `F` panics.
struct Contained<F>(Pin<Box<F>>);

impl<F: Future<Output = Result<Issued, SignError>>> Future for Contained<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context)))
            .unwrap_or_else(|panic| Poll::Ready(Err(panicked(&*panic))))
    }
}

/// Ends with an error where `C` panics.
#[derive(Debug)]
struct ContainedConversation<C> {
    conversation: C,
    panicked: Option<SignError>,
}

impl<C: SignerConversation> Conversation for ContainedConversation<C> {
    type Outcome = C::Outcome;

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        if self.panicked.is_none() {
            let handled = catch_unwind(AssertUnwindSafe(|| self.conversation.handle(input, now)));
            self.panicked = handled.err().map(|panic| panicked(&*panic));
        }
    }

    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome> {
        match self.panicked.clone() {
            Some(error) => IoRequest::Done(Err(error)),
            None => catch_unwind(AssertUnwindSafe(|| self.conversation.poll(now)))
                .unwrap_or_else(|panic| IoRequest::Done(Err(panicked(&*panic)))),
        }
    }
}

impl<C: SignerConversation> SignerConversation for ContainedConversation<C> {
    fn progress(&self) -> Progress {
        catch_unwind(AssertUnwindSafe(|| self.conversation.progress())).unwrap_or(Progress::Finished)
    }

    fn health(&self) -> Option<Health> {
        catch_unwind(AssertUnwindSafe(|| self.conversation.health())).unwrap_or_default()
    }
}

/// The error of a request whose signer panicked.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> SignError {
    SignError::new(Failure::Local, format!("the signer panicked{}", text_of(panic)))
}

/// What a panic says, after a colon; empty if that is no text.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.map_or_else(String::new, |text| format!(": {}", printable(text)))
}
