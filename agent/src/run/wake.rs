//! What has `perennial run` look again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};

use perennial_rotation::News;
use signal_hook::consts::{SIGHUP, SIGUSR1};

use crate::failure::Failure;
use crate::rotation::Observer;
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

    /// Has us look whenever there is news of a rotation, the end of it included.
    pub(super) fn observer(&self) -> Observer {
        let sender = self.sender.clone();
        Box::new(move |notice| {
            // What a step led to is news of its own.
            if !matches!(notice.news, News::Stepped(_)) {
                // Nobody listens any more once we are stopping.
                let _ = sender.send(Wake::Changed);
            }
        })
    }
}
