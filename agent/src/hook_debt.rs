//! Debts of hooks, such as `--on-rotated`: a hook must succeed once for the newest certificate. Until then a run of the
//! hook is owed.
//!
//! The record `PREFIX-hook.json` beside the pair names the certificate for which the hook last succeeded. perennial
//! writes the record before the first rotation. If perennial then ends before the hook has run for a new certificate,
//! the next start finds a certificate that the record does not name, and a run is owed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::folder::Folder;

const VERSION: u64 = 1;
/// The flag that configures a hook, for messages.
pub(crate) const FLAG_HOOK: &str = "--on-rotated";
/// The key of a certificate list that configures a hook, for messages.
pub(crate) const LIST_HOOK: &str = "onRotated";

/// The hook of a certificate: what perennial does after each new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// The flag or key that configures the hook, for messages: [`FLAG_HOOK`] or [`LIST_HOOK`].
    pub(crate) label: &'static str,
    /// The program to run, with its arguments; empty for none.
    pub(crate) command: Vec<String>,
    /// The signal to send once the command has succeeded, and the file with the number of the process.
    pub(crate) signal: Option<(Signal, PathBuf)>,
    /// Time limit for a run of the command.
    pub(crate) limit: Duration,
}

/// A certificate for which a hook is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) file: PathBuf,
    pub(crate) serial: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub(crate) fingerprint: String,
}

/// The debt of one certificate's hook: the owed run, if any, and the runs that failed.
#[derive(Clone, Debug)]
pub(crate) struct Debt {
    pub(crate) hook: Arc<Hook>,
    /// Path of the record (`PREFIX-hook.json`); `None` if the debt is in memory only.
    pub(crate) path: Option<PathBuf>,
    pub(crate) record: Record,
    /// The certificate for which a run is owed; `None` if no run is owed.
    pub(crate) owed: Option<Subject>,
    /// Time of the next attempt at the owed run; `None` if no attempt has failed in this process, so that the next one
    /// may begin at once.
    pub(crate) next: Option<Instant>,
    /// Number of runs that failed in this process, for metrics.
    pub(crate) failures: u64,
    /// True while a thread exists that carries out owed runs for this certificate.
    pub(crate) has_thread: bool,
    /// True while the hook runs.
    pub(crate) running: bool,
    /// The number of the debt, which no other debt of this process has.
    pub(crate) number: u64,
    /// True if the certificate is no longer kept, and the thread has not ended yet. No run is owed then.
    pub(crate) forgotten: bool,
}

/// The number of the next debt.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Debt {
    /// A debt in memory, of which no run is owed.
    pub(crate) fn new(hook: Arc<Hook>) -> Self {
        let (path, record, owed, next) = (None, Record::default(), None, None);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (has_thread, running, forgotten) = (false, false, false);
        Self { hook, path, record, owed, next, failures: 0, has_thread, running, number, forgotten }
    }

    /// The failed attempts at the owed run; `None` if no run is owed, or none has failed.
    pub(crate) fn failed(&self) -> Option<&FailedAttempts> {
        self.record.failed_for(&self.owed.as_ref()?.fingerprint)
    }

    /// Records `error` as the last error of the owed run, and adds `more` to the number of failed attempts at that run.
    /// Returns the new number.
    pub(crate) fn fail(&mut self, more: u32, error: String) -> u32 {
        let attempts = self.failed().map_or(0, |failed| failed.attempts).saturating_add(more);
        let failed = |owed: &Subject| FailedAttempts { fingerprint: owed.fingerprint.clone(), attempts, error };
        self.record.failed = self.owed.as_ref().map(failed);
        attempts
    }

    /// The debt as JSON, for `/state`.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "owed": self.owed.is_some(),
            "running": self.running,
            "attempts": self.failed().map_or(0, |failed| failed.attempts),
            "error": self.failed().map(|failed| &failed.error),
        })
    }
}

/// The debts of all hooks in this process, by the certificates' names. Clones share the debts.
#[derive(Clone, Default)]
pub(crate) struct Debts(Arc<(Mutex<BTreeMap<String, Debt>>, Condvar)>);

impl Debts {
    /// Locks the debts of all certificates, until the guard is dropped.
    pub(crate) fn all(&self) -> MutexGuard<'_, BTreeMap<String, Debt>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the threads that wait for a change of the debts.
    pub(crate) fn notify(&self) {
        self.0.1.notify_all();
    }

    /// Unlocks the debts, waits until [`notify`](Self::notify) is called or the time `end` has come, and locks the
    /// debts again.
    pub(crate) fn wait<'a>(
        &self,
        guard: MutexGuard<'a, BTreeMap<String, Debt>>,
        end: Instant,
    ) -> MutexGuard<'a, BTreeMap<String, Debt>> {
        let left = end.saturating_duration_since(Instant::now());
        self.0.1.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The path of the hook record for this prefix: `PREFIX-hook.json` in `directory`.
pub(crate) fn record_path(directory: &Path, prefix: &str) -> PathBuf {
    directory.join(format!("{prefix}-hook.json"))
}

/// The contents of a hook record (`PREFIX-hook.json`), without its format version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Record {
    /// Fingerprint of the certificate for which the hook last succeeded, or that existed before there was a hook.
    pub(crate) done: Option<String>,
    pub(crate) failed: Option<FailedAttempts>,
}

/// Runs of a hook that failed in a row for one certificate, runs of earlier processes included.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct FailedAttempts {
    /// Fingerprint of the certificate that the runs were for.
    pub(crate) fingerprint: String,
    pub(crate) attempts: u32,
    /// The error of the last run.
    pub(crate) error: String,
}

impl Record {
    /// The failed runs for the certificate with this fingerprint; `None` if there are none.
    pub(crate) fn failed_for(&self, fingerprint: &str) -> Option<&FailedAttempts> {
        self.failed.as_ref().filter(|failed| failed.fingerprint == fingerprint)
    }

    /// Reads the hook record at `path`; `None` if the file does not exist.
    ///
    /// # Errors
    /// If the file cannot be read, is no record of this version, or another user could have written it.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        let found = Folder::of(path).and_then(|(folder, name)| folder.read_own(&name));
        let contents = match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let Some(contents) = contents else { return Ok(None) };
        let value = serde_json::from_slice::<Value>(&contents).ok().filter(|value| value["version"] == VERSION);
        let record = value.and_then(|value| Self::deserialize(value).ok());
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "it is not the record of a hook");
        record.map(Some).ok_or_else(bad)
    }

    /// Replaces the hook record at `path`, durably.
    ///
    /// # Errors
    /// The error of the operating system. The file holds the previous record or this record, whole.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let text = json!({ "version": VERSION, "done": self.done, "failed": self.failed });
        let (folder, name) = Folder::of(path)?;
        folder.replace(&name, format!("{text}\n").as_bytes())
    }

    /// Removes the hook record at `path`, if there is one, and its temporary files of ended processes.
    ///
    /// # Errors
    /// The error of the operating system.
    pub(crate) fn remove(path: &Path) -> io::Result<()> {
        let (folder, name) = Folder::of(path)?;
        folder.sweep(&name);
        folder.remove(&name)
    }

    /// Removes the temporary files that ended processes have left beside the hook record at `path`.
    pub(crate) fn sweep(path: &Path) {
        if let Ok((folder, name)) = Folder::of(path) {
            folder.sweep(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn hook_record_is_read_as_written() {
        let directory = TempDir::new().unwrap();
        let path = record_path(directory.path(), "proxy");
        assert_eq!(Record::read(&path).unwrap(), None);
        let failed = FailedAttempts { fingerprint: "cd".into(), attempts: 3, error: "exit status: 7".into() };
        for record in [Record::default(), Record { done: Some("ab".into()), failed: Some(failed) }] {
            record.write(&path).unwrap();
            assert_eq!(Record::read(&path).unwrap(), Some(record));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn untrusted_or_damaged_hook_record_is_refused() {
        let directory = TempDir::new().unwrap();
        let path = record_path(directory.path(), "proxy");
        for text in ["", "{}", "{\"version\":2}", "no json", "[1]"] {
            fs::write(&path, text).unwrap();
            assert!(Record::read(&path).is_err(), "{text}");
        }
        Record::default().write(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        assert!(Record::read(&path).unwrap_err().to_string().contains("another user could have written it"));
        fs::remove_file(&path).unwrap();
        let target = directory.path().join("target");
        Record::default().write(&target).unwrap();
        symlink(&target, &path).unwrap();
        assert!(Record::read(&path).is_err(), "a link");
        // The link is replaced, and nothing is written through it.
        Record { done: Some("ab".into()), failed: None }.write(&path).unwrap();
        assert_eq!(Record::read(&target).unwrap(), Some(Record::default()));
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn hook_record_is_not_written_through_directory_link_of_another_user() {
        let directory = TempDir::new().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join(".perennial"));
        fs::create_dir(&target).unwrap();
        symlink(&target, &link).unwrap();
        // Only root can give the link away.
        if lchown(&link, Some(1234), None).is_err() {
            return;
        }
        let path = record_path(&link, "proxy");
        assert_eq!(Record::default().write(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        fs::write(record_path(&target, "proxy"), "another program's").unwrap();
        assert!(Record::remove(&path).is_err() && Record::read(&path).is_err());
        assert_eq!(fs::read_dir(target).unwrap().count(), 1);
    }
}
