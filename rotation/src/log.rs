//! What changed, for a log: one line for each thing an operator would want to know.

use std::sync::Arc;
use std::time::Duration;

use perennial::State;
use perennial_pki::Credential;

use crate::{ClockOffset, Progress, Snapshot};

/// A wait that people would wonder at.
const LONG: Duration = Duration::from_secs(5);

/// Logs what is wrong at the start.
pub(crate) fn start(of: &str, snapshot: &Snapshot) {
    if let Some(error) = &snapshot.last_error {
        tracing::error!("{}{error}", prefix(of));
    }
    if snapshot.expiry_reminders() > 0 {
        expired(&prefix(of), snapshot);
    }
}

/// Logs what is new since the last snapshot.
pub(crate) fn report(of: &str, before: &Snapshot, after: &Snapshot) {
    let of = prefix(of);
    // At once, and again now and then while that lasts.
    if after.expiry_reminders() > before.expiry_reminders() {
        expired(&of, after);
    }
    clock(&of, before, after);
    certificate(&of, before, after);
    request(&of, before, after);
    if after.state != before.state {
        tracing::debug!(state = %after.state, unwritten = after.unwritten, "{of}state changed");
    }
}

/// What a line begins with, in a process that rotates more than one.
fn prefix(of: &str) -> String {
    if of.is_empty() { String::new() } else { format!("{of}: ") }
}

/// The local clock has turned out to be wrong, or right again.
fn clock(of: &str, before: &Snapshot, after: &Snapshot) {
    let is_wrong = |snapshot: &Snapshot| snapshot.clock_offset.is_some_and(ClockOffset::is_large);
    let Some(offset) = after.clock_offset else { return };
    match (is_wrong(before), is_wrong(after)) {
        (false, true) => tracing::warn!(
            server_ahead_ms = offset.millis,
            "{of}clock differs from the API server's by {offset}; check NTP: certificates are judged by either clock"
        ),
        (true, false) => {
            tracing::info!(server_ahead_ms = offset.millis, "{of}clock agrees with the API server's again")
        }
        _ => {}
    }
}

/// A certificate was issued, and what is wrong with how long it lives.
fn certificate(of: &str, before: &Snapshot, after: &Snapshot) {
    let fingerprint = |held: &Option<Arc<Credential>>| held.as_ref().map(|held| held.chain().certificate().fingerprint);
    let is_new = fingerprint(&after.credential) != fingerprint(&before.credential);
    let waited = before.waiting.is_some() && fingerprint(&before.waiting) == fingerprint(&after.credential);
    if let (Some(waiting), true) = (&after.waiting, fingerprint(&after.waiting) != fingerprint(&before.waiting)) {
        let (serial, begin) = (waiting.chain().serial(), waiting.chain().certificate().validity.not_before());
        tracing::info!(
            serial,
            not_before = %begin,
            "{of}the new certificate is not valid before {begin}: the current certificate stays in use until then"
        );
    }
    if let (true, Some(credential)) = (is_new && (waited || after.issued > before.issued), &after.credential) {
        let (chain, certificate) = (credential.chain(), credential.chain().certificate());
        tracing::info!(
            common_name = certificate.common_name,
            serial = chain.serial(),
            not_before = %certificate.validity.not_before(),
            not_after = %certificate.validity.not_after(),
            "{of}a new certificate is in use"
        );
        // Once is enough: the next one will be like it.
        if let (1, Some(lifetime), Some(wished)) = (after.issued, after.unwished_lifetime(), after.wished_lifetime) {
            tracing::warn!(
                "{of}issued lifetime of {} s differs from the requested {} s: API servers before Kubernetes 1.22 ignore \
                 expirationSeconds, and signers may cap it",
                lifetime.as_secs(),
                wished.as_secs(),
            );
        }
    }
    if let (Some(why), None) = (&after.short_lived, &before.short_lived) {
        tracing::warn!("{of}{why}");
    }
}

fn expired(of: &str, snapshot: &Snapshot) {
    let Some(held) = &snapshot.credential else { return };
    let end = held.chain().certificate().validity.not_after();
    let error = snapshot.last_error.as_ref().map(|error| format!("; {error}")).unwrap_or_default();
    tracing::warn!("{of}no valid certificate: the last one expired at {end}{error}{}", next_attempt(snapshot));
}

/// How the attempt to get one goes.
fn request(of: &str, before: &Snapshot, after: &Snapshot) {
    // A retry is logged by why the attempt before it failed, unless it is the first one with the bootstrap credential.
    let retries = |now| matches!(before.state, State::BackingOff { reason, .. } | State::Requesting { reason, .. } if reason == now);
    if let State::Requesting { reason, .. } = after.state
        && (!retries(reason) || after.bootstrapping && !before.bootstrapping)
    {
        let with = if after.bootstrapping { " with the bootstrap credential" } else { "" };
        tracing::info!("{of}requesting a new certificate{with}: {reason}");
    }
    // Each attempt that fails says why, though it be the same as before.
    let failed = matches!(after.state, State::BackingOff { .. }) && after.state != before.state;
    if let (true, Some(error)) = (failed || after.last_error != before.last_error, &after.last_error) {
        let valid = after.credential.as_ref().is_some_and(|held| {
            let validity = held.chain().certificate().validity;
            !validity.expired(after.at.unix)
        });
        let kept = if valid { "; the certificate in use is kept" } else { "" };
        tracing::warn!("{of}{error}{}{kept}", next_attempt(after));
    }
    match after.progress.as_ref().filter(|_| after.progress != before.progress) {
        None | Some(Progress::Finished) => {}
        Some(Progress::Retrying { at, why }) => {
            tracing::warn!("{of}{why}; next attempt in {:.1} s", at.since(after.at.instant).as_secs_f64());
        }
        Some(progress) => tracing::info!("{of}{progress}"),
    }
    if let (State::Waiting { until, reason }, false) = (after.state, matches!(before.state, State::Waiting { .. })) {
        let left = until.since(after.at.instant);
        if left >= LONG {
            let left = left.as_secs_f64();
            tracing::info!("{of}submission budget exhausted: next request in {left:.1} s ({reason})");
        }
    }
}

/// Instants mean nothing to people; spans do.
fn next_attempt(snapshot: &Snapshot) -> String {
    match snapshot.state {
        State::BackingOff { until, .. } | State::Waiting { until, .. } => {
            format!("; next attempt in {:.1} s", until.since(snapshot.at.instant).as_secs_f64())
        }
        State::NotEnabled
        | State::NoTemplate
        | State::NoIdentity { .. }
        | State::Resting { .. }
        | State::Requesting { .. } => String::new(),
    }
}
