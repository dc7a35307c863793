//! The log of a rotation: one line for each notice that matters to an operator.

use std::time::Duration;

use perennial::{Slot, State};

use crate::{News, Notice, Progress};

/// The shortest wait for the submission budget or the spacing that is logged at info. A shorter wait is logged at
/// debug.
const LONG: Duration = Duration::from_secs(5);

/// Logs a notice. `name` is the name of the certificate in a process that rotates several; empty otherwise.
pub(crate) fn line(name: &str, notice: &Notice) {
    let of = if name.is_empty() { String::new() } else { format!("{name}: ") };
    match &notice.news {
        News::Requesting { is_retry: true, .. } => {}
        News::Requesting { reason, bootstrap, is_retry: false } => {
            let with = if *bootstrap { " with the bootstrap credential" } else { "" };
            tracing::info!("{of}requesting a certificate{with}: {reason}");
        }
        News::Progressed(Progress::Finished) => {}
        News::Progressed(Progress::Retrying { at, why }) => {
            tracing::warn!("{of}{why}; next attempt in {:.1} s", at.since(notice.at.instant).as_secs_f64());
        }
        // Steps of each attempt, which change no state.
        News::Progressed(progress @ (Progress::Connecting | Progress::Submitting)) => tracing::debug!("{of}{progress}"),
        News::Progressed(progress) => tracing::info!("{of}{progress}"),
        News::Issued { slot: Slot::Waiting, .. } | News::TakenOver { slot: Slot::Waiting, .. } => waits(&of, notice),
        News::Issued { slot: Slot::Served, .. } | News::TookTurn { .. } => in_use(&of, notice),
        // Logged for each failed attempt, even if the error is the same as before.
        News::Failed { error, .. } | News::Unwritten { error } | News::Unsaved { error } => {
            let kept = if notice.has_valid_certificate() { "; the certificate in use is kept" } else { "" };
            tracing::warn!("{of}{error}{}{kept}", next_attempt(notice));
        }
        News::Foreign { error } => tracing::error!("{of}{error}"),
        News::Panicked { error, pause } => {
            let pause = pause.as_secs();
            tracing::error!(
                "{of}{error}; the rotation continues in {pause} s, and the certificate in use is kept; please report \
                 this as a bug"
            );
        }
        News::HintDisregarded { fault } => tracing::warn!(
            "{of}the signer's hint when to rotate the certificate {fault}: the policy decides when the certificate is due"
        ),
        News::ShortLived { error } => tracing::warn!("{of}{error}"),
        News::LifetimeDiffers { issued, requested } => tracing::warn!(
            "{of}issued lifetime of {} s differs from the requested {} s: API servers before Kubernetes 1.22 ignore \
             expirationSeconds, and signers may cap it",
            issued.as_secs(),
            requested.as_secs(),
        ),
        News::Expired => expired(&of, notice),
        News::ClockDiffers(offset) => tracing::warn!(
            server_ahead_ms = offset.millis,
            "{of}the local clock differs from the signer's by {offset}: a certificate counts as valid if it is valid \
             by either clock; check NTP on both"
        ),
        News::ClockAgrees(offset) => {
            tracing::info!(server_ahead_ms = offset.millis, "{of}the local clock agrees with the signer's again");
        }
        News::Entered(state) => entered(&of, *state, notice),
        News::Stepped(step) => tracing::debug!("{of}{step}"),
        News::TakenOver { .. } | News::Written { .. } | News::InPlace { .. } | News::Missed { .. } | News::Ended => {}
    }
}

fn waits(of: &str, notice: &Notice) {
    let Some(waiting) = &notice.snapshot.waiting else { return };
    let (serial, begin) = (waiting.chain().serial(), waiting.chain().certificate().validity.not_before());
    tracing::info!(
        serial,
        not_before = %begin,
        "{of}the new certificate is not valid before {begin}: the current certificate stays in use until then"
    );
}

fn in_use(of: &str, notice: &Notice) {
    let Some(credential) = &notice.snapshot.credential else { return };
    let (chain, certificate) = (credential.chain(), credential.chain().certificate());
    // Without a name, the line has no such field: certificates of pods have none.
    let common_name = Some(certificate.common_name()).filter(|name| !name.is_empty());
    tracing::info!(
        common_name,
        serial = chain.serial(),
        not_before = %certificate.validity.not_before(),
        not_after = %certificate.validity.not_after(),
        "{of}a new certificate is in use"
    );
}

fn expired(of: &str, notice: &Notice) {
    let Some(held) = &notice.snapshot.credential else { return };
    let end = held.chain().certificate().validity.not_after();
    let error = notice.snapshot.last_error.as_ref().map(|error| format!("; {error}")).unwrap_or_default();
    tracing::warn!("{of}no valid certificate: the last one expired at {end}{error}{}", next_attempt(notice));
}

fn entered(of: &str, state: State, notice: &Notice) {
    if let State::Waiting { until, reason } = state {
        let left = until.since(notice.at.instant);
        if left >= LONG {
            let left = left.as_secs_f64();
            tracing::info!(
                "{of}the submission budget or the spacing allows no request yet: next request in {left:.1} s ({reason})"
            );
        }
    }
    tracing::debug!(%state, unwritten = notice.snapshot.unwritten, "{of}state changed");
}

/// The time until the next attempt, as the last words of a log line; empty if no attempt is scheduled.
fn next_attempt(notice: &Notice) -> String {
    let next = notice.snapshot.next_attempt().map(|at| at.since(notice.at.instant));
    next.map_or_else(String::new, |span| format!("; next attempt in {:.1} s", span.as_secs_f64()))
}
