//! What is served of a run over HTTP: numbers for Prometheus, and how things are for people and probes.

mod exposition;
mod http;
mod page;
mod tally;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_kubernetes::rotation::Observer;
use perennial_std::{FileCredential, Handle, clock};

use http::Answer;
use tally::Tally;
use view::View;

/// Counts what happens, certificate by certificate.
pub(crate) struct Metrics {
    runtime: &'static str,
    kept: Mutex<BTreeMap<String, Kept>>,
}

#[derive(Default)]
struct Kept {
    /// `None`: nothing is done about it that could be counted.
    tally: Option<Tally>,
    /// `None`: not started yet.
    source: Option<Source>,
}

/// Who knows how things are with a certificate.
pub(crate) enum Source {
    /// It is kept rotated.
    Rotation(Handle),
    /// Somebody else keeps it.
    Files(Arc<FileCredential>),
}

impl Metrics {
    pub(crate) fn new(runtime: &'static str) -> Arc<Self> {
        Arc::new(Self { runtime, kept: Mutex::default() })
    }

    /// Counts the steps of the certificate of this name. One that is observed again goes on from where it was.
    pub(crate) fn observer(self: &Arc<Self>, of: &str) -> Observer {
        self.kept().entry(of.to_owned()).or_default().tally.get_or_insert_default();
        let (metrics, of) = (self.clone(), of.to_owned());
        Box::new(move |step| {
            if let Some(tally) = metrics.kept().get_mut(&of).and_then(|kept| kept.tally.as_mut()) {
                tally.take(step);
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

    /// Answers from now on, on a thread of its own that ends with the process.
    pub(crate) fn serve(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let metrics = self.clone();
        http::serve(listener, move |path| metrics.answer(path))
    }

    fn answer(&self, path: &str) -> Option<Answer> {
        let now = clock::now();
        match path {
            "/healthz" => Some(Answer::text(true, "ok\n".into())),
            "/metrics" => Some(Answer::exposition(page::page(&self.views(), self.runtime, now))),
            "/readyz" => {
                let why_not = view::why_not_ready(&self.views(), now);
                let ready = why_not.is_empty();
                Some(Answer::text(ready, if ready { "ready\n".into() } else { why_not }))
            }
            "/state" => Some(Answer::json(&view::to_json(&self.views(), now))),
            _ => None,
        }
    }

    fn views(&self) -> Vec<View> {
        let kept = self.kept();
        let view = |(name, kept): (&String, &Kept)| View::new(name, kept.tally.as_ref(), kept.source.as_ref());
        kept.iter().map(view).collect()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
