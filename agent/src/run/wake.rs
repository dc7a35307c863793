//! Wakes the main loop of `perennial run`: at signals, notices of rotations, and changes of the Node object.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use perennial_rotation::News;
use signal_hook::consts::{SIGHUP, SIGUSR1};

use crate::failure::Failure;
use crate::rotation::Observer;
use crate::signals;

/// The receiver of the main loop's wakes. Several wakes that arrive while the loop is busy count as one.
pub(super) struct Wakes {
    arrived: Receiver<()>,
    sender: SyncSender<()>,
    /// True once SIGTERM or SIGINT has arrived.
    stopping: Arc<AtomicBool>,
    /// True if SIGHUP has arrived and was not handled yet.
    to_reload: Arc<AtomicBool>,
    /// True if SIGUSR1 has arrived and was not handled yet.
    to_rotate: Arc<AtomicBool>,
}

/// The signals that are recorded from the start of the process, before there is a main loop.
pub(super) struct Early {
    to_reload: Arc<AtomicBool>,
    to_rotate: Arc<AtomicBool>,
}

impl Early {
    /// Starts recording SIGHUP and SIGUSR1, which would end the process. SIGTERM and SIGINT still end it: a file that is
    /// read at the start may hang.
    ///
    /// # Errors
    /// If the system refuses the handlers.
    pub(super) fn record() -> Result<Self, Failure> {
        Ok(Self { to_reload: signals::flag(SIGHUP)?, to_rotate: signals::flag(SIGUSR1)? })
    }
}

impl Wakes {
    /// Starts handling SIGTERM, SIGINT, and what `early` has recorded.
    ///
    /// # Errors
    /// If the system refuses a descriptor or a thread.
    pub(super) fn new(early: Early) -> Result<Self, Failure> {
        let (sender, arrived) = mpsc::sync_channel(1);
        let Early { to_reload, to_rotate } = early;
        let wake = waker(&sender);
        signals::restore_defaults()?;
        let stopping = signals::on_stop(wake.clone())?;
        // After the handlers of `early`, or the loop could check a flag too early and sleep on.
        signals::on_each(&[SIGHUP, SIGUSR1], move |_| wake())?;
        Ok(Self { arrived, sender, stopping, to_reload, to_rotate })
    }

    /// Returns a function that wakes the main loop.
    pub(super) fn waker(&self) -> impl Fn() + Clone + Send + Sync + use<> {
        waker(&self.sender)
    }

    /// Waits for a wake, for at most `most`; without a limit if `None`.
    pub(super) fn wait(&self, most: Option<Duration>) {
        // An error means the time limit: `sender` keeps the channel open.
        match most {
            Some(most) => drop(self.arrived.recv_timeout(most)),
            None => drop(self.arrived.recv()),
        }
    }

    /// True once SIGTERM or SIGINT has arrived.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// True if SIGHUP has arrived since the last call.
    pub(super) fn is_to_reload(&self) -> bool {
        self.to_reload.swap(false, Ordering::SeqCst)
    }

    /// True if SIGUSR1 has arrived since the last call.
    pub(super) fn is_to_rotate(&self) -> bool {
        self.to_rotate.swap(false, Ordering::SeqCst)
    }
}

/// Returns an observer that wakes the main loop at each notice of a rotation, except [`News::Stepped`].
pub(super) fn observer(wake: impl Fn() + Send + 'static) -> Observer {
    Box::new(move |notice| {
        // A step without other news changes nothing that is reported.
        if !matches!(notice.news, News::Stepped(_)) {
            wake();
        }
    })
}

/// Returns a function that wakes the main loop. Errors are ignored: a full channel holds a wake already, and without a
/// receiver the process is ending.
fn waker(sender: &SyncSender<()>) -> impl Fn() + Clone + Send + Sync + 'static + use<> {
    let sender = sender.clone();
    move || {
        let _ = sender.try_send(());
    }
}
