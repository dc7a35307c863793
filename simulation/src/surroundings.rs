//! The surroundings of a program that rotates a certificate, as the program sees them.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Now, Template};

/// The surroundings of a program that rotates a certificate: its clocks, its template and an API server.
pub trait Surroundings {
    /// The time by the clocks of the program's computer.
    fn now(&self) -> Now;

    /// The time for which the computer has been awake, by which timers of programs expire: a suspend delays them.
    fn awake(&self) -> Duration;

    /// The template that is wanted now; `None`: nothing is wanted.
    fn template(&self) -> Option<Arc<Template>>;

    /// Submits a request with a new key.
    fn submit(&mut self, template: &Arc<Template>) -> Submitted;

    /// The state of a request object as the program sees it now.
    fn watch(&self, object: Object) -> Seen;
}

/// The API's answer to a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// The request object exists, created now or before.
    Accepted(Object),
    /// The API refused the connection.
    Unreachable,
    /// The API answered with status 429 or 503 and this `Retry-After`.
    Throttled(Duration),
}

/// Identifies one request object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object(pub u64);

/// The state of one request object, as a watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No decision is known: the object is undecided, or the API cannot be reached.
    Nothing,
    /// The signer has issued this certificate.
    Issued(Arc<Certificate>),
    /// The request object has the condition `Denied`.
    Denied,
    /// The request object has the condition `Failed`.
    Failed,
    /// The object was deleted.
    Deleted,
}
