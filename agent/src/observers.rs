//! Who looks on at a run: its log, its journal.

use std::sync::Arc;

use perennial_kubernetes::rotation::Observer;

use crate::cli;
use crate::failure::Failure;
use crate::journal::Journal;

/// All who look on, at every certificate.
pub(crate) struct Observers {
    journal: Option<Arc<Journal>>,
}

impl Observers {
    /// Opens the file: of all there is to check, that alone leaves something behind.
    pub(crate) fn open(options: &cli::Observe) -> Result<Self, Failure> {
        let journal = options.journal.as_deref().map(|path| Journal::open(path, options.journal_limit)).transpose()?;
        Ok(Self { journal })
    }

    /// Those who look at the certificate of this name. To be called again when its rotation is started again.
    pub(crate) fn of(&self, name: &str) -> Vec<Observer> {
        let journal = self.journal.iter().map(|journal| journal.observer(name));
        [log(name)].into_iter().chain(journal).collect()
    }
}

/// Every step, for those who want to know it all.
fn log(name: &str) -> Observer {
    let name = name.to_owned();
    Box::new(move |step| tracing::debug!("{name}: {step}"))
}
