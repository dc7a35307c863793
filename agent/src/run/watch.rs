//! Looks on while a certificate is kept rotated, and tells.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use perennial::{Certificate, Fingerprint, State, UnixTime};
use perennial_rotation::{Progress, Snapshot, clock};
use serde_json::{Value, json};

use super::hook::{self, Hook};
use crate::metrics::{Lacking, Source};
use crate::report::{self, Report};
use crate::rotation::ActiveRotation;
use crate::spans::words;

/// A certificate that is kept rotated, and who looks on.
pub(super) struct Watch {
    /// What its files begin with.
    pub(super) of: String,
    pub(super) running: ActiveRotation,
    /// The file that always leads to the pair in use.
    current: PathBuf,
    /// That file existed when last looked for.
    was_there: bool,
    /// There is a certificate: the next one is a rotation.
    held: bool,
    /// The certificate that was told of last, or was there before.
    told: Option<Fingerprint>,
    /// Why there is nothing to ask for.
    lacking: Lacking,
    /// It has expired, and nothing is done about that.
    lost: bool,
    /// Since when the certificate in use is in memory only, if it is.
    unwritten_since: Option<UnixTime>,
    seen: Seen,
}

/// What was told last.
#[derive(Default, PartialEq)]
pub(super) struct Seen {
    issued: u64,
    unwritten: bool,
    /// A certificate that is not due is in use and on disk.
    in_place: bool,
    /// `None` while the certificate is not on disk: when it will be rotated is told after that it was issued.
    state: Option<State>,
    trouble: Option<Arc<str>>,
    progress: Option<Progress>,
}

impl Seen {
    pub(super) fn of(now: &Snapshot) -> Self {
        Self {
            issued: now.issued,
            unwritten: now.unwritten,
            in_place: now.credential.is_some() && now.due.is_none() && !now.unwritten,
            state: (!now.unwritten).then_some(now.state),
            trouble: now.last_error.clone(),
            progress: now.progress.clone(),
        }
    }
}

impl Watch {
    /// `told`: what an earlier session told of last.
    pub(super) fn new(of: &str, running: ActiveRotation, current: PathBuf, told: Option<Fingerprint>) -> Self {
        let is_told = !running.handle().snapshot().unwritten;
        let before = running.began_with().filter(|_| is_told).map(|before| before.chain().certificate());
        // What has expired is made good for by a first one; what others keep is theirs.
        let counts = |before: &Certificate| {
            running.handle().state() == State::NotEnabled || !before.validity.expired(clock::now().unix)
        };
        let held = told.is_some() || before.is_some_and(|before| counts(before));
        let told = told.or_else(|| before.map(|before| before.fingerprint));
        let (of, lacking, seen) = (of.to_owned(), Lacking::default(), Seen::default());
        Self { of, running, current, was_there: false, held, told, lacking, lost: false, unwritten_since: None, seen }
    }

    /// The certificate that was told of last, or was there before.
    pub(super) const fn told(&self) -> Option<Fingerprint> {
        self.told
    }

    /// A certificate is in use and on disk.
    pub(super) fn is_on_disk(&self) -> bool {
        self.running.handle().credential().is_some() && !self.running.handle().snapshot().unwritten
    }

    /// Has the certificate written again if its file was there and is gone: another program has removed it, or the
    /// directory.
    pub(super) fn put_back(&mut self) {
        let missing = matches!(fs::metadata(&self.current), Err(error) if error.kind() == ErrorKind::NotFound);
        if missing && self.was_there && self.is_on_disk() {
            tracing::warn!("{}: {} is gone; writing the certificate again", self.of, self.current.display());
            self.running.handle().replaced(None);
        }
        self.was_there = !missing;
    }

    /// A certificate that is not due is in use and on disk, as far as was seen.
    pub(super) const fn is_in_place(&self) -> bool {
        self.seen.in_place
    }

    /// The last trouble, unless it has passed.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.seen.trouble.as_deref()
    }

    /// What keeps it from being asked for, if anything does. Whoever tells has logged it.
    pub(super) fn lacks(&self, why: &str, report: &mut Report) {
        let mut lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = !why.is_empty() && why != *lacking;
        why.clone_into(&mut *lacking);
        // Whoever reads what is told may be slow.
        drop(lacking);
        if is_news {
            report.event("trouble", json!({ "of": self.of, "reason": why }), "");
        }
    }

    /// Who knows how it is doing.
    pub(super) fn source(&self) -> Source {
        Source::Rotation(self.running.handle().clone(), self.lacking.clone())
    }

    /// How it is doing, in a phrase.
    pub(super) fn status(&self) -> String {
        let unwritten = self.unwritten_since.map(|since| format!(", unwritten since {since}"));
        self.progress() + &unwritten.unwrap_or_default()
    }

    fn progress(&self) -> String {
        let state = self.running.handle().state();
        let lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        match (state, self.trouble()) {
            (State::Scheduled { rotate_at }, None) => format!("{}: good, next rotation at {rotate_at}", self.of),
            (_, Some(trouble)) => format!("{}: {trouble}", self.of),
            (State::Requesting { .. }, None) => match &self.seen.progress {
                Some(progress) => format!("{}: {progress}", self.of),
                None => format!("{}: asking for a certificate", self.of),
            },
            (State::NoTemplate, None) if !lacking.is_empty() => format!("{}: {lacking}", self.of),
            (State::NotEnabled, None) if self.lost => format!("{}: expired, and rotation is not enabled", self.of),
            (state, None) => format!("{}: {state}", self.of),
        }
    }

    /// Tells what is new. What has no sentence here is logged by the runtime.
    pub(super) fn look(&mut self, report: &mut Report, hook: &Hook) {
        let now = self.running.handle().snapshot();
        let new = Seen::of(&now);
        self.unwritten_since = now.unwritten.then(|| self.unwritten_since.unwrap_or(now.at.unix));
        let of = self.of.clone();
        let mut tell = |name, fields: Value, sentence: &str| {
            report.event(name, report::with(json!({ "of": of }), fields), sentence);
        };
        let fingerprint = now.credential.as_ref().map(|held| held.chain().certificate().fingerprint);
        if let (Some(credential), true) = (&now.credential, fingerprint != self.told && !now.unwritten) {
            let name = if self.held { "rotated" } else { "issued" };
            let end = credential.chain().certificate().validity.not_after();
            let by_others = format!("{of}: somebody else has put another certificate there, valid until {end}");
            // What was issued to us has been logged.
            let sentence = if now.state == State::NotEnabled { by_others.as_str() } else { "" };
            tell(name, report::certificate(credential.chain()), sentence);
            hook.run(&self.of, hook::subject(self.current.clone(), credential.chain()));
            (self.held, self.told) = (true, fingerprint);
        }
        if let (Some(Progress::WaitingForApproval { csr_name }), true) =
            (&new.progress, new.progress != self.seen.progress)
        {
            tell("waiting_for_approval", json!({ "csr": csr_name }), "");
        }
        if let (Some(trouble), true) = (&new.trouble, new.trouble != self.seen.trouble) {
            tell("trouble", json!({ "reason": &**trouble }), "");
        }
        if new.state != self.seen.state {
            match new.state {
                Some(State::Scheduled { rotate_at }) => {
                    let left = words(rotate_at.since(now.at.unix));
                    let sentence = format!("{of}: next rotation at {rotate_at}, in {left}");
                    tell("resting", json!({ "rotate_at": rotate_at.to_string() }), &sentence);
                }
                Some(State::NotEnabled) => {
                    let end = now.credential.as_ref().map(|held| held.chain().certificate().validity.not_after());
                    let what = end.map_or_else(
                        || "there is no certificate, and none is asked for".to_owned(),
                        |end| format!("the certificate is valid until {end}, and no other is asked for"),
                    );
                    let sentence = format!("{of}: rotation is not enabled: {what}");
                    tell("disabled", json!({ "not_after": end.map(|end| end.to_string()) }), &sentence);
                }
                _ => {}
            }
        }
        let end = now.credential.as_ref().map(|held| held.chain().certificate().validity.not_after());
        let lost = end.filter(|end| now.state == State::NotEnabled && *end < clock::now().unix);
        if let (Some(end), false) = (lost, self.lost) {
            let why = format!("the certificate expired at {end}, and nobody has put another one there");
            tracing::warn!("{of}: {why}");
            tell("trouble", json!({ "reason": why }), "");
        }
        self.lost = lost.is_some();
        self.seen = new;
    }
}
