//! What changed, for a log: one line for each thing an operator would want to know.

use std::time::Duration;

use perennial::State;
use perennial_kubernetes::client::Progress;
use perennial_kubernetes::rotation::Snapshot;

/// A wait that people would wonder at.
const LONG: Duration = Duration::from_secs(5);

/// Logs what is new since the last snapshot.
pub(crate) fn report(of: &str, before: &Snapshot, after: &Snapshot) {
    let of = if of.is_empty() { String::new() } else { format!("{of}: ") };
    if let (true, Some(credential)) = (after.issued > before.issued, &after.credential) {
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
                "{of}it is good for {lifetime:?}, not for the {wished:?} that were asked for: API servers before \
                 Kubernetes 1.22 do not hear that wish, and signers have limits of their own"
            );
        }
    }
    // Each attempt that fails says why, though it be the same as before.
    let failed = matches!(after.state, State::BackingOff { .. }) && after.state != before.state;
    if let (true, Some(error)) = (failed || after.last_error != before.last_error, &after.last_error) {
        let kept = if after.credential.is_some() { "; the certificate in use is kept" } else { "" };
        tracing::warn!("{of}{error}{}{kept}", next_attempt(after));
    }
    if let (true, Some(progress)) = (after.progress != before.progress, &after.progress)
        && *progress != Progress::Finished
    {
        tracing::info!("{of}{progress}");
    }
    if let (State::Waiting { until, .. }, false) = (after.state, matches!(before.state, State::Waiting { .. })) {
        let left = until.since(after.at.instant);
        if left >= LONG {
            let left = left.as_secs_f64();
            tracing::info!("{of}so many requests were made lately that the next one has to wait, for {left:.1} s");
        }
    }
    if after.state != before.state {
        tracing::debug!(state = %after.state, unwritten = after.unwritten, "{of}state changed");
    }
}

/// Instants mean nothing to people; spans do.
fn next_attempt(snapshot: &Snapshot) -> String {
    match snapshot.state {
        State::BackingOff { until, .. } | State::Waiting { until, .. } => {
            format!("; next attempt in {:.1} s", until.since(snapshot.at.instant).as_secs_f64())
        }
        State::NotEnabled | State::NoTemplate | State::Resting { .. } | State::Requesting { .. } => String::new(),
    }
}
