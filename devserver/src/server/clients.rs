//! Connected clients. Clients that have shown a credential keep their places; clients without one lose them to new ones.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use smol::Task;

/// The connections of a host.
#[derive(Default)]
pub(super) struct Clients {
    /// Connections so far.
    total: Cell<u64>,
    /// The tasks of clients that have not shown a credential yet, the oldest first. To drop one closes its connection.
    strangers: RefCell<BTreeMap<u64, Task<()>>>,
}

/// One connection. It counts until it is dropped.
pub(super) struct Place {
    clients: Rc<Clients>,
    number: u64,
}

impl Clients {
    /// The connections there are: each has a place, which shares this.
    pub(super) fn count(self: &Rc<Self>) -> usize {
        Rc::strong_count(self) - 1
    }

    pub(super) fn enter(self: &Rc<Self>) -> Place {
        self.total.set(self.total.get() + 1);
        Place { clients: Rc::clone(self), number: self.total.get() }
    }

    /// Lets the client's connection be closed if a new one needs its place.
    pub(super) fn watch(&self, number: u64, task: Task<()>) {
        self.strangers.borrow_mut().insert(number, task);
    }

    /// Closes the connection of the stranger who has been there longest. False if there is none.
    pub(super) fn close_oldest_stranger(&self) -> bool {
        // Released before the task goes: its place looks for itself in the list.
        let oldest = self.strangers.borrow_mut().pop_first();
        oldest.is_some()
    }
}

impl Place {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// The client has shown a credential: nobody takes its place any more.
    pub(super) fn keep(&self) {
        let task = self.clients.strangers.borrow_mut().remove(&self.number);
        if let Some(task) = task {
            task.detach();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.keep();
    }
}
