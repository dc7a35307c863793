//! What systemd is told, where it asks to be told (sd_notify(3)).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::failure::Failure;
use crate::pulse::Pulse;

/// What systemd was told.
pub(super) struct Service {
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
        Ok(Self { ready: false, reloading: false, status: String::new() })
    }

    /// This is how things are. Ready is who has the first certificate; once ready, it stays so. The serving
    /// one may have to wait for a person, who may need what is started after us.
    pub(super) fn tell(&mut self, ready: bool, status: &str) {
        let is_news = if self.ready { self.reloading } else { ready };
        let status = (is_news || self.status != status).then(|| status.to_owned());
        let news = [is_news.then_some(NotifyState::Ready), status.as_deref().map(NotifyState::Status)];
        send(&news.into_iter().flatten().collect::<Vec<_>>());
        self.ready |= ready;
        self.reloading = false;
        self.status = status.unwrap_or_else(|| std::mem::take(&mut self.status));
    }

    /// Everything is read again. Before it is ready, nobody wants to know.
    pub(super) fn reloading(&mut self) {
        self.reloading = self.ready;
        if let (true, Ok(now)) = (self.ready, NotifyState::monotonic_usec_now()) {
            send(&[NotifyState::Reloading, now]);
        }
    }

    pub(super) fn stopping(&self) {
        send(&[NotifyState::Stopping]);
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
    if let (false, Err(error)) = (news.is_empty(), sd_notify::notify(news)) {
        tracing::debug!("systemd could not be told: {error}");
    }
}
