//! Metrics, probes and the state of a run over HTTP.

mod exposition;
mod hosts;
mod http;
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

use crate::hook_debt::Debts;
use crate::journal::Journal;
use crate::kubeconfigs::Server;
use crate::latest::Latest;
use crate::lines::Lines;
use crate::pulse::Pulse;
use crate::rotation::Observer;
use hosts::Hosts;
use http::Response;
use tally::Tally;
use view::CertView;

/// Counts what happens, certificate by certificate.
pub(crate) struct Metrics {
    about: About,
    pulse: Arc<Pulse>,
    kept: Mutex<BTreeMap<String, Watched>>,
    /// The API server that is asked; `None`: nothing is started yet.
    server: Latest<Option<Server>>,
}

/// The process, and who else looks on at it.
#[derive(Default)]
pub(crate) struct About {
    pub(crate) runtime: &'static str,
    pub(crate) outputs: Vec<Output>,
    pub(crate) journal: Option<Arc<Journal>>,
    /// `None` without `--on-rotated`.
    pub(crate) debts: Option<Debts>,
}

/// A queue of lines, and the name of the descriptor behind it.
pub(crate) type Output = (&'static str, Lines);

#[derive(Clone, Default)]
struct Watched {
    /// `None`: nothing is done about it that could be counted.
    tally: Option<Tally>,
    /// `None`: not started yet.
    source: Option<Source>,
}

/// Why a certificate cannot be asked for, if that is so; empty otherwise.
pub(crate) type Lacking = Latest<String>;

/// The source of a certificate's state.
#[derive(Clone)]
pub(crate) enum Source {
    /// It is kept rotated.
    Rotation(Handle, Lacking),
    /// Somebody else keeps it.
    Files(Arc<FileCredential>),
}

impl Metrics {
    pub(crate) fn new(about: About, pulse: Arc<Pulse>) -> Arc<Self> {
        Arc::new(Self { about, pulse, kept: Mutex::default(), server: Latest::default() })
    }

    /// Counts the steps of the certificate of this name. One that is observed again goes on from where it was.
    pub(crate) fn observer(self: &Arc<Self>, of: &str) -> Observer {
        self.kept().entry(of.to_owned()).or_default().tally.get_or_insert_default();
        let (metrics, of) = (self.clone(), of.to_owned());
        Box::new(move |notice| {
            if let Some(Watched { tally: Some(tally), .. }) = metrics.kept().get_mut(&of) {
                tally.take(notice.at, &notice.news);
            }
        })
    }

    /// From now on there are these certificates, and no others.
    pub(crate) fn watch(&self, certificates: BTreeMap<String, Source>) {
        let mut kept = self.kept();
        kept.retain(|name, _| certificates.contains_key(name));
        for (name, source) in certificates {
            kept.entry(name).or_default().source = Some(source);
        }
    }

    /// From now on this API server is asked.
    pub(crate) fn reach(&self, server: Server) {
        self.server.set(Some(server));
    }

    /// Answers from now on, on a thread of its own that ends with the process.
    pub(crate) fn serve(self: &Arc<Self>, listener: TcpListener, names: &[String]) -> io::Result<()> {
        let metrics = self.clone();
        http::serve(listener, Hosts::new(names.iter().cloned()), move |path| {
            metrics.answer(path, clock::now(), Instant::now())
        })
    }

    fn answer(&self, path: &str, now: Now, awake: Instant) -> Option<Response> {
        let views = self.views();
        match path {
            "/healthz" => Some(probed("ok", self.pulse.why_not_alive(awake), &views, now)),
            "/readyz" => Some(probed("ready", view::why_not_ready(&views, now), &views, now)),
            "/metrics" => Some(Response::exposition(page::page(&views, &self.about, now))),
            "/state" => Some(Response::json(&view::to_json(&views, self.server.get().as_ref(), &self.about, now))),
            _ => None,
        }
    }

    fn views(&self) -> Vec<CertView> {
        // A look may take long, at a file for one: no rotation is to wait for that.
        let kept = self.kept().clone();
        let view = |(name, kept)| {
            let Watched { tally, source } = kept;
            CertView::new(name, tally, source.as_ref())
        };
        kept.into_iter().map(view).collect()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The response to a probe: `good` or why not, and the certificates that a restart would lose.
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

    /// A rotation of which nothing is there but what can be seen.
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
            metrics.watch([("node".to_owned(), Source::Rotation(handle.clone(), Lacking::default()))].into());
            Self { metrics, handle, task }
        }

        /// The status and the body, so long after now.
        fn get(&self, path: &str, after: Duration) -> (&'static str, String) {
            let answer = self.metrics.answer(path, later(after), Instant::now() + after).unwrap();
            (answer.status, answer.body)
        }
    }

    #[test]
    fn an_expired_certificate_has_a_time_to_live_below_zero_and_an_end() {
        let metrics = Metrics::new(About::default(), Arc::default());
        let credential = interim(&Template::node("worker"), Now::default().unix).unwrap();
        let end = credential.chain().certificate().validity.not_after();
        let rotation = Rotation::holding(credential);
        let source = Source::Rotation(rotation.handle.clone(), Lacking::default());
        metrics.watch([("kubelet-client".to_owned(), source)].into());
        let span = end.since(Now::default().unix) + Duration::from_secs(10);
        let page = metrics.answer("/metrics", later(span), Instant::now()).unwrap().body;
        assert!(page.contains("\nkubelet_certificate_manager_client_ttl_seconds -10\n"), "{page}");
        let end = end.as_secs();
        let named =
            format!("\nperennial_certificate_not_after_timestamp_seconds{{certificate=\"kubelet-client\"}} {end}\n");
        assert!(page.contains(&named), "{page}");
    }

    #[test]
    fn the_last_answer_is_told_with_its_time_and_as_client_go_judges_it() {
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
