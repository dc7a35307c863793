//! Looks on while certificates are rotated, checks each, and tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use perennial::{Policy, State, UnixTime, rotation_point};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::rotation::Snapshot;
use perennial_pki::{Chain, Credential};
use perennial_std::clock;
use serde_json::json;

use super::{Bootstrap, NODE};
use crate::cli;
use crate::failure::Failure;
use crate::report::{self, Report, time_of_day};
use crate::rotation::{Running, seed_of};
use crate::spans::words;
use crate::whoami::who_am_i;

/// Who looks on, and at what.
pub(super) struct Show<'a> {
    pub(super) report: &'a mut Report,
    pub(super) running: &'a Running,
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) bootstrap: &'a Bootstrap,
    pub(super) policy: &'a Policy,
    pub(super) interrupted: &'a AtomicBool,
    pub(super) deadline: Instant,
}

impl Show<'_> {
    /// The first certificate, and every rotation asked for. `begun`: when there was a wish and no certificate.
    pub(super) fn rotations(&mut self, options: &cli::Demo, begun: UnixTime) -> Result<(), Failure> {
        let (mut due, mut seen, mut used) = (begun, 0, 0);
        for n in 0..=options.rotations {
            let snapshot = self.wait(seen)?;
            let Some(credential) = &snapshot.credential else {
                return Err(Failure::Failed("a certificate was issued, but there is none".into()));
            };
            self.check(credential)?;
            let with_token = self.bootstrap.used() > used;
            let title = if n == 0 { "first".into() } else { format!("rotation {n}/{}", options.rotations) };
            self.tell(n, &title, credential.chain(), with_token, snapshot.at.unix.since(due));
            due = self.rotation_point(credential.chain());
            (seen, used) = (snapshot.issued, self.bootstrap.used());
        }
        let (n, runtime, identity) = (options.rotations, options.runtime.name(), identity());
        let fields = json!({ "runtime": runtime, "rotations": n, "identity": identity });
        let rotations = if n == 1 { "rotation" } else { "rotations" };
        let sentence =
            format!("done          {n} {rotations} on {runtime}; the server knew each certificate as {identity}");
        self.report.event("done", fields, &sentence);
        Ok(())
    }

    /// Waits until one more certificate than `seen` is issued, in use and on disk.
    fn wait(&mut self, seen: u64) -> Result<Arc<Snapshot>, Failure> {
        let is_there = |now: &Snapshot| now.issued > seen && !now.unwritten && now.due.is_none();
        loop {
            let handle = self.running.handle();
            let now = handle.snapshot();
            let left = self.deadline.saturating_duration_since(Instant::now());
            if is_there(&now) {
                return Ok(now);
            } else if self.interrupted.load(Ordering::SeqCst) {
                return Err(Failure::Failed("interrupted".into()));
            } else if left.is_zero() || handle.has_ended() {
                let trouble = now.last_error.as_deref().map(|error| format!("; the last trouble: {error}"));
                let what = "the next certificate did not come in time";
                return Err(Failure::Failed(format!("{what}{}", trouble.unwrap_or_default())));
            }
            // A line that is kept up to date counts down.
            let step = if self.report.is_live() { left.min(Duration::from_millis(100)) } else { left };
            // Issued but not on disk yet: that is a matter of milliseconds.
            if now.issued == seen {
                self.say_waiting(&now);
            }
            let handle = self.running.handle();
            handle
                .wait_for(|new| is_there(new) || (new.state, &new.progress) != (now.state, &now.progress))
                .within(Some(step));
        }
    }

    fn say_waiting(&mut self, now: &Snapshot) {
        let clocks = clock::now();
        match now.state {
            State::Resting { rotate_at } => {
                let what = format!("              rests until {}", time_of_day(rotate_at));
                self.report.waiting(&what, &format!(", in {}", words(rotate_at.since(clocks.unix))));
            }
            State::BackingOff { until, .. } => {
                let error = now.last_error.as_deref().unwrap_or("an unknown error");
                let left = format!("; next attempt in {}", words(until.since(clocks.instant)));
                self.report.waiting(&format!("              trouble: {error}"), &left);
            }
            // Over in milliseconds: worth a look only where it does not stay.
            State::Requesting { .. } if self.report.is_live() => {
                let progress = now.progress.as_ref().map_or_else(|| "asks".into(), ToString::to_string);
                self.report.waiting(&format!("              {progress}"), "");
            }
            State::Requesting { .. }
            | State::Waiting { .. }
            | State::NotEnabled
            | State::NoTemplate
            | State::NoIdentity { .. } => {}
        }
    }

    /// The certificate is the node's, and the server knows its holder by it.
    fn check(&self, credential: &Arc<Credential>) -> Result<(), Failure> {
        let facts = credential.chain().certificate();
        if facts.common_name != identity() {
            return Err(Failure::Failed(format!("a certificate for {:?} was issued", facts.common_name)));
        }
        let known = who_am_i(self.cluster, credential).and_then(|user| user.is(facts));
        known.map_err(|why| {
            Failure::Failed(format!(
                "the certificate with serial {} is not accepted: {why}",
                credential.chain().serial()
            ))
        })
    }

    fn tell(&mut self, n: u32, title: &str, chain: &Chain, with_token: bool, took: Duration) {
        let validity = chain.certificate().validity;
        let asked_with = if with_token { "bootstrap token" } else { "certificate" };
        let fields = json!({
            "n": n,
            "identity": chain.certificate().common_name,
            "asked_with": asked_with,
            "latency_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        let since = if n == 0 { "after the start" } else { "after falling due" };
        let sentence = format!(
            "{title:<14}{}  serial {:.12}…  {}–{}  asked with its {asked_with}, in use {} ms {since}",
            chain.certificate().common_name,
            chain.serial(),
            time_of_day(validity.not_before()),
            time_of_day(validity.not_after()),
            took.as_millis(),
        );
        let name = if n == 0 { "issued" } else { "rotated" };
        self.report.event(name, report::with(report::certificate(chain), fields), &sentence);
    }

    fn rotation_point(&self, chain: &Chain) -> UnixTime {
        let facts = chain.certificate();
        rotation_point(self.policy, seed_of(facts), facts)
    }
}

/// What every certificate has to say of its holder.
fn identity() -> String {
    format!("system:node:{NODE}")
}
