//! The thread of a certificate with an owed run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::hook_debt::{Debt, Debts, Hook, Record, Subject};
use crate::spans::words;

/// Wait after the first failed run. The wait doubles with each further failed run.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// Longest wait after a failed run.
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(15 * 60);
/// The state that all threads of the hooks share. Each certificate with an owed run has a thread.
pub(super) struct Shared {
    /// True if failed runs are not repeated (`--once`).
    pub(super) once: bool,
    pub(super) phase: AtomicU8,
}

/// Phase of normal operation: failed runs are repeated.
pub(super) const RETRYING: u8 = 0;
/// Phase at the end of the process: failed runs are not repeated, but the hook is run once for a certificate for which
/// it was not tried yet.
pub(super) const ENDING: u8 = 1;
/// Last phase: running commands are killed, and no command is started.
pub(super) const KILLING: u8 = 2;

impl Shared {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::SeqCst)
    }

    /// Runs the hook of certificate `of`, and repeats failed runs. Returns once no run is owed, or no run may be started
    /// any more.
    pub(super) fn run_owed(&self, of: &str, debts: &Debts) {
        while let Some((number, hook, subject)) = self.next(of, debts) {
            let (label, result) = (hook.label, hook.run(of, &subject, || self.phase() == KILLING));
            let mut all = debts.all();
            let Some(debt) = all.get_mut(of) else { return };
            debt.running = false;
            if debt.number != number || debt.forgotten {
                // A reload has removed the certificate during the run, and may have added it again, with a new debt.
                if let Err(why) = result {
                    tracing::warn!("{of}: {label} {why}; not repeated, since the certificate was removed meanwhile");
                }
                continue;
            }
            let is_owed = debt.owed.as_ref() == Some(&subject);
            match &result {
                Ok(()) => {
                    tracing::debug!("{of}: {label} succeeded");
                    debt.owed.take_if(|_| is_owed);
                    debt.record = Record { done: Some(subject.fingerprint), failed: None };
                }
                Err(why) => {
                    debt.failures += 1;
                    // A newer certificate may have replaced the debt during the run: its attempts count from zero.
                    let wait = is_owed.then(|| {
                        let attempts = debt.fail(1, why.clone());
                        let wait = (FIRST_RETRY * 2_u32.saturating_pow(attempts.min(8) - 1)).min(LONGEST_RETRY);
                        debt.next = Some(Instant::now() + wait);
                        wait
                    });
                    let then = match wait.filter(|_| !self.once && self.phase() == RETRYING) {
                        Some(wait) => format!("next attempt in {}", words(wait)),
                        // A first run needs no `RETRYING`: the loop runs the command for the newer certificate at once.
                        None if !is_owed && self.phase() != KILLING => {
                            format!("a newer certificate is in use; running {label} for it")
                        }
                        None => "next attempt at the next start of perennial".into(),
                    };
                    tracing::warn!("{of}: {label} {why}; {then}");
                }
            }
            drop(all);
            save(of, debts);
        }
        debts.notify();
    }

    /// Waits until the next run of the hook of certificate `of` may start. Returns the number of the debt, and the hook
    /// and the certificate of this run. Returns `None` if no run is owed or may be started any more: the calling thread
    /// must then end.
    fn next(&self, of: &str, debts: &Debts) -> Option<(u64, Arc<Hook>, Subject)> {
        let mut all = debts.all();
        loop {
            let debt = all.get_mut(of)?;
            let due = match (&debt.owed, debt.next) {
                // The first run for a certificate starts even while the process ends.
                (Some(_), None) => Some(Instant::now()),
                (Some(_), next) if !self.once && self.phase() == RETRYING => next,
                _ => None,
            };
            match due {
                Some(due) if due <= Instant::now() && self.phase() != KILLING => {
                    debt.running = true;
                    return debt.owed.clone().map(|subject| (debt.number, debt.hook.clone(), subject));
                }
                Some(due) if self.phase() != KILLING => all = debts.wait(all, due),
                _ => {
                    debt.has_thread = false;
                    if debt.forgotten {
                        all.remove(of);
                    }
                    return None;
                }
            }
        }
    }
}

/// Writes the hook record of certificate `of`, unless its debt is in memory only. Does not hold the lock of the debts
/// during the write, since the disk may not answer.
pub(super) fn save(of: &str, debts: &Debts) {
    let Some(Debt { path: Some(path), record, hook, .. }) = debts.all().get(of).cloned() else { return };
    if let Err(error) = record.write(&path) {
        let (file, label) = (path.display(), hook.label);
        tracing::warn!("{of}: cannot write {file}: {error}; a restart will not know whether {label} has run");
    }
}
