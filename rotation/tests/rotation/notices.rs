//! Notices of a rotation: a fast observer gets all notices in order, and a slow observer never delays the rotation.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use perennial::{Failure, Now, Slot, State, Template};
use perennial_pki::{Credential, Usage, interim};
use perennial_rotation::clock;
use perennial_rotation::{
    Authentication, Exchange, Handle, Memory, News, Notice, Profile, Rotator, SignError, SignRequest, Signer,
    Store as _, Task,
};

/// A signer whose `begin` always fails with [`Failure::Unreachable`].
#[derive(Debug)]
struct Unreachable(Profile, Authentication);

impl Signer for Unreachable {
    fn name(&self) -> &'static str {
        "example.com/none"
    }

    fn profile(&self) -> &Profile {
        &self.0
    }

    fn authentication(&self) -> &Authentication {
        &self.1
    }

    fn begin(&self, _: SignRequest, _: Now) -> Result<Exchange, SignError> {
        Err(SignError::new(Failure::Unreachable, "the signer is far away"))
    }
}

/// A running rotation: its handle, its task and the virtual time. With [`Life::new`], each request fails.
struct Life {
    handle: Handle,
    task: Task,
    now: Now,
}

impl Life {
    fn new() -> Self {
        let signer = Unreachable(Profile::new([Usage::ClientAuth]), Authentication::None);
        Self::of(Rotator::new().template(Template::node("worker")).signer(signer))
    }

    fn of(rotator: Rotator) -> Self {
        let (handle, task) = rotator.prepare().unwrap();
        Self { handle, task, now: clock::now() }
    }

    /// Advances time to the deadline of the task, and steps the task once.
    fn tick(&mut self) {
        let due = self.task.deadline().unwrap_or(self.now.instant).max(self.now.instant);
        let slept = due.since(self.now.instant);
        self.now = Now { instant: due, unix: self.now.unix.after(slept) };
        let work = self.task.step(self.now);
        assert!(work.is_empty(), "{work:?}");
    }
}

fn failures(notices: &[Notice]) -> usize {
    notices.iter().filter(|notice| matches!(notice.news, News::Failed { .. })).count()
}

fn all(notices: &mut perennial_rotation::Notices) -> Vec<Notice> {
    std::iter::from_fn(|| notices.try_recv()).collect()
}

#[test]
fn slow_observer_gets_count_of_dropped_notices_and_latest_state() {
    let mut life = Life::new();
    let (mut slow, mut quick) = (life.handle.notices(16), life.handle.notices(16));
    let mut seen = Vec::new();
    while seen.len() < 1000 {
        life.tick();
        seen.extend(all(&mut quick));
    }
    assert!(failures(&seen) > 100, "the rotation goes on: {}", failures(&seen));
    let got = all(&mut slow);
    assert_eq!(got.len(), 17);
    let News::Missed { count, steps, machine } = &got[16].news else { panic!("{:?}", got[16]) };
    assert_eq!(usize::try_from(*count).unwrap() + 16, seen.len());
    let stepped = seen[16..].iter().filter(|notice| matches!(notice.news, News::Stepped(_))).count();
    assert_eq!(usize::try_from(*steps).unwrap(), stepped);
    assert!(got.iter().zip(&seen).take(16).all(|(got, seen)| got.news == seen.news));
    // `Missed` has the latest state: a journal can continue from it.
    let snapshot = life.handle.snapshot();
    assert!(Arc::ptr_eq(&got[16].snapshot, &snapshot));
    assert_eq!(machine.state(), snapshot.state);
    let before = seen.len();
    life.tick();
    seen.extend(all(&mut quick));
    let News::Stepped(next) = &slow.try_recv().unwrap().news else { panic!("the stream goes on with the next step") };
    assert_eq!(next.before, *machine);
    assert_eq!(all(&mut slow).len() + 1, seen.len() - before);
}

#[test]
fn ended_notice_reaches_full_queue_and_comes_last() {
    let mut life = Life::new();
    let mut notices = life.handle.notices(1);
    (0..10).for_each(|_| life.tick());
    drop(life.task);
    let news: Vec<News> = all(&mut notices).into_iter().map(|notice| notice.news).collect();
    assert!(matches!(news[..], [News::Stepped(_), News::Missed { .. }, News::Ended]), "{news:?}");
    assert!(notices.recv().wait().is_none());
    let mut late = life.handle.notices(1);
    assert_eq!(late.recv().wait().map(|notice| notice.news), Some(News::Ended));
    assert!(late.recv().wait().is_none());
}

#[test]
fn failed_attempt_is_reported_once_with_next_attempt() {
    let mut life = Life::new();
    let mut notices = life.handle.notices(64);
    life.tick();
    let notices = all(&mut notices);
    assert_eq!(failures(&notices), 1);
    let failed = notices.iter().find(|notice| matches!(notice.news, News::Failed { .. })).unwrap();
    let error = "the signer is far away".into();
    assert_eq!(failed.news, News::Failed { failure: Failure::Unreachable, error });
    assert!(!failed.has_valid_certificate() && failed.snapshot.next_attempt() > Some(failed.at.instant));
    assert!(matches!(notices.last().unwrap().news, News::Entered(State::BackingOff { .. })), "{notices:?}");
}

#[test]
fn subscription_before_first_step_gets_news_of_the_start() {
    let (store, now) = (Memory::default(), clock::now().unix);
    store.write(&Arc::new(interim(&Template::new("other"), now).unwrap()), true, now).unwrap();
    let signer = Unreachable(Profile::new([Usage::ClientAuth]), Authentication::None);
    let mut life = Life::of(Rotator::new().template(Template::new("worker")).signer(signer).store(store));
    let mut notices = life.handle.notices(64);
    life.tick();
    let first = notices.try_recv().unwrap();
    assert!(matches!(&first.news, News::Foreign { error } if error.contains("`other`")), "{first:?}");
}

#[test]
fn certificate_of_another_program_is_taken_over() {
    let mut life = Life::of(Rotator::new());
    let mut notices = life.handle.notices(64);
    life.tick();
    let pair: Arc<Credential> = Arc::new(interim(&Template::new("worker"), life.now.unix).unwrap());
    let waits = thread::scope(|scope| {
        let waits = scope.spawn(|| {
            loop {
                let notice = notices.recv().within(Duration::from_secs(60)).expect("the certificate is news");
                if let News::TakenOver { .. } = notice.news {
                    return notice;
                }
            }
        });
        life.handle.report_replaced(Some(pair.clone()));
        life.tick();
        waits.join().unwrap()
    });
    assert_eq!(waits.news, News::TakenOver { slot: Slot::Served, replaced: None });
    assert_eq!(waits.snapshot.credential.as_ref().map(|held| held.chain()), Some(pair.chain()));
}

#[test]
fn expired_certificate_is_reported_at_growing_intervals() {
    let (store, now) = (Memory::default(), clock::now().unix);
    let pair = Arc::new(interim(&Template::new("worker"), now).unwrap());
    store.write(&pair, true, now).unwrap();
    let signer = Unreachable(Profile::new([Usage::ClientAuth]), Authentication::None);
    let mut life = Life::of(Rotator::new().template(Template::new("worker")).signer(signer).store(store));
    let mut notices = life.handle.notices(1 << 16);
    let end = pair.chain().certificate().validity.not_after();
    let mut minutes = Vec::new();
    while life.now.unix < end.after(Duration::from_secs(3 * 3600)) {
        life.tick();
        let reminders = all(&mut notices).into_iter().filter(|notice| notice.news == News::Expired);
        minutes.extend(reminders.map(|notice| notice.at.unix.since(end).as_secs() / 60));
    }
    assert_eq!(minutes, [0, 1, 2, 4, 8, 16, 32, 60, 120, 180]);
}

#[test]
fn snapshot_keeps_rotation_point_and_last_failure_of_due_certificate() {
    let (store, now) = (Memory::default(), clock::now().unix);
    let pair = Arc::new(interim(&Template::new("worker"), now).unwrap());
    store.write(&pair, true, now).unwrap();
    let signer = Unreachable(Profile::new([Usage::ClientAuth]), Authentication::None);
    let mut life = Life::of(Rotator::new().template(Template::new("worker")).signer(signer).store(store));
    life.tick();
    let resting = life.handle.snapshot();
    let State::Scheduled { rotate_at } = resting.state else { panic!("{:?}", resting.state) };
    assert_eq!((resting.rotation_point, resting.last_failure), (Some(rotate_at), None));
    life.handle.rotate_now();
    life.tick();
    let refused = life.handle.snapshot();
    assert_eq!((refused.rotation_point, refused.last_failure), (Some(rotate_at), Some(Failure::Unreachable)));
}
