//! [`Writer`]: writes the journal's file, with the snapshots that a replay needs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use perennial::RotationMachine;
use perennial_rotation::{Transition, journal};

use super::file::{is_of_another_version, open, set_aside};
use super::{Item, Trouble};
use crate::queue::Entry;

/// Writes the file, on the journal's thread.
pub(super) struct Writer {
    path: PathBuf,
    /// Size limit of the file, in bytes.
    limit: u64,
    trouble: Trouble,
    file: Option<File>,
    /// Size of the file after the last write, in bytes.
    end: u64,
    /// True if the file was opened with lines of another format version, and this process has not written to it yet.
    is_of_another_version: bool,
    /// True if a replay of the file leads to the present state of each of `machines`. If not, snapshots have to be
    /// written before the next step.
    is_continuous: bool,
    /// Each certificate's machine after its last step, written or not.
    machines: BTreeMap<String, Arc<RotationMachine>>,
    /// Number of steps lost since the last line that was written. The next snapshot states the number.
    missing: u64,
}

impl Writer {
    pub(super) fn new(path: PathBuf, limit: u64, trouble: Trouble) -> Self {
        Self {
            path,
            limit,
            trouble,
            file: None,
            end: 0,
            is_of_another_version: false,
            is_continuous: false,
            machines: BTreeMap::new(),
            missing: 0,
        }
    }

    /// Handles an entry of the queue: writes a step to the file, counts lost steps, or forgets the machines of removed
    /// certificates. Returns the number of lost steps that the queue has not counted as dropped.
    pub(super) fn take(&mut self, entry: Entry<Item>) -> u64 {
        match entry {
            Entry::Item(Item::Keep(names)) => self.machines.retain(|name, _| names.contains(name)),
            Entry::Item(Item::Gap(of, steps, machine)) => {
                (self.is_continuous, self.missing) = (false, self.missing + steps);
                self.machines.insert(of, machine);
                return steps;
            }
            // Not returned: the queue has counted these steps as dropped already.
            Entry::Missing(count) => (self.is_continuous, self.missing) = (false, self.missing + count),
            Entry::Item(Item::Step(of, step, line)) => {
                let written = self.append(&of, &step, &line);
                self.is_continuous = written.is_ok();
                self.machines.insert(of, step.after.clone());
                let lost = u64::from(written.is_err());
                self.missing += lost;
                self.report_trouble(written);
                return lost;
            }
        }
        0
    }

    /// Logs the first failed write, and the first successful write after it. Resets `missing` once a snapshot in the
    /// file has stated that number.
    pub(super) fn report_trouble(&mut self, written: io::Result<()>) {
        let path = self.path.display();
        let why = written.err().map(|error| format!("cannot write journal {path}: {error}"));
        match (self.trouble.set(why.clone()), why) {
            (None, Some(why)) => tracing::warn!("{why}; steps are lost until the journal can be written"),
            (Some(_), None) => tracing::info!("journal {path} can be written again; it lacks {} steps", self.missing),
            _ => {}
        }
        // A snapshot in the file has stated the number.
        if self.is_continuous {
            self.missing = 0;
        }
    }

    fn append(&mut self, of: &str, step: &Transition, line: &str) -> io::Result<()> {
        self.reopen_if_moved()?;
        let mut text = self.snapshots(of, step) + line;
        let is_full = self.end.saturating_add(text.len() as u64) > self.limit;
        // A file of two format versions could not be replayed. An empty file stays, even if the text exceeds the limit:
        // moving it would only discard `PATH.1`.
        if self.end > 0 && (is_full || self.is_of_another_version) {
            set_aside(&self.path)?;
            // Opens a new file, which needs snapshots before the step.
            self.reopen_if_moved()?;
            text = self.snapshots(of, step) + line;
        }
        // One write for snapshots and step, so that a crash leaves at most one incomplete line.
        self.file.as_ref().map_or(Ok(()), |mut file| file.write_all(text.as_bytes()))?;
        self.end = self.end.saturating_add(text.len() as u64);
        self.is_of_another_version = false;
        Ok(())
    }

    /// Opens the file at the path, unless this file is open already: another program, such as logrotate, may have moved
    /// or removed the open file. Clears `is_continuous` if another file was opened, or if the open file was truncated,
    /// since the file then needs snapshots.
    pub(super) fn reopen_if_moved(&mut self) -> io::Result<()> {
        let opened = self.file.as_ref().map(File::metadata).transpose()?;
        let is_same = match (&opened, fs::metadata(&self.path)) {
            (None, _) => false,
            (Some(opened), Ok(at_path)) => (at_path.dev(), at_path.ino()) == (opened.dev(), opened.ino()),
            (Some(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => false,
            (Some(_), Err(error)) => return Err(error),
        };
        if !is_same {
            // Closed first: a lock of our own on the same file would make `open` fail.
            self.file = None;
            let file = open(&self.path)?;
            // Read once: the lock keeps other versions of perennial from appending.
            self.is_of_another_version = is_of_another_version(&file);
            self.file = Some(file);
            // Resolved, so that `set_aside` moves the journal and not a link to it.
            self.path = fs::canonicalize(&self.path)?;
        }
        self.is_continuous &= is_same && opened.is_some_and(|opened| opened.len() >= self.end);
        self.end = self.file.as_ref().map(File::metadata).transpose()?.map_or(0, |opened| opened.len());
        Ok(())
    }

    /// The lines to write before a step: the snapshots that the file lacks, and without which this step or later steps
    /// could not be replayed.
    fn snapshots(&self, of: &str, step: &Transition) -> String {
        let (mut text, mut missing) = (String::new(), self.missing);
        // The first snapshot states the missing steps of all machines; replay adds up the numbers.
        let mut begin = |text: &mut String, of: &str, machine: &RotationMachine| {
            text.push_str(&journal::begin_after(of, step.now, machine, mem::take(&mut missing)));
        };
        if !self.is_continuous {
            text.push_str(if self.is_cut() { "\n" } else { "" });
            // The machine of this step follows below, in its state before the step.
            for (name, machine) in self.machines.iter().filter(|(name, _)| *name != of) {
                begin(&mut text, name, machine);
            }
        }
        // A reload may have started another machine under this name.
        if !self.is_continuous || self.machines.get(of) != Some(&step.before) {
            begin(&mut text, of, &step.before);
        }
        text
    }

    /// True if the file ends within a line, or its end cannot be read.
    fn is_cut(&self) -> bool {
        let mut last = [b'\n'];
        // If the end cannot be read, `snapshots` begins with a line break: an empty line does no harm.
        let mut read = |file: &File| file.read_exact_at(&mut last, self.end - 1);
        self.end > 0 && (self.file.as_ref().is_none_or(|file| read(file).is_err()) || last != [b'\n'])
    }
}
