//! The page of all metrics. Metrics that kubelet has as well keep kubelet's names and meaning.

use std::collections::BTreeSet;

use perennial::{Failure, Now, RotationMachine, State, UnixTime};
use perennial_kubernetes::client::client_go_healthy;
use perennial_kubernetes::pods::PodCertificateState;

use super::About;
use super::exposition::Exposition;
use super::tally::{AGES, RATIOS};
use super::view::{CertView, class_and_code};
use crate::bundle_file::BundleView;
use crate::cli::{PREFIX, SERVING_PREFIX};

/// Name, type and help text of each metric, in the order of the page.
const METRICS: &str = "\
perennial_build_info gauge 1, with the version and the runtime of this process as labels.
perennial_output_lines_dropped_total counter Lines of the log (stderr) or of the --json report \
    (stdout) that were dropped because the reader was too slow or the write failed.
perennial_journal_failing gauge 1 if the journal cannot be written.
perennial_journal_steps_lost_total counter Steps that the journal lacks because its disk was full, failing or too slow.
perennial_hook_owed gauge 1 while a successful run of --on-rotated is owed for the certificate in use.
perennial_hook_failures_total counter Runs of --on-rotated that failed.
perennial_trust_bundle_certificates gauge CA certificates in the file of a trust bundle; 0 if there are none, or none of perennial.
perennial_trust_bundle_changed_timestamp_seconds gauge Unix time at which the file of a trust bundle was written as it is.
perennial_trust_bundle_read_timestamp_seconds gauge Unix time at which the API server last answered about a trust bundle.
perennial_trust_bundle_failing gauge 1 if the file of a trust bundle may not have the CA certificates of the API server.
perennial_certificate_not_before_timestamp_seconds gauge Unix time of the notBefore of the certificate in use.
perennial_certificate_not_after_timestamp_seconds gauge Unix time of the notAfter of the certificate in use.
perennial_certificate_rotation_point_timestamp_seconds gauge Unix time from which the certificate in use \
    is due for rotation.
perennial_rotations_total counter Certificates that were replaced by an issued one; the first certificate replaces none.
perennial_rotation_age_ratio histogram Share of its lifetime (0 to 1) that had passed when a certificate was replaced.
perennial_rotation_age_seconds histogram Seconds of its lifetime that had passed when a certificate was replaced.
perennial_submissions_total counter Requests that were submitted.
perennial_attempt_failures_total counter Requests that ended without a usable certificate, by reason.
perennial_write_failures_total counter Attempts to write a certificate to disk that failed.
perennial_panics_total counter Panics after which the rotation continued; each is a bug to report.
perennial_cannot_start gauge 1 if perennial could not start to rotate the certificate, so that other metrics about it \
    may have no sample.
perennial_state gauge 1 for the present state of the rotation, 0 for all other states.
perennial_waiting_seconds gauge Seconds since the request in flight was submitted; 0 if none is in flight.
perennial_waiting_for_approval gauge 1 while an approver has to approve the request in flight, 0 otherwise.
perennial_due_seconds gauge Seconds for which a new certificate has been due, failed requests included; \
    0 if none is due.
perennial_unwritten gauge 1 if the certificate in use is not in its files: in memory only, where a crash loses it, or kept aside because a file of another program is in its place.
perennial_unwritten_seconds gauge Seconds for which the certificate in use has not been in its files; 0 if it is.
perennial_server_answer gauge 1, with the class and the HTTP code of the API server's last answer as labels.
perennial_server_answer_timestamp_seconds gauge Unix time of the API server's last answer; of equal \
    answers to one request, one in ten seconds counts.
perennial_server_healthy gauge 1 if client-go's ServerHealthy would be true after the last answer.
perennial_server_clock_offset_seconds gauge Seconds by which the API server's clock is ahead of \
    this machine's (negative: behind), once three answers agree on it.
kubelet_certificate_manager_client_expiration_renew_errors counter Requests for the client certificate \
    that ended without a usable certificate.
kubelet_certificate_manager_client_ttl_seconds gauge Seconds until the client certificate expires, negative if it has, \
    +Inf if there is none.
kubelet_server_expiration_renew_errors counter Requests for the serving certificate that ended without a \
    usable certificate.
kubelet_certificate_manager_server_rotation_seconds histogram Seconds that a serving certificate had \
    lived when it was replaced.
kubelet_certificate_manager_server_ttl_seconds gauge Seconds until the serving certificate expires, \
    negative if it has, +Inf if there is none.
kubelet_podcertificate_states gauge Certificates of pods, by signer and state.
";

/// Formats the page of `/metrics`.
pub(super) fn page(views: &[CertView], bundles: &[BundleView], about: &About, now: Now) -> String {
    let mut page = Exposition::default();
    let build = [("version", env!("CARGO_PKG_VERSION")), ("runtime", about.runtime)];
    page.add("perennial_build_info", &build, 1.0);
    for (name, lines) in &about.outputs {
        page.add("perennial_output_lines_dropped_total", &[("output", name)], lines.dropped() as f64);
    }
    if let Some(journal) = &about.journal {
        page.add("perennial_journal_failing", &[], flag(journal.trouble().is_some()));
        page.add("perennial_journal_steps_lost_total", &[], journal.lost() as f64);
    }
    if let Some(debts) = &about.debts {
        for (name, debt) in &*debts.all() {
            let of = [("certificate", name.as_str())];
            page.add("perennial_hook_owed", &of, flag(debt.owed.is_some()));
            page.add("perennial_hook_failures_total", &of, debt.failures as f64);
        }
    }
    for bundle in bundles {
        let ((signer, name), path) = (bundle.signer_and_name(), bundle.path.display().to_string());
        let of = [("path", path.as_str()), ("signer", signer), ("name", name)];
        page.add("perennial_trust_bundle_certificates", &of, bundle.count() as f64);
        page.add("perennial_trust_bundle_changed_timestamp_seconds", &of, bundle.changed.map(seconds));
        page.add("perennial_trust_bundle_read_timestamp_seconds", &of, bundle.read.map(seconds));
        page.add("perennial_trust_bundle_failing", &of, flag(bundle.problem.is_some()));
    }
    for view in views {
        add_validity(&mut page, view);
        add_counters(&mut page, view, now);
        add_state(&mut page, view, now);
        add_kubelet_metrics(&mut page, view, now);
    }
    add_pod_states(&mut page, views, now);
    page.finish(METRICS)
}

fn seconds(at: UnixTime) -> f64 {
    at.as_millis() as f64 / 1000.0
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

/// Adds the validity and the rotation point of the current certificate.
fn add_validity(page: &mut Exposition, view: &CertView) {
    let (of, validity) = (view.label(), view.certificate().map(|certificate| certificate.validity));
    let begin = validity.map(|validity| seconds(validity.not_before()));
    let end = validity.map(|validity| seconds(validity.not_after()));
    let rotate_at = view.machine().and_then(RotationMachine::rotation_point);
    page.add("perennial_certificate_not_before_timestamp_seconds", &of, begin);
    page.add("perennial_certificate_not_after_timestamp_seconds", &of, end);
    page.add("perennial_certificate_rotation_point_timestamp_seconds", &of, rotate_at.map(seconds));
}

/// Adds the counters of a rotation. Also adds how long a new certificate has been due, and how long the current
/// certificate has not been in its files.
fn add_counters(page: &mut Exposition, view: &CertView, now: Now) {
    let Some(tally) = &view.tally else { return };
    let of = view.label();
    page.add("perennial_rotations_total", &of, tally.rotations as f64);
    page.add_histogram("perennial_rotation_age_ratio", &of, &RATIOS, &tally.age_ratio);
    page.add_histogram("perennial_rotation_age_seconds", &of, &AGES, &tally.age_seconds);
    page.add("perennial_submissions_total", &of, tally.submissions as f64);
    // Each reason has a sample from the start: `rate()` needs the zero before the first failure.
    for failure in Failure::ALL {
        let count = tally.failures.get(&failure).copied().unwrap_or_default();
        page.add("perennial_attempt_failures_total", &[of[0], ("reason", failure.name())], count as f64);
    }
    page.add("perennial_write_failures_total", &of, tally.write_failures as f64);
    page.add("perennial_panics_total", &of, tally.panics as f64);
    let due = tally.due_since.map_or(0.0, |since| now.instant.since(since).as_secs_f64());
    page.add("perennial_due_seconds", &of, due);
    let unwritten = view.unwritten_since().map_or(0.0, |since| now.unix.since(since).as_secs_f64());
    page.add("perennial_unwritten_seconds", &of, unwritten);
}

/// Adds the state of a rotation, and the last answer of its API server.
fn add_state(page: &mut Exposition, view: &CertView, now: Now) {
    let of = view.label();
    page.add("perennial_cannot_start", &of, view.cannot_start.map(flag));
    if let Some(machine) = view.machine() {
        let since = machine.checkpoint().in_flight.map(|(_, since)| since);
        let waiting = since.map_or(0.0, |since| now.instant.since(since).as_secs_f64());
        page.add("perennial_waiting_seconds", &of, waiting);
    }
    if let Some(snapshot) = &view.snapshot {
        for name in State::NAMES {
            page.add("perennial_state", &[of[0], ("state", name)], flag(snapshot.state.name() == name));
        }
        page.add("perennial_waiting_for_approval", &of, flag(view.approvable().is_some()));
        page.add("perennial_unwritten", &of, flag(view.is_unwritten()));
        let offset = snapshot.clock_offset.map(|offset| offset.millis as f64 / 1000.0);
        page.add("perennial_server_clock_offset_seconds", &of, offset);
    }
    if let Some(health) = view.health() {
        let (class, code) = class_and_code(health.answer);
        page.add("perennial_server_answer", &[of[0], ("class", class), ("code", &code)], 1.0);
        page.add("perennial_server_answer_timestamp_seconds", &of, seconds(health.at.unix));
        page.add("perennial_server_healthy", &of, flag(client_go_healthy(health)));
    }
}

/// Adds the number of the certificates of pods in each state, for each signer. A state without certificates has a sample,
/// too, unlike kubelet's.
fn add_pod_states(page: &mut Exposition, views: &[CertView], now: Now) {
    let states: Vec<_> = views.iter().filter_map(|view| view.pod_state(now)).collect();
    let signers: BTreeSet<&str> = states.iter().map(|(signer, _)| *signer).collect();
    for signer in signers {
        for state in PodCertificateState::ALL {
            let count = states.iter().filter(|counted| **counted == (signer, state)).count();
            let labels = [("signer_name", signer), ("state", state.name())];
            page.add("kubelet_podcertificate_states", &labels, count as f64);
        }
    }
}

/// Adds kubelet's metrics, which have no label and exist for kubelet's two certificates only.
fn add_kubelet_metrics(page: &mut Exposition, view: &CertView, now: Now) {
    let (ttl, errors) = match view.name.as_str() {
        PREFIX => (
            "kubelet_certificate_manager_client_ttl_seconds",
            "kubelet_certificate_manager_client_expiration_renew_errors",
        ),
        SERVING_PREFIX => ("kubelet_certificate_manager_server_ttl_seconds", "kubelet_server_expiration_renew_errors"),
        _ => return,
    };
    let left = view.certificate().map(|certificate| seconds(certificate.validity.not_after()) - seconds(now.unix));
    // As in kubelet: whole seconds, +Inf without a certificate.
    page.add(ttl, &[], left.map_or(f64::INFINITY, f64::trunc));
    let Some(tally) = &view.tally else { return };
    page.add(errors, &[], tally.failed() as f64);
    if view.name == SERVING_PREFIX {
        page.add_histogram("kubelet_certificate_manager_server_rotation_seconds", &[], &AGES, &tally.age_seconds);
    }
}
