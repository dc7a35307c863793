//! Serves metrics, probes (`/healthz`, `/readyz`), `/state` and a page for people (`/`) over HTTP.

mod exposition;
mod hosts;
mod html;
mod http;
mod overview;
mod page;
mod tally;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use perennial::Now;
use perennial_rotation::{FileCredential, Handle, clock};

use crate::bundle_file::{BundleFile, BundleView};
use crate::certificates::MemberStore;
use crate::hook_debt::Debts;
use crate::journal::Journal;
use crate::kubeconfigs::Server;
use crate::latest::Latest;
use crate::lines::Lines;
use crate::pulse::Pulse;
use crate::rotation::Observer;
use hosts::Hosts;
use http::Response;
use overview::{Process, REFRESH};
use tally::Tally;
use view::CertView;

/// Counters and state of each certificate. [`serve`](Self::serve) answers HTTP requests with them.
pub(crate) struct Metrics {
    about: About,
    pulse: Arc<Pulse>,
    certs: Mutex<BTreeMap<String, CertMetrics>>,
    /// The API server of the running configuration; `None` before the first rotation has started.
    servers: Latest<Vec<Server>>,
    /// The files of trust bundles.
    bundles: Latest<Vec<Arc<BundleFile>>>,
}

/// State of the process, which metrics show beside the state of the certificates.
#[derive(Default)]
pub(crate) struct About {
    pub(crate) runtime: &'static str,
    pub(crate) outputs: Vec<Output>,
    pub(crate) journal: Option<Arc<Journal>>,
    /// The debts of `--on-rotated`; `None` without the flag.
    pub(crate) debts: Option<Debts>,
}

/// The name of an output, `stderr` or `stdout`, and the queue of the lines to write there.
pub(crate) type Output = (&'static str, Lines);

/// The counters and the source of the state of one certificate.
#[derive(Clone, Default)]
struct CertMetrics {
    /// Counters of the rotation; `None` for an externally managed certificate.
    tally: Option<Tally>,
    /// The source of the certificate's state; `None` until the rotation has started.
    source: Option<Source>,
}

/// The reason why no request can be submitted for a certificate; empty if requests can be submitted.
pub(crate) type BlockedOn = Latest<String>;

/// The source of a certificate's state.
#[derive(Clone)]
pub(crate) enum Source {
    /// perennial rotates the certificate. The last value is set for a member of a certificate list.
    Rotation(Handle, BlockedOn, Option<MemberFacts>),
    /// perennial will rotate the certificate, and could not start the rotation yet; the reason is empty before the first
    /// attempt has failed.
    Starting(BlockedOn),
    /// The certificate is externally managed.
    Files(FileCredential),
}

/// The facts of a certificate list about one certificate.
#[derive(Clone)]
pub(crate) struct MemberFacts {
    pub(crate) store: MemberStore,
    /// The signer of the certificate, if it is that of a pod.
    pub(crate) pod_signer: Option<String>,
}

impl Metrics {
    pub(crate) fn new(about: About, pulse: Arc<Pulse>) -> Arc<Self> {
        Arc::new(Self { about, pulse, certs: Mutex::default(), servers: Latest::default(), bundles: Latest::default() })
    }

    /// Returns an observer that counts the notices of certificate `of`. If the certificate had an observer before, the
    /// new observer continues the counters of the earlier one.
    pub(crate) fn observer(self: &Arc<Self>, of: &str) -> Observer {
        // Created before the first notice, so that each counter is exposed as 0 from the start.
        self.certs().entry(of.to_owned()).or_default().tally.get_or_insert_default();
        let (metrics, of) = (self.clone(), of.to_owned());
        Box::new(move |notice| {
            // A certificate that a reload has removed has no counters any more.
            if let Some(CertMetrics { tally: Some(tally), .. }) = metrics.certs().get_mut(&of) {
                tally.take(notice);
            }
        })
    }

    /// Sets the certificates of the running configuration. Drops the counters of other certificates.
    pub(crate) fn watch(&self, certificates: BTreeMap<String, Source>) {
        let mut certs = self.certs();
        certs.retain(|name, _| certificates.contains_key(name));
        for (name, source) in certificates {
            certs.entry(name).or_default().source = Some(source);
        }
    }

    /// Sets the API servers of the running configuration, for `/state`.
    pub(crate) fn set_servers(&self, servers: Vec<Server>) {
        self.servers.set(servers);
    }

    /// Sets the files of trust bundles.
    pub(crate) fn set_bundles(&self, files: Vec<Arc<BundleFile>>) {
        self.bundles.set(files);
    }

    /// Starts a thread that answers HTTP requests until the process ends. `names` are accepted in the Host header.
    ///
    /// # Errors
    /// If the system refuses a descriptor or a thread.
    pub(crate) fn serve(self: &Arc<Self>, listener: TcpListener, names: &[String]) -> io::Result<()> {
        let metrics = self.clone();
        http::serve(listener, Hosts::new(names.iter().cloned()), move |path, query| {
            metrics.answer(path, query, clock::now(), Instant::now())
        })
    }

    fn answer(&self, path: &str, query: &str, now: Now, awake: Instant) -> Option<Response> {
        let views = self.views();
        let bundles: Vec<BundleView> = self.bundles.get().iter().map(|file| file.view()).collect();
        match path {
            "/" => {
                let (why_not_alive, servers) = (self.pulse.why_not_alive(awake), self.servers.get());
                let process = Process { about: &self.about, servers: &servers, bundles: &bundles, why_not_alive };
                Some(Response::html(overview::POLICY, overview::page(views, &process, query == REFRESH, now)))
            }
            "/healthz" => Some(probed("ok", self.pulse.why_not_alive(awake), &views, now)),
            "/readyz" => Some(probed("ready", view::why_not_ready(&views, now), &views, now)),
            "/metrics" => Some(Response::exposition(page::page(&views, &bundles, &self.about, now))),
            "/state" => Some(Response::json(&view::to_json(&views, &self.servers.get(), &bundles, &self.about, now))),
            _ => None,
        }
    }

    fn views(&self) -> Vec<CertView> {
        // Cloned, not locked: reading an externally managed certificate may wait for a disk, and observers need the
        // lock.
        let certs = self.certs().clone();
        let view = |(name, CertMetrics { tally, source })| CertView::new(name, tally, source.as_ref());
        certs.into_iter().map(view).collect()
    }

    fn certs(&self) -> MutexGuard<'_, BTreeMap<String, CertMetrics>> {
        self.certs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the response to a probe: 200 with the text `good` if `why_not` is empty, else 503 with `why_not`. Adds a
/// line for each certificate that is not in its files.
fn probed(good: &str, why_not: String, views: &[CertView], now: Now) -> Response {
    let is_good = why_not.is_empty();
    let body = if is_good { format!("{good}\n") } else { why_not };
    Response::text(is_good, body + &view::unwritten(views, now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use perennial::{Failure, Template};
    use perennial_pki::{Credential, interim};
    use perennial_rotation::{
        Answer, Cancel, Exchange, Health, Memory, Rotator, SignError, Store as _, Task, Work, clock,
    };

    use super::*;

    /// A rotation that the test steps itself, and metrics that show the rotation's state.
    struct Rotation {
        metrics: Arc<Metrics>,
        handle: Handle,
        task: Task,
    }

    fn later(span: Duration) -> Now {
        let start = Now::default();
        Now { instant: start.instant.after(span), unix: start.unix.after(span) }
    }

    impl Rotation {
        fn holding(credential: Credential) -> Self {
            let store = Memory::default();
            store.write(&Arc::new(credential), true, Now::default().unix).unwrap();
            Self::of(Rotator::new().store(store))
        }

        fn of(rotator: Rotator) -> Self {
            let (handle, task) = rotator.prepare().unwrap();
            let metrics = Metrics::new(About::default(), Arc::default());
            metrics.watch([("node".to_owned(), Source::Rotation(handle.clone(), BlockedOn::default(), None))].into());
            Self { metrics, handle, task }
        }

        /// Returns the status and the body of the answer to a GET of `path` when the test's clock shows `after`.
        fn get(&self, path: &str, after: Duration) -> (&'static str, String) {
            let answer = self.metrics.answer(path, "", later(after), Instant::now() + after).unwrap();
            (answer.status, answer.body)
        }
    }

    #[test]
    fn expired_certificate_has_negative_ttl() {
        let metrics = Metrics::new(About::default(), Arc::default());
        let credential = interim(&Template::node("worker"), Now::default().unix).unwrap();
        let end = credential.chain().certificate().validity.not_after();
        let rotation = Rotation::holding(credential);
        let source = Source::Rotation(rotation.handle.clone(), BlockedOn::default(), None);
        metrics.watch([("kubelet-client".to_owned(), source)].into());
        let span = end.since(Now::default().unix) + Duration::from_secs(10);
        let page = metrics.answer("/metrics", "", later(span), Instant::now()).unwrap().body;
        assert!(page.contains("\nkubelet_certificate_manager_client_ttl_seconds -10\n"), "{page}");
        let end = end.as_secs();
        let named =
            format!("\nperennial_certificate_not_after_timestamp_seconds{{certificate=\"kubelet-client\"}} {end}\n");
        assert!(page.contains(&named), "{page}");
    }

    #[test]
    fn last_server_answer_is_exported_with_time_and_health() {
        let at = later(Duration::from_secs(7));
        for (answer, labels, class, code, healthy) in [
            (Answer::Served, r#"class="served",code="""#, "served", None, 1),
            (Answer::Refused { status: 403 }, r#"class="refused",code="403""#, "refused", Some(403), 1),
            (Answer::Foreign { status: 503 }, r#"class="foreign",code="503""#, "foreign", Some(503), 0),
            (Answer::CertificateRefused, r#"class="certificate_refused",code="""#, "certificate_refused", None, 0),
            (Answer::Unreachable, r#"class="unreachable",code="""#, "unreachable", None, 0),
        ] {
            let health = Some(Health { answer, at, date: None });
            let error = SignError { health, ..SignError::new(Failure::Unreachable, "no answer") };
            let rotator = Rotator::new().template(Template::node("worker"));
            let mut rotation = Rotation::of(rotator.sign_with("example.com/mesh", move |_, _| Err(error.clone())));
            let work = rotation.task.step(clock::now()).pop();
            let Some(Work::Drive(Exchange::Blocking(work), reporter)) = work else { panic!("{work:?}") };
            reporter.finish(work(&Cancel::default()));
            drop(rotation.task.step(clock::now()));
            let page = rotation.get("/metrics", Duration::from_secs(10)).1;
            for line in [
                format!("perennial_server_answer{{certificate=\"node\",{labels}}} 1\n"),
                "perennial_server_answer_timestamp_seconds{certificate=\"node\"} 7\n".into(),
                format!("perennial_server_healthy{{certificate=\"node\"}} {healthy}\n"),
            ] {
                assert!(page.contains(&line), "no {line} in {page}");
            }
            let state = rotation.get("/state", Duration::from_secs(10)).1;
            let state: serde_json::Value = serde_json::from_str(&state).unwrap();
            let server = &state["certificates"]["node"]["server"];
            assert_eq!((&server["class"], &server["code"]), (&class.into(), &code.into()));
            assert_eq!((&server["healthy"], &server["seconds_ago"]), (&(healthy == 1).into(), &3.0.into()));
        }
    }
}
