//! What has `perennial run` look again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use perennial_rotation::News;
use signal_hook::consts::{SIGHUP, SIGUSR1};

use crate::failure::Failure;
use crate::rotation::Observer;
use crate::signals;

/// Signals and changes of rotations. However many have arrived, one look takes care of them.
pub(super) struct Wakes {
    arrived: Receiver<()>,
    sender: SyncSender<()>,
    /// SIGTERM or SIGINT.
    stopping: Arc<AtomicBool>,
    /// SIGHUP.
    to_reload: Arc<AtomicBool>,
    /// SIGUSR1.
    to_renew: Arc<AtomicBool>,
}

impl Wakes {
    /// Listens to signals from now on.
    pub(super) fn new() -> Result<Self, Failure> {
        let (sender, arrived) = mpsc::sync_channel(1);
        let [to_reload, to_renew] = [(); 2].map(|()| Arc::<AtomicBool>::default());
        let wake = waker(&sender);
        signals::restore_defaults()?;
        let stopping = signals::on_stop(wake.clone())?;
        let flags = [to_reload.clone(), to_renew.clone()];
        signals::on_each(&[SIGHUP, SIGUSR1], move |signal| {
            flags[usize::from(signal == SIGUSR1)].store(true, Ordering::SeqCst);
            wake();
        })?;
        Ok(Self { arrived, sender, stopping, to_reload, to_renew })
    }

    /// Has us look when it is called.
    pub(super) fn waker(&self) -> impl Fn() + Send + use<> {
        waker(&self.sender)
    }

    /// Waits for something to look at, for at most so long.
    pub(super) fn wait(&self, most: Option<Duration>) {
        // There is always a sender: ours.
        match most {
            Some(most) => drop(self.arrived.recv_timeout(most)),
            None => drop(self.arrived.recv()),
        }
    }

    /// True once a signal has asked for the end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// True if a signal has asked for the configuration to be read again, since this was called last.
    pub(super) fn is_to_reload(&self) -> bool {
        self.to_reload.swap(false, Ordering::SeqCst)
    }

    /// True if a signal has asked for new certificates, since this was called last.
    pub(super) fn is_to_renew(&self) -> bool {
        self.to_renew.swap(false, Ordering::SeqCst)
    }

    /// Has us look whenever there is news of a rotation, the end of it included.
    pub(super) fn observer(&self) -> Observer {
        let wake = self.waker();
        Box::new(move |notice| {
            // What a step led to is news of its own.
            if !matches!(notice.news, News::Stepped(_)) {
                wake();
            }
        })
    }
}

/// A full channel is a wake that has not been taken yet; without a receiver, the process is ending.
fn waker(sender: &SyncSender<()>) -> impl Fn() + Clone + Send + 'static + use<> {
    let sender = sender.clone();
    move || {
        let _ = sender.try_send(());
    }
}
