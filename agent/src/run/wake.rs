//! What has `perennial run` look again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use perennial_rotation::Handle;
use signal_hook::consts::{SIGHUP, SIGUSR1};

use super::watch::Seen;
use crate::failure::Failure;
use crate::signals;

/// Something to look at.
pub(super) enum Wake {
    /// A rotation is not as it was.
    Changed,
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    Renew,
}

/// Where everything that may happen ends up.
pub(super) struct Wakes {
    pub(super) arrived: Receiver<Wake>,
    sender: Sender<Wake>,
    /// A signal has asked for the end.
    pub(super) stopping: Arc<AtomicBool>,
}

impl Wakes {
    /// Listens to signals from now on.
    pub(super) fn new() -> Result<Self, Failure> {
        let (sender, arrived) = mpsc::channel();
        let stop = sender.clone();
        let stopping = signals::on_stop(move || drop(stop.send(Wake::Stop)))?;
        let others = sender.clone();
        let wake = move |signal| drop(others.send(if signal == SIGHUP { Wake::Reload } else { Wake::Renew }));
        signals::on_each(&[SIGHUP, SIGUSR1], wake)?;
        Ok(Self { arrived, sender, stopping })
    }

    /// Has us look when it is called.
    pub(super) fn waker(&self) -> impl Fn() + Send + use<> {
        let sender = self.sender.clone();
        // Nobody listens any more once we are stopping.
        move || drop(sender.send(Wake::Changed))
    }

    /// Listens to a rotation until it ends.
    pub(super) fn watch(&self, handle: &Handle) -> Result<(), Failure> {
        let (handle, sender) = (handle.clone(), self.sender.clone());
        let watch = move || {
            let mut seen = Seen::default();
            while let Some(now) = handle.wait_for(|now| Seen::of(now) != seen).wait() {
                seen = Seen::of(&now);
                if sender.send(Wake::Changed).is_err() {
                    return;
                }
            }
            // The end is something to look at, too.
            let _ = sender.send(Wake::Changed);
        };
        thread::Builder::new()
            .name("watch".into())
            .spawn(watch)
            .map_err(|error| Failure::no_thread("a certificate's watcher", &error))?;
        Ok(())
    }
}
