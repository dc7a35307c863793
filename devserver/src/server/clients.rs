//! Connected clients. At the limit, a new connection replaces the oldest one that has shown no credential.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use smol::Task;

/// The open connections of the server.
#[derive(Default)]
pub(super) struct Clients {
    /// Number of connections that were ever opened; also the number of the latest one.
    total: Cell<u64>,
    /// Tasks of clients that have shown no credential yet, the oldest first. Dropping a task closes its connection.
    unauthenticated: RefCell<BTreeMap<u64, Task<()>>>,
}

/// Makes one connection count as open until the `Registration` is dropped.
pub(super) struct Registration {
    clients: Rc<Clients>,
    number: u64,
}

impl Clients {
    /// Number of open connections: the references to `self`, minus the one of the server. Each open connection has one
    /// [`Registration`], which holds one reference.
    pub(super) fn count(self: &Rc<Self>) -> usize {
        Rc::strong_count(self) - 1
    }

    pub(super) fn register(self: &Rc<Self>) -> Registration {
        self.total.set(self.total.get() + 1);
        Registration { clients: Rc::clone(self), number: self.total.get() }
    }

    /// Allows the server to close the connection `number` in favour of a new one, until [`Registration::protect`].
    pub(super) fn allow_closing(&self, number: u64, task: Task<()>) {
        self.unauthenticated.borrow_mut().insert(number, task);
    }

    /// Closes the oldest connection that has shown no credential. Returns false if there is no such connection.
    pub(super) fn close_oldest_unauthenticated(&self) -> bool {
        // The borrow ends before the task is dropped, whose `Registration` borrows the list again.
        let oldest = self.unauthenticated.borrow_mut().pop_first();
        oldest.is_some()
    }
}

impl Registration {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Keeps this connection from being closed in favour of a new one. Call this once the client has shown a
    /// credential.
    pub(super) fn protect(&self) {
        let task = self.clients.unauthenticated.borrow_mut().remove(&self.number);
        if let Some(task) = task {
            task.detach();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.protect();
    }
}
