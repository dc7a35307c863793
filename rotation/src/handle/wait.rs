//! [`Wait`]: waits for a change of a rotation or of files, as a future or by blocking a thread.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use event_listener::{EventListener, Listener as _};

type Listen<'a> = Box<dyn Fn() -> EventListener + Send + 'a>;
type Check<'a, T> = Box<dyn FnMut() -> Option<T> + Send + 'a>;

/// A wait for a change of a rotation or of files: await it as a future, or block a thread with [`wait`](Self::wait) or
/// [`within`](Self::within). Dropping a `Wait` ends the wait, and affects nothing else.
#[must_use = "nothing waits until this is awaited, or `wait` or `within` is called"]
#[derive(derive_more::Debug)]
pub struct Wait<'a, T> {
    /// Listens to the event that is notified when `check` may return another result.
    #[debug(skip)]
    listen: Listen<'a>,
    /// Returns the result once the wait is over, else `None`.
    #[debug(skip)]
    check: Check<'a, T>,
    /// Returns the result of a wait whose timeout has passed.
    #[debug(skip)]
    late: Box<dyn FnOnce() -> T + Send + 'a>,
    listener: Option<EventListener>,
}

impl<'a, T> Wait<'a, T> {
    pub(crate) fn new(
        listen: impl Fn() -> EventListener + Send + 'a,
        check: impl FnMut() -> Option<T> + Send + 'a,
        late: impl FnOnce() -> T + Send + 'a,
    ) -> Self {
        Self { listen: Box::new(listen), check: Box::new(check), late: Box::new(late), listener: None }
    }

    /// Blocks the thread until the wait is over, without a timeout.
    pub fn wait(self) -> T {
        self.within(None)
    }

    /// Blocks the thread until the wait is over, or until `timeout` has passed; `None`: no timeout. The result after
    /// the timeout is documented by the method that returned this wait, in general `None` or an error.
    pub fn within(mut self, timeout: impl Into<Option<Duration>>) -> T {
        let until = timeout.into().and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let listener = match self.check() {
                Ok(seen) => return seen,
                Err(listener) => listener,
            };
            let Some(until) = until else {
                listener.wait();
                continue;
            };
            // At the timeout, check once more: a change that came with it counts.
            if listener.wait_deadline(until).is_none() {
                return self.check().unwrap_or_else(|_| (self.late)());
            }
        }
    }

    /// Checks whether the wait is over. Returns the result, or the listener to wait on before the next check.
    fn check(&mut self) -> Result<T, EventListener> {
        if let Some(seen) = (self.check)() {
            return Ok(seen);
        }
        let listener = (self.listen)();
        // Check again: a change before the listener existed did not notify it.
        (self.check)().ok_or(listener)
    }
}

impl<T> Future for Wait<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        loop {
            let mut listener = match this.listener.take() {
                Some(listener) => listener,
                None => match this.check() {
                    Ok(seen) => return Poll::Ready(seen),
                    Err(listener) => listener,
                },
            };
            if Pin::new(&mut listener).poll(context).is_pending() {
                this.listener = Some(listener);
                return Poll::Pending;
            }
        }
    }
}
