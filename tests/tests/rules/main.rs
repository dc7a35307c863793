//! The rules of rotation, one fact per test.

mod alike;
mod certificates;
mod clocks;
mod due;
mod failures;
mod fleets;
mod hints;
mod outcomes;
mod policies;
mod policy_changes;
mod requests;
mod restarts;
mod server_clock;
mod templates;
mod turns;
mod waiting;
mod words;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use perennial::{Action, Certificate, Event, Failure, Instant, Key, Now, Policy, RequestId, RotationMachine};
use perennial::{Setup, SignerStatus, Template};
use perennial_tests::mint;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A machine and its clocks, which only the test changes.
struct Holder {
    machine: RotationMachine,
    now: Now,
}

/// A request that was submitted.
#[derive(Debug)]
struct Request {
    at: Instant,
    id: RequestId,
    template: Arc<Template>,
    key: Key,
}

impl Holder {
    fn new(setup: Setup) -> Self {
        let now = Now { instant: Instant::from_millis(0), unix: mint::EPOCH };
        Self { machine: RotationMachine::new(setup, now), now }
    }

    /// A machine under the default policy, with a template and `certificate` as its current certificate.
    fn with(certificate: Option<Certificate>) -> Self {
        Self::new(setup(certificate))
    }

    /// A machine without a certificate, and its first request, which is in flight.
    fn requesting() -> (Self, Request) {
        let mut holder = Self::with(None);
        let request = holder.next_request();
        (holder, request)
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(event, self.now).collect()
    }

    fn tick(&mut self) -> Vec<Action> {
        self.handle(Event::Tick)
    }

    /// Lets time pass without an event.
    fn pass(&mut self, span: Duration) {
        self.now = Now { instant: self.now.instant.after(span), unix: self.now.unix.after(span) };
    }

    /// Lets time pass until the machine's deadline, then hands the machine a Tick.
    fn tick_at_deadline(&mut self) -> Vec<Action> {
        let deadline = self.machine.deadline().expect("there is a deadline");
        self.pass(deadline.since(self.now.instant));
        self.tick()
    }

    /// Handles a Tick at every deadline of this span, and answers no request. Returns the requests that the machine
    /// submits.
    fn requests_within(&mut self, span: Duration) -> Vec<Request> {
        let end = self.now.instant.after(span);
        let (mut request, mut ticks) = (vec![], 0);
        while self.machine.deadline().is_some_and(|at| at <= end) {
            ticks += 1;
            assert!(ticks < 100_000, "the machine spins: {}", self.machine);
            let actions = self.tick_at_deadline();
            request.extend(submitted(&actions).map(|(id, template, key)| Request {
                at: self.now.instant,
                id,
                template,
                key,
            }));
        }
        self.pass(end.since(self.now.instant));
        request
    }

    /// Handles a Tick now, then one at every deadline, until the machine submits a request.
    fn next_request(&mut self) -> Request {
        let mut actions = self.tick();
        for _ in 0..100_000 {
            if let Some((id, template, key)) = submitted(&actions) {
                return Request { at: self.now.instant, id, template, key };
            }
            actions = self.tick_at_deadline();
        }
        panic!("no request is ever submitted: {}", self.machine);
    }

    fn fail(&mut self, id: RequestId, failure: Failure) -> Vec<Action> {
        self.handle(Event::CsrFailed { id, failure, retry_after: None })
    }

    fn issue(&mut self, id: RequestId, certificate: &Certificate) -> Vec<Action> {
        self.handle(Event::CsrIssued { id, certificate: Arc::new(certificate.clone()) })
    }

    fn set_template(&mut self, template: Template) -> Vec<Action> {
        self.handle(Event::TemplateChanged(Some(Arc::new(template))))
    }

    fn serves(&self, certificate: &Certificate) -> bool {
        self.machine.certificate_at(self.now.unix).is_some_and(|served| **served == *certificate)
    }

    /// The time until the machine would submit its next request if it got Ticks and no other event. Leaves the machine
    /// unchanged.
    fn time_to_request(&self) -> Duration {
        let mut clone = Self { machine: self.machine.clone(), now: self.now };
        clone.next_request().at.since(self.now.instant)
    }
}

fn node() -> Template {
    Template::node("worker-1")
}

fn with_name() -> Template {
    node().with_dns_names(["worker-1.example"])
}

fn setup(certificate: Option<Certificate>) -> Setup {
    let certificate = certificate.map(Arc::new);
    Setup { template: Some(Arc::new(node())), certificate, ..Setup::default() }
}

fn under(policy: Policy, certificate: Option<Certificate>) -> Holder {
    Holder::new(Setup { policy: Arc::new(policy), ..setup(certificate) })
}

/// A certificate for [`node`] of this lifetime, issued at the beginning of virtual time.
fn fresh(life: Duration) -> Certificate {
    issued(&node(), 1, Duration::ZERO, life)
}

/// A certificate for `template`, issued `after` the beginning of virtual time.
fn issued(template: &Template, serial: u64, after: Duration, life: Duration) -> Certificate {
    mint::certificate(template, serial, mint::EPOCH.after(after), life)
}

fn submitted(actions: &[Action]) -> Option<(RequestId, Arc<Template>, Key)> {
    actions.iter().find_map(|action| {
        if let Action::SubmitCsr { id, template, key } = action { Some((*id, template.clone(), *key)) } else { None }
    })
}

fn cancelled(actions: &[Action]) -> Option<RequestId> {
    actions.iter().find_map(|action| if let Action::CancelRequest { id } = action { Some(*id) } else { None })
}

fn written(actions: &[Action]) -> Option<(RequestId, Arc<Certificate>)> {
    actions.iter().find_map(|action| {
        if let Action::WriteCert { id, certificate, .. } = action { Some((*id, certificate.clone())) } else { None }
    })
}
