//! What changed, for a log: one line for each thing an operator would want to know.

use perennial_kubernetes::rotation::Snapshot;

/// Logs what is new since the last snapshot.
pub(crate) fn report(before: &Snapshot, after: &Snapshot) {
    if let (true, Some(credential)) = (after.issued > before.issued, &after.credential) {
        let (chain, certificate) = (credential.chain(), credential.chain().certificate());
        tracing::info!(
            common_name = certificate.common_name,
            serial = chain.serial(),
            not_before = %certificate.validity.not_before(),
            not_after = %certificate.validity.not_after(),
            "a new certificate is in use"
        );
    }
    if let (true, Some(error)) = (after.last_error != before.last_error, &after.last_error) {
        let kept = after.credential.is_some();
        tracing::warn!(state = %after.state, kept, "{error}");
    }
    if let (true, Some(progress)) = (after.progress != before.progress, &after.progress) {
        tracing::info!("{progress}");
    }
    if after.state != before.state {
        tracing::debug!(state = %after.state, unwritten = after.unwritten, "state changed");
    }
}
