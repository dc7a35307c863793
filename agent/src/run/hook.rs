//! The command that is run after each new certificate: at least once for the newest, until it succeeds.

mod process;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use perennial_pki::Chain;

use crate::failure::Failure;
use crate::files;
use crate::hook_debt::{Debts, Owed, Record, Subject};
use crate::spans::words;

/// After the first failure; twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY: Duration = Duration::from_secs(15 * 60);
/// Longest wait of the end of the process for a killed command.
const KILL: Duration = Duration::from_secs(2);

/// Runs a command of the operator's. It may take its time: no rotation waits for it.
pub(super) struct Hook {
    run: Option<Arc<Run>>,
    debts: Debts,
}

/// State shared by the threads, one for each certificate that is owed a run.
struct Run {
    command: String,
    limit: Duration,
    /// One attempt only.
    once: bool,
    phase: AtomicU8,
}

/// Debts are paid until they are.
const PAYING: u8 = 0;
/// Runs that were not tried yet are tried once.
const ENDING: u8 = 1;
/// Running commands are killed.
const KILLING: u8 = 2;

impl Hook {
    /// Nothing is owed yet. Without a command, nothing ever is. A run may take `limit`; with `once` a failed one is not
    /// repeated.
    pub(super) fn new(command: Option<String>, limit: Duration, once: bool) -> Self {
        let run = command.map(|command| Arc::new(Run { command, limit, once, phase: AtomicU8::new(PAYING) }));
        Self { run, debts: Debts::default() }
    }

    /// For those who look on; `None` without a command.
    pub(super) fn debts(&self) -> Option<&Debts> {
        self.run.as_ref().map(|_| &self.debts)
    }

    /// Goes on from the record of an earlier process: a run may be owed for the certificate in use. To be called before
    /// the rotation of this certificate is started, which changes what is in use. A record that cannot be read or
    /// written is logged; what is owed then is owed in memory.
    pub(super) fn begin(&self, of: &str, record: PathBuf, in_use: Option<Subject>) {
        let Some(run) = &self.run else {
            // A command that is given again later owes nothing for the time between; there may be no record.
            let _ = std::fs::remove_file(record);
            return;
        };
        let mut debts = self.debts.all();
        if let Some(debt) = debts.get_mut(of) {
            // Rotation was switched off meanwhile, and is on again.
            if debt.record.is_none() {
                debt.record = Some(record);
                let debt = debt.clone();
                drop(debts);
                save(of, &debt);
            }
            return;
        }
        let debt = debts.entry(of.to_owned()).or_default();
        files::sweep(&record);
        let found = Record::read(&record).unwrap_or_else(|error| {
            // Once too often is better than never.
            tracing::warn!("cannot read {}: {error}; assuming that --on-rotated has not run", record.display());
            Some(Record::default())
        });
        debt.record = Some(record);
        let Some(found) = found else {
            debt.done = in_use.map(|subject| subject.fingerprint);
            let debt = debt.clone();
            drop(debts);
            save(of, &debt);
            return;
        };
        debt.done = found.done.clone();
        if let Some(subject) = in_use.filter(|subject| debt.done.as_ref() != Some(&subject.fingerprint)) {
            let (attempts, error) = found.attempts(&subject.fingerprint);
            tracing::info!("{of}: --on-rotated has not succeeded for the certificate in use yet; running the command");
            debt.owed = Some(Owed { subject, attempts, error, next: None });
            drop(debts);
            self.attend(run, of);
        }
    }

    /// From now on, keeps what is owed for this certificate in memory only: rotation is off, and changes no directory.
    pub(super) fn forget_record(&self, of: &str) {
        if let Some(debt) = self.debts.all().get_mut(of) {
            debt.record = None;
        }
    }

    /// Owes a run for this certificate, in the place of the one before. How it ends is logged.
    pub(super) fn run(&self, of: &str, subject: Subject) {
        let Some(run) = &self.run else { return };
        let mut debts = self.debts.all();
        debts.entry(of.to_owned()).or_default().owed = Some(Owed { subject, attempts: 0, error: None, next: None });
        drop(debts);
        self.debts.notify();
        self.attend(run, of);
    }

    /// Waits up to `most` for what runs and what was not tried yet, then ends it.
    pub(super) fn finish_within(&self, most: Duration) {
        for (phase, most) in [(ENDING, most), (KILLING, KILL)] {
            self.enter(phase);
            if self.is_settled_within(Some(most)) {
                return;
            }
        }
    }

    /// Waits for the runs that are owed, which have a limit of time.
    ///
    /// # Errors
    /// If one of them failed.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        self.enter(ENDING);
        self.is_settled_within(None);
        let debts = self.debts.all();
        let owed = debts.iter().find_map(|(of, debt)| Some((of, debt.owed.as_ref()?)));
        owed.map_or(Ok(()), |(of, owed)| {
            let why = owed.error.as_deref().unwrap_or("was not run");
            Err(Failure::Failed(format!("{of}: the certificate is in place, but --on-rotated {why}")))
        })
    }

    /// The failed runs, one line each, for people.
    pub(super) fn troubles(&self) -> Vec<String> {
        let debts = self.debts.all();
        let failed = debts.iter().filter_map(|(of, debt)| Some((of, debt.owed.as_ref()?)));
        failed.filter_map(|(of, owed)| Some(format!("{of}: --on-rotated {}", owed.error.as_ref()?))).collect()
    }

    fn enter(&self, phase: u8) {
        if let Some(run) = &self.run {
            run.phase.store(phase, Ordering::SeqCst);
            self.debts.notify();
        }
    }

    /// Waits until no debt is attended to.
    fn is_settled_within(&self, most: Option<Duration>) -> bool {
        let end = most.map(|most| Instant::now() + most);
        let mut debts = self.debts.all();
        while debts.values().any(|debt| debt.attended) {
            if end.is_some_and(|end| end <= Instant::now()) {
                return false;
            }
            debts = self.debts.wait(debts, end.unwrap_or_else(|| Instant::now() + LONGEST_RETRY));
        }
        true
    }

    /// Has a thread take care of what is owed for this certificate.
    fn attend(&self, run: &Arc<Run>, of: &str) {
        let mut debts = self.debts.all();
        let Some(debt) = debts.get_mut(of).filter(|debt| !debt.attended) else { return };
        debt.attended = true;
        drop(debts);
        let (run, of_thread, shared) = (run.clone(), of.to_owned(), self.debts.clone());
        let spawned = thread::Builder::new().name("on-rotated".into()).spawn(move || run.attend(&of_thread, &shared));
        if let Err(error) = spawned {
            let why = Failure::no_thread("--on-rotated", &error);
            tracing::warn!("{of}: {why}; --on-rotated runs with the next certificate or at the next start");
            if let Some(debt) = self.debts.all().get_mut(of) {
                debt.attended = false;
                debt.owed.iter_mut().for_each(|owed| owed.error = Some(format!("was not run: {why}")));
            }
        }
    }
}

impl Run {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::SeqCst)
    }

    /// Pays the debt of this certificate; returns if there is none, or no further attempt is to be made.
    fn attend(&self, of: &str, debts: &Debts) {
        while let Some(subject) = self.next(of, debts) {
            let result = process::run(&self.command, of, &subject, self.limit, || self.phase() == KILLING);
            let mut all = debts.all();
            let Some(debt) = all.get_mut(of) else { return };
            debt.running = false;
            // A newer certificate has a debt of its own.
            let owed = debt.owed.as_mut().filter(|owed| owed.subject == subject);
            match &result {
                Ok(()) => {
                    tracing::debug!("{of}: --on-rotated is done");
                    debt.owed.take_if(|owed| owed.subject == subject);
                    debt.done = Some(subject.fingerprint);
                }
                Err(why) => {
                    let wait = owed.map(|owed| {
                        owed.attempts = owed.attempts.saturating_add(1);
                        owed.error = Some(why.clone());
                        let wait = FIRST_RETRY * 2_u32.saturating_pow(owed.attempts.min(8) - 1);
                        owed.next = Some(Instant::now() + wait.min(LONGEST_RETRY));
                        wait.min(LONGEST_RETRY)
                    });
                    debt.failures += 1;
                    let then = match wait.filter(|_| !self.once && self.phase() == PAYING) {
                        Some(wait) => format!("next attempt in {}", words(wait)),
                        None => "perennial tries again at its next start".into(),
                    };
                    tracing::warn!("{of}: --on-rotated {why}; {then}");
                }
            }
            let debt = debt.clone();
            drop(all);
            save(of, &debt);
        }
        debts.notify();
    }

    /// Waits for the next run that is due; `None` if there is to be none.
    fn next(&self, of: &str, debts: &Debts) -> Option<Subject> {
        let mut all = debts.all();
        loop {
            let debt = all.get_mut(of)?;
            let due = match &debt.owed {
                Some(Owed { next: None, .. }) => Some(Instant::now()),
                Some(Owed { next, .. }) if !self.once && self.phase() == PAYING => *next,
                _ => None,
            };
            match due {
                Some(due) if due <= Instant::now() && self.phase() != KILLING => {
                    debt.running = true;
                    return debt.owed.as_ref().map(|owed| owed.subject.clone());
                }
                Some(due) if self.phase() != KILLING => all = debts.wait(all, due),
                _ => {
                    debt.attended = false;
                    return None;
                }
            }
        }
    }
}

/// The certificate of this chain, in this file.
pub(super) fn subject(file: PathBuf, chain: &Chain) -> Subject {
    let fingerprint = format!("{:x}", chain.certificate().fingerprint);
    Subject { file, serial: chain.serial().to_owned(), fingerprint }
}

fn save(of: &str, debt: &crate::hook_debt::Debt) {
    let Some(path) = &debt.record else { return };
    if let Err(error) = Record::of(debt).write(path) {
        let file = path.display();
        tracing::warn!("{of}: cannot write {file}: {error}; a restart will not know whether --on-rotated has run");
    }
}
