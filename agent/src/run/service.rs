//! Notifies systemd of readiness, status and reloads, and feeds its watchdog (sd_notify(3)).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::failure::Failure;
use crate::pulse::Pulse;
use crate::queue::{Entry, Queue};
use crate::threads;

/// Most bytes of messages queued while systemd does not read its socket. The kernel queues a few more.
const MOST_QUEUED: usize = 16 << 10;
/// Longest time that the process waits at its end for systemd to read the last message.
const LAST_SEND: Duration = Duration::from_millis(500);

/// Notifies systemd, on a thread of its own that blocks if systemd does not read its socket.
pub(super) struct Systemd {
    /// The queue of messages to systemd; `None` without NOTIFY_SOCKET.
    manager: Option<Queue<String>>,
    /// True once READY=1 was sent.
    ready: bool,
    /// True if RELOADING=1 was sent, and READY=1 has to follow.
    reloading: bool,
    /// The STATUS that was sent last.
    status: String,
}

impl Systemd {
    /// Starts a thread for each variable that systemd has set: one sends notifications (NOTIFY_SOCKET), one feeds the
    /// watchdog (WATCHDOG_USEC). The watchdog is fed as long as every rotation takes its steps when they are due. It is
    /// fed even while a disk does not answer or a reader of the output does not read, since a restart would not help
    /// then.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn new(pulse: &Arc<Pulse>) -> Result<Self, Failure> {
        if let Some(within) = sd_notify::watchdog_enabled() {
            let pulse = pulse.clone();
            // Half the interval, as sd_watchdog_enabled(3) recommends.
            threads::start("watchdog", "the watchdog", move || feed_watchdog(&pulse, within / 2))?;
        }
        let manager = std::env::var_os("NOTIFY_SOCKET").map(|_| Queue::<String>::new(MOST_QUEUED));
        if let Some(queue) = manager.clone() {
            let notify = move || loop {
                if let Entry::Item(text) = queue.next() {
                    send(&[NotifyState::Custom(&text)]);
                }
            };
            threads::start("systemd", "notifying systemd", notify)?;
        }
        Ok(Self { manager, ready: false, reloading: false, status: String::new() })
    }

    /// Sends READY=1 the first time that `ready` is true, and once after each reload. Sends STATUS if `status` has
    /// changed. Once ready, the service stays ready.
    ///
    /// `ready` must not depend on the serving certificate. A person may have to approve the request for that
    /// certificate, and may need units for this that start after perennial.
    pub(super) fn update(&mut self, ready: bool, status: &str) {
        // Once ready, READY=1 is due only after RELOADING=1.
        let is_news = if self.ready { self.reloading } else { ready };
        let status = (is_news || self.status != status).then(|| status.to_owned());
        let news = [is_news.then_some(NotifyState::Ready), status.as_deref().map(NotifyState::Status)];
        self.notify(&news.into_iter().flatten().collect::<Vec<_>>());
        self.ready |= ready;
        self.reloading = false;
        self.status = status.unwrap_or_else(|| std::mem::take(&mut self.status));
    }

    /// Sends RELOADING=1, unless the service is not ready yet. The next [`update`](Self::update) sends READY=1.
    pub(super) fn reloading(&mut self) {
        self.reloading = self.ready;
        if let (true, Ok(now)) = (self.ready, NotifyState::monotonic_usec_now()) {
            self.notify(&[NotifyState::Reloading, now]);
        }
    }

    /// Sends STOPPING=1, and waits up to [`LAST_SEND`] until systemd has read all messages.
    pub(super) fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
        if let Some(manager) = &self.manager {
            manager.finish_within(LAST_SEND);
        }
    }

    /// Queues one message to systemd with these assignments, such as READY=1. Queues none if there are no assignments.
    fn notify(&self, news: &[NotifyState<'_>]) {
        if let (Some(manager), false) = (&self.manager, news.is_empty()) {
            let text = news.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            let bytes = text.len();
            manager.push(text, bytes);
        }
    }
}

/// Sends WATCHDOG=1 each `interval` while the loops of all rotations take their steps when they are due. Logs if a loop
/// hangs or has ended.
fn feed_watchdog(pulse: &Pulse, interval: Duration) {
    let mut reported = String::new();
    loop {
        let why_not = pulse.why_not_alive(Instant::now());
        if why_not.is_empty() {
            send(&[NotifyState::Watchdog]);
        } else if why_not != reported {
            let why = why_not.trim_end();
            tracing::error!("not notifying the systemd watchdog, which ends perennial if this lasts: {why}");
        }
        reported = why_not;
        thread::sleep(interval);
    }
}

fn send(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}
