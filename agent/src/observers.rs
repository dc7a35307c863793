//! The observers of all rotations: the journal, the metrics, and the check that each rotation takes its steps
//! ([`Pulse`]). An observer that fails does not stop the run.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::bundle_file::BundleFile;
use crate::cli;
use crate::hook_debt::Debts;
use crate::journal::Journal;
use crate::kubeconfigs::Server;
use crate::metrics::{About, Metrics, Output, Source};
use crate::pulse::Pulse;
use crate::reactor;
use crate::report::Report;
use crate::rotation::Observer;

/// Interval between attempts to listen on a port that is taken.
const RETRY: Duration = Duration::from_secs(5);

/// Makes the observers of each rotation, on any thread. Clones share journal and metrics.
#[derive(Clone)]
pub(crate) struct Watchers {
    pub(crate) pulse: Arc<Pulse>,
    journal: Option<Arc<Journal>>,
    metrics: Option<Arc<Metrics>>,
}

impl Watchers {
    /// Returns new observers for the certificate `name`. Must be called at each start of the certificate's rotation.
    pub(crate) fn of(&self, name: &str) -> Vec<Observer> {
        let journal = self.journal.iter().map(|journal| journal.observer(name));
        let metrics = self.metrics.iter().map(|metrics| metrics.observer(name));
        [self.pulse.observer(name)].into_iter().chain(journal).chain(metrics).collect()
    }
}

/// The observers that every rotation of a run has.
pub(crate) struct Observers {
    pub(crate) watchers: Watchers,
    /// The address of `--metrics-listen` until the metrics server listens there; `None` from then on, and without the
    /// flag.
    listen: Option<SocketAddr>,
    /// Names that the metrics server accepts in the Host header, beside the host name and localhost.
    names: Vec<String>,
    /// The error of the last attempt to start the metrics server; `None` before the first attempt, and once the server
    /// runs.
    refused: Option<String>,
}

impl Observers {
    /// Starts the observers, except the metrics server. Logs if the journal cannot be written, or the system refuses a
    /// thread for the journal.
    pub(crate) fn start(run: &cli::Run, outputs: Vec<Output>, debts: Option<&Debts>) -> Self {
        let options = &run.observe;
        if options.metrics_listen.is_some() {
            // Started early, while descriptors and threads are available. If the reactor cannot start, `serve` fails
            // and is called again.
            drop(reactor::start());
        }
        let (pulse, listen) = (Arc::<Pulse>::default(), options.metrics_listen);
        let journal = options.journal.as_deref().map(|path| Arc::new(Journal::start(path, options.journal_limit)));
        let metrics = listen.map(|_| {
            let (runtime, journal, debts) = (run.runtime.name(), journal.clone(), debts.cloned());
            Metrics::new(About { runtime, outputs, journal, debts }, pulse.clone())
        });
        let names = options.metrics_host.iter().chain(&run.node_name).cloned().collect();
        Self { watchers: Watchers { pulse, journal, metrics }, listen, names, refused: None }
    }

    /// Sets the certificates and the API servers of the running configuration.
    pub(crate) fn watch(&self, certificates: impl Iterator<Item = (String, Source)>, servers: Vec<Server>) {
        let certificates: BTreeMap<String, Source> = certificates.collect();
        let rotations = certificates.iter().filter_map(|(name, source)| match source {
            Source::Rotation(handle, ..) => Some((name.clone(), Some(handle.clone()))),
            Source::Starting(_) => Some((name.clone(), None)),
            Source::Files(_) => None,
        });
        self.watchers.pulse.watch(rotations.collect());
        if let Some(journal) = &self.watchers.journal {
            journal.keep(certificates.keys().cloned().collect());
        }
        if let Some(metrics) = &self.watchers.metrics {
            metrics.watch(certificates);
            metrics.set_servers(servers);
        }
    }

    /// Sets the files of trust bundles.
    pub(crate) fn set_bundles(&self, files: Vec<Arc<BundleFile>>) {
        if let Some(metrics) = &self.watchers.metrics {
            metrics.set_bundles(files);
        }
    }

    /// Starts the metrics server, unless the server runs already. Must be called after [`watch`](Self::watch), so that
    /// probes find the certificates. If the server could not start, must be called again after the time that
    /// [`retry`](Self::retry) returns.
    pub(crate) fn serve(&mut self, report: &Report) {
        let (Some(address), Some(metrics)) = (self.listen, &self.watchers.metrics) else { return };
        let served = TcpListener::bind(address).and_then(|listener| {
            let address = listener.local_addr()?;
            metrics.serve(listener, &self.names).map(|()| address)
        });
        match served {
            Ok(address) => {
                (self.listen, self.refused) = (None, None);
                let sentence = format!("metrics at http://{address}/metrics, a page for people at http://{address}/");
                report.event("listening", json!({ "address": address.to_string() }), &sentence);
            }
            Err(error) => {
                let why = format!("cannot serve metrics on {address}: {error}");
                // Reported once, not at each attempt.
                if self.refused.as_ref() != Some(&why) {
                    tracing::warn!("{why}; trying again every {RETRY:?}");
                    report.event("trouble", json!({ "reason": why }), "");
                }
                self.refused = Some(why);
            }
        }
    }

    /// Time until the next call of [`serve`](Self::serve); `None` if the metrics server runs or is not wanted.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.listen.map(|_| RETRY)
    }

    /// The present errors of the journal and of the metrics server.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = String> {
        let journal = self.watchers.journal.iter().filter_map(|journal| journal.trouble());
        journal.chain(self.refused.clone())
    }

    /// Waits until every step is in the journal or lost, for at most `within`. Logs if steps still wait to be written
    /// after that.
    pub(crate) fn finish_within(&self, within: Duration) {
        if self.watchers.journal.as_ref().is_some_and(|journal| !journal.finish_within(within)) {
            tracing::warn!("journal incomplete: its disk does not answer; the last steps are missing");
        }
    }
}
