//! What systemd is told, where it asks to be told (sd_notify(3)).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::failure::Failure;
use crate::pulse::Pulse;
use crate::queue::{Entry, Queue};

/// The messages queued for a manager that does not read its socket take at most this many bytes; the kernel holds a few.
const MOST: usize = 16 << 10;
/// How long the end of the process waits for the manager to take the last message.
const FAREWELL: Duration = Duration::from_millis(500);

/// Notifies systemd. A manager that does not read its socket holds up a thread that does nothing else.
pub(super) struct Service {
    /// `None`: nobody asked to be notified.
    manager: Option<Queue<String>>,
    /// It has been ready.
    ready: bool,
    /// It is waited for to say so again.
    reloading: bool,
    status: String,
}

impl Service {
    /// As the environment asks for it. The watchdog hears of us on a thread of its own, as long as the rotations take
    /// their steps: whatever else waits, for a disk or a reader, is no reason for a restart.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub(super) fn new(pulse: &Arc<Pulse>) -> Result<Self, Failure> {
        if let Some(within) = sd_notify::watchdog_enabled() {
            let pulse = pulse.clone();
            // Twice as often as it asks for: one may come late.
            let watch = move || feed_watchdog(&pulse, within / 2);
            let spawned = thread::Builder::new().name("watchdog".into()).spawn(watch);
            spawned.map_err(|error| Failure::no_thread("the watchdog", &error))?;
        }
        let manager = std::env::var_os("NOTIFY_SOCKET").map(|_| Queue::<String>::new(MOST));
        if let Some(queue) = manager.clone() {
            let notify = move || loop {
                if let Entry::Item(text) = queue.next() {
                    send(&[NotifyState::Custom(&text)]);
                }
            };
            let spawned = thread::Builder::new().name("systemd".into()).spawn(notify);
            spawned.map_err(|error| Failure::no_thread("notifying systemd", &error))?;
        }
        Ok(Self { manager, ready: false, reloading: false, status: String::new() })
    }

    /// This is how things are. Ready is who has the first certificate; once ready, it stays so. The serving
    /// one may have to wait for a person, who may need what is started after us.
    pub(super) fn tell(&mut self, ready: bool, status: &str) {
        let is_news = if self.ready { self.reloading } else { ready };
        let status = (is_news || self.status != status).then(|| status.to_owned());
        let news = [is_news.then_some(NotifyState::Ready), status.as_deref().map(NotifyState::Status)];
        self.notify(&news.into_iter().flatten().collect::<Vec<_>>());
        self.ready |= ready;
        self.reloading = false;
        self.status = status.unwrap_or_else(|| std::mem::take(&mut self.status));
    }

    /// Everything is read again. Before it is ready, nobody wants to know.
    pub(super) fn reloading(&mut self) {
        self.reloading = self.ready;
        if let (true, Ok(now)) = (self.ready, NotifyState::monotonic_usec_now()) {
            self.notify(&[NotifyState::Reloading, now]);
        }
    }

    pub(super) fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
        if let Some(manager) = &self.manager {
            manager.finish_within(FAREWELL);
        }
    }

    /// Queues one message.
    fn notify(&self, news: &[NotifyState<'_>]) {
        if let (Some(manager), false) = (&self.manager, news.is_empty()) {
            let text = news.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            let bytes = text.len();
            manager.push(text, bytes);
        }
    }
}

fn feed_watchdog(pulse: &Pulse, interval: Duration) {
    let mut reported = String::new();
    loop {
        let why_not = pulse.why_not_alive(Instant::now());
        if why_not.is_empty() {
            send(&[NotifyState::Watchdog]);
        } else if why_not != reported {
            tracing::error!("not notifying the systemd watchdog: {}", why_not.trim_end());
        }
        reported = why_not;
        thread::sleep(interval);
    }
}

fn send(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::debug!("systemd could not be told: {error}");
    }
}
