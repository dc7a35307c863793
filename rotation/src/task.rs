//! One rotation with its store and its handles, for a runtime to run.

use std::any::Any;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Instant, Now, RequestId};

use crate::Wait;
use crate::exchange::text_of;
use crate::handle::link::{Ending, Link, Message};
use crate::jobs::{Job, Jobs};
use crate::{
    Command, Exchange, Health, Input, Issued, News, Progress, Rotation, SignError, SignerConversation, Snapshot, Store,
};

/// A request waits this long for its record to become durable. A crash after that may leave a second request object:
/// better than a certificate that expires while the disk does not answer.
const RECORD: Duration = Duration::from_secs(10);
/// A loop is not woken for less: a server that streams may send any number of pieces a second.
const STILL: Duration = Duration::from_secs(10);

/// Pause after the first panic of a rotation. Twice as long after each that follows within the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// One rotation, for a runtime to run. The loop of any runtime is: [`step`](Self::step), carry out the [`Work`], end if
/// [`is_over`](Self::is_over), and wait for [`arrival`](Self::arrival) until [`deadline`](Self::deadline).
///
/// Dropping a task ends its rotation, at whatever point it is; [`Handle::shutdown`](crate::Handle::shutdown) ends it in order.
#[derive(Debug)]
pub struct Task {
    rotation: Rotation,
    // Dropped before the ending: who waits for the end may open the store then.
    jobs: Jobs,
    /// A request that waits for its record, and until when.
    held: Option<(RequestId, Exchange, Instant)>,
    /// The request whose exchange the runtime drives, and the number of that exchange.
    driven: Option<(RequestId, u64)>,
    exchanges: u64,
    /// Panics in a row.
    panics: u32,
    /// The rotation panicked, and is not ticked before.
    paused_until: Option<Instant>,
    stage: Stage,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// Told to end; results of the store are waited for.
    Stopping,
    /// What is in memory only is written once more.
    LastWrite,
    LastWriteDone,
    Over,
}

/// What a runtime carries out for a [`Task`].
#[derive(Debug)]
#[must_use]
pub enum Work {
    /// Bring this exchange to its end, and have the reporter report it. There is one at most.
    Drive(Exchange, Reporter),
    /// Drop the exchange that is being driven, if it has not ended: what it reports is ignored.
    Cancel,
    /// Run this, off the loop.
    Store(Job),
}

impl Task {
    /// A task whose link shows the rotation as it is.
    pub(crate) fn new(mut rotation: Rotation, store: Arc<dyn Store>, link: Arc<Link>) -> Self {
        rotation.wake_on_identity(link.identity_waker());
        let (jobs, ending) = (Jobs::new(store), Ending::new(link));
        let (held, driven, paused_until) = (None, None, None);
        Self { rotation, jobs, held, driven, exchanges: 0, panics: 0, paused_until, stage: Stage::Running, ending }
    }

    /// Takes in what has arrived and the time, and returns what follows from it, in order.
    ///
    /// A panic, such as one of a signer, ends nothing: the task goes on from the state published last, after a pause.
    pub fn step(&mut self, now: Now) -> Vec<Work> {
        let mut work = Vec::new();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_in(now, &mut work))) {
            self.restart(&*panic, now, &mut work);
        }
        work
    }

    fn restart(&mut self, panic: &(dyn Any + Send), now: Now, work: &mut Vec<Work>) {
        let error: Arc<str> = format!("the rotation panicked{}", text_of(panic)).into();
        if self.stage != Stage::Running {
            tracing::error!("{error}; it is ending anyway; please report this as a bug");
            self.stage = Stage::Over;
            return;
        }
        let is_repeated = self.paused_until.is_some_and(|until| now.instant < until.after(LONGEST_PAUSE));
        self.panics = if is_repeated { self.panics.saturating_add(1) } else { 0 };
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.panics)).min(LONGEST_PAUSE);
        self.paused_until = Some(now.instant.after(pause));
        let link = self.link().clone();
        let (machine, published) = (link.machine(), link.snapshot());
        self.held = None;
        work.extend(self.driven.take().map(|_| Work::Cancel));
        self.rotation.restart(machine.clone(), &published, &error, now);
        let published = Snapshot { progress: None, at: now, ..Snapshot::clone(&published) };
        link.publish(published, &machine, vec![News::Panicked { error, pause }]);
    }

    fn take_in(&mut self, now: Now, work: &mut Vec<Work>) {
        if self.rotation.has_news() {
            self.publish(now);
        }
        let mut is_ticked = false;
        while !self.is_over() {
            let is_due = || !is_ticked && self.deadline().is_some_and(|deadline| deadline <= now.instant);
            let message = match self.link().pop() {
                Some(message) => message,
                // After the messages, which may have moved the deadline; once, whatever the rotation makes of it.
                None if is_due() => Message::Input(Input::Tick),
                None => break,
            };
            match (self.stage, message) {
                (Stage::Running, Message::Input(input)) => {
                    is_ticked |= matches!(input, Input::Tick);
                    self.handle(input, now, work);
                }
                (Stage::Running, Message::Reported(exchange, input)) => self.reported(exchange, input, now, work),
                (Stage::Running, Message::Stop) => {
                    self.held = None;
                    work.extend(self.driven.take().map(|_| Work::Cancel));
                    self.stage = Stage::Stopping;
                    self.finish(None, now);
                }
                (_, Message::Input(input)) => self.finish(Some(input), now),
                (_, Message::Stop | Message::Reported(..)) => {}
            }
            if let Some(job) = self.jobs.next(now.unix, &self.ending) {
                match self.jobs.are_instant() {
                    true => job.run(),
                    false => work.push(Work::Store(job)),
                }
            }
        }
        let is_durable = !self.jobs.has_saves();
        if let Some((id, exchange, _)) = self.held.take_if(|(.., until)| is_durable || *until <= now.instant) {
            self.exchanges += 1;
            self.driven = Some((id, self.exchanges));
            let (exchange_number, link) = (self.exchanges, self.link().clone());
            work.push(Work::Drive(exchange, Reporter { id, exchange: exchange_number, link, reported: None }));
        }
    }

    /// Takes in a report, unless its exchange was dropped: a request that goes on with another signer keeps its id.
    fn reported(&mut self, exchange: u64, input: Input, now: Now, work: &mut Vec<Work>) {
        if self.driven.is_none_or(|(_, driven)| driven != exchange) {
            return;
        }
        if matches!(input, Input::Finished { .. }) {
            self.driven = None;
        }
        self.handle(input, now, work);
    }

    fn handle(&mut self, input: Input, now: Now, work: &mut Vec<Work>) {
        self.jobs.note(&input);
        let commands = self.rotation.handle(input, now);
        // What is accepted is served at once, and written after that.
        self.publish(now);
        for command in commands {
            match command {
                Command::Drop { id } => {
                    self.held.take_if(|(held, ..)| *held == id);
                    work.extend(self.driven.take_if(|(driven, _)| *driven == id).map(|_| Work::Cancel));
                }
                Command::Write { id, credential, serve } => self.jobs.write(id, credential, serve),
                Command::Save { record } => self.jobs.save(*record),
                Command::Drive { id, exchange } => self.held = Some((id, exchange, now.instant.after(RECORD))),
            }
        }
    }

    fn publish(&mut self, now: Now) {
        let news = self.rotation.take_news();
        self.link().publish(self.rotation.snapshot(now), self.rotation.machine(), news);
    }

    /// The end: waits for results of the store that are out, then tries once more to write what is in memory only.
    fn finish(&mut self, input: Option<Input>, now: Now) {
        if let Some(input @ (Input::Written { .. } | Input::Saved { .. })) = input {
            self.jobs.note(&input);
            match (input, self.stage) {
                (Input::Written { result: Ok(()), .. }, Stage::LastWrite) => self.stage = Stage::LastWriteDone,
                (Input::Written { result: Err(error), .. }, Stage::LastWrite) => {
                    tracing::error!(
                        "the certificate in use is lost with this process, the disk did not take it: {error}"
                    );
                }
                // Nobody carries out what would follow.
                (input, _) => {
                    self.rotation.handle(input, now);
                    self.publish(now);
                }
            }
        }
        if let (false, Stage::Stopping, Some((credential, serve))) =
            (self.jobs.has_writes(), self.stage, self.rotation.unwritten())
        {
            self.jobs.write(RequestId::new(NonZeroU64::MAX), credential.clone(), serve);
            self.stage = Stage::LastWrite;
        }
        if !self.jobs.has_writes() && !self.jobs.has_saves() {
            let last = self.rotation.snapshot(now);
            let unwritten = last.unwritten && self.stage != Stage::LastWriteDone;
            self.link().publish(Snapshot { unwritten, ..last }, self.rotation.machine(), Vec::new());
            self.stage = Stage::Over;
        }
    }

    /// True once there is nothing left to do. Drop the task then: those who wait for the end learn of it by that.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// When [`step`](Self::step) is to be called even if nothing arrives.
    pub fn deadline(&self) -> Option<Instant> {
        let tick = self.rotation.deadline().map(|deadline| deadline.max(self.paused_until.unwrap_or(deadline)));
        let deadlines = tick.into_iter().chain(self.held.as_ref().map(|(.., until)| *until));
        deadlines.min().filter(|_| self.stage == Stage::Running)
    }

    /// Waits until something has arrived. A wait that takes too long just ends.
    pub fn arrival(&self) -> Wait<'static, ()> {
        Wait::new(self.link().clone(), |link| &link.arrived, |link| link.has_messages().then_some(()), |_| ())
    }

    fn link(&self) -> &Arc<Link> {
        self.ending.link()
    }
}

/// Reports to a rotation how the exchange of its request goes.
#[derive(Clone, Debug)]
pub struct Reporter {
    id: RequestId,
    exchange: u64,
    link: Arc<Link>,
    reported: Option<Report>,
}

/// What the rotation knows of an exchange.
type Report = (Progress, Option<Health>);

impl Reporter {
    /// Call after every [`poll`](crate::Conversation::poll), before carrying out what it returned. Reports its progress and what is known of the server, whenever they change;
    /// that the server answers as before, every ten seconds at most.
    pub fn progress(&mut self, exchange: &dyn SignerConversation) {
        let report = (exchange.progress(), exchange.health());
        if self.reported.as_ref().is_none_or(|reported| is_news(reported, &report)) {
            self.reported = Some(report.clone());
            let (progress, health) = report;
            self.send(Input::Progressed { id: self.id, progress, health });
        }
    }

    fn send(&self, input: Input) {
        self.link.send(Message::Reported(self.exchange, input));
    }

    /// Call with the outcome of the exchange.
    pub fn finish(self, result: Result<Issued, SignError>) {
        self.send(Input::Finished { id: self.id, result });
    }

    /// Call if the exchange cannot be driven at all. `why` is a clause for people.
    pub fn fail(self, why: String) {
        self.finish(Err(SignError::new(Failure::Local, why)));
    }
}

/// True if anything but the time of the last answer changed, or that time advanced by `STILL`.
fn is_news(reported: &Report, report: &Report) -> bool {
    match (reported.1, report.1) {
        _ if reported.0 != report.0 => true,
        (Some(before), Some(health)) => {
            before.answer != health.answer
                || before.date != health.date
                || health.at.instant.since(before.at.instant) >= STILL
        }
        (before, health) => before != health,
    }
}

#[cfg(test)]
mod tests {
    use std::future;
    use std::sync::atomic::{AtomicBool, Ordering};

    use perennial::{Now, State, Template};

    use super::*;
    use crate::{Answer, Authentication, Handle, Identity, Memory, NotYet, Rotator, ServerDate, SignWith, clock};

    fn signer() -> SignWith {
        SignWith::future("example.com/mesh", |_| future::pending())
    }

    fn task(rotator: Rotator) -> (Handle, Task, Now) {
        let (handle, task) = rotator.template(Template::new("mesh-1")).prepare().unwrap();
        (handle, task, clock::now())
    }

    /// The task after a panic, at the end of its pause.
    fn panicked(task: &mut Task, now: Now) -> Now {
        task.restart(&"a bug", now, &mut Vec::new());
        let at = now.instant.after(FIRST_PAUSE);
        assert_eq!(task.deadline(), Some(at));
        Now { instant: at, unix: now.unix.after(FIRST_PAUSE) }
    }

    #[test]
    fn panic_without_signer_leaves_rotation_off() {
        let (handle, mut task, now) = task(Rotator::new());
        assert!(task.step(now).is_empty());
        let now = panicked(&mut task, now);
        handle.rotate_now();
        assert!(task.step(now).is_empty());
        assert_eq!(handle.state(), State::NotEnabled);
    }

    #[test]
    fn signer_set_in_the_step_of_a_panic_is_used() {
        let (handle, mut task, now) = task(Rotator::new());
        drop(task.rotation.handle(Input::SignerChanged(Some(Arc::new(signer()))), now));
        let now = panicked(&mut task, now);
        assert!(matches!(task.step(now)[..], [Work::Drive(..)]), "{:?}", handle.state());
        drop(task.rotation.handle(Input::SignerChanged(None), now));
        task.restart(&"a bug", now, &mut Vec::new());
        handle.rotate_now();
        assert!(task.step(now).is_empty());
        assert_eq!(handle.state(), State::NotEnabled);
    }

    #[test]
    fn identity_that_is_coming_after_a_panic_is_no_failure() {
        let is_coming = Arc::new(AtomicBool::new(false));
        let coming = is_coming.clone();
        let identity = move || match coming.load(Ordering::SeqCst) {
            true => Err(NotYet::coming("waiting for a token")),
            false => Ok(Identity::Anonymous),
        };
        let (handle, mut task, now) =
            task(Rotator::new().signer(signer().authentication(Authentication::other(identity))));
        assert!(matches!(task.step(now)[..], [Work::Drive(..)]));
        is_coming.store(true, Ordering::SeqCst);
        let mut now = panicked(&mut task, now);
        assert!(task.step(now).is_empty());
        let State::BackingOff { until, failures: 1, last: Failure::Local, .. } = handle.state() else {
            panic!("{:?}", handle.state())
        };
        now = Now { instant: until, unix: now.unix.after(until.since(now.instant)) };
        assert!(task.step(now).is_empty());
        assert!(matches!(handle.state(), State::NoIdentity { .. }), "{:?}", handle.state());
    }

    #[test]
    fn record_lost_in_a_panic_is_saved_before_the_request_leaves() {
        let store = Arc::new(Memory::default());
        let (_, mut task, now) = task(Rotator::new().signer(signer()).store(store.clone()));
        let commands = task.rotation.handle(Input::Tick, now);
        assert!(matches!(commands[..], [Command::Save { .. }, Command::Drive { .. }]), "{commands:?}");
        drop(commands);
        let now = panicked(&mut task, now);
        assert!(matches!(task.step(now)[..], [Work::Drive(..)]));
        assert!(store.recall().unwrap().is_some());
    }

    fn report(answer: Answer, seconds: u64) -> Report {
        let at = Now { instant: Instant::from_millis(seconds * 1000), ..Now::default() };
        (Progress::WaitingForApproval { request_name: "a".into() }, Some(Health { answer, at, date: None }))
    }

    #[test]
    fn a_server_that_goes_on_answering_is_told_of_now_and_then() {
        // A watch, of which something arrives each second for a minute.
        let (mut told, mut times) = (report(Answer::Served, 0), 0);
        for news in (1..=60).map(|second| report(Answer::Served, second)) {
            if is_news(&told, &news) {
                (told, times) = (news, times + 1);
            }
        }
        assert_eq!((times, told), (6, report(Answer::Served, 60)));
    }

    #[test]
    fn what_is_new_is_told_at_once() {
        let told = report(Answer::Served, 0);
        assert!(!is_news(&told, &told));
        assert!(is_news(&told, &report(Answer::Unreachable, 0)));
        assert!(is_news(&(Progress::Submitting, told.1), &told));
        assert!(is_news(&(told.0.clone(), None), &told));
        let date = Some(ServerDate { unix: Now::default().unix, at: Now::default().instant });
        assert!(is_news(&told, &(told.0.clone(), told.1.map(|health| Health { date, ..health }))));
    }
}
