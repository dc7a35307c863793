//! Threads for work that waits for disks: work that hangs holds up other work for seconds only.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::threads;

/// Time from which a running job counts as hanging: another thread takes its place.
const HANGS_AFTER: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// Carries out jobs on a limited number of threads. A job that hangs does not count. Clones share the threads, which end
/// once no job is waiting.
#[derive(Clone)]
pub(super) struct Workers(Arc<Shared>);

struct Shared {
    /// The name of the threads.
    name: &'static str,
    /// The purpose of the threads, for errors.
    purpose: &'static str,
    /// Most threads, without those whose jobs hang.
    most: usize,
    hangs_after: Duration,
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    /// The jobs that no thread has begun, by their keys.
    jobs: BTreeMap<String, Job>,
    /// The keys of the jobs that wait for a thread, in order. All other `jobs` wait for a running job with their key.
    waiting: VecDeque<String>,
    /// The keys of the jobs that threads carry out, and since when.
    running: BTreeMap<String, Instant>,
    threads: usize,
}

impl Workers {
    /// Creates threads with this name, at most `most`. `purpose` is for errors.
    pub(super) fn new(name: &'static str, purpose: &'static str, most: usize) -> Self {
        Self::hanging_after(HANGS_AFTER, name, purpose, most)
    }

    /// Creates threads of which those with a job that takes `hangs_after` or longer do not count.
    pub(super) fn hanging_after(hangs_after: Duration, name: &'static str, purpose: &'static str, most: usize) -> Self {
        Self(Arc::new(Shared { name, purpose, most, hangs_after, work: Mutex::default() }))
    }

    /// Begins a job. Jobs with one key are carried out one after the other. Replaces an earlier job with this key that no
    /// thread has begun.
    ///
    /// # Errors
    /// If the system refuses a thread, and no other thread would carry out the job: the job is dropped.
    pub(super) fn begin(&self, key: &str, job: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let mut work = self.0.work();
        let replaced = work.jobs.insert(key.to_owned(), Box::new(job));
        if work.running.contains_key(key) {
            return Ok(());
        }
        if replaced.is_none() {
            work.waiting.push_back(key.to_owned());
        }
        let started = self.0.start_threads(&mut work);
        if started.is_err() && work.threads == self.0.hanging(&work) {
            work.waiting.retain(|waiting| waiting != key);
            work.jobs.remove(key);
            return started;
        }
        Ok(())
    }

    /// Starts threads in the place of those whose jobs hang. Must be called every few seconds while
    /// [`is_waiting`](Self::is_waiting) returns true.
    pub(super) fn replace_hanging(&self) {
        // A refused thread is tried again at the next call.
        drop(self.0.start_threads(&mut self.0.work()));
    }

    /// True if a job waits for a thread.
    pub(super) fn is_waiting(&self) -> bool {
        !self.0.work().waiting.is_empty()
    }
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of threads whose jobs hang.
    fn hanging(&self, work: &Work) -> usize {
        work.running.values().filter(|since| since.elapsed() >= self.hangs_after).count()
    }

    /// Starts threads for the jobs that wait, up to the limit.
    fn start_threads(self: &Arc<Self>, work: &mut Work) -> Result<(), Failure> {
        let hanging = self.hanging(work);
        // A thread without a running job takes one that waits.
        while work.threads - hanging < self.most && work.waiting.len() > work.threads - work.running.len() {
            let shared = self.clone();
            threads::start(self.name, self.purpose, move || shared.run())?;
            work.threads += 1;
        }
        Ok(())
    }

    /// Carries out jobs until none is waiting.
    fn run(&self) {
        let mut work = self.work();
        while let Some(key) = work.waiting.pop_front() {
            let Some(job) = work.jobs.remove(&key) else { continue };
            work.running.insert(key.clone(), Instant::now());
            drop(work);
            // The panic hook has logged a panic already.
            let _ = catch_unwind(AssertUnwindSafe(job));
            work = self.work();
            work.running.remove(&key);
            if work.jobs.contains_key(&key) {
                work.waiting.push_back(key);
            }
        }
        work.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn job_that_hangs_holds_up_no_other_for_long() {
        let workers = Workers::hanging_after(Duration::from_millis(20), "test", "a test", 1);
        let ((release, hold), (begin, begun)) = (mpsc::channel::<()>(), mpsc::channel::<()>());
        let hangs = move || {
            drop(begin);
            let _ = hold.recv();
        };
        workers.begin("hangs", hangs).unwrap();
        assert!(begun.recv().is_err());
        let (sender, done) = mpsc::channel();
        // Begun after the job that hangs; the first one is replaced.
        for name in ["dropped", "after"] {
            let sender = sender.clone();
            workers.begin("hangs", move || sender.send(name).unwrap()).unwrap();
        }
        for name in ["a", "b"] {
            let sender = sender.clone();
            workers.begin(name, move || sender.send(name).unwrap()).unwrap();
        }
        let end = Instant::now() + LONG;
        while workers.is_waiting() && Instant::now() < end {
            workers.replace_hanging();
        }
        let both = BTreeSet::from([done.recv_timeout(LONG), done.recv_timeout(LONG)].map(Result::unwrap));
        assert_eq!(both, ["a", "b"].into());
        drop((release, sender));
        assert_eq!(done.iter().collect::<Vec<_>>(), ["after"]);
    }

    #[test]
    fn job_begun_by_the_result_of_one_with_its_key_is_carried_out() {
        let workers = Workers::new("test", "a test", 1);
        let (sender, done) = mpsc::channel();
        for number in 0..1000 {
            let sender = sender.clone();
            workers.begin("a", move || sender.send(number).unwrap()).unwrap();
            assert_eq!(done.recv_timeout(LONG), Ok(number));
        }
    }

    #[test]
    fn job_that_panics_does_not_keep_its_key() {
        let workers = Workers::new("test", "a test", 1);
        let (sender, done) = mpsc::channel();
        workers.begin("a", || panic!("a bug in a job")).unwrap();
        let end = Instant::now() + LONG;
        while done.try_recv().is_err() && Instant::now() < end {
            let sender = sender.clone();
            workers.begin("a", move || _ = sender.send(())).unwrap();
        }
        assert!(Instant::now() < end);
    }
}
