//! The journal of `perennial run`: every step of every certificate's machine, a line each, in a file of bounded size.
//!
//! A thread of its own writes the file, so that no rotation waits for the disk. If steps were lost, the thread writes
//! snapshots of all machines before the next step, and `perennial replay` goes on from these snapshots.

mod file;
mod writer;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use perennial::RotationMachine;
use perennial_rotation::journal;
use perennial_rotation::{News, Transition};

use crate::latest::Latest;
use crate::queue::Queue;
use crate::rotation::Observer;
use crate::threads;
use writer::Writer;

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

#[cfg(test)]
mod tests {
    use std::{fs, mem};

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
