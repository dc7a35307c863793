//! Debts of `--on-rotated`: one successful run of the command for the newest certificate.
//!
//! For each rotated certificate, a record beside the pair (`PREFIX-hook.json`) names the certificate for which the command
//! last succeeded. The record is written before the first rotation, so a start recognises a certificate that came into use
//! without a run of the command.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::files;

const VERSION: u64 = 1;

/// A certificate that the command is to be run for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) file: PathBuf,
    pub(crate) serial: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub(crate) fingerprint: String,
}

/// A run that is owed.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    pub(crate) subject: Subject,
    /// Failed attempts, those of earlier processes included.
    pub(crate) attempts: u32,
    pub(crate) error: Option<String>,
    /// `None` before the first attempt of this process.
    pub(crate) next: Option<Instant>,
}

/// The debt of one certificate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Debt {
    /// `None`: in memory only.
    pub(crate) record: Option<PathBuf>,
    /// Fingerprint of the certificate that the command has succeeded for last, or that was there before the first run.
    pub(crate) done: Option<String>,
    pub(crate) owed: Option<Owed>,
    /// Attempts of this process that failed.
    pub(crate) failures: u64,
    /// A thread takes care of it.
    pub(crate) attended: bool,
    /// The command runs.
    pub(crate) running: bool,
}

impl Debt {
    /// The runs that are owed, as JSON.
    pub(crate) fn to_json(&self) -> Value {
        let owed = self.owed.as_ref();
        json!({
            "owed": owed.is_some(),
            "running": self.running,
            "attempts": owed.map_or(0, |owed| owed.attempts),
            "error": owed.and_then(|owed| owed.error.as_ref()),
        })
    }
}

/// The debts of a process, by certificate. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Debts(Arc<(Mutex<BTreeMap<String, Debt>>, Condvar)>);

impl Debts {
    /// All of them, for as long as the guard lives.
    pub(crate) fn all(&self) -> MutexGuard<'_, BTreeMap<String, Debt>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the threads that wait for a change.
    pub(crate) fn notify(&self) {
        self.0.1.notify_all();
    }

    /// Waits for a change, until `end` at most.
    pub(crate) fn wait<'a>(
        &self,
        guard: MutexGuard<'a, BTreeMap<String, Debt>>,
        end: Instant,
    ) -> MutexGuard<'a, BTreeMap<String, Debt>> {
        let left = end.saturating_duration_since(Instant::now());
        self.0.1.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The path of the record for this prefix.
pub(crate) fn place(directory: &Path, prefix: &str) -> PathBuf {
    directory.join(format!("{prefix}-hook.json"))
}

/// The contents of a record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// As [`Debt::done`].
    pub(crate) done: Option<String>,
    /// The certificate that attempts have failed for, how many, and why the last one.
    pub(crate) failed: Option<(String, u32, String)>,
}

impl Record {
    /// The record of this debt.
    pub(crate) fn of(debt: &Debt) -> Self {
        let failed = debt.owed.as_ref().filter(|owed| owed.attempts > 0);
        let failed = failed.map(|owed| (owed.subject.fingerprint.clone(), owed.attempts, owed.error.clone()));
        let failed = failed.map(|(subject, attempts, error)| (subject, attempts, error.unwrap_or_default()));
        Self { done: debt.done.clone(), failed }
    }

    /// Reads a record; `None` if there is none.
    ///
    /// # Errors
    /// If the file cannot be read, is no record, or another user could have written it.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        let Some(contents) = files::read_own(path)? else { return Ok(None) };
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "it is not a record of --on-rotated");
        let value: Value = serde_json::from_slice(&contents).map_err(|_| bad())?;
        if value["version"] != VERSION {
            return Err(bad());
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let failed = &value["failed"];
        let failed = text(&failed["fingerprint"]).map(|subject| {
            let attempts = failed["attempts"].as_u64().and_then(|attempts| attempts.try_into().ok());
            (subject, attempts.unwrap_or(u32::MAX), text(&failed["error"]).unwrap_or_default())
        });
        Ok(Some(Self { done: text(&value["done"]), failed }))
    }

    /// Puts the record in place, durably.
    ///
    /// # Errors
    /// The error of the operating system; the record before is unchanged then.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let failed = self
            .failed
            .as_ref()
            .map(|(subject, attempts, error)| json!({ "fingerprint": subject, "attempts": attempts, "error": error }));
        let text = json!({ "version": VERSION, "done": self.done, "failed": failed });
        files::replace_name(path, format!("{text}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn record_reads_back_what_was_written() {
        let directory = TempDir::new().unwrap();
        let path = place(directory.path(), "proxy");
        assert_eq!(Record::read(&path).unwrap(), None);
        for record in [
            Record::default(),
            Record { done: Some("ab".into()), failed: Some(("cd".into(), 3, "exit status: 7".into())) },
        ] {
            record.write(&path).unwrap();
            assert_eq!(Record::read(&path).unwrap(), Some(record));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn record_that_others_could_write_is_not_believed() {
        let directory = TempDir::new().unwrap();
        let path = place(directory.path(), "proxy");
        for text in ["", "{}", "{\"version\":2}", "no json", "[1]"] {
            fs::write(&path, text).unwrap();
            assert!(Record::read(&path).is_err(), "{text}");
        }
        Record::default().write(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        assert!(Record::read(&path).unwrap_err().to_string().contains("others could have written it"));
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
}
