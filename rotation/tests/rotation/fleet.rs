//! The task of a fleet in virtual time: it wakes only for turns, deadlines and messages.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;
use std::{fmt, future};

use perennial::{Budget, Failure, Now, Policy, State, Template, UnixTime};
use perennial_pki::{Credential, interim};
use perennial_rotation::{
    Authentication, Cancel, Exchange, Fleet, FleetTask, Handle, Identity, Limits, LoadRequest, Memory, News, Profile,
    Rotator, SignError, SignRequest, SignWith, Signer, StartError, Store, StoreError, Stored, Work, clock,
};
use zeroize::Zeroizing;

const MINUTE: Duration = Duration::from_secs(60);

/// A fleet and the virtual time.
struct Life {
    fleet: Fleet,
    task: FleetTask,
    now: Now,
    steps: u32,
}

impl Life {
    fn new() -> Self {
        let (fleet, task) = Fleet::prepare(Limits::default());
        Self { fleet, task, now: clock::now(), steps: 0 }
    }

    /// Adds a member whose certificate is stored already, and whose signer cannot be reached. Returns the handle, and
    /// when the certificate expires.
    fn add(&self, name: &str) -> (Handle, UnixTime) {
        let (store, template, now) = (Memory::default(), Template::new(name), clock::now().unix);
        let pair = Arc::new(interim(&template, now).unwrap());
        store.write(&pair, true, now).unwrap();
        let signer = SignWith::blocking("example.com/ca", |_, _| Err(SignError::new(Failure::Unreachable, "down")));
        let rotator = Rotator::new().name(name).template(template).signer(signer).store(store);
        (self.fleet.add(rotator).unwrap(), pair.chain().certificate().validity.not_after())
    }

    /// Steps until no message is left. Answers each request at once.
    fn step(&mut self) {
        loop {
            self.steps += 1;
            for (_, work) in self.task.step(self.now) {
                match work {
                    Work::Drive(Exchange::Blocking(work), reporter) => reporter.finish(work(&Cancel::default())),
                    work => panic!("{work:?}"),
                }
            }
            if self.task.is_over()
                || pin!(self.task.arrival()).poll(&mut Context::from_waker(Waker::noop())).is_pending()
            {
                return;
            }
        }
    }

    /// Steps now and at each deadline within `span`.
    fn run(&mut self, span: Duration) {
        let end = self.now.instant.after(span);
        loop {
            self.step();
            let at = self.task.deadline().unwrap().clamp(self.now.instant, end);
            self.now = Now { instant: at, unix: self.now.unix.after(at.since(self.now.instant)) };
            if at == end {
                return;
            }
        }
    }
}

#[test]
fn fleet_and_its_notices_are_short_in_debug() {
    let mut life = Life::new();
    let mut notices = life.fleet.notices(10);
    let (handle, _) = life.add("a");
    handle.rotate_now();
    life.step();
    let news = std::iter::from_fn(|| notices.try_recv()).find(|news| matches!(news.notice.news, News::Failed { .. }));
    let news = format!("{:?}", news.unwrap());
    assert!(news.starts_with("MemberNotice { member: \"a\", at: Now {") && news.contains("news: Failed {"), "{news}");
    let rest = format!("{handle:?} {:?} {notices:?}", life.fleet);
    assert!(rest.starts_with("Handle { name: \"a\", .. } Fleet { has_ended: false, .. }"), "{rest}");
    assert!(news.len() < 1000 && rest.len() < 200, "{news} {rest}");
}

#[test]
fn resting_members_step_only_for_the_common_clock_check() {
    let mut life = Life::new();
    let handles = ["a", "b", "c"].map(|name| life.add(name).0);
    // Their first Ticks are due when they were added.
    life.now = clock::now();
    life.step();
    assert!(handles.iter().all(|handle| matches!(handle.state(), State::Scheduled { .. })));
    let before = handles.each_ref().map(Handle::snapshot);
    life.steps = 0;
    life.run(30 * MINUTE);
    assert_eq!(life.steps, 30, "the first at once, the others a minute apart");
    assert!(handles.iter().zip(&before).all(|(handle, before)| Arc::ptr_eq(&handle.snapshot(), before)));
}

#[test]
fn new_member_at_rest_publishes_a_step_at_once() {
    let mut life = Life::new();
    let mut notices = life.fleet.notices(usize::MAX);
    let (handle, _) = life.add("a");
    life.step();
    assert!(matches!(handle.state(), State::Scheduled { .. }));
    let stepped = std::iter::from_fn(|| notices.try_recv()).filter(|news| matches!(news.notice.news, News::Stepped(_)));
    assert_eq!(stepped.count(), 1);
}

#[test]
fn reminders_of_expired_certificate_need_no_clock_check() {
    let mut life = Life::new();
    let (_, not_after) = life.add("a");
    let mut notices = life.fleet.notices(usize::MAX);
    life.step();
    // The wall clock steps to shortly before the expiry.
    life.now.unix = not_after.before(MINUTE);
    life.run(130 * MINUTE);
    let expired = std::iter::from_fn(|| notices.try_recv()).filter(|news| news.notice.news == News::Expired);
    let at: Vec<_> = expired.map(|news| news.notice.at.unix.since(not_after).as_secs()).collect();
    assert_eq!(at, [0, 60, 120, 240, 480, 960, 1920, 3600, 7200]);
}

#[test]
fn dropped_task_ends_members_that_it_has_not_taken_over_yet() {
    let life = Life::new();
    let (handle, _) = life.add("a");
    drop(life.task);
    assert!(handle.has_ended() && life.fleet.has_ended());
    assert!(matches!(life.fleet.add(Rotator::new()), Err(StartError::FleetEnded)));
}

#[test]
fn shutdown_of_a_fleet_without_members_ends_it() {
    let mut life = Life::new();
    life.step();
    drop(life.fleet.shutdown());
    life.step();
    assert!(life.task.is_over());
    let (fleet, task) = (life.fleet, life.task);
    drop(task);
    assert!(fleet.has_ended());
}

#[test]
fn member_that_ends_in_its_turn_returns_the_token_of_the_fleet() {
    let budget = Some(Budget::new(2, Duration::from_secs(3600)).unwrap());
    let (fleet, mut task) = Fleet::prepare(Limits { budget, ..Limits::default() });
    let second = Arc::new(OnceLock::<Handle>::new());
    let to_end = second.clone();
    let silent = || SignWith::future("example.com/ca", |_| future::pending());
    // Read in the turn of the first member, before the second one has its turn.
    let ends_second = move || {
        drop(to_end.get().unwrap().shutdown());
        Ok(Identity::Anonymous)
    };
    let add = |name, signer: SignWith| fleet.add(Rotator::new().template(Template::new(name)).signer(signer)).unwrap();
    let first = add("first", silent().authentication(Authentication::other(ends_second)));
    second.set(add("second", silent())).unwrap();
    let third = add("third", silent());
    let work = task.step(clock::now());
    assert!(second.get().unwrap().has_ended());
    assert!([first, third].iter().all(|handle| matches!(handle.state(), State::Requesting { .. })), "{work:?}");
}

/// A signer that panics once in the loop, when the test has armed it.
#[derive(Debug)]
struct PanicsOnce {
    signer: SignWith,
    is_armed: AtomicBool,
}

impl PanicsOnce {
    /// A signer that cannot be reached, and is not armed yet.
    fn new() -> Arc<Self> {
        let signer = SignWith::blocking("example.com/ca", |_, _| Err(SignError::new(Failure::Unreachable, "down")));
        Arc::new(Self { signer, is_armed: AtomicBool::new(false) })
    }
}

impl Signer for PanicsOnce {
    fn name(&self) -> &str {
        self.signer.name()
    }

    fn profile(&self) -> &Profile {
        assert!(!self.is_armed.swap(false, Ordering::SeqCst), "a bug in the profile");
        Signer::profile(&self.signer)
    }

    fn authentication(&self) -> &Authentication {
        Signer::authentication(&self.signer)
    }

    fn begin(&self, request: SignRequest, now: Now) -> Result<Exchange, SignError> {
        self.signer.begin(request, now)
    }
}

#[test]
fn panic_in_the_loop_pauses_only_its_member() {
    let mut life = Life::new();
    let [buggy, healthy] = ["buggy", "healthy"].map(|name| life.add(name).0);
    let signer = PanicsOnce::new();
    buggy.set_signer(Some(signer.clone()));
    life.step();
    let mut notices = life.fleet.notices(usize::MAX);
    signer.is_armed.store(true, Ordering::SeqCst);
    buggy.rotate_now();
    healthy.rotate_now();
    life.step();
    assert!(matches!(buggy.state(), State::Scheduled { .. }), "{:?}", buggy.state());
    assert!(matches!(healthy.state(), State::BackingOff { .. }), "{:?}", healthy.state());
    // The panic has lost the demand.
    buggy.rotate_now();
    life.run(Duration::from_secs(2));
    assert!(matches!(buggy.state(), State::BackingOff { .. }), "{:?}", buggy.state());
    let panicked = |news: &News| matches!(news, News::Panicked { .. });
    let all = std::iter::from_fn(|| notices.try_recv()).filter(|news| panicked(&news.notice.news));
    assert_eq!(all.map(|news| news.member.name().to_owned()).collect::<Vec<_>>(), ["buggy"]);
}

#[test]
fn clock_that_steps_in_the_pause_after_a_panic_is_noticed_after_the_pause() {
    let mut life = Life::new();
    let (handle, not_after) = life.add("a");
    let signer = PanicsOnce::new();
    handle.set_signer(Some(signer.clone()));
    life.step();
    let scheduled = handle.state();
    assert!(matches!(scheduled, State::Scheduled { .. }));
    signer.is_armed.store(true, Ordering::SeqCst);
    // The first message panics, the second one is handled within the pause.
    for _ in 0..2 {
        handle.set_policy(Policy::default());
        life.step();
    }
    assert_eq!(handle.state(), scheduled);
    life.now.unix = not_after.before(MINUTE);
    life.step();
    assert_eq!(handle.state(), scheduled, "the member pauses");
    life.run(Duration::from_secs(2));
    assert!(matches!(handle.state(), State::BackingOff { .. }), "{:?}", handle.state());
}

/// A store whose drop panics.
#[derive(Debug)]
struct PanicsOnDrop(Memory);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("a bug in the drop of a store");
    }
}

impl Store for PanicsOnDrop {
    fn load(&self, request: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        self.0.load(request)
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, at: UnixTime) -> Result<(), StoreError> {
        self.0.write(credential, serve, at)
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.0.recall()
    }

    fn remember(&self, record: &[u8]) -> Result<(), StoreError> {
        self.0.remember(record)
    }
}

#[test]
fn panic_in_the_drop_of_a_store_ends_its_member_only() {
    let mut life = Life::new();
    let add = |name: &str| life.fleet.add(Rotator::new().name(name).store(PanicsOnDrop(Memory::default()))).unwrap();
    let (removed, others) = (add("removed"), [add("b"), add("c")]);
    life.step();
    drop(removed.shutdown());
    life.step();
    assert!(removed.has_ended() && !others.iter().any(Handle::has_ended));
    drop(life.task);
    assert!(others.iter().all(Handle::has_ended) && life.fleet.has_ended());
}

/// A store that calls a function once it is read.
struct Calling(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl fmt::Debug for Calling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calling")
    }
}

impl Store for Calling {
    fn load(&self, _: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        self.0.lock().unwrap().take().unwrap()();
        Ok(Stored::default())
    }

    fn write(&self, _: &Arc<Credential>, _: bool, _: UnixTime) -> Result<(), StoreError> {
        unreachable!("the member never runs")
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    fn remember(&self, _: &[u8]) -> Result<(), StoreError> {
        unreachable!("the member never runs")
    }
}

#[test]
fn fleet_ends_while_the_store_of_a_new_member_is_read() {
    let life = Life::new();
    let (fleet, mut task, now) = (life.fleet.clone(), life.task, life.now);
    let end = move || {
        drop(fleet.shutdown());
        assert!(task.step(now).is_empty() && task.is_over());
        drop(task);
        assert!(fleet.has_ended());
    };
    let store = Calling(Mutex::new(Some(Box::new(end))));
    assert!(matches!(life.fleet.add(Rotator::new().store(store)), Err(StartError::FleetEnded)));
}
