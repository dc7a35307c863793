//! A task closes the connections that the exchanges of its signer have kept.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use perennial::{Event, Failure, Instant, Now, Template};
use perennial_pki::Usage;
use perennial_rotation::{
    Authentication, Exchange, Handle, News, Profile, Rotator, SignError, SignRequest, Signer, Task, Work, clock,
};

/// A signer that keeps a connection until `until`, once that is set, and refuses all requests.
#[derive(Debug)]
struct Keeper {
    until: OnceLock<Instant>,
    closed: Mutex<Vec<Instant>>,
    profile: Profile,
    authentication: Authentication,
}

impl Signer for Keeper {
    fn name(&self) -> &'static str {
        "example.com/keeper"
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    fn begin(&self, _: SignRequest, _: Now) -> Result<Exchange, SignError> {
        Ok(Exchange::blocking(|_| Err(SignError::new(Failure::Denied, "no"))))
    }

    fn kept_until(&self) -> Option<Instant> {
        self.until.get().copied().filter(|_| self.closed.lock().unwrap().is_empty())
    }

    fn close_kept(&self, now: Now) {
        self.closed.lock().unwrap().push(now.instant);
    }
}

impl Keeper {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            until: OnceLock::new(),
            closed: Mutex::default(),
            profile: Profile::new([Usage::ServerAuth]),
            authentication: Authentication::None,
        })
    }

    /// A rotation whose exchange has ended, and has kept a connection until two seconds later.
    fn kept(self: &Arc<Self>) -> (Handle, Task, Now) {
        let rotator = Rotator::new().template(Template::new("mesh-1")).signer(self.clone());
        let (handle, mut task) = rotator.prepare().unwrap();
        // No earlier: the request is due at the time at which the rotation was prepared.
        let now = clock::now();
        self.until.set(later(now, 2).instant).unwrap();
        let mut work = task.step(now).into_iter();
        let Some(Work::Drive(Exchange::Blocking(sign), reporter)) = work.next() else { panic!("no request") };
        // Nothing is kept before the exchange has ended.
        assert_ne!(task.deadline(), self.until.get().copied());
        reporter.finish(sign(&Arc::default()));
        assert!(task.step(later(now, 1)).is_empty());
        assert_eq!(task.deadline(), self.until.get().copied());
        assert!(self.closed.lock().unwrap().is_empty());
        (handle, task, now)
    }
}

fn later(now: Now, seconds: u64) -> Now {
    let span = Duration::from_secs(seconds);
    Now { instant: now.instant.after(span), unix: now.unix.after(span) }
}

#[test]
fn kept_connection_is_closed_in_time_without_a_tick() {
    let keeper = Keeper::new();
    let (handle, mut task, now) = keeper.kept();
    let until = later(now, 2).instant;
    let mut notices = handle.notices(100);
    assert!(task.step(later(now, 2)).is_empty());
    assert_eq!(*keeper.closed.lock().unwrap(), [until]);
    let ticked = std::iter::from_fn(|| notices.try_recv())
        .any(|notice| matches!(notice.news, News::Stepped(step) if step.event == Event::Tick));
    assert!(!ticked && task.deadline() > Some(until));
}

#[test]
fn kept_connection_is_closed_before_its_rotation_ends_or_gets_another_signer() {
    for ends in [true, false] {
        let keeper = Keeper::new();
        let (handle, mut task, now) = keeper.kept();
        match ends {
            true => drop(handle.shutdown()),
            false => handle.set_signer(None),
        }
        assert!(task.step(later(now, 1)).is_empty());
        assert_eq!(*keeper.closed.lock().unwrap(), [later(now, 2).instant], "as if its time were over");
    }
}
