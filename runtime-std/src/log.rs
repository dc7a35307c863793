//! What changed, for a log: one line for each thing an operator would want to know.

use perennial::State;
use perennial_kubernetes::client::Progress;
use perennial_kubernetes::rotation::Snapshot;

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
    if let (true, Some(error)) = (after.last_error != before.last_error, &after.last_error) {
        let kept = if after.credential.is_some() { "; the certificate in use is kept" } else { "" };
        tracing::warn!("{of}{error}{}{kept}", next_attempt(after));
    }
    if let (true, Some(progress)) = (after.progress != before.progress, &after.progress)
        && *progress != Progress::Finished
    {
        tracing::info!("{of}{progress}");
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
