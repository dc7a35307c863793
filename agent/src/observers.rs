//! Who looks on at a run: its log, its journal, its metrics.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;

use perennial_kubernetes::rotation::Observer;
use serde_json::json;

use crate::cli;
use crate::embedded::listen;
use crate::failure::Failure;
use crate::journal::Journal;
use crate::metrics::{Metrics, Output, Source};
use crate::report::Report;

/// All who look on, at every certificate.
pub(crate) struct Observers {
    journal: Option<Arc<Journal>>,
    metrics: Option<Arc<Metrics>>,
    /// Not served yet.
    listener: Option<TcpListener>,
}

impl Observers {
    /// Takes the socket, then the file: of all there is to check, that alone leaves something behind.
    pub(crate) fn open(options: &cli::Observe, runtime: cli::Runtime, outputs: Vec<Output>) -> Result<Self, Failure> {
        let listener = options.metrics_listen.map(listen).transpose()?;
        let journal = options.journal.as_deref().map(|path| Journal::open(path, options.journal_limit)).transpose()?;
        let metrics = listener.is_some().then(|| Metrics::new(runtime.name(), outputs));
        Ok(Self { journal, metrics, listener })
    }

    /// Those who look at the certificate of this name. To be called again when its rotation is started again.
    pub(crate) fn of(&self, name: &str) -> Vec<Observer> {
        let journal = self.journal.iter().map(|journal| journal.observer(name));
        let metrics = self.metrics.iter().map(|metrics| metrics.observer(name));
        [log(name)].into_iter().chain(journal).chain(metrics).collect()
    }

    /// All certificates there are, from now on: how they are doing can be asked for.
    pub(crate) fn watch(&self, certificates: impl Iterator<Item = (String, Source)>) {
        let certificates: BTreeMap<String, Source> = certificates.collect();
        if let Some(journal) = &self.journal {
            journal.keep(&certificates.keys().cloned().collect());
        }
        if let Some(metrics) = &self.metrics {
            metrics.watch(certificates);
        }
    }

    /// Answers those who ask, from the first call on. To be called once there are certificates.
    pub(crate) fn serve(&mut self, report: &mut Report) -> Result<(), Failure> {
        let (Some(listener), Some(metrics)) = (self.listener.take(), &self.metrics) else { return Ok(()) };
        let address = listener.local_addr().map_err(Failure::failed)?;
        metrics.serve(listener).map_err(Failure::failed)?;
        let sentence = format!("metrics at http://{address}/metrics");
        report.event("listening", json!({ "address": address.to_string() }), &sentence);
        Ok(())
    }
}

/// Every step, for those who want to know it all.
fn log(name: &str) -> Observer {
    let name = name.to_owned();
    Box::new(move |step| tracing::debug!("{name}: {step}"))
}
