//! A [`Task`] stepped in virtual time, without a runtime: the work that it returns, and the state that its handle sees.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::silence::Silence;
use perennial::{Failure, Now, State, Template, UnixTime};
use perennial_pki::{Credential, Usage, interim};
use perennial_rotation::{
    Authentication, Exchange, Handle, Job, LoadRequest, News, NotReady, Profile, Rotator, SignError, SignRequest,
    Signer, Store, StoreError, Stored, Task, Work, clock,
};
use zeroize::Zeroizing;

/// A signer that never answers. If `is_up`, its exchanges begin and never end; otherwise, they cannot begin.
#[derive(Debug)]
struct Fake {
    is_up: bool,
    profile: Profile,
    authentication: Authentication,
}

impl Fake {
    fn new(is_up: bool) -> Self {
        Self { is_up, profile: Profile::new([Usage::ServerAuth]), authentication: Authentication::None }
    }
}

impl Signer for Fake {
    fn name(&self) -> &'static str {
        "example.com/fake"
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    fn begin(&self, _: SignRequest, _: Now) -> Result<Exchange, SignError> {
        let unreachable = || SignError::new(Failure::Unreachable, "the signer is far away");
        self.is_up.then(|| Exchange::conversation(Silence)).ok_or_else(unreachable)
    }
}

/// A store with faults: each write of a credential takes the next of `faults`, and fails or panics. Writes succeed once
/// no fault is left.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    held: Option<Arc<Credential>>,
    faults: Vec<Fault>,
    writes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Fails,
    Panics,
}

impl Disk {
    fn holding(held: Credential, faults: &[Fault]) -> Self {
        let held = Some(Arc::new(held));
        Self(Arc::new(Mutex::new(Contents { held, faults: faults.iter().rev().copied().collect(), writes: 0 })))
    }

    fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }
}

impl Store for Disk {
    fn load(&self, _: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        Ok(Stored { credential: self.0.lock().unwrap().held.clone(), ..Stored::default() })
    }

    fn write(&self, _: &Arc<Credential>, _: bool, _: UnixTime) -> Result<(), StoreError> {
        let mut contents = self.0.lock().unwrap();
        contents.writes += 1;
        let fault = contents.faults.pop();
        // A panic leaves the lock as it was.
        drop(contents);
        match fault {
            None => Ok(()),
            Some(Fault::Fails) => Err("no space".into()),
            Some(Fault::Panics) => panic!("a bug in the store"),
        }
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    fn remember(&self, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
}

fn rotator() -> Rotator {
    Rotator::new().template(Template::node("worker"))
}

/// A pair issued `age` ago and valid for one day.
fn pair(age: Duration) -> Credential {
    interim(&Template::node("worker"), clock::now().unix.before(age)).unwrap()
}

fn after(now: Now, seconds: u64) -> Now {
    let span = Duration::from_secs(seconds);
    Now { instant: now.instant.after(span), unix: now.unix.after(span) }
}

/// The job in `work`, which must be the only work.
fn job(work: Vec<Work>) -> Job {
    let mut jobs = work.into_iter().map(|work| match work {
        Work::Store(job) => job,
        other => panic!("{other:?}"),
    });
    let job = jobs.next().unwrap();
    assert!(jobs.next().is_none());
    job
}

/// A task, and the job by which it writes its credential again, after a report that the store has lost the credential.
fn writing(disk: &Disk) -> (Handle, Task, Now, Job) {
    let (handle, mut task) = rotator().signer(Fake::new(true)).store(disk.clone()).prepare().unwrap();
    let now = clock::now();
    assert!(task.step(now).is_empty());
    handle.report_replaced(None);
    let job = job(task.step(now));
    (handle, task, now, job)
}

#[test]
fn request_waits_at_most_ten_seconds_for_saved_record() {
    for is_saved in [true, false] {
        let (_, mut task) = rotator().signer(Fake::new(true)).store(Disk::default()).prepare().unwrap();
        let now = clock::now();
        let save = job(task.step(now));
        assert!(task.step(after(now, 9)).is_empty());
        let work = if is_saved {
            save.run();
            task.step(after(now, 9))
        } else {
            // The regular check of the clocks may be due first.
            assert!(task.deadline().is_some_and(|deadline| deadline <= after(now, 10).instant));
            task.step(after(now, 10))
        };
        assert!(matches!(work[..], [Work::Drive(..)]), "{work:?}");
    }
}

#[test]
fn write_that_panics_is_reported_and_retried() {
    let disk = Disk::holding(pair(Duration::ZERO), &[Fault::Panics]);
    let (handle, mut task, mut now, first) = writing(&disk);
    first.run();
    assert!(task.step(now).is_empty());
    let seen = handle.snapshot();
    assert!(seen.unwritten && seen.last_error.as_ref().unwrap().contains("the store panicked"), "{seen:?}");
    let again = std::iter::from_fn(|| {
        now = after(now, 1);
        Some(task.step(now)).filter(|work| work.is_empty())
    });
    assert!(again.take(600).count() < 600);
    assert_eq!(disk.writes(), 1, "given to the runtime, not run");
}

#[test]
fn certificate_written_twice_is_reported_in_place_once() {
    let (old, new) = (pair(Duration::from_secs(3600)), Arc::new(pair(Duration::ZERO)));
    let replaced = Some(old.chain().certificate().clone());
    let (handle, mut task, now, first) = writing(&Disk::holding(old, &[]));
    let mut all = handle.notices(64);
    let mut in_place = || {
        let news = std::iter::from_fn(|| all.try_recv()).map(|notice| notice.news);
        news.filter(|news| matches!(news, News::InPlace { .. })).collect::<Vec<_>>()
    };
    first.run();
    assert!(task.step(now).is_empty());
    assert_eq!(in_place(), [] as [News; 0], "written again");
    handle.report_replaced(Some(new));
    drop(task.step(now));
    assert_eq!(in_place(), [News::InPlace { replaced }]);
    handle.report_replaced(None);
    job(task.step(now)).run();
    assert!(task.step(now).is_empty());
    assert_eq!(in_place(), [] as [News; 0], "written again");
}

#[test]
fn store_gets_one_call_at_a_time() {
    let disk = Disk::holding(pair(Duration::ZERO), &[]);
    let (handle, mut task, now, first) = writing(&disk);
    handle.rotate_now();
    assert!(task.step(now).iter().all(|work| !matches!(work, Work::Store(_))), "the first one has not ended");
    first.run();
    drop(job(task.step(now)));
}

#[test]
fn shutdown_writes_an_unwritten_certificate_once_more() {
    for (faults, unwritten) in [(&[Fault::Fails][..], false), (&[Fault::Fails, Fault::Fails], true)] {
        let disk = Disk::holding(pair(Duration::ZERO), faults);
        let (handle, mut task, now, first) = writing(&disk);
        let mut end = handle.shutdown();
        assert!(task.step(now).is_empty(), "the result of the write is waited for");
        first.run();
        let last = job(task.step(now));
        let mut context = Context::from_waker(Waker::noop());
        assert!(!task.is_over() && pin!(&mut end).poll(&mut context).is_pending());
        last.run();
        assert!(task.step(now).is_empty() && task.is_over());
        drop(task);
        assert_eq!(pin!(&mut end).poll(&mut context), Poll::Ready(()));
        assert_eq!((handle.snapshot().unwritten, disk.writes()), (unwritten, 2));
    }
}

/// The backoff after a failed request ends while the last write runs. Without the shutdown, the next request would be
/// submitted then.
#[test]
fn no_request_begins_during_last_write_after_shutdown() {
    let disk = Disk::holding(pair(Duration::from_secs(80_000)), &[Fault::Fails]);
    let (handle, mut task) = rotator().signer(Fake::new(false)).store(disk.clone()).prepare().unwrap();
    let now = clock::now();
    run_jobs(&mut task, now);
    handle.report_replaced(None);
    run_jobs(&mut task, now);
    assert!(handle.snapshot().unwritten && matches!(handle.state(), State::BackingOff { .. }), "{:?}", handle.state());
    let mut notices = handle.notices(100);
    drop(handle.shutdown());
    run_jobs(&mut task, after(now, 3600));
    let news: Vec<News> = std::iter::from_fn(|| notices.try_recv()).map(|notice| notice.news).collect();
    let is_written = news.iter().any(|news| matches!(news, News::Written { .. }));
    assert!(is_written && task.is_over() && disk.writes() == 2, "{news:?}");
    let begins = |news: &News| matches!(news, News::Requesting { .. } | News::Failed { .. });
    assert!(!news.iter().any(begins), "{news:?}");
}

/// Steps the task and runs its jobs, until none is left.
fn run_jobs(task: &mut Task, now: Now) {
    while let Some(Work::Store(job)) = task.step(now).into_iter().find(|work| matches!(work, Work::Store(_))) {
        job.run();
    }
}

#[test]
fn ready_returns_due_credential_while_signer_is_down() {
    let disk = Disk::holding(pair(Duration::from_secs(23 * 3600)), &[]);
    let (handle, mut task) = rotator().signer(Fake::new(false)).store(disk).prepare().unwrap();
    drop(task.step(clock::now()));
    assert!(matches!(handle.state(), State::BackingOff { .. }), "{:?}", handle.state());
    handle.ready().within(Duration::ZERO).unwrap();
}

#[test]
fn ready_returns_why_there_is_no_credential() {
    let (handle, mut task) = rotator().signer(Fake::new(false)).prepare().unwrap();
    drop(task.step(clock::now()));
    let error = handle.ready().within(Duration::ZERO).unwrap_err();
    let NotReady::TimedOut { state: State::BackingOff { .. }, last_error: Some(why) } = &error else {
        panic!("{error:?}")
    };
    assert!(why.contains("far away"), "{why}");
    drop(task);
    assert_eq!(handle.ready().wait().unwrap_err(), NotReady::Ended);

    let (handle, _task) = rotator().prepare().unwrap();
    assert_eq!(handle.ready().wait().unwrap_err(), NotReady::NotConfigured);
}

#[test]
fn ready_waits_if_signer_was_just_set() {
    let (handle, mut task) = rotator().prepare().unwrap();
    handle.set_signer(Some(Arc::new(Fake::new(true))));
    let mut ready = pin!(handle.ready());
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(ready.as_mut().poll(&mut context), Poll::Pending);
    handle.set_signer(None);
    assert!(task.step(clock::now()).is_empty());
    assert_eq!(ready.as_mut().poll(&mut context), Poll::Ready(Err(NotReady::NotConfigured)));
}
