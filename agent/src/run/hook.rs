//! Runs the hook of a certificate, such as the command of `--on-rotated`, after each new certificate. A failed run is
//! repeated until the hook has succeeded for the newest certificate.

mod process;
mod thread;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use perennial_pki::Chain;

use crate::failure::Failure;
use crate::hook_debt::{Debt, Debts, Hook, Record, Subject};
use crate::threads;
use thread::{ENDING, KILLING, LONGEST_RETRY, RETRYING, Shared, save};

/// Longest time that the process waits at its end for a killed command.
const KILL: Duration = Duration::from_secs(2);

/// Runs hooks on threads of their own, so that no rotation waits for a hook. Clones share the debts.
#[derive(Clone)]
pub(super) struct Hooks {
    /// The hook of `--on-rotated`, which externally managed certificates have as well.
    common: Option<Arc<Hook>>,
    debts: Debts,
    shared: Arc<Shared>,
}

impl Hooks {
    /// Creates the hooks of a run, without debts. `common` is the hook of certificates that [`begin`](Self::begin) does
    /// not know. If `once` is true, failed runs are not repeated.
    pub(super) fn new(common: Option<Hook>, once: bool) -> Self {
        let shared = Arc::new(Shared { once, phase: AtomicU8::new(RETRYING) });
        Self { common: common.map(Arc::new), debts: Debts::default(), shared }
    }

    /// The debts, for metrics.
    pub(super) fn debts(&self) -> &Debts {
        &self.debts
    }

    /// The hook of `--on-rotated`.
    pub(super) fn common(&self) -> Option<&Arc<Hook>> {
        self.common.as_ref()
    }

    /// Continues from the hook record at `path`, which an earlier process may have written. If the record does not name
    /// the current certificate (`in_use`), a run is owed for that certificate, which [`run_owed`](Self::run_owed)
    /// begins. Must be called before the rotation of certificate `of` starts, because the rotation may replace the
    /// current certificate. Without a hook, removes the record, and the debt of an earlier hook.
    ///
    /// Logs if the record cannot be read or written. If the record cannot be read, a run is owed, as if the hook had
    /// never succeeded.
    pub(super) fn begin(&self, of: &str, hook: Option<Arc<Hook>>, path: PathBuf, in_use: Option<Subject>) {
        let Some(hook) = hook else {
            // A hook that is configured later owes nothing for certificates until then.
            let _ = Record::remove(&path);
            self.forget(of);
            return;
        };
        let mut debts = self.debts.all();
        if let Some(debt) = debts.get_mut(of).filter(|debt| !debt.forgotten) {
            debt.hook = hook;
            // A reload has switched rotation on again: the debt gets its record back.
            if debt.path.is_none() {
                debt.path = Some(path);
                drop(debts);
                save(of, &self.debts);
            }
            return;
        }
        // All certificates share the debts: none may wait for the disk of this one.
        drop(debts);
        Record::sweep(&path);
        let found = Record::read(&path).unwrap_or_else(|error| {
            // An extra run does less harm than a missing one: a program would go on with the previous certificate.
            let file = path.display();
            let label = hook.label;
            tracing::warn!(
                "cannot read {file}: {error}; running {label} for the certificate in use, even if it has run before"
            );
            Some(Record::default())
        });
        let is_first = found.is_none();
        let fingerprint = || in_use.as_ref().map(|subject| subject.fingerprint.clone());
        let record = found.unwrap_or_else(|| Record { done: fingerprint(), failed: None });
        let owed = in_use.filter(|subject| record.done.as_ref() != Some(&subject.fingerprint));
        let mut debts = self.debts.all();
        // The thread of a forgotten debt, which may still run the hook, goes on for this debt: of one certificate, no two
        // runs overlap.
        let (has_thread, running) = debts.remove(of).map_or((false, false), |old| (old.has_thread, old.running));
        let debt = Debt { path: Some(path), record, owed, has_thread, running, ..Debt::new(hook) };
        debts.insert(of.to_owned(), debt);
        drop(debts);
        self.debts.notify();
        if is_first {
            save(of, &self.debts);
        }
    }

    /// Begins the run that is owed for certificate `of` from before its rotation started, if there is one. Must be called
    /// after that start, and once the files that the hook's program reads are those of the certificate.
    pub(super) fn run_owed(&self, of: &str) {
        let owed = self.debts.all().get(of).filter(|debt| debt.owed.is_some() && !debt.has_thread).cloned();
        if let Some(debt) = owed {
            let label = debt.hook.label;
            tracing::info!("{of}: {label} has not succeeded yet for the certificate in use; running it now");
            self.ensure_thread(of);
        }
    }

    /// Keeps the debt of certificate `of` in memory only from now on: perennial no longer rotates the certificate, and
    /// writes no file for it.
    pub(super) fn forget_record(&self, of: &str) {
        if let Some(debt) = self.debts.all().get_mut(of) {
            debt.path = None;
        }
    }

    /// Forgets the debt of certificate `of`, which is no longer kept. The record stays: if the certificate is kept again,
    /// an owed run is still owed. A run that has begun goes on, and is waited for at the end of the process.
    pub(super) fn forget(&self, of: &str) {
        let mut debts = self.debts.all();
        match debts.get_mut(of) {
            // The thread removes the debt at its end.
            Some(debt) if debt.has_thread => (debt.forgotten, debt.owed, debt.path) = (true, None, None),
            _ => drop(debts.remove(of)),
        }
        drop(debts);
        self.debts.notify();
    }

    /// Starts a run for the new certificate `subject`, if certificate `of` has a hook. From now on this run is owed,
    /// and a run for an earlier certificate no longer. Failures are logged.
    pub(super) fn run(&self, of: &str, subject: Subject) {
        let mut debts = self.debts.all();
        if let Some(common) = &self.common {
            debts.entry(of.to_owned()).or_insert_with(|| Debt::new(common.clone()));
        }
        let Some(debt) = debts.get_mut(of).filter(|debt| !debt.forgotten) else { return };
        (debt.owed, debt.next) = (Some(subject), None);
        drop(debts);
        self.debts.notify();
        self.ensure_thread(of);
    }

    /// Waits up to `most` until the running commands have ended, and until the command has run for each certificate for
    /// which it was not tried yet. Then kills the commands that still run, and waits up to [`KILL`] for their end.
    pub(super) fn finish_within(&self, most: Duration) {
        for (phase, most) in [(ENDING, most), (KILLING, KILL)] {
            self.enter(phase);
            if self.is_settled_within(Some(most)) {
                return;
            }
        }
    }

    /// Waits until each owed run has ended, or was killed at its time limit.
    ///
    /// # Errors
    /// [`Failure::Failed`] if a run failed or could not be started.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        self.enter(ENDING);
        self.is_settled_within(None);
        let debts = self.debts.all();
        debts.iter().find(|(_, debt)| debt.owed.is_some()).map_or(Ok(()), |(of, debt)| {
            let why = debt.failed().map_or("was not run", |failed| &failed.error);
            Err(Failure::Failed(format!("{of}: the certificate is in place, but {} {why}", debt.hook.label)))
        })
    }

    /// The errors of owed runs, one line each, for systemd's STATUS.
    pub(super) fn troubles(&self) -> Vec<String> {
        let debts = self.debts.all();
        let failed = debts.iter().filter_map(|(of, debt)| Some((of, debt.hook.label, debt.failed()?)));
        failed.map(|(of, label, failed)| format!("{of}: {label} {}", failed.error)).collect()
    }

    fn enter(&self, phase: u8) {
        self.shared.phase.store(phase, Ordering::SeqCst);
        self.debts.notify();
    }

    /// Waits until all threads of the hook have ended, for at most `most`; without a limit if `None`. Returns false if
    /// a thread is left.
    fn is_settled_within(&self, most: Option<Duration>) -> bool {
        let end = most.map(|most| Instant::now() + most);
        let mut debts = self.debts.all();
        while debts.values().any(|debt| debt.has_thread) {
            if end.is_some_and(|end| end <= Instant::now()) {
                return false;
            }
            debts = self.debts.wait(debts, end.unwrap_or_else(|| Instant::now() + LONGEST_RETRY));
        }
        true
    }

    /// Starts the thread that runs the hook of certificate `of`, unless the thread exists.
    fn ensure_thread(&self, of: &str) {
        let mut debts = self.debts.all();
        let Some(debt) = debts.get_mut(of).filter(|debt| !debt.has_thread) else { return };
        debt.has_thread = true;
        let label = debt.hook.label;
        drop(debts);
        let (shared, of_thread, debts) = (self.shared.clone(), of.to_owned(), self.debts.clone());
        if let Err(why) = threads::start("on-rotated", label, move || shared.run_owed(&of_thread, &debts)) {
            tracing::warn!(
                "{of}: {label} was not run: {why}; next attempt once the certificate is replaced again, or at the next \
                 start of perennial"
            );
            if let Some(debt) = self.debts.all().get_mut(of) {
                debt.has_thread = false;
                debt.fail(0, format!("was not run: {why}"));
            }
        }
    }
}

/// Returns the values for the environment of a hook's command: `file`, and the serial number and fingerprint of the
/// certificate in `chain`.
pub(super) fn subject(file: PathBuf, chain: &Chain) -> Subject {
    let fingerprint = format!("{:x}", chain.certificate().fingerprint);
    Subject { file, serial: chain.serial().to_owned(), fingerprint }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use tempfile::TempDir;

    use super::*;

    fn hook(directory: &TempDir, script: &str) -> Arc<Hook> {
        let script = format!("cd {}; {script}", directory.path().display());
        Arc::new(Hook::of_flag(&script, Duration::from_secs(60)))
    }

    fn subject(fingerprint: &str) -> Subject {
        Subject { file: PathBuf::new(), serial: String::new(), fingerprint: fingerprint.to_owned() }
    }

    fn runs(directory: &TempDir) -> String {
        fs::read_to_string(directory.path().join("runs")).unwrap_or_default()
    }

    fn await_first_run(directory: &TempDir) {
        let end = Instant::now() + Duration::from_secs(60);
        while runs(directory).is_empty() {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn certificate_that_is_added_again_during_a_run_has_one_run_at_a_time() {
        let directory = TempDir::new().unwrap();
        let script = "echo start >> runs; while [ ! -e go ]; do sleep 0.01; done; echo end >> runs";
        let (hooks, path) = (Hooks::new(None, false), directory.path().join("web-hook.json"));
        let begin = |in_use| hooks.begin("web", Some(hook(&directory, script)), path.clone(), in_use);
        begin(None);
        hooks.run("web", subject("old"));
        await_first_run(&directory);
        hooks.forget("web");
        begin(Some(subject("new")));
        let debt = hooks.debts.all()["web"].clone();
        assert!(debt.has_thread && debt.running && !debt.forgotten && debt.owed == Some(subject("new")));
        fs::write(directory.path().join("go"), "").unwrap();
        hooks.finish().unwrap();
        assert_eq!(runs(&directory), "start\nend\nstart\nend\n");
        assert_eq!(Record::read(&path).unwrap().unwrap().done.as_deref(), Some("new"));
    }

    #[test]
    fn run_owed_from_earlier_process_begins_after_start_of_rotation() {
        let directory = TempDir::new().unwrap();
        let (hooks, path) = (Hooks::new(None, false), directory.path().join("web-hook.json"));
        Record { done: Some("old".into()), failed: None }.write(&path).unwrap();
        hooks.begin("web", Some(hook(&directory, "echo run >> runs")), path, Some(subject("new")));
        assert!(!hooks.debts.all()["web"].has_thread);
        hooks.run_owed("web");
        hooks.finish().unwrap();
        assert_eq!(runs(&directory), "run\n");
    }

    #[test]
    fn run_for_removed_certificate_is_killed_at_the_end() {
        let directory = TempDir::new().unwrap();
        let script = "trap 'echo killed >> runs; exit 1' TERM; echo start >> runs; while :; do sleep 0.01; done";
        let hooks = Hooks::new(None, false);
        let path = directory.path().join("web-hook.json");
        hooks.begin("web", Some(hook(&directory, script)), path.clone(), None);
        hooks.run("web", subject("old"));
        await_first_run(&directory);
        hooks.forget("web");
        assert!(hooks.troubles().is_empty());
        hooks.finish_within(Duration::ZERO);
        assert_eq!(runs(&directory), "start\nkilled\n");
        assert!(hooks.debts.all().is_empty());
        assert_eq!(Record::read(&path).unwrap().unwrap().done, None);
    }
}
