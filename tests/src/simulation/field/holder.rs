//! perennial as a holder in a simulated cluster: a machine in a [`World`](World). The cluster answers the machine's
//! requests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Event, Failure, Key, Policy, RequestId, Setup};
use perennial_simulation::{Object, Seen, Submitted};

use super::{Api, Holder, HolderStart, SharedScene, utc};
use crate::laws::{Verdict, check};
use crate::simulation::world::{Answer, World};

/// The time between two checks of `perennial run` that the API server accepts the client certificate. The response to a
/// check has a `Date`, which the machine gets as an event.
const CHECK_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// perennial as a [`Holder`]: a machine and its driver.
#[derive(Debug)]
pub struct Perennial {
    around: SharedScene,
    /// The machine, its disk and its trace. The world's own signer never answers, since the simulated cluster answers
    /// the requests.
    node: World,
    /// When the holder wakes up, by `Clocks::awake`; `None`: never.
    wakes: Option<Duration>,
    in_flight: Option<(RequestId, Object)>,
    /// When the next check with the API server is due, by `Clocks::awake`.
    next_check: Duration,
    /// The number of the pending key. A request object has the number of its key as its name.
    key: u64,
}

impl Perennial {
    /// Makes a holder that starts under this policy.
    pub fn begin(policy: Policy) -> impl FnOnce(SharedScene, HolderStart) -> Self {
        move |around, HolderStart { seed, certificate }| {
            let template = around.borrow().template.clone();
            let setup = Setup { policy: Arc::new(policy), seed, template, certificate, ..Setup::default() };
            let mut node = World::at(setup, Duration::ZERO, around.borrow().clocks.now);
            node.habit = Answer::lose();
            let wakes = Some(around.borrow().clocks.awake());
            Self { around, node, wakes, in_flight: None, next_check: CHECK_INTERVAL, key: 0 }
        }
    }

    /// Lets the machine handle an event, and then each event that results at the same time: the cluster's answer to a
    /// submission, and the reports of the disk.
    fn handle(&mut self, event: Event) {
        self.node.clocks.now = self.around.borrow().clocks.now;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.node.handle(event);
            let done = self.node.last().map(|step| (step.cancelled(), step.submitted()));
            let (cancelled, submitted) = done.unwrap_or_default();
            self.in_flight.take_if(|(id, _)| cancelled == Some(*id));
            if let Some((id, _, key)) = submitted {
                self.key += u64::from(key == Key::New);
                events.extend(self.submit(id));
            }
            events.extend(std::iter::from_fn(|| self.node.arrived()));
        }
        let (awake, deadline) = (self.around.borrow().clocks.awake(), self.node.machine.deadline());
        self.wakes = deadline.map(|deadline| awake + deadline.since(self.node.clocks.now.instant));
    }

    /// Submits a request, and returns the events that the cluster's answer causes. An accepted request causes two
    /// readings of the server's clock, since the response to the create and the response to the watch each have a
    /// `Date`.
    fn submit(&mut self, id: RequestId) -> Vec<Event> {
        let template = self.node.machine.template().cloned().expect("no request is submitted without a template");
        let failed = |failure, retry_after| Event::CsrFailed { id, failure, retry_after };
        let answer = self.around.borrow_mut().cluster.submit(Some(self.key), &template);
        match answer {
            Submitted::Accepted(object) => {
                self.in_flight = Some((id, object));
                vec![self.dated(), self.dated()]
            }
            Submitted::Throttled(retry_after) => vec![self.dated(), failed(Failure::Throttled, Some(retry_after))],
            // A refused connection has no `Date`.
            Submitted::Unreachable => vec![failed(Failure::Unreachable, None)],
        }
    }

    fn dated(&self) -> Event {
        Event::ServerDated { unix: utc(self.around.borrow().clocks.elapsed()) }
    }

    fn reply(&self) -> Option<Event> {
        let (id, object) = self.in_flight?;
        let failure = match self.around.borrow().cluster.watch(object) {
            Seen::Nothing => return None,
            Seen::Issued(certificate) => return Some(Event::CsrIssued { id, certificate }),
            Seen::Denied => Failure::Denied,
            Seen::Failed => Failure::SignerFailed,
            Seen::Deleted => Failure::Deleted,
        };
        Some(Event::CsrFailed { id, failure, retry_after: None })
    }

    fn next_event(&mut self) -> Option<Event> {
        let wanted = self.around.borrow().template.clone();
        if wanted.as_ref() != self.node.machine.template() {
            return Some(Event::TemplateChanged(wanted));
        }
        let (awake, api) = (self.around.borrow().clocks.awake(), self.around.borrow().cluster.api);
        if self.next_check <= awake {
            self.next_check = awake + CHECK_INTERVAL;
            if api == Api::Up && self.node.machine.certificate().is_some() {
                return Some(self.dated());
            }
        }
        self.reply().or_else(|| self.wakes.is_some_and(|at| at <= awake).then_some(Event::Tick))
    }
}

impl Holder for Perennial {
    fn run(&mut self) {
        while let Some(event) = self.next_event() {
            if let Event::CsrIssued { .. } | Event::CsrFailed { .. } = event {
                self.in_flight = None;
            }
            self.handle(event);
        }
    }

    fn sleeps_until(&self) -> Option<Duration> {
        Some(self.wakes.map_or(self.next_check, |wakes| wakes.min(self.next_check)))
    }

    fn certificate(&self) -> Option<Arc<Certificate>> {
        self.node.machine.certificate().cloned()
    }

    fn restart(&mut self, remembers: bool) {
        if !remembers {
            self.node.lose_record();
        }
        self.node.clocks.now = self.around.borrow().clocks.now;
        self.node.setup.template.clone_from(&self.around.borrow().template);
        self.node.restart();
        let awake = self.around.borrow().clocks.awake();
        (self.in_flight, self.wakes, self.next_check) = (None, Some(awake), awake + CHECK_INTERVAL);
    }

    fn lawful(&self) -> Verdict {
        check(&self.node.trace)
    }
}
