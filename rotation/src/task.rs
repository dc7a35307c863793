//! [`Task`]: one rotation with its store and its handles, for a runtime to run.

mod panics;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use perennial::{Instant, Now, RequestId, Schedule};

use crate::Wait;
use crate::fleet::hub::FleetEnding;
use crate::handle::link::{Ending, Link, Message, contain};
use crate::jobs::{Job, Jobs};
use crate::reporter::Reporter;
use crate::{Command, Exchange, Input, Rotation, Store};

/// Longest time that a request waits for its pending record to become durable. After that, the request is submitted
/// without a durable record: a crash may lead to a second request object, but a disk that hangs does not let the
/// certificate expire.
const RECORD: Duration = Duration::from_secs(10);

/// One rotation, for a runtime to run. The loop of any runtime is: [`step`](Self::step), carry out the [`Work`], end if
/// [`is_over`](Self::is_over), and wait for [`arrival`](Self::arrival) until [`deadline`](Self::deadline).
///
/// Dropping a task ends its rotation at once, without a last write;
/// [`Handle::shutdown`](crate::Handle::shutdown) ends it in order.
#[derive(Debug)]
pub struct Task {
    rotation: Rotation,
    // Dropped before `ending`: a caller that waits for the end may open the store then.
    jobs: Jobs,
    /// The request whose exchange waits until the pending record is durable.
    held: Option<Box<Held>>,
    /// The request whose exchange the runtime drives now, and the number of that exchange.
    driven: Option<(RequestId, u64)>,
    exchanges: u64,
    /// When to close the connection that the last exchange has kept; `None` if it has kept none.
    kept_until: Option<Instant>,
    /// Number of panics in a row, not counting the first. A panic soon after the last pause continues the row.
    panics: u32,
    /// End of the pause after the last panic. The task handles no Tick until then.
    paused_until: Option<Instant>,
    stage: Stage,
    ending: Ending,
}

/// A request whose exchange waits, and the end of that wait.
#[derive(Debug)]
struct Held {
    id: RequestId,
    exchange: Exchange,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// The task got [`Message::Stop`], and waits until all calls to the store have ended.
    Stopping,
    /// The task writes a credential that is not durable yet, for the last time, and waits for the result.
    LastWrite,
    Over,
}

/// Work that a runtime carries out for a [`Task`], returned by [`Task::step`].
#[derive(Debug)]
#[must_use]
pub enum Work {
    /// Drive this exchange to its end, and report its progress and result with the reporter. A task has at most one
    /// exchange driven at a time.
    Drive(Exchange, Reporter),
    /// Drop the exchange of the last [`Work::Drive`], if the exchange has not ended. The task ignores reports of this
    /// exchange from now on.
    Cancel,
    /// Call [`Job::run`] off the loop, since it may block. Two calls may run at once: one to the store, and one to the
    /// [key source](crate::KeySource).
    Store(Job),
}

impl Task {
    /// Makes the task of `rotation`. The handles at `link` show the first snapshot of the rotation already.
    pub(crate) fn new(
        mut rotation: Rotation,
        store: Arc<dyn Store>,
        link: Arc<Link>,
        fleet: Option<FleetEnding>,
    ) -> Self {
        rotation.wake_on_identity(link.clone().into());
        let (jobs, ending) = (Jobs::new(store), Ending::new(link, fleet));
        let (held, driven, kept_until, paused_until) = (None, None, None, None);
        let (exchanges, panics, stage) = (0, 0, Stage::Running);
        Self { rotation, jobs, held, driven, exchanges, kept_until, panics, paused_until, stage, ending }
    }

    /// Handles all messages that have arrived, and a Tick if one is due; returns the work to carry out, in order.
    ///
    /// Catches panics, such as one of a signer: after a pause, the task continues from the last published state.
    pub fn step(&mut self, now: Now) -> Vec<Work> {
        self.step_in_turn(None, now)
    }

    /// Steps, and handles `turn` after the messages: a Tick that is due for another reason than the deadline, or the
    /// turn of this member of a fleet. After a panic, no turn is handled before the end of the pause.
    pub(crate) fn step_in_turn(&mut self, turn: Option<Input>, now: Now) -> Vec<Work> {
        let turn = turn.filter(|_| !self.is_paused(now));
        let mut work = Vec::new();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_in(turn, now, &mut work))) {
            self.restart(&*panic, now, &mut work);
        }
        work
    }

    fn is_paused(&self, now: Now) -> bool {
        self.paused_until.is_some_and(|until| now.instant < until)
    }

    /// The facts by which the planner of a fleet decides when the next turn of this task comes.
    pub(crate) fn schedule(&self, now: Now) -> Schedule {
        if self.stage != Stage::Running {
            // The request in flight was dropped.
            return Schedule::default();
        }
        let planned = self.rotation.machine().schedule(now);
        // The turns that come in a pause are lost: one at its end, in which the machine reads the clocks, replaces them.
        let pause = self.paused_until.filter(|_| self.is_paused(now));
        Schedule {
            deadline: self.deadline().into_iter().chain(pause).min(),
            queued: planned.queued.filter(|_| pause.is_none()),
            ..planned
        }
    }

    /// True if messages have arrived that no step has handled yet.
    pub(crate) fn has_messages(&self) -> bool {
        self.link().has_messages()
    }

    fn take_in(&mut self, mut turn: Option<Input>, now: Now, work: &mut Vec<Work>) {
        // Taken out, so that the time to close a connection does not count as the time of a Tick.
        if self.kept_until.take_if(|until| *until <= now.instant).is_some() {
            self.rotation.close_kept(now);
        }
        if self.rotation.has_news() {
            self.publish(now);
        }
        let mut is_ticked = false;
        while !self.is_over() {
            let is_due = || !is_ticked && self.deadline().is_some_and(|deadline| deadline <= now.instant);
            let message = match self.link().pop().or_else(|| turn.take().map(Message::Input)) {
                Some(message) => message,
                // A Tick comes after the messages, which may have moved the deadline, and only once per step, even if
                // the deadline stays due.
                None if is_due() => Message::Input(Input::Tick),
                None => break,
            };
            match (self.stage, message) {
                (Stage::Running, Message::Input(input)) => {
                    if matches!(input, Input::SignerChanged(_)) {
                        self.close_kept_early(now);
                    }
                    is_ticked |= matches!(input, Input::Tick | Input::TurnGranted);
                    self.handle(input, now, work);
                }
                (Stage::Running, Message::Reported(exchange, input)) => self.reported(exchange, input, now, work),
                (Stage::Running, Message::Stop) => {
                    // A request is dropped at once; only calls to the store are waited for.
                    self.drop_exchange(work);
                    self.close_kept_early(now);
                    self.rotation.end();
                    self.stage = Stage::Stopping;
                    self.finish(None, now);
                }
                (_, Message::Input(input)) => self.finish(Some(input), now),
                (_, Message::Stop | Message::Reported(..)) => {}
            }
            while let Some(job) = self.jobs.next(now.unix, &self.ending) {
                match job.is_instant() {
                    true => job.run(),
                    false => work.push(Work::Store(job)),
                }
            }
        }
        let is_durable = !self.jobs.has_saves();
        if let Some(held) = self.held.take_if(|held| is_durable || held.until <= now.instant) {
            let Held { id, exchange, .. } = *held;
            self.exchanges += 1;
            self.driven = Some((id, self.exchanges));
            let (exchange_number, link) = (self.exchanges, self.link().clone());
            work.push(Work::Drive(exchange, Reporter::new(id, exchange_number, link)));
        }
    }

    /// Closes the connections that the last exchange has kept, as if their time were over: later, this task does not
    /// call their signer any more.
    fn close_kept_early(&mut self, now: Now) {
        if let Some(until) = self.kept_until.take() {
            // A panic of the signer must not lose the message that is being handled.
            contain(|| self.rotation.close_kept(Now { instant: until, ..now }));
        }
    }

    /// Drops the exchange of the request in flight, whether the runtime drives it or not. The task ignores reports of a
    /// dropped exchange.
    fn drop_exchange(&mut self, work: &mut Vec<Work>) {
        self.held = None;
        work.extend(self.driven.take().map(|_| Work::Cancel));
    }

    /// Handles a report, unless the exchange with this number was dropped. The id of the request is not enough: a
    /// request that continues with another signer keeps its id, but has a new exchange.
    fn reported(&mut self, exchange: u64, input: Input, now: Now, work: &mut Vec<Work>) {
        if self.driven.is_none_or(|(_, driven)| driven != exchange) {
            return;
        }
        if matches!(input, Input::Finished { .. }) {
            self.driven = None;
            self.kept_until = self.rotation.kept_until();
        }
        self.handle(input, now, work);
    }

    fn handle(&mut self, input: Input, now: Now, work: &mut Vec<Work>) {
        self.jobs.note(&input);
        let commands = self.rotation.handle(input, now);
        // Publish before the commands are carried out: an accepted certificate is served at once, and written after
        // that.
        self.publish(now);
        for command in commands {
            match command {
                Command::Drop { id } => {
                    self.held.take_if(|held| held.id == id);
                    work.extend(self.driven.take_if(|(driven, _)| *driven == id).map(|_| Work::Cancel));
                }
                Command::Write { id, credential, serve } => self.jobs.write(id, credential, serve),
                Command::Save { record } => self.jobs.save(*record),
                Command::Key { id, call } => self.jobs.key(id, call),
                Command::Drive { id, exchange } => {
                    self.held = Some(Box::new(Held { id, exchange, until: now.instant.after(RECORD) }));
                }
            }
        }
    }

    fn publish(&mut self, now: Now) {
        let news = self.rotation.take_news();
        self.link().publish(self.rotation.snapshot(now), self.rotation.machine(), news);
    }

    /// Continues the shutdown: waits until all calls to the store have ended, then tries for the last time to write a
    /// credential that is not durable yet, and then ends the task.
    fn finish(&mut self, input: Option<Input>, now: Now) {
        if let Some(input @ (Input::Written { .. } | Input::Saved { .. })) = input {
            self.jobs.note(&input);
            if let (Input::Written { result: Err(error), .. }, Stage::LastWrite) = (&input, self.stage) {
                tracing::error!(
                    "cannot write a certificate before the rotation ends: {error}; it is lost when the process ends"
                );
            }
            // Handled for the rotation's state only: the commands are dropped, since the task is ending.
            self.rotation.handle(input, now);
        }
        self.publish(now);
        if let (false, Stage::Stopping, Some((credential, serve)), Some((id, _))) =
            (self.jobs.has_writes(), self.stage, self.rotation.unwritten(), self.rotation.machine().writes())
        {
            self.jobs.write(id, credential.clone(), serve);
            self.stage = Stage::LastWrite;
        }
        if !self.jobs.has_writes() && !self.jobs.has_saves() {
            self.stage = Stage::Over;
        }
    }

    /// True once there is nothing left to do. Drop the task then: only the drop ends the waits of handles for the end
    /// of the rotation.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// When to call [`step`](Self::step) even if no message arrives; `None`: only once a message arrives.
    pub fn deadline(&self) -> Option<Instant> {
        // After a panic, Ticks wait for the end of the pause; messages do not.
        let tick = self.rotation.deadline().map(|deadline| deadline.max(self.paused_until.unwrap_or(deadline)));
        let held = self.held.as_ref().map(|held| held.until);
        let deadlines = tick.into_iter().chain(held).chain(self.kept_until);
        deadlines.min().filter(|_| self.stage == Stage::Running)
    }

    /// Waits until a message of a handle or of an exchange arrives, for [`step`](Self::step) to handle.
    /// [`Wait::within`] limits the wait.
    pub fn arrival(&self) -> Wait<'static, ()> {
        let (link, arriving) = (self.link().clone(), self.link().clone());
        Wait::new(move || arriving.arrived.listen(), move || link.has_messages().then_some(()), || ())
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        self.ending.link()
    }
}
