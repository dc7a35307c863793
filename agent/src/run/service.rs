//! What systemd is told, where it asks to be told (sd_notify(3)).

use std::time::Duration;

use sd_notify::NotifyState;

/// What systemd was told.
pub(super) struct Service {
    /// It has been ready.
    ready: bool,
    /// It is waited for to say so again.
    reloading: bool,
    status: String,
    watchdog: Option<Duration>,
}

impl Service {
    /// As the environment asks for it.
    pub(super) fn new() -> Self {
        Self { ready: false, reloading: false, status: String::new(), watchdog: sd_notify::watchdog_enabled() }
    }

    /// How often it has to hear of us.
    pub(super) fn interval(&self) -> Option<Duration> {
        // Twice as often as it asks for: one may come late.
        self.watchdog.map(|within| within / 2)
    }

    /// We live, and this is how things are. Ready is who has the first certificate; once ready, it stays so. The serving
    /// one may have to wait for a person, who may need what is started after us.
    pub(super) fn tell(&mut self, ready: bool, status: &str) {
        let is_news = if self.ready { self.reloading } else { ready };
        let status = (is_news || self.status != status).then(|| status.to_owned());
        let news = [
            is_news.then_some(NotifyState::Ready),
            status.as_deref().map(NotifyState::Status),
            self.watchdog.map(|_| NotifyState::Watchdog),
        ];
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

fn send(news: &[NotifyState<'_>]) {
    if let (false, Err(error)) = (news.is_empty(), sd_notify::notify(news)) {
        tracing::debug!("systemd could not be told: {error}");
    }
}
