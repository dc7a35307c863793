//! Watches the rotations, checks each certificate, and reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use perennial::{Certificate, Policy, State, UnixTime, rotation_point};
use perennial_dev::TestCluster;
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::objects::KUBELET_CLIENT_SIGNER;
use perennial_pki::{Chain, Credential};
use perennial_rotation::{Handle, Identity, Snapshot};
use perennial_std::{Cancel, drive};
use serde_json::{Value, json};

use super::{NODE, Report};
use crate::report::{say, time_of_day};
use crate::{Failure, cli};

/// State of the running demo.
pub(super) struct Show<'a> {
    pub(super) report: Report,
    pub(super) handle: &'a Handle,
    pub(super) cluster: &'a TestCluster,
    pub(super) policy: &'a Policy,
    pub(super) interrupted: &'a AtomicBool,
    /// The last line about waiting, which is not printed again.
    pub(super) waits_for: String,
    pub(super) deadline: Instant,
}

impl Show<'_> {
    /// Waits for the first certificate and each rotation. `begun` is the time of the start.
    pub(super) fn rotations(&mut self, options: &cli::Demo, begun: UnixTime) -> Result<(), Failure> {
        let (mut due, mut seen) = (begun, 0);
        for n in 0..=options.rotations {
            let snapshot = self.wait(seen)?;
            let Some(credential) = &snapshot.credential else {
                return Err(Failure::failed("a certificate was issued, but there is none"));
            };
            self.check(credential)?;
            let title = if n == 0 { "first".into() } else { format!("rotation {n}/{}", options.rotations) };
            self.tell(n, &title, credential.chain(), snapshot.at.unix.since(due));
            due = self.rotation_point(credential.chain());
            seen = snapshot.issued;
        }
        let (n, runtime, identity) = (options.rotations, options.runtime.to_string(), identity());
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
            let now = self.handle.snapshot();
            let left = self.deadline.saturating_duration_since(Instant::now());
            if is_there(&now) {
                return Ok(now);
            } else if self.interrupted.load(Ordering::SeqCst) {
                return Err(Failure::failed("interrupted"));
            } else if left.is_zero() || self.handle.has_ended() {
                let trouble = now.last_error.as_deref().map(|error| format!("; the last trouble: {error}"));
                let what = "the next certificate did not come in time";
                return Err(Failure::failed(format!("{what}{}", trouble.unwrap_or_default())));
            }
            // A certificate that is issued but not on disk yet will be within milliseconds: not worth a line.
            if now.issued == seen {
                self.say_waiting(&now);
            }
            let differs = |new: &Snapshot| (new.state, &new.progress) != (now.state, &now.progress);
            self.handle.wait_for(|new| is_there(new) || differs(new)).within(left);
        }
    }

    /// Prints what the demo waits for, unless it is over within milliseconds or `--json` is given.
    fn say_waiting(&mut self, now: &Snapshot) {
        let what = match now.state {
            State::Scheduled { rotate_at } => format!("              rests until {}", time_of_day(rotate_at)),
            State::BackingOff { .. } => {
                format!("              trouble: {}", now.last_error.as_deref().unwrap_or("an unknown error"))
            }
            _ => return,
        };
        if !self.report.json && self.waits_for != what {
            say(&what);
            self.waits_for = what;
        }
    }

    /// Checks that the certificate is the node's, and that the server authenticates the node by it.
    fn check(&self, credential: &Arc<Credential>) -> Result<(), Failure> {
        let facts = credential.chain().certificate();
        if facts.common_name != identity() {
            return Err(Failure::failed(format!("a certificate for {:?} was issued", facts.common_name)));
        }
        let known = who_am_i(self.cluster.cluster(), credential).and_then(|user| is_known(&user, facts));
        known.map_err(|why| {
            Failure::failed(format!(
                "the certificate with serial {} is not accepted: {why}",
                credential.chain().serial()
            ))
        })
    }

    fn tell(&mut self, n: u32, title: &str, chain: &Chain, took: Duration) {
        let validity = chain.certificate().validity;
        let mut requests = self.cluster.requests().into_iter();
        let request = requests.find(|request| request.status.certificate == chain.pem().as_bytes());
        let with_token = request.is_some_and(|request| request.spec.username.starts_with("system:bootstrap:"));
        let asked_with = if with_token { "bootstrap token" } else { "certificate" };
        let fields = json!({
            "n": n,
            "identity": chain.certificate().common_name,
            "serial": chain.serial(),
            "not_before": validity.not_before().to_string(),
            "not_after": validity.not_after().to_string(),
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
        self.report.event(name, fields, &sentence);
    }

    fn rotation_point(&self, chain: &Chain) -> UnixTime {
        let facts = chain.certificate();
        rotation_point(self.policy, perennial::seed(KUBELET_CLIENT_SIGNER, &facts.common_name), facts)
    }
}

/// Common name of the node's certificates, and the node's user name at the server.
fn identity() -> String {
    format!("system:node:{NODE}")
}

/// Sends a SelfSubjectReview over a new connection with this certificate; returns the user that the server names.
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

/// Checks that `user`, as the server returned it, is the subject of `certificate`, with the fingerprint of that
/// certificate.
fn is_known(user: &Value, certificate: &Certificate) -> Result<(), String> {
    let mut groups = certificate.organizations.clone();
    groups.push("system:authenticated".to_owned());
    let credential = format!("X509SHA256={:x}", certificate.fingerprint);
    let extra = json!({ "authentication.kubernetes.io/credential-id": [credential] });
    let expected = json!({ "username": certificate.common_name, "groups": groups, "extra": extra });
    if *user == expected { Ok(()) } else { Err(format!("the server takes the node for {user}, not for {expected}")) }
}
