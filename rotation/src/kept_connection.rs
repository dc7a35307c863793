//! [`KeptConnection`]: an open connection between two conversations.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Stream = Box<dyn Any + Send>;

/// A place for one open connection that a driver sets aside at [`IoRequest::Keep`](crate::IoRequest::Keep), and takes
/// out again for a later conversation at [`IoRequest::Reuse`](crate::IoRequest::Reuse). Clones are the same place; the
/// connection closes when the last clone is dropped.
///
/// The type of the stream is the driver's own. A driver gets a stream of its own type only, so that conversations of
/// two runtimes may share places.
#[derive(Clone, Default, derive_more::Debug)]
#[debug("KeptConnection(..)")]
pub struct KeptConnection(Arc<Mutex<Option<Stream>>>);

/// Two values are equal if they are the same place.
impl PartialEq for KeptConnection {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for KeptConnection {}

impl KeptConnection {
    /// Sets a connection aside. Closes the connection that was in this place before, if there was one.
    pub fn put<S: Send + 'static>(&self, stream: S) {
        *self.lock() = Some(Box::new(stream));
    }

    /// Takes the connection out. `None` if there is none, or if its stream is not an `S`; a stream of another type is
    /// closed.
    pub fn take<S: Send + 'static>(&self) -> Option<S> {
        let stream = self.lock().take()?;
        stream.downcast().ok().map(|stream| *stream)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_taken_once_and_only_as_its_own_type() {
        let place = KeptConnection::default();
        assert_eq!(place.take::<u8>(), None);
        place.put(7_u8);
        assert_eq!((place.clone().take(), place.take::<u8>()), (Some(7_u8), None));
        place.put(7_u8);
        assert_eq!((place.take::<u16>(), place.take::<u8>()), (None, None));
    }
}
