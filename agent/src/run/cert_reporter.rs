//! Reports what happens to one certificate, as events and in the log, and starts the runs of `--on-rotated`.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use perennial::{Certificate, Slot, State, UnixTime};
use perennial_pki::{Chain, Credential};
use perennial_rotation::{Handle, LoadRequest, News, NotYet, Progress, Snapshot, Store, clock};
use serde_json::{Value, json};

use super::hook::{self, Hooks};
use super::list::Activity;
use crate::metrics::{BlockedOn, MemberFacts, Source};
use crate::report::{self, Report};
use crate::rotation::ActiveRotation;
use crate::spans::words;

#[cfg(test)]
mod tests;

/// A rotation, and what was last reported about its certificate.
pub(super) struct CertReporter {
    /// The prefix of the certificate's files, which is the certificate's name in events.
    pub(super) of: String,
    pub(super) rotation: ActiveRotation,
    /// The link to the current pair.
    current: PathBuf,
    /// True if `current` led to a file at the last check, or if the rotation has written the file after that check.
    was_there: Arc<AtomicBool>,
    /// The reason why no request can be submitted; empty if requests can be submitted.
    blocked_on: BlockedOn,
    /// True once the expiry of the externally managed certificate was reported.
    lost: bool,
    /// Time from which the current certificate has been in memory only; `None` if it is on disk.
    unwritten_since: Option<UnixTime>,
    /// The snapshot of the rotation that was reported last.
    snapshot: Arc<Snapshot>,
    /// The snapshot of the rotation at the last poll. Newer than `snapshot` while notices of a fleet are on their way.
    latest: Arc<Snapshot>,
    /// The certificate that was reported last; before the first report, the certificate that existed at the start.
    certificate: Option<Arc<Certificate>>,
    /// The state that was reported last. `None` while the certificate is not durable, so that the event `resting` comes
    /// after the event `issued`.
    state: Option<State>,
    /// The error that was reported last; `None` once the failed operation has succeeded.
    reported: Option<Arc<str>>,
}

impl CertReporter {
    pub(super) fn new(of: &str, rotation: ActiveRotation, current: PathBuf) -> Self {
        let snapshot = rotation.began.clone();
        Self {
            of: of.to_owned(),
            certificate: snapshot.credential.as_ref().map(|held| held.chain().certificate().clone()),
            latest: snapshot.clone(),
            snapshot,
            state: None,
            rotation,
            current,
            was_there: Arc::default(),
            blocked_on: BlockedOn::default(),
            lost: false,
            unwritten_since: None,
            reported: None,
        }
    }

    /// Sets the certificate that existed before the rotation began: a member of a fleet may have taken steps since.
    pub(super) fn began_with(self, certificate: Option<Arc<Certificate>>) -> Self {
        Self { certificate, ..self }
    }

    /// True if there is a valid certificate and it is on disk.
    pub(super) fn is_on_disk(&self) -> bool {
        is_on_disk(self.rotation.handle())
    }

    /// Makes the rotation write the certificate again if another program has removed its file or the directory.
    pub(super) fn restore_missing(&self) {
        self.restoration()();
    }

    /// Returns a call that does the work of [`restore_missing`](Self::restore_missing), for another thread: the disk
    /// may not answer.
    pub(super) fn restoration(&self) -> impl FnOnce() + Send + use<> {
        let (of, current, handle) = (self.of.clone(), self.current.clone(), self.rotation.handle().clone());
        let was_there = self.was_there.clone();
        move || {
            // A link that never existed is no loss: the first certificate is not written yet.
            let known = was_there.load(Ordering::SeqCst);
            let missing = matches!(fs::metadata(&current), Err(error) if error.kind() == ErrorKind::NotFound);
            if missing && known && is_on_disk(&handle) {
                let current = current.display();
                tracing::warn!("{of}: {current} was removed by another program; writing the certificate again");
                handle.report_replaced(None);
            }
            // The rotation may have written the file since, for the first time.
            if known || !missing {
                was_there.store(!missing, Ordering::SeqCst);
            }
        }
    }

    /// True if, in the snapshot that was polled last, there is a current certificate that is on disk and not due.
    pub(super) fn is_in_place(&self) -> bool {
        in_place(&self.latest).is_some() && self.latest.due.is_none()
    }

    /// The last error; `None` once the failed operation has succeeded.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.latest.last_error.as_deref()
    }

    /// Sets the reason why no request can be submitted; `None` if requests can be submitted. Reports a new reason as an
    /// event, unless the reason will pass by itself ([`NotYet::is_coming`]). Does not log the reason: the caller does.
    pub(super) fn set_blocked_on(&mut self, why: Option<&NotYet>, report: &Report) {
        let text = why.map(ToString::to_string).unwrap_or_default();
        let before = self.blocked_on.set(text.clone());
        if why.is_some_and(|why| !why.is_coming()) && before != text {
            report.event("trouble", json!({ "of": self.of, "reason": text }), "");
        }
    }

    /// The source of the certificate's state, for metrics. `listed` is set for a member of a certificate list.
    pub(super) fn source(&self, listed: Option<MemberFacts>) -> Source {
        Source::Rotation(self.rotation.handle().clone(), self.blocked_on.clone(), listed)
    }

    /// The activity of the rotation, for a summary of several certificates.
    pub(super) fn activity(&self) -> Activity {
        match self.rotation.handle().state() {
            _ if self.trouble().is_some() || self.unwritten_since.is_some() => Activity::Failing,
            State::Scheduled { .. } => Activity::Resting,
            State::Requesting { .. } => Activity::Requesting,
            State::NotEnabled if self.lost => Activity::Failing,
            State::NotEnabled => Activity::Resting,
            _ => Activity::Waiting,
        }
    }

    /// The state of the certificate as a phrase, for systemd's STATUS.
    pub(super) fn status(&self) -> String {
        let unwritten = self.unwritten_since.map(|since| format!(", in memory only since {since}"));
        self.progress() + &unwritten.unwrap_or_default()
    }

    /// The name of the certificate, followed by the last error. Without an error, the progress of the request in flight
    /// or the state follows.
    fn progress(&self) -> String {
        let state = self.rotation.handle().state();
        let blocked_on = self.blocked_on.get();
        match (state, self.trouble()) {
            (State::Scheduled { rotate_at }, None) => format!("{}: valid, next rotation at {rotate_at}", self.of),
            (_, Some(trouble)) => format!("{}: {trouble}", self.of),
            (State::Requesting { .. }, None) => match &self.latest.progress {
                Some(progress) => format!("{}: {progress}", self.of),
                None => format!("{}: requesting a certificate", self.of),
            },
            (State::NoTemplate, None) if !blocked_on.is_empty() => format!("{}: {blocked_on}", self.of),
            (State::NotEnabled, None) if self.lost => format!("{}: expired, and rotation is not enabled", self.of),
            (state, None) => format!("{}: {state}", self.of),
        }
    }

    /// Reports everything new since the last poll. Failures and progress are reported as JSON events only: the rotation
    /// logs them itself.
    pub(super) fn poll(&mut self, report: &Report, hooks: &Hooks) {
        // Read first, so that the snapshot of an ended rotation is its last one.
        let has_ended = self.rotation.handle().has_ended();
        self.latest = self.rotation.handle().snapshot();
        // Taken before the notices, so that the notices up to this snapshot are in the queue.
        self.snapshot = self.rotation.noticed();
        while let Some(notice) = self.rotation.next_notice() {
            self.report_news(&notice.news, report);
            self.snapshot = notice.snapshot;
            self.report_snapshot(report, hooks);
        }
        if has_ended {
            // A removed member is polled no more, and its last notices may be on their way.
            self.snapshot = self.latest.clone();
        }
        self.report_snapshot(report, hooks);
        // The end of some errors is no news.
        self.reported.take_if(|_| self.latest.last_error.is_none());
        self.report_lost(report);
    }

    fn report_news(&mut self, news: &News, report: &Report) {
        match news {
            News::Progressed(Progress::WaitingForApproval { request_name }) => {
                self.event(report, "waiting_for_approval", json!({ "csr": request_name }), "");
            }
            // So that `restore_missing` notices a file that is removed before the first poll.
            News::Written { slot: Slot::Served } => self.was_there.store(true, Ordering::SeqCst),
            News::Failed { error, .. }
            | News::Panicked { error, .. }
            | News::Unwritten { error }
            | News::Unsaved { error }
            | News::Foreign { error }
                if self.reported.as_ref() != Some(error) =>
            {
                self.event(report, "trouble", json!({ "reason": &**error }), "");
                self.reported = Some(error.clone());
            }
            _ => {}
        }
    }

    /// Reports the certificate and the state in `snapshot` if they differ from the ones that were reported last.
    /// Compares snapshots, because notices may be missed: a run of `--on-rotated` is owed for each new certificate,
    /// whether its notice was received or not.
    fn report_snapshot(&mut self, report: &Report, hooks: &Hooks) {
        let Snapshot { unwritten, at, .. } = &*self.snapshot;
        self.unwritten_since = unwritten.then(|| self.unwritten_since.unwrap_or(at.unix));
        self.reported.take_if(|_| self.snapshot.last_error.is_none());
        self.report_certificate(report, hooks);
        let state = (!self.snapshot.unwritten).then_some(self.snapshot.state);
        if self.state != state {
            self.state = state;
            self.report_state(report);
        }
    }

    /// Reports a new certificate once it is served and durable. From then on, a run of `--on-rotated` is owed for the
    /// certificate.
    fn report_certificate(&mut self, report: &Report, hooks: &Hooks) {
        let is_new = |chain: &&Chain| self.certificate.as_ref() != Some(chain.certificate());
        let Some(chain) = in_place(&self.snapshot).filter(is_new) else { return };
        // A certificate that had expired at the start does not count, unless another program decides what is in use.
        let Snapshot { state, at, .. } = &*self.rotation.began;
        let counts = |old: &Arc<Certificate>| *state == State::NotEnabled || !old.validity.expired(at.unix);
        let name = if self.certificate.as_ref().is_some_and(counts) { "rotated" } else { "issued" };
        // The rotation logs a certificate that was issued to it.
        let sentence = (self.snapshot.state == State::NotEnabled).then(|| {
            let (of, end) = (&self.of, chain.certificate().validity.not_after());
            format!("{of}: another program has replaced the certificate; the new one is valid until {end}")
        });
        self.event(report, name, report::certificate(chain), &sentence.unwrap_or_default());
        hooks.run(&self.of, hook::subject(self.current.clone(), chain));
        self.certificate = Some(chain.certificate().clone());
    }

    /// Reports that the rotation waits for the rotation point, or that rotation is not enabled. Other states are not
    /// reported as events.
    fn report_state(&self, report: &Report) {
        let Self { of, snapshot: now, .. } = self;
        match self.state {
            Some(State::Scheduled { rotate_at }) => {
                let left = words(rotate_at.since(now.at.unix));
                let sentence = format!("{of}: next rotation at {rotate_at}, in {left}");
                self.event(report, "resting", json!({ "rotate_at": rotate_at.to_string() }), &sentence);
            }
            Some(State::NotEnabled) => {
                let end = now.credential.as_ref().map(|held| held.chain().certificate().validity.not_after());
                let what = end.map_or_else(
                    || "there is no certificate, and no request is submitted".to_owned(),
                    |end| format!("the certificate is valid until {end}, and no request is submitted"),
                );
                let sentence = format!("{of}: rotation is not enabled: {what}");
                self.event(report, "disabled", json!({ "not_after": end.map(|end| end.to_string()) }), &sentence);
            }
            _ => {}
        }
    }

    /// Reports, once, that an externally managed certificate has expired.
    fn report_lost(&mut self, report: &Report) {
        let end = self.latest.credential.as_ref().map(|held| held.chain().certificate().validity.not_after());
        let lost = end.filter(|end| self.latest.state == State::NotEnabled && *end < clock::now().unix);
        if let (Some(end), false) = (lost, self.lost) {
            let why = format!("the certificate expired at {end}, and the program that rotates it has not replaced it");
            tracing::warn!("{}: {why}", self.of);
            self.event(report, "trouble", json!({ "reason": why }), "");
        }
        self.lost = lost.is_some();
    }

    fn event(&self, report: &Report, name: &str, fields: Value, sentence: &str) {
        report.event(name, report::with(json!({ "of": self.of }), fields), sentence);
    }
}

/// Reads the store. If another program has put a pair there, reports this pair to the rotation, which uses the better
/// one of this pair and its own. Without a `common_name`, the signer chooses the names. An earlier pair, which the store
/// keeps, is not in its place. Changes no file. `name` names the certificate in the log.
pub(super) fn report_replacement(name: &str, handle: &Handle, store: &dyn Store, common_name: Option<&str>) {
    let request =
        LoadRequest { common_name, has_signer: false, now: clock::now().unix, keys: None, request_digest: None };
    let found = match store.load(&request) {
        Ok(stored) => stored.credential.filter(|_| !stored.is_misplaced),
        Err(error) => {
            tracing::warn!("{name}: {error}; continuing with the credential in memory");
            return;
        }
    };
    let now = handle.snapshot();
    let is_news = |found: &Arc<Credential>| {
        let held = now.credential.as_ref().map(|held| held.chain());
        common_name.is_none_or(|name| found.chain().certificate().common_name() == name) && held != Some(found.chain())
    };
    // A write in progress is about to replace the pair on disk.
    if let Some(found) = found.filter(|found| is_news(found) && !now.unwritten) {
        handle.report_replaced(Some(found));
    }
}

/// True if there is a valid certificate and it is on disk.
pub(super) fn is_on_disk(handle: &Handle) -> bool {
    handle.credential().is_some() && !handle.snapshot().unwritten
}

/// The chain that is served and durable; `None` if there is none.
fn in_place(snapshot: &Snapshot) -> Option<&Chain> {
    snapshot.credential.as_ref().filter(|_| !snapshot.unwritten).map(|held| held.chain())
}
