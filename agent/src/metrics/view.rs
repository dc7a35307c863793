//! The state of each certificate at one time, for metrics, probes and `/state`.

use std::sync::Arc;

use perennial::{Certificate, Escaped, Instant, Now, Reason, RotationMachine, UnixTime};
use perennial_kubernetes::client::client_go_healthy;
use perennial_kubernetes::pods::PodCertificateState;
use perennial_pki::Credential;
use perennial_rotation::{Answer, Health, Progress, Snapshot, Unpublished};
use serde_json::{Value, json};

use super::exposition::Label;
use super::tally::Tally;
use super::{About, Source};
use crate::bundle_file::BundleView;
use crate::kubeconfigs::Server;
use crate::report;
use crate::spans::words;

/// The state of one certificate.
pub(super) struct CertView {
    pub(super) name: String,
    pub(super) tally: Option<Tally>,
    /// The rotation's snapshot; `None` until the rotation has started, and for an externally managed certificate.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) credential: Option<Arc<Credential>>,
    /// The last error, until the failed operation succeeds. Without such an error, the reason why no request can be
    /// submitted; `None` if requests can be submitted.
    pub(super) trouble: Option<String>,
    /// True if perennial could not start the rotation; `None` for an externally managed certificate.
    pub(super) cannot_start: Option<bool>,
    /// Set if the current certificate is durable, but not in the files that other programs read.
    pub(super) unpublished: Option<Unpublished>,
    /// The signer of the certificate, if it is that of a pod.
    pub(super) pod_signer: Option<String>,
}

impl CertView {
    /// Reads the state of certificate `name`. May wait for a disk if the certificate is externally managed.
    pub(super) fn new(name: String, tally: Option<Tally>, source: Option<&Source>) -> Self {
        let (mut unpublished, mut pod_signer) = (None, None);
        let (snapshot, credential, trouble) = match source {
            Some(Source::Rotation(handle, blocked_on, listed)) => {
                let snapshot = handle.snapshot();
                unpublished = listed.as_ref().and_then(|listed| listed.store.unpublished());
                pod_signer = listed.as_ref().and_then(|listed| listed.pod_signer.clone());
                let trouble = snapshot.last_error.as_deref().map(str::to_owned);
                let trouble = trouble.or_else(|| Some(unpublished.as_ref()?.error.clone()));
                let trouble = trouble.or_else(|| Some(blocked_on.get()).filter(|blocked_on| !blocked_on.is_empty()));
                let credential = snapshot.credential.clone();
                (Some(snapshot), credential, trouble)
            }
            Some(Source::Starting(why)) => (None, None, Some(why.get()).filter(|why| !why.is_empty())),
            Some(Source::Files(files)) => (None, Some(files.credential()), files.last_error()),
            None => (None, None, None),
        };
        let cannot_start = match source {
            Some(Source::Rotation(..)) => Some(false),
            Some(Source::Starting(_)) => Some(trouble.is_some()),
            Some(Source::Files(_)) | None => None,
        };
        Self { name, tally, snapshot, credential, trouble, cannot_start, unpublished, pod_signer }
    }

    /// The label that names the certificate in metrics.
    pub(super) fn label(&self) -> [Label<'_>; 1] {
        [("certificate", &self.name)]
    }

    /// The current certificate, which may have expired.
    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.credential.as_ref().map(|credential| &**credential.chain().certificate())
    }

    /// The rotation's machine after its last step; `None` if no step was observed.
    pub(super) fn machine(&self) -> Option<&RotationMachine> {
        self.tally.as_ref()?.machine.as_deref()
    }

    /// The reason why `/readyz` answers 503 for this certificate; `None` if the certificate exists, has not expired,
    /// and was not refused by the API server.
    fn why_not_ready(&self, now: Now) -> Option<String> {
        let refused = self.snapshot.as_ref().is_some_and(|snapshot| snapshot.due == Some(Reason::Refused));
        let why = match self.certificate().map(|certificate| certificate.validity) {
            None => "there is no certificate".into(),
            Some(validity) if validity.expired(now.unix) => {
                format!("the certificate expired {} ago", words(now.unix.since(validity.not_after())))
            }
            Some(_) if refused => "the API server refused the certificate".into(),
            Some(_) => return None,
        };
        let more = self.trouble.clone().or_else(|| self.progress().map(ToString::to_string));
        let more = more.map(|more| format!("; {more}")).unwrap_or_default();
        Some(Escaped(&format!("{why}{more}")).to_string())
    }

    /// Time from which the current certificate has not been in its files: in memory only, where a crash loses it, or
    /// [`unpublished`](Self::unpublished). `None` if the certificate is in its files.
    pub(super) fn unwritten_since(&self) -> Option<UnixTime> {
        let unpublished = self.unpublished.as_ref().map(|unpublished| unpublished.since);
        unpublished.or_else(|| self.tally.as_ref()?.unwritten_since)
    }

    /// True if the current certificate is not in its files.
    pub(super) fn is_unwritten(&self) -> bool {
        self.unpublished.is_some() || self.snapshot.as_ref().is_some_and(|snapshot| snapshot.unwritten)
    }

    /// The last answer of the API server.
    pub(super) fn health(&self) -> Option<Health> {
        self.snapshot.as_ref()?.health
    }

    pub(super) fn progress(&self) -> Option<&Progress> {
        self.snapshot.as_ref()?.progress.as_ref()
    }

    /// The name of the certificate's CSR object that waits for approval; `None` if none waits.
    pub(super) fn approvable(&self) -> Option<&str> {
        match self.progress()? {
            Progress::WaitingForApproval { request_name } => Some(request_name),
            _ => None,
        }
    }

    /// Time from which a new certificate has been due; `None` if no new certificate is due.
    pub(super) fn due_since(&self) -> Option<Instant> {
        self.tally.as_ref()?.due_since
    }

    /// The signer and the state of a pod's certificate, as kubelet reports it; `None` for other certificates.
    pub(super) fn pod_state(&self, now: Now) -> Option<(&str, PodCertificateState)> {
        let (signer, snapshot) = (self.pod_signer.as_deref()?, self.snapshot.as_ref()?);
        Some((signer, PodCertificateState::of(snapshot, now.unix)))
    }

    fn to_json(&self, now: Now) -> Value {
        let why_not = self.why_not_ready(now);
        let fields = json!({
            "ready": why_not.is_none(),
            "reason": why_not,
            "certificate": self.credential.as_ref().map(|credential| report::certificate(credential.chain())),
            "last_error": self.trouble,
        });
        let Some(snapshot) = &self.snapshot else { return fields };
        let next = snapshot.next_attempt().map(|at| at.since(now.instant));
        let csr = match self.progress() {
            Some(Progress::WaitingForApproval { request_name } | Progress::WaitingForIssuance { request_name }) => {
                Some(request_name)
            }
            _ => None,
        };
        let rotate_at = self.machine().and_then(RotationMachine::rotation_point);
        let server = snapshot.health.map(|health| {
            let (class, code) = class_and_code(health.answer);
            json!({
                "summary": health.answer.to_string(),
                "class": class,
                "code": code.parse::<u16>().ok(),
                "at": health.at.unix.to_string(),
                "seconds_ago": now.instant.since(health.at.instant).as_secs_f64(),
                "at_work": health.is_at_work(),
                "healthy": client_go_healthy(health),
            })
        });
        let rotation = json!({
            "state": snapshot.state.name(),
            "pod_state": self.pod_state(now).map(|(_, state)| state.name()),
            "due": snapshot.due.map(Reason::describe),
            "due_seconds": self.due_since().map(|since| now.instant.since(since).as_secs_f64()),
            "rotate_at": rotate_at.map(|at| at.to_string()),
            "unwritten": self.is_unwritten(),
            "unwritten_since": self.unwritten_since().map(|since| since.to_string()),
            "issued": snapshot.issued,
            "progress": self.progress().map(ToString::to_string),
            "csr": csr,
            "next_attempt_seconds": next.map(|span| span.as_secs_f64()),
            "server": server,
            "server_clock_offset_seconds": snapshot.clock_offset.map(|offset| offset.millis as f64 / 1000.0),
        });
        report::with(fields, rotation)
    }
}

/// The reasons why `/readyz` answers 503: a line for each certificate that is not ready, or one line if no rotation has
/// started. Empty if all certificates are ready.
pub(super) fn why_not_ready(views: &[CertView], now: Now) -> String {
    let line = |view: &CertView| view.why_not_ready(now).map(|why| format!("{}: {why}\n", view.name));
    let why: String = views.iter().filter_map(line).collect();
    if views.is_empty() { "no rotation has started yet\n".into() } else { why }
}

/// Lists the certificates that are not in their files, a line each. They do not make `/healthz` answer 503: that would
/// cause a restart, which would lose the certificates that are in memory only.
pub(super) fn unwritten(views: &[CertView], now: Now) -> String {
    let line = |view: &CertView| {
        let since = view.unwritten_since()?;
        let (name, span) = (&view.name, words(now.unix.since(since)));
        let line = match (&view.unpublished, &view.trouble) {
            (Some(Unpublished { error, .. }), _) => {
                format!("{name}: certificate not in its files since {since} ({span}): {error}")
            }
            (None, Some(trouble)) => format!("{name}: certificate in memory only since {since} ({span}): {trouble}"),
            (None, None) => format!("{name}: certificate in memory only since {since} ({span})"),
        };
        Some(format!("{}\n", Escaped(&line)))
    };
    views.iter().filter_map(line).collect()
}

/// Formats the state of the run for `/state`.
pub(super) fn to_json(
    views: &[CertView],
    servers: &[Server],
    bundles: &[BundleView],
    about: &About,
    now: Now,
) -> Value {
    let dropped = about.outputs.iter().map(|(name, lines)| ((*name).to_owned(), lines.dropped().into()));
    let hook = about.debts.as_ref().map(|debts| {
        let owed = debts.all().iter().map(|(of, debt)| (of.clone(), debt.to_json())).collect::<serde_json::Map<_, _>>();
        Value::Object(owed)
    });
    let journal = about.journal.as_ref().map(|it| json!({ "error": it.trouble(), "steps_lost": it.lost() }));
    let certificates = views.iter().map(|view| (view.name.clone(), view.to_json(now)));
    json!({
        "ready": why_not_ready(views, now).is_empty(),
        "at": now.unix.to_string(),
        "server": servers.first().map(Server::to_json),
        "servers": servers.iter().map(Server::to_json).collect::<Vec<_>>(),
        "certificates": certificates.collect::<serde_json::Map<_, _>>(),
        "trust_bundles": bundles.iter().map(BundleView::to_json).collect::<Vec<_>>(),
        "lines_dropped": dropped.collect::<serde_json::Map<_, _>>(),
        "journal": journal,
        "hook": hook,
    })
}

/// The name of an answer's class for metrics and JSON, and the HTTP status of the answer. The status is empty if the
/// class is neither `refused` nor `foreign`.
pub(super) fn class_and_code(answer: Answer) -> (&'static str, String) {
    match answer {
        Answer::Served => ("served", String::new()),
        Answer::Refused { status } => ("refused", status.to_string()),
        Answer::Foreign { status } => ("foreign", status.to_string()),
        Answer::CertificateRefused => ("certificate_refused", String::new()),
        Answer::Unreachable => ("unreachable", String::new()),
        _ => ("other", String::new()),
    }
}
