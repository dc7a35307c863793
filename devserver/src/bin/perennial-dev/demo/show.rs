//! Waits for each rotation of the demo, checks the new certificate at the server, and reports the rotation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial::{Certificate, State, UnixTime};
use perennial_dev::TestCluster;
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::{Chain, Credential};
use perennial_rotation::{Identity, News, Notices};
use perennial_std::{Cancel, drive};
use serde_json::{Value, json};

use super::{NODE, Report};
use crate::report::time_of_day;
use crate::{Failure, cli};

/// Reports the first certificate and each rotation, with a latency. The latency of the first certificate counts from
/// `started`, the latency of each later one from the rotation point of its predecessor.
pub(super) fn rotations(
    report: Report,
    cluster: &TestCluster,
    options: &cli::Demo,
    mut notices: Notices,
    started: UnixTime,
) -> Result<(), Failure> {
    // Each rotation takes less than a lifetime. Two more and 30 s are for the start and a busy host.
    let deadline = Instant::now() + options.lifetime * (options.rotations + 2) + Duration::from_secs(30);
    let (mut n, mut due, mut last_error) = (0, started, String::new());
    while let Some(notice) = notices.recv().within(deadline.saturating_duration_since(Instant::now())) {
        match (notice.news, &notice.snapshot.credential) {
            (News::InPlace { .. }, Some(credential)) => {
                check(cluster, credential)?;
                let latency = notice.at.unix.since(due);
                report_certificate(
                    report,
                    n,
                    options.rotations,
                    credential.chain(),
                    notice.snapshot.bootstrapping,
                    latency,
                );
                if n == options.rotations {
                    done(report, options);
                    return Ok(());
                }
                n += 1;
                if let State::Scheduled { rotate_at } = notice.snapshot.state {
                    due = rotate_at;
                    report.comment(&format!("              next rotation at {}", time_of_day(rotate_at)));
                }
            }
            (News::Failed { error, .. }, _) => {
                report.comment(&format!("              error: {error}"));
                last_error = format!("; last error: {error}");
            }
            // Only a signal ends the rotation.
            (News::Ended, _) => return Err(Failure::failed("interrupted")),
            _ => {}
        }
    }
    Err(Failure::failed(format!("no certificate was issued in time{last_error}")))
}

fn done(report: Report, options: &cli::Demo) {
    let (n, runtime, identity) = (options.rotations, options.runtime.to_string(), identity());
    let rotations = if n == 1 { "rotation" } else { "rotations" };
    let sentence =
        format!("done          {n} {rotations} on {runtime}; the server authenticated each certificate as {identity}");
    report.event("done", json!({ "runtime": runtime, "rotations": n, "identity": identity }), &sentence);
}

/// Checks that the certificate is the node's, and that the server authenticates the node by that certificate.
fn check(cluster: &TestCluster, credential: &Arc<Credential>) -> Result<(), Failure> {
    let facts = credential.chain().certificate();
    if facts.common_name() != identity() {
        return Err(Failure::failed(format!(
            "the issued certificate is for {:?}, not for the node",
            facts.common_name()
        )));
    }
    let result = who_am_i(cluster.cluster(), credential).and_then(|user| check_identity(&user, facts));
    result.map_err(|why| {
        Failure::failed(format!(
            "the server rejected the certificate with serial {}: {why}",
            credential.chain().serial()
        ))
    })
}

fn report_certificate(report: Report, n: u32, rotations: u32, chain: &Chain, bootstrapping: bool, latency: Duration) {
    let validity = chain.certificate().validity;
    let asked_with = if bootstrapping { "bootstrap token" } else { "certificate" };
    let fields = json!({
        "n": n,
        "identity": chain.certificate().common_name(),
        "serial": chain.serial(),
        "not_before": validity.not_before().to_string(),
        "not_after": validity.not_after().to_string(),
        "asked_with": asked_with,
        "latency_ms": u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
    });
    let (name, title, since) = match n {
        0 => ("issued", "first".into(), "after the start"),
        _ => ("rotated", format!("rotation {n}/{rotations}"), "after the rotation point"),
    };
    let sentence = format!(
        "{title:<14}{}  serial {:.12}…  {}–{}  requested with its {asked_with}, in use {} ms {since}",
        chain.certificate().common_name(),
        chain.serial(),
        time_of_day(validity.not_before()),
        time_of_day(validity.not_after()),
        latency.as_millis(),
    );
    report.event(name, fields, &sentence);
}

/// Name of the node: the common name of its certificates, and its user name at the server.
fn identity() -> String {
    format!("system:node:{NODE}")
}

/// Sends a SelfSubjectReview over a new connection with this client certificate. Returns the user in the answer.
fn who_am_i(cluster: &Arc<Cluster>, credential: &Arc<Credential>) -> Result<Value, String> {
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review.to_string().into_bytes());
    let call = Call::new(request, cluster.clone(), Identity::Certificate(credential.clone()), Limits::default());
    let answer = drive(call, &Cancel::default(), |_| {}).ok_or("cancelled")?.map_err(|error| error.to_string())?;
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status != 201 {
        return Err(format!("the server answered {}: {}", answer.status, body["message"]));
    }
    Ok(body["status"]["userInfo"].take())
}

/// Checks that `user`, the user in the server's answer, has the name, groups and fingerprint that `certificate` gives.
fn check_identity(user: &Value, certificate: &Certificate) -> Result<(), String> {
    let groups: Vec<_> = certificate.names.organizations().chain(["system:authenticated"]).collect();
    let credential = format!("X509SHA256={:x}", certificate.fingerprint);
    let extra = json!({ "authentication.kubernetes.io/credential-id": [credential] });
    let expected = json!({ "username": certificate.common_name(), "groups": groups, "extra": extra });
    if *user == expected {
        Ok(())
    } else {
        Err(format!("the server authenticated the node as {user}, not as {expected}"))
    }
}
