//! A value that some threads set and others read.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

/// A value that threads share: all clones of a `Latest` show the value that was set last. A reader or writer waits only
/// while another thread copies or replaces the value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latest<T>(Arc<Mutex<T>>);

impl<T: Clone> Latest<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    pub(crate) fn get(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the value. Returns the previous value.
    pub(crate) fn set(&self, value: T) -> T {
        mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), value)
    }
}
