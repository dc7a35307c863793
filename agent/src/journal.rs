//! The journal of `perennial run`: every step of every certificate's machine, a line each, in a file of bounded size.
//!
//! A thread of its own writes the file, so that no rotation waits for the disk. If steps were lost, the thread writes
//! snapshots of all machines before the next step, and `perennial replay` goes on from these snapshots.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use perennial::RotationMachine;
use perennial_rotation::journal;
use perennial_rotation::{News, Transition};

use crate::latest::Latest;
use crate::queue::{Entry, Queue};
use crate::rotation::Observer;
use crate::threads;
use file::{is_of_another_version, open, set_aside};

/// Most bytes of steps queued for the file. Steps beyond that are dropped.
const MOST_QUEUED: usize = 1 << 20;

/// The journal of this process, which all its certificates share.
pub(crate) struct Journal {
    queue: Queue<Item>,
    trouble: Trouble,
}

/// The reason why the journal cannot be written; `None` while it can.
type Trouble = Latest<Option<String>>;

/// An item of the queue to the journal's thread.
enum Item {
    /// The name of a certificate, a step of its machine, and the step's line in the journal.
    Step(String, Arc<Transition>, String),
    /// Steps that the journal's observer was too slow to receive: the certificate's name, the number of steps, and the
    /// machine after them.
    Gap(String, u64, Arc<RotationMachine>),
    /// The names of the certificates in the running configuration. After this entry the thread writes no snapshots for
    /// other certificates.
    Keep(BTreeSet<String>),
}

impl Journal {
    /// Starts a thread that appends to the journal at `path`, or creates the file. If a step would make the file longer
    /// than `limit` bytes, the thread first moves the file to `PATH.1`, which replaces an earlier journal of that name.
    ///
    /// A step is lost if the journal cannot be opened, written or moved. The thread tries again with each further step,
    /// and logs only the first error.
    pub(crate) fn start(path: &Path, limit: u64) -> Self {
        let (queue, trouble) = (Queue::new(MOST_QUEUED), Trouble::default());
        let items = queue.clone();
        let mut writer = Writer::new(path.to_owned(), limit, trouble.clone());
        let run = move || {
            // Opened before the first step, so that a wrong path is logged at the start.
            let opened = writer.reopen_if_moved();
            writer.report_trouble(opened);
            loop {
                let lost = writer.take(items.next());
                items.count_dropped(lost);
            }
        };
        if let Err(why) = threads::start("journal", &format!("journal {}", path.display()), run) {
            tracing::warn!("{why}; no journal is written");
            trouble.set(Some(why.to_string()));
        }
        Self { queue, trouble }
    }

    /// Returns an observer that queues the steps of certificate `of`.
    pub(crate) fn observer(&self, of: &str) -> Observer {
        let (queue, of) = (self.queue.clone(), of.to_owned());
        Box::new(move |notice| match &notice.news {
            News::Stepped(step) => {
                let line = journal::step(&of, step);
                // One machine per step: `before` is shared with the step before.
                let bytes = line.len() + size_of::<Transition>() + size_of::<RotationMachine>();
                queue.push(Item::Step(of.clone(), step.clone(), line), bytes);
            }
            // Size 0 always fits: a dropped gap would count as one step.
            News::Missed { steps, machine, .. } => queue.push(Item::Gap(of.clone(), *steps, machine.clone()), 0),
            _ => {}
        })
    }

    /// Sets the names of the certificates in the running configuration. From then on, the thread writes no snapshots
    /// for other certificates.
    pub(crate) fn keep(&self, names: BTreeSet<String>) {
        // Size 0 always fits: a dropped entry would leave removed certificates in the snapshots.
        self.queue.push(Item::Keep(names), 0);
    }

    /// The reason why the journal cannot be written; `None` while it can.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.get()
    }

    /// The number of steps since the start that are missing in the journal.
    pub(crate) fn lost(&self) -> u64 {
        self.queue.dropped()
    }

    /// Waits until every step is written or lost, for at most `within`. Returns false if a step is still queued.
    pub(crate) fn finish_within(&self, within: Duration) -> bool {
        self.queue.finish_within(within)
    }
}

/// Writes the file, on the journal's thread.
struct Writer {
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
    fn new(path: PathBuf, limit: u64, trouble: Trouble) -> Self {
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
    fn take(&mut self, entry: Entry<Item>) -> u64 {
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
    fn report_trouble(&mut self, written: io::Result<()>) {
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
    fn reopen_if_moved(&mut self) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use perennial::{Event, Now, Setup, Template, UnixTime};
    use perennial_rotation::Notice;
    use perennial_rotation::journal::Replay;
    use tempfile::TempDir;

    use super::*;

    /// The notice that a rotation sends after this step.
    fn notice(step: Transition) -> Notice {
        let snapshot = perennial_rotation::Rotator::new().prepare().unwrap().0.snapshot();
        Notice { at: step.now, news: News::Stepped(Arc::new(step)), snapshot }
    }

    /// A machine that the test ticks at each deadline, and an observer of the journal. The test passes each step of the
    /// machine to the observer.
    struct Life<'a> {
        machine: Arc<RotationMachine>,
        now: Now,
        observer: Observer,
        journal: &'a Journal,
    }

    impl<'a> Life<'a> {
        fn new(name: &str, journal: &'a Journal) -> Self {
            let now = Now { unix: UnixTime::from_secs(1_767_225_600), ..Now::default() };
            let template = Some(Arc::new(Template::node(name)));
            let machine = Arc::new(RotationMachine::new(Setup { template, ..Setup::default() }, now));
            Self { machine, now, observer: journal.observer(name), journal }
        }

        fn tick(&mut self) {
            let sleep = self.machine.deadline().unwrap().since(self.now.instant);
            self.now = Now { instant: self.now.instant.after(sleep), unix: self.now.unix.after(sleep) };
            (self.observer)(&notice(Transition::of(&mut self.machine, Event::Tick, self.now)));
            assert!(self.journal.finish_within(Duration::from_secs(60)));
        }
    }

    /// Replays one file of a journal alone, without earlier files. Returns the number of snapshots and the number of
    /// steps in the file.
    fn replay(path: &Path) -> (usize, usize) {
        let mut replay = Replay::new();
        let text = fs::read_to_string(path).unwrap();
        let replayed = text.lines().map(|line| replay.line(line).unwrap_or_else(|error| panic!("{line}: {error}")));
        let (steps, begins): (Vec<_>, Vec<_>) = replayed.partition(|replayed| replayed.step().is_some());
        (begins.len(), steps.len())
    }

    #[test]
    fn each_journal_file_replays_alone_and_stays_within_limit() {
        let directory = TempDir::new().unwrap();
        let (path, aside) = (directory.path().join("journal"), directory.path().join("journal.1"));
        let journal = Journal::start(&path, 10_000);
        let mut lives = ["one", "two"].map(|name| Life::new(name, &journal));
        let (mut files, mut length) = (0, 0);
        for n in 0..1000 {
            // One certificate has fewer steps.
            lives[usize::from(n % 7 == 0)].tick();
            let before = mem::replace(&mut length, fs::metadata(&path).unwrap().len());
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
    fn certificate_no_longer_configured_is_absent_from_next_journal_file() {
        let directory = TempDir::new().unwrap();
        let (path, aside) = (directory.path().join("journal"), directory.path().join("journal.1"));
        let journal = Journal::start(&path, 10_000);
        let [mut stays, mut goes] = ["one", "two"].map(|name| Life::new(name, &journal));
        stays.tick();
        goes.tick();
        assert_eq!(replay(&path), (2, 2));
        journal.keep(["one".to_owned()].into());
        while !aside.exists() {
            stays.tick();
        }
        assert_eq!(replay(&path), (1, 1));
    }

    #[test]
    fn second_machine_with_same_name_gets_snapshot_of_its_own() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::start(&path, 1 << 20);
        for _ in 0..2 {
            let mut life = Life::new("node", &journal);
            life.tick();
            life.tick();
        }
        assert_eq!(replay(&path), (2, 4));
    }

    #[test]
    fn incomplete_last_line_gets_line_break_before_next_snapshot() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("journal");
        fs::write(&path, "{\"step\":{\"of\":\"no").unwrap();
        Life::new("node", &Journal::start(&path, 1 << 20)).tick();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let version = format!("{{\"begin\":{{\"version\":2,\"perennial\":\"{}\",", env!("CARGO_PKG_VERSION"));
        assert!(lines[1].starts_with(&version) && lines[2].starts_with("{\"step\":"), "{text}");
    }

    #[test]
    fn journal_of_another_version_is_moved_before_first_step() {
        let directory = TempDir::new().unwrap();
        let ours = directory.path().join("ours");
        let older = "{\"begin\":{\"version\":1,\"of\":\"node\",\"at\":[0,0],\"machine\":{}}}\n";
        Life::new("node", &Journal::start(&ours, 1 << 20)).tick();
        // After a rollback, the older version has appended its lines to ours.
        let mixed = fs::read_to_string(&ours).unwrap() + older;
        for (name, journal) in [("older", older), ("mixed", &mixed)] {
            let [path, aside] = [name.to_owned(), format!("{name}.1")].map(|name| directory.path().join(name));
            fs::write(&path, journal).unwrap();
            Life::new("node", &Journal::start(&path, 1 << 20)).tick();
            assert_eq!(fs::read_to_string(&aside).unwrap(), journal);
            assert_eq!(replay(&path), (1, 1));
        }
    }

    #[test]
    fn journal_of_another_version_stays_while_move_fails() {
        let directory = TempDir::new().unwrap();
        let (path, aside) = (directory.path().join("journal"), directory.path().join("journal.1"));
        let older = "{\"begin\":{\"version\":1,\"of\":\"node\",\"at\":[0,0],\"machine\":{}}}\n";
        fs::write(&path, older).unwrap();
        fs::write(&aside, "no journal").unwrap();
        let journal = Journal::start(&path, 1 << 20);
        let mut life = Life::new("node", &journal);
        (0..3).for_each(|_| life.tick());
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), journal.lost()), (older, 3));
        fs::remove_file(&aside).unwrap();
        life.tick();
        assert_eq!((fs::read_to_string(&aside).unwrap().as_str(), replay(&path)), (older, (1, 1)));
    }

    #[test]
    fn steps_before_journal_can_be_opened_are_counted_as_missing() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("later/journal");
        let journal = Journal::start(&path, 1 << 20);
        let mut life = Life::new("node", &journal);
        (0..3).for_each(|_| life.tick());
        assert!(journal.trouble().unwrap().ends_with(": No such file or directory (os error 2)"));
        fs::create_dir(path.parent().unwrap()).unwrap();
        life.tick();
        assert_eq!((journal.trouble(), journal.lost()), (None, 3));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"missing\":3,"), "{text}");
        assert_eq!(replay(&path), (1, 1));
        life.tick();
        assert_eq!(fs::read_to_string(&path).unwrap().matches("missing").count(), 1);
    }

    #[test]
    fn steps_beyond_full_queue_are_counted_as_missing() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("journal");
        let (queue, trouble) = (Queue::new(10_000), Trouble::default());
        let journal = Journal { queue: queue.clone(), trouble: trouble.clone() };
        let mut observer = ["one", "two"].map(|name| journal.observer(name));
        let now = Now { unix: UnixTime::from_secs(1_767_225_600), ..Now::default() };
        let mut machine = Arc::new(RotationMachine::new(Setup::default(), now));
        let mut step = |which: usize| observer[which](&notice(Transition::of(&mut machine, Event::Tick, now)));
        // No thread takes from the queue, as if the disk did not answer.
        (0..100).for_each(|n| step(n % 2));
        let lost = journal.lost();
        assert!((50..100).contains(&lost), "{lost}");
        let mut writer = Writer::new(path.clone(), 1 << 20, trouble);
        for _ in 0..=100 - lost {
            writer.take(queue.next());
        }
        step(0);
        writer.take(queue.next());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&format!("\"missing\":{lost},")), "{text}");
        assert_eq!(replay(&path).1, usize::try_from(101 - lost).unwrap());
    }
}
