//! Signers with a bug: a panic ends no rotation.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use perennial::{Failure, Now, State, Template};
use perennial_rotation::{
    Authentication, Conversation, Exchange, Handle, Identity, IoEvent, IoRequest, Issued, News, Notice, Profile,
    Progress, Rotator, SignError, SignRequest, SignWith, Signer, SignerConversation, Task, Work, clock,
};
use perennial_tests::loopback::{BOUND, issued, on_both, start};

use super::{Ca, NAME, rotator};

/// The method in which a signer has a bug.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    Begin,
    Identity,
    Conversation,
    /// `Signer::profile`, which a rotation calls in each step, not only for a request.
    Profile,
}

const BUGS: [Bug; 4] = [Bug::Begin, Bug::Identity, Bug::Conversation, Bug::Profile];

/// A signer that panics in the method `bug` the first `left` times, and otherwise signs as `works` does.
#[derive(Debug)]
struct Buggy {
    bug: Bug,
    left: Arc<AtomicU32>,
    authentication: Authentication,
    works: SignWith,
}

impl Buggy {
    fn new(bug: Bug, left: &Arc<AtomicU32>, works: SignWith) -> Self {
        let in_identity = left.clone();
        let identity = move || {
            assert!(bug != Bug::Identity || !has_bug(&in_identity), "a bug in Identity");
            Ok(Identity::Anonymous)
        };
        Self { bug, left: left.clone(), authentication: Authentication::other(identity), works }
    }

    fn panics_in(&self, bug: Bug) {
        assert!(self.bug != bug || !has_bug(&self.left), "a bug in {bug:?}");
    }
}

/// True if the method must panic now. Each call counts `left` down, until it is zero and no further panic is wanted.
fn has_bug(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Signer for Buggy {
    fn name(&self) -> &str {
        NAME
    }

    fn profile(&self) -> &Profile {
        self.panics_in(Bug::Profile);
        Signer::profile(&self.works)
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    fn begin(&self, request: SignRequest, now: Now) -> Result<Exchange, SignError> {
        self.panics_in(Bug::Begin);
        match self.bug == Bug::Conversation && self.left.load(Ordering::SeqCst) > 0 {
            true => Ok(Exchange::conversation(BuggyTalk(self.left.clone()))),
            false => self.works.begin(request, now),
        }
    }
}

#[derive(Debug)]
struct BuggyTalk(Arc<AtomicU32>);

impl Conversation for BuggyTalk {
    type Outcome = Result<Issued, SignError>;

    fn handle(&mut self, _: IoEvent<'_>, _: Now) {}

    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome> {
        assert!(!has_bug(&self.0), "a bug in Conversation");
        IoRequest::Wait { until: now.instant.after(Duration::from_secs(60)) }
    }
}

impl SignerConversation for BuggyTalk {
    fn progress(&self) -> Progress {
        Progress::Submitting
    }
}

#[test]
fn signer_panic_does_not_end_rotation() {
    on_both(|runtime| {
        for bug in BUGS {
            let (ca, left) = (Ca::new(), Arc::new(AtomicU32::new(0)));
            ca.1.store(2, Ordering::SeqCst);
            let works = SignWith::blocking(NAME, move |request, _| ca.sign(&request));
            let handle = start(runtime, rotator().signer(Buggy::new(bug, &left, works)));
            issued(&handle, 1);
            let mut notices = handle.notices(100);
            left.store(1, Ordering::SeqCst);
            handle.rotate_now();
            issued_after_panic(&handle, bug);
            let error = std::iter::from_fn(|| notices.try_recv()).find_map(|notice| match notice.news {
                News::Panicked { error, .. } | News::Failed { error, .. } => Some(error),
                _ => None,
            });
            let error = error.unwrap_or_else(|| panic!("{bug:?}: no news of it"));
            assert!(error.contains(&format!("panicked: a bug in {bug:?}")), "{error}");
            handle.shutdown().within(BOUND);
        }
    });
}

/// A signer that begins its first request with the exchange `first`, and each later request as `works` does. A test
/// makes `first` without the constructors of `Exchange`; the exchange panics.
#[derive(Debug)]
struct HandMade {
    first: Mutex<Option<Exchange>>,
    works: SignWith,
}

impl Signer for HandMade {
    fn name(&self) -> &str {
        NAME
    }

    fn profile(&self) -> &Profile {
        Signer::profile(&self.works)
    }

    fn authentication(&self) -> &Authentication {
        Signer::authentication(&self.works)
    }

    fn begin(&self, request: SignRequest, now: Now) -> Result<Exchange, SignError> {
        let first = self.first.lock().unwrap().take();
        first.map_or_else(|| self.works.begin(request, now), Ok)
    }
}

#[test]
fn panic_of_custom_exchange_fails_the_request() {
    on_both(|runtime| {
        let talk = BuggyTalk(Arc::new(AtomicU32::new(1)));
        for first in [
            Exchange::Conversation(Box::new(talk)),
            Exchange::Blocking(Box::new(|_| panic!("a bug in Conversation"))),
            Exchange::Future(Box::pin(async { panic!("a bug in Conversation") })),
        ] {
            let ca = Ca::new();
            ca.1.store(2, Ordering::SeqCst);
            let works = SignWith::blocking(NAME, move |request, _| ca.sign(&request));
            let signer = HandMade { first: Mutex::new(Some(first)), works };
            let handle = start(runtime, rotator().signer(signer));
            let failed = handle.wait_for(|now| now.last_error.is_some()).within(BOUND).expect("the rotation has ended");
            assert_eq!(failed.last_error.as_deref(), Some("the signer panicked: a bug in Conversation"));
            issued(&handle, 1);
            handle.shutdown().within(BOUND);
        }
    });
}

/// Waits for the second certificate. Requests a rotation again and again, since the panic may have lost the first
/// request.
fn issued_after_panic(handle: &Handle, bug: Bug) {
    let end = Instant::now() + BOUND.unwrap();
    while handle.wait_for(|now| now.issued >= 2).within(Duration::from_secs(1)).is_none() {
        assert!(Instant::now() < end && !handle.has_ended(), "{bug:?}: {:?}", handle.snapshot());
        handle.rotate_now();
    }
}

/// Steps a task for an hour of virtual time. Returns the number of steps, and the number of panics that notices
/// reported.
fn an_hour(handle: &Handle, task: &mut Task, now: &mut Now) -> (usize, usize) {
    let (mut notices, end, mut steps) = (handle.notices(10_000), now.instant.after(Duration::from_secs(3600)), 0);
    while now.instant < end {
        for work in task.step(*now) {
            match work {
                Work::Drive(Exchange::Conversation(mut talk), reporter) => match talk.poll(*now) {
                    IoRequest::Done(outcome) => reporter.finish(outcome),
                    other => panic!("{other:?}"),
                },
                Work::Cancel => {}
                other => panic!("{other:?}"),
            }
        }
        steps += 1;
        assert!(steps < 1000, "a hot loop: {:?}", handle.snapshot());
        let has_arrived = pin!(task.arrival()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        let next = if has_arrived { now.instant } else { task.deadline().unwrap().max(now.instant) };
        *now = Now { instant: next, unix: now.unix.after(next.since(now.instant)) };
    }
    let panicked = |notice: &Notice| matches!(notice.news, News::Panicked { .. });
    (steps, std::iter::from_fn(|| notices.try_recv()).filter(panicked).count())
}

#[test]
fn signer_that_always_panics_leads_to_few_steps_an_hour() {
    for bug in BUGS {
        let left = Arc::new(AtomicU32::new(0));
        let never = SignWith::future(NAME, |_| std::future::pending());
        let (handle, mut task) =
            Rotator::new().template(Template::new("mesh-1")).signer(Buggy::new(bug, &left, never)).prepare().unwrap();
        let mut now = clock::now();
        left.store(u32::MAX, Ordering::SeqCst);
        let (steps, panics) = an_hour(&handle, &mut task, &mut now);
        assert!(steps < 200, "{bug:?}: {steps}");
        // A panic while a request is begun counts as a failure of the request, not as a panic of the rotation.
        assert_eq!(panics > 0, bug == Bug::Profile, "{bug:?}: {panics}");
        assert!(panics < 25, "{panics}");

        left.store(0, Ordering::SeqCst);
        handle.rotate_now();
        let work = task.step(now);
        assert!(matches!(work[..], [Work::Drive(Exchange::Future(_), _)]), "{bug:?}: {work:?}");
        let end = handle.shutdown();
        assert!(matches!(task.step(now)[..], [Work::Cancel]) && task.is_over());
        drop(task);
        end.wait();
    }
}

#[test]
fn panic_while_handling_result_fails_request_after_a_pause() {
    let left = Arc::new(AtomicU32::new(0));
    let never = SignWith::future(NAME, |_| std::future::pending());
    let signer = Buggy::new(Bug::Profile, &left, never);
    let (handle, mut task) = Rotator::new().template(Template::new("mesh-1")).signer(signer).prepare().unwrap();
    let mut now = clock::now();
    let Some(Work::Drive(_, reporter)) = task.step(now).pop() else { panic!("{:?}", handle.state()) };
    left.store(1, Ordering::SeqCst);
    reporter.finish(Err(SignError::new(Failure::Denied, "no")));
    assert!(task.step(now).is_empty());
    let paused = task.deadline().unwrap();
    assert_eq!(paused.since(now.instant), Duration::from_secs(1));
    now = Now { instant: paused, unix: now.unix.after(Duration::from_secs(1)) };
    assert!(task.step(now).is_empty());
    let State::BackingOff { last: Failure::Local, .. } = handle.state() else { panic!("{:?}", handle.state()) };
    assert_eq!(handle.snapshot().last_error.as_deref(), Some("the rotation panicked: a bug in Profile"));
}
