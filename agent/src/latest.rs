//! A value that some threads set and others read.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

/// Clones share the value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latest<T>(Arc<Mutex<T>>);

impl<T: Clone> Latest<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    pub(crate) fn get(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the value before.
    pub(crate) fn set(&self, value: T) -> T {
        mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), value)
    }
}
