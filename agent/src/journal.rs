//! The journal of `perennial run`: every step of every certificate's machine, a line each, in a file of bounded size.
//!
//! Whatever goes wrong with the file, the rotation does not notice. What is there can always be replayed: after a gap
//! the journal begins anew, with all that the machines are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial::RotationMachine;
use perennial_kubernetes::journal;
use perennial_kubernetes::rotation::{Observer, Step};

use crate::failure::Failure;

/// A journal that is being written, by one process. Several certificates share one.
pub(crate) struct Journal {
    path: PathBuf,
    /// The one before this.
    aside: PathBuf,
    /// In bytes.
    limit: u64,
    writer: Mutex<Writer>,
}

struct Writer {
    file: File,
    /// Where the last line ended.
    end: u64,
    /// What follows can be replayed from what is there.
    begun: bool,
    /// As they are now.
    machines: BTreeMap<String, RotationMachine>,
    /// Steps that could not be written, one after the other.
    lost: u64,
}

impl Journal {
    /// Goes on with the journal at `path`, or begins one. At `limit` bytes it is moved to `PATH.1`, in the place of
    /// the one before.
    pub(crate) fn open(path: &Path, limit: u64) -> Result<Arc<Self>, Failure> {
        let opened = open(path).and_then(|file| Ok((file, fs::canonicalize(path)?)));
        let (file, path) =
            opened.map_err(|error| Failure::Usage(format!("the journal {}: {error}", path.display())))?;
        let mut aside = path.clone().into_os_string();
        aside.push(".1");
        let writer = Writer { file, end: 0, begun: false, machines: BTreeMap::new(), lost: 0 };
        Ok(Arc::new(Self { path, aside: aside.into(), limit, writer: Mutex::new(writer) }))
    }

    /// Writes down the steps of the certificate of this name.
    pub(crate) fn observer(self: &Arc<Self>, of: &str) -> Observer {
        let (journal, of) = (self.clone(), of.to_owned());
        Box::new(move |step| journal.take(&of, step))
    }

    /// From now on there are these certificates, and no others: what became of the others is in no file to come.
    pub(crate) fn keep(&self, names: &BTreeSet<String>) {
        self.writer().machines.retain(|name, _| names.contains(name));
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, of: &str, step: &Step<'_>) {
        let mut writer = self.writer();
        let written = self.append(&mut writer, of, step);
        writer.begun = written.is_ok();
        writer.machines.insert(of.to_owned(), step.after.clone());
        let path = self.path.display();
        match written {
            Ok(()) if writer.lost > 0 => {
                let lost = std::mem::take(&mut writer.lost);
                tracing::info!("the journal {path} is written again; it lacks {lost} steps");
            }
            Ok(()) => {}
            Err(error) => {
                if writer.lost == 0 {
                    tracing::warn!("the journal {path} cannot be written, until it can steps are lost: {error}");
                }
                writer.lost += 1;
            }
        }
    }

    fn append(&self, writer: &mut Writer, of: &str, step: &Step<'_>) -> io::Result<()> {
        writer.follow(&self.path)?;
        let mut text = writer.text(of, step);
        if writer.end > 0 && writer.end.saturating_add(text.len() as u64) > self.limit {
            fs::rename(&self.path, &self.aside).map_err(|error| {
                io::Error::other(format!("it is full, and cannot be moved to {}: {error}", self.aside.display()))
            })?;
            writer.follow(&self.path)?;
            text = writer.text(of, step);
        }
        // One write: what is cut by a crash is cut once.
        writer.file.write_all(text.as_bytes())?;
        writer.end = writer.end.saturating_add(text.len() as u64);
        Ok(())
    }
}

impl Writer {
    /// Finds out what became of the file: it may have been moved, removed or truncated by somebody else.
    fn follow(&mut self, path: &Path) -> io::Result<()> {
        let held = self.file.metadata()?;
        let moved = match fs::metadata(path) {
            Ok(there) => (there.dev(), there.ino()) != (held.dev(), held.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if moved {
            self.file = open(path)?;
        }
        self.begun &= !moved && held.len() >= self.end;
        self.end = self.file.metadata()?.len();
        Ok(())
    }

    /// A step, and before it what it takes to replay it.
    fn text(&self, of: &str, step: &Step<'_>) -> String {
        let mut text = String::new();
        if !self.begun {
            text.push_str(if self.is_cut() { "\n" } else { "" });
            for (name, machine) in self.machines.iter().filter(|(name, _)| *name != of) {
                text.push_str(&journal::begin(name, step.now, machine));
            }
        }
        // Another machine than before has taken its place when everything was configured anew.
        if !self.begun || self.machines.get(of) != Some(step.before) {
            text.push_str(&journal::begin(of, step.now, step.before));
        }
        text + &journal::step(of, step)
    }

    /// The last line did not come to its end.
    fn is_cut(&self) -> bool {
        let mut last = [b'\n'];
        // If it cannot be read, an empty line does no harm.
        self.end > 0 && (self.file.read_exact_at(&mut last, self.end - 1).is_err() || last != [b'\n'])
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another process is writing it")),
        // Where there are no locks, nobody can be kept out.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use perennial::{Event, Now, Setup, Template, UnixTime};
    use perennial_kubernetes::journal::Replay;
    use tempfile::TempDir;

    use super::*;

    /// A machine that lives by its deadlines.
    struct Life {
        machine: RotationMachine,
        now: Now,
        observer: Observer,
    }

    impl Life {
        fn new(name: &str, journal: &Arc<Journal>) -> Self {
            let now = Now { unix: UnixTime::from_secs(1_767_225_600), ..Now::default() };
            let template = Some(Arc::new(Template::node(name)));
            let machine = RotationMachine::new(Setup { template, ..Setup::default() }, now);
            Self { machine, now, observer: journal.observer(name) }
        }

        fn tick(&mut self) {
            let sleep = self.machine.deadline().unwrap().since(self.now.instant);
            self.now = Now { instant: self.now.instant.after(sleep), unix: self.now.unix.after(sleep) };
            let before = self.machine.clone();
            let (now, event) = (self.now, Event::Tick);
            let actions = self.machine.handle(event.clone(), now);
            (self.observer)(&Step { now, event: &event, actions: &actions, before: &before, after: &self.machine });
        }
    }

    /// Replays a file on its own; how many lines begin, and how many tell a step.
    fn replay(path: &Path) -> (usize, usize) {
        let mut replay = Replay::new();
        let text = fs::read_to_string(path).unwrap();
        let told = text.lines().map(|line| replay.line(line).unwrap_or_else(|error| panic!("{line}: {error}")));
        let (steps, begins): (Vec<_>, Vec<_>) = told.partition(|told| told.step().is_some());
        (begins.len(), steps.len())
    }

    #[test]
    fn every_file_of_a_shared_journal_replays_by_itself_and_is_no_longer_than_allowed() {
        let directory = TempDir::new().unwrap();
        let (path, aside) = (directory.path().join("journal"), directory.path().join("journal.1"));
        let journal = Journal::open(&path, 10_000).unwrap();
        let mut lives = ["one", "two"].map(|name| Life::new(name, &journal));
        let (mut files, mut length) = (0, 0);
        for n in 0..1000 {
            // One of them has less to tell.
            lives[usize::from(n % 7 == 0)].tick();
            let before = std::mem::replace(&mut length, fs::metadata(&path).unwrap().len());
            assert!(length <= 10_000);
            if length < before {
                files += 1;
                assert_eq!(replay(&path), (2, 1));
                assert_eq!(replay(&aside).0, 2);
            }
        }
        assert!(files > 3, "{files}");
    }

    #[test]
    fn a_certificate_that_is_kept_no_more_begins_no_file_to_come() {
        let directory = TempDir::new().unwrap();
        let (path, aside) = (directory.path().join("journal"), directory.path().join("journal.1"));
        let journal = Journal::open(&path, 10_000).unwrap();
        let [mut stays, mut goes] = ["one", "two"].map(|name| Life::new(name, &journal));
        stays.tick();
        goes.tick();
        assert_eq!(replay(&path), (2, 2));
        journal.keep(&["one".to_owned()].into());
        while !aside.exists() {
            stays.tick();
        }
        assert_eq!(replay(&path), (1, 1));
    }

    #[test]
    fn a_machine_that_takes_the_place_of_another_begins_anew() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::open(&path, 1 << 20).unwrap();
        for _ in 0..2 {
            let mut life = Life::new("node", &journal);
            life.tick();
            life.tick();
        }
        assert_eq!(replay(&path), (2, 4));
    }

    #[test]
    fn a_line_that_was_cut_is_ended_before_the_next_begins() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("journal");
        fs::write(&path, "{\"step\":{\"of\":\"no").unwrap();
        Life::new("node", &Journal::open(&path, 1 << 20).unwrap()).tick();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let version = format!("{{\"begin\":{{\"version\":1,\"perennial\":\"{}\",", env!("CARGO_PKG_VERSION"));
        assert!(lines[1].starts_with(&version) && lines[2].starts_with("{\"step\":"), "{text}");
    }
}
