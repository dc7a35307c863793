//! perennial in the field: the machine, and a driver that does what the core asks of one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Action, Certificate, Event, Failure, Instant, Key, Now, Pending, Policy, RequestId};
use perennial::{RotationMachine, Setup};

use super::{Answer, Api, Holder, Object, Seen, Start, World, utc};
use crate::laws::{Verdict, check};
use crate::trace::{Record, Run, Trace};

/// How often `run` asks the API server whether it accepts the client certificate, which tells the time, too.
const LOOK: Duration = Duration::from_secs(6 * 3600);

/// A machine and its driver.
#[derive(Debug)]
pub struct Perennial {
    world: World,
    setup: Setup,
    machine: RotationMachine,
    /// When its loop wakes up, by the clock that stands still in suspend.
    wakes: Option<Duration>,
    live: Option<(RequestId, Object)>,
    /// When it asks the API server something else next, by the clock that stands still in suspend.
    looks: Duration,
    /// The key in the pending slot, and so the name of its request.
    key: u64,
    keys: u64,
    saved: Option<(Pending, u64)>,
    /// What the holder's wall clock was ahead when that was saved.
    saved_ahead: i64,
    stored: Option<Arc<Certificate>>,
    stored_waiting: Option<Arc<Certificate>>,
    trace: Trace,
}

impl Perennial {
    /// A holder under this policy.
    pub fn begin(policy: Policy) -> impl FnOnce(World, Start) -> Self {
        move |world, Start { seed, certificate }| {
            let setup = Setup {
                policy: Arc::new(policy),
                seed,
                template: world.borrow().template.clone(),
                certificate: certificate.clone(),
                ..Setup::default()
            };
            let started = now(&world);
            let machine = RotationMachine::new(setup.clone(), started);
            let wakes = Some(world.borrow().clocks.awake);
            let first = Run { started, pending: None, remembers: false, first: machine.clone(), records: vec![] };
            let trace = Trace { policy: setup.policy.clone(), seed, wild: false, runs: vec![first] };
            let stored = certificate;
            Self {
                world,
                setup,
                machine,
                wakes,
                live: None,
                looks: LOOK,
                key: 0,
                keys: 0,
                saved: None,
                saved_ahead: 0,
                stored,
                stored_waiting: None,
                trace,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = now(&self.world);
            let answered = matches!(event, Event::CsrIssued { .. } | Event::CsrFailed { .. });
            let mut save = answered || matches!(event, Event::CertWritten { .. });
            let actions = self.machine.handle(event.clone(), now);
            let record = Record { now, event, actions: actions.clone(), after: self.machine.clone() };
            self.trace.runs.last_mut().expect("it begins with a run").records.push(record);
            for action in actions {
                match action {
                    Action::SubmitCsr { id, key, .. } => {
                        save = true;
                        if key == Key::New {
                            self.keys += 1;
                            self.key = self.keys;
                        }
                        let answer = self.submit(id);
                        let answers = if self.live.is_some() { 2 } else { usize::from(is_answer(answer.as_ref())) };
                        events.extend((0..answers).map(|_| self.dated()));
                        events.extend(answer);
                    }
                    Action::CancelRequest { id } => drop(self.live.take_if(|(live, _)| *live == id)),
                    Action::WriteCert { id, certificate, serve } => {
                        let slot = if serve { &mut self.stored } else { &mut self.stored_waiting };
                        *slot = Some(certificate);
                        events.push_back(Event::CertWritten { id });
                    }
                    Action::SetTimer(_) => {}
                }
            }
            if save {
                self.saved = self.machine.pending(now).map(|pending| (pending, self.key));
                self.saved_ahead = self.world.borrow().clocks.ahead;
            }
        }
        let now = now(&self.world);
        let awake = self.world.borrow().clocks.awake;
        self.wakes = self.machine.deadline().map(|deadline| awake + deadline.since(now.instant));
    }

    /// The `Date` of an answer: of a create, of the watch that follows.
    fn dated(&self) -> Event {
        Event::ServerDated { unix: utc(self.world.borrow().clocks.moment()) }
    }

    fn submit(&mut self, id: RequestId) -> Option<Event> {
        let mut scene = self.world.borrow_mut();
        let template = self.machine.template().cloned().expect("nothing is asked without a template");
        let (failure, retry_after) = match scene.cluster.submit(Some(self.key), &template) {
            Answer::Accepted(object) => {
                self.live = Some((id, object));
                return None;
            }
            Answer::Unreachable => (Failure::Unreachable, None),
            Answer::Throttled(retry_after) => (Failure::Throttled, Some(retry_after)),
        };
        Some(Event::CsrFailed { id, failure, retry_after })
    }

    fn reply(&self) -> Option<Event> {
        let (id, object) = self.live?;
        let scene = self.world.borrow();
        let failure = match scene.cluster.look(object) {
            Seen::Nothing => return None,
            Seen::Issued(certificate) => return Some(Event::CsrIssued { id, certificate }),
            Seen::Denied => Failure::Denied,
            Seen::Failed => Failure::SignerFailed,
            Seen::Deleted => Failure::Deleted,
        };
        Some(Event::CsrFailed { id, failure, retry_after: None })
    }

    fn next_event(&mut self) -> Option<Event> {
        let wanted = self.world.borrow().template.clone();
        if wanted.as_ref() != self.machine.template() {
            return Some(Event::TemplateChanged(wanted));
        }
        let (awake, api) = (self.world.borrow().clocks.awake, self.world.borrow().cluster.api);
        if self.looks <= awake {
            self.looks = awake + LOOK;
            if api == Api::Up && self.machine.certificate().is_some() {
                return Some(self.dated());
            }
        }
        let ticks = || self.wakes.is_some_and(|at| at <= self.world.borrow().clocks.awake).then_some(Event::Tick);
        self.reply().or_else(ticks)
    }
}

impl Holder for Perennial {
    fn run(&mut self) {
        while let Some(event) = self.next_event() {
            if let Event::CsrIssued { .. } | Event::CsrFailed { .. } = event {
                self.live = None;
            }
            self.handle(event);
        }
    }

    fn sleeps_until(&self) -> Option<Duration> {
        Some(self.wakes.map_or(self.looks, |wakes| wakes.min(self.looks)))
    }

    fn certificate(&self) -> Option<Arc<Certificate>> {
        self.machine.certificate().cloned()
    }

    fn restart(&mut self, remembers: bool) {
        let saved = self.saved.take().filter(|_| remembers);
        self.live = None;
        self.key = saved.as_ref().map_or(0, |(_, key)| *key);
        let setup = Setup {
            template: self.world.borrow().template.clone(),
            certificate: self.stored.clone(),
            waiting: self.stored_waiting.clone().filter(|waiting| {
                waiting.validity.not_before() > now(&self.world).unix && Some(waiting) != self.stored.as_ref()
            }),
            pending: saved.as_ref().map(|(pending, _)| pending.clone()),
            ..self.setup.clone()
        };
        // A wall clock that has gained makes what was spent seem long ago.
        let remembers = saved.is_some() && self.world.borrow().clocks.ahead <= self.saved_ahead;
        let (started, pending) = (now(&self.world), setup.pending.clone());
        self.saved = saved;
        self.machine = RotationMachine::new(setup, started);
        let first = self.machine.clone();
        self.trace.runs.push(Run { started, pending, remembers, first, records: vec![] });
        self.wakes = Some(self.world.borrow().clocks.awake);
        self.looks = self.world.borrow().clocks.awake + LOOK;
    }

    fn lawful(&self) -> Verdict {
        check(&self.trace)
    }
}

/// A refused connection tells no time.
fn is_answer(event: Option<&Event>) -> bool {
    matches!(event, Some(Event::CsrFailed { failure, .. }) if *failure != Failure::Unreachable)
}

/// Both clocks; the monotonic one goes on in suspend.
fn now(world: &World) -> Now {
    let clocks = world.borrow().clocks;
    let millis = u64::try_from(clocks.moment().as_millis()).unwrap_or(u64::MAX);
    Now { instant: Instant::from_millis(millis), unix: clocks.wall() }
}
