//! The journal of `perennial run`: every step of every certificate's machine, a line each, in a file of bounded size.
//!
//! A thread of its own writes the file, so no rotation waits for it. After a gap, the journal begins anew with all that
//! the machines are, so what is there can always be replayed.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use perennial::{Now, RotationMachine};
use perennial_rotation::journal;
use perennial_rotation::{News, Transition};

use crate::latest::Latest;
use crate::queue::{Entry, Queue};
use crate::rotation::Observer;
use file::{open, set_aside};

/// The steps queued for the file take about this many bytes at most; further ones are dropped.
const MOST: usize = 1 << 20;

/// A journal that is written by one process. Several certificates share one.
pub(crate) struct Journal {
    queue: Queue<Item>,
    trouble: Trouble,
}

/// Why the file cannot be written, while that is so.
type Trouble = Latest<Option<String>>;

enum Item {
    Step(Box<Taken>),
    /// This many steps of a certificate were missed before they came here, and its machine after them.
    Gap(String, u64, Arc<RotationMachine>),
    /// From now on there are these certificates, and no others.
    Keep(BTreeSet<String>),
}

/// A step, as an observer of a rotation takes it.
struct Taken {
    of: String,
    now: Now,
    before: Arc<RotationMachine>,
    after: Arc<RotationMachine>,
    line: String,
}

impl Journal {
    /// Goes on with the journal at `path`, or begins one; at `limit` bytes it is moved to `PATH.1`, in the place of the
    /// one before. If the file cannot be opened or written, that is logged, and tried again with each step.
    pub(crate) fn start(path: &Path, limit: u64) -> Self {
        let (queue, trouble) = (Queue::new(MOST), Trouble::default());
        let items = queue.clone();
        let mut writer = Writer::new(path.to_owned(), limit, trouble.clone());
        let run = move || {
            let opened = writer.follow();
            writer.settle(opened);
            loop {
                let lost = writer.take(items.next());
                items.count_dropped(lost);
            }
        };
        if let Err(error) = thread::Builder::new().name("journal".into()).spawn(run) {
            let why = format!("cannot start a thread for journal {}: {error}", path.display());
            tracing::warn!("{why}; no journal is written");
            trouble.set(Some(why));
        }
        Self { queue, trouble }
    }

    /// Writes down the steps of the certificate of this name.
    pub(crate) fn observer(&self, of: &str) -> Observer {
        let (queue, of) = (self.queue.clone(), of.to_owned());
        Box::new(move |notice| match &notice.news {
            News::Stepped(step) => queue_step(&queue, &of, step),
            News::Missed { steps, machine, .. } => queue.push(Item::Gap(of.clone(), *steps, machine.clone()), 0),
            _ => {}
        })
    }

    /// Sets the certificates of this session. Later files of the journal leave out all others.
    pub(crate) fn keep(&self, names: BTreeSet<String>) {
        // Of no size: it always fits.
        self.queue.push(Item::Keep(names), 0);
    }

    /// Why the file cannot be written, while that is so.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.get()
    }

    /// The number of steps that are missing in the file.
    pub(crate) fn lost(&self) -> u64 {
        self.queue.dropped()
    }

    /// Waits until every step is written or lost, for at most `within`.
    pub(crate) fn finish_within(&self, within: Duration) -> bool {
        self.queue.finish_within(within)
    }
}

fn queue_step(queue: &Queue<Item>, of: &str, step: &Transition) {
    let (before, after, line) = (step.before.clone(), step.after.clone(), journal::step(of, step));
    // The machine before is the one after the step before.
    let bytes = line.len() + size_of::<Taken>() + size_of::<RotationMachine>();
    queue.push(Item::Step(Box::new(Taken { of: of.to_owned(), now: step.now, before, after, line })), bytes);
}

struct Writer {
    path: PathBuf,
    /// In bytes.
    limit: u64,
    trouble: Trouble,
    file: Option<File>,
    /// Offset at which the last line ended, in bytes.
    end: u64,
    /// The file holds a snapshot from which the next step can be replayed.
    begun: bool,
    /// The machines after their last steps.
    machines: BTreeMap<String, Arc<RotationMachine>>,
    /// Steps missing since the last line.
    missing: u64,
}

impl Writer {
    fn new(path: PathBuf, limit: u64, trouble: Trouble) -> Self {
        Self { path, limit, trouble, file: None, end: 0, begun: false, machines: BTreeMap::new(), missing: 0 }
    }

    /// Returns how many steps were lost on the way to the file.
    fn take(&mut self, entry: Entry<Item>) -> u64 {
        match entry {
            Entry::Item(Item::Keep(names)) => self.machines.retain(|name, _| names.contains(name)),
            Entry::Item(Item::Gap(of, steps, machine)) => {
                (self.begun, self.missing) = (false, self.missing + steps);
                self.machines.insert(of, machine);
                return steps;
            }
            // Counted by the queue.
            Entry::Missing(count) => (self.begun, self.missing) = (false, self.missing + count),
            Entry::Item(Item::Step(step)) => {
                let written = self.append(&step);
                self.begun = written.is_ok();
                self.machines.insert(step.of, step.after);
                let lost = u64::from(written.is_err());
                self.missing += lost;
                self.settle(written);
                return lost;
            }
        }
        0
    }

    /// Logs when the file can no longer be written, and when it can be written again.
    fn settle(&mut self, written: io::Result<()>) {
        let path = self.path.display();
        let why = written.err().map(|error| format!("cannot write journal {path}: {error}"));
        match (self.trouble.set(why.clone()), why) {
            (None, Some(why)) => tracing::warn!("{why}; steps are lost until the journal can be written"),
            (Some(_), None) => tracing::info!("journal {path} is written again: {} steps are missing", self.missing),
            _ => {}
        }
        if self.begun {
            self.missing = 0;
        }
    }

    fn append(&mut self, step: &Taken) -> io::Result<()> {
        self.follow()?;
        let mut text = self.text(step);
        if self.end > 0 && self.end.saturating_add(text.len() as u64) > self.limit {
            set_aside(&self.path)?;
            self.follow()?;
            text = self.text(step);
        }
        // One write: what is cut by a crash is cut once.
        self.file.as_ref().map_or(Ok(()), |mut file| file.write_all(text.as_bytes()))?;
        self.end = self.end.saturating_add(text.len() as u64);
        Ok(())
    }

    /// Opens the file if that is yet to be done, or if another process has moved, removed or truncated it.
    fn follow(&mut self) -> io::Result<()> {
        let held = self.file.as_ref().map(File::metadata).transpose()?;
        let is_same = match (&held, fs::metadata(&self.path)) {
            (None, _) => false,
            (Some(held), Ok(there)) => (there.dev(), there.ino()) == (held.dev(), held.ino()),
            (Some(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => false,
            (Some(_), Err(error)) => return Err(error),
        };
        if !is_same {
            // Closed first: the lock on it is ours.
            self.file = None;
            self.file = Some(open(&self.path)?);
            // A full journal is moved, not the link that leads to it.
            self.path = fs::canonicalize(&self.path)?;
        }
        self.begun &= is_same && held.is_some_and(|held| held.len() >= self.end);
        self.end = self.file.as_ref().map(File::metadata).transpose()?.map_or(0, |held| held.len());
        Ok(())
    }

    /// A step, and before it what it takes to replay it.
    fn text(&self, step: &Taken) -> String {
        let (mut text, mut missing) = (String::new(), self.missing);
        let mut begin = |text: &mut String, of: &str, machine: &RotationMachine| {
            text.push_str(&journal::begin_after(of, step.now, machine, mem::take(&mut missing)));
        };
        if !self.begun {
            text.push_str(if self.is_cut() { "\n" } else { "" });
            for (name, machine) in self.machines.iter().filter(|(name, _)| **name != step.of) {
                begin(&mut text, name, machine);
            }
        }
        // Another machine than before has taken its place when everything was configured anew.
        if !self.begun || self.machines.get(&step.of) != Some(&step.before) {
            begin(&mut text, &step.of, &step.before);
        }
        text + &step.line
    }

    /// The last line did not come to its end.
    fn is_cut(&self) -> bool {
        let mut last = [b'\n'];
        // If it cannot be read, an empty line does no harm.
        let mut read = |file: &File| file.read_exact_at(&mut last, self.end - 1);
        self.end > 0 && (self.file.as_ref().is_none_or(|file| read(file).is_err()) || last != [b'\n'])
    }
}

#[cfg(test)]
mod tests {
    use perennial::{Event, Setup, Template, UnixTime};
    use perennial_rotation::Notice;
    use perennial_rotation::journal::Replay;
    use tempfile::TempDir;

    use super::*;

    /// The notice of a step.
    fn notice(step: Transition) -> Notice {
        let snapshot = perennial_rotation::Rotator::new().prepare().unwrap().0.snapshot();
        Notice { at: step.now, news: News::Stepped(Arc::new(step)), snapshot }
    }

    /// A machine that lives by its deadlines.
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

    /// Replays a file on its own. Returns the numbers of beginnings and of steps.
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
        let journal = Journal::start(&path, 10_000);
        let mut lives = ["one", "two"].map(|name| Life::new(name, &journal));
        let (mut files, mut length) = (0, 0);
        for n in 0..1000 {
            // One of them has less to tell.
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
    fn a_certificate_that_is_kept_no_more_begins_no_file_to_come() {
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
    fn a_machine_that_takes_the_place_of_another_begins_anew() {
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
    fn a_line_that_was_cut_is_ended_before_the_next_begins() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("journal");
        fs::write(&path, "{\"step\":{\"of\":\"no").unwrap();
        Life::new("node", &Journal::start(&path, 1 << 20)).tick();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let version = format!("{{\"begin\":{{\"version\":1,\"perennial\":\"{}\",", env!("CARGO_PKG_VERSION"));
        assert!(lines[1].starts_with(&version) && lines[2].starts_with("{\"step\":"), "{text}");
    }

    #[test]
    fn journal_that_cannot_be_opened_begins_with_what_it_lacks() {
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
    fn steps_beyond_the_queue_are_named_as_missing() {
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
