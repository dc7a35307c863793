//! Runs the nodes of a fleet, one after another.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Action, Certificate, Event, Failure, Instant, Key, Now, Outcome, Pending, Policy, RequestId, RotationMachine,
    Setup, Template, Validity, mix, seed,
};

use crate::client_go::Oracle;
use crate::cluster::{Schedule, Site, unix};
use crate::report::{Holding, Report, Tally};
use crate::scenario::{BEGIN, Program, Scenario, Start};
use crate::surroundings::{Object, Seen, Submitted, Surroundings};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// The HTTP requests beside the POST that perennial makes for a decision: one watch.
const REQUESTS_OF_PERENNIAL: u8 = 1;
/// The HTTP requests beside the POST that client-go makes for a decision: a list and a watch.
const REQUESTS_OF_CLIENT_GO: u8 = 2;

/// Simulates a scenario. Equal scenarios have equal reports. Calls `progress` from time to time, and at the end, with
/// the number of nodes that are done.
pub fn simulate(scenario: &Scenario, progress: impl FnMut(u32)) -> Report {
    run(scenario, false, progress)
}

/// Simulates as [`simulate`] does, and also records when each certificate was replaced ([`Report::lives`]).
pub fn simulate_with_lives(scenario: &Scenario, progress: impl FnMut(u32)) -> Report {
    run(scenario, true, progress)
}

fn run(scenario: &Scenario, records_lives: bool, mut progress: impl FnMut(u32)) -> Report {
    let nodes = scenario.fleet_size();
    let (policy, watches) = match &scenario.program {
        Program::Perennial(policy) => (Some(Arc::new(without_clock_checks(policy))), REQUESTS_OF_PERENNIAL),
        Program::ClientGo => (None, REQUESTS_OF_CLIENT_GO),
    };
    let schedule = Schedule::new(scenario, watches);
    let site = Rc::new(RefCell::new(Site::new(schedule, Tally::new(nodes, scenario.span, records_lives))));
    let zero = Instant::default();
    let mut restarts: Vec<Instant> = scenario.restarts.iter().map(|at| zero.after(*at)).collect();
    restarts.sort_unstable();
    let end = zero.after(scenario.span);
    for number in 0..nodes {
        let node = Node::begin(scenario, number, &restarts, end, &mut site.borrow_mut());
        match &policy {
            Some(policy) => PerennialNode::run(node, policy, &mut site.borrow_mut()),
            None => run_client_go(node, &site),
        }
        if number % 1024 == 0 {
            progress(number);
        }
    }
    progress(nodes);
    let site = Rc::into_inner(site).expect("the nodes have ended, and with them the other owners");
    site.into_inner().tally.report()
}

/// The policy without regular checks of the clocks, since the clocks of a simulation are steady.
fn without_clock_checks(policy: &Policy) -> Policy {
    Policy { max_sleep: Duration::from_secs(100 * 366 * 86_400), ..policy.clone() }
}

fn now(at: Instant) -> Now {
    Now { instant: at, unix: unix(at) }
}

/// A node before its first step.
struct Node<'a> {
    seed: u64,
    certificate: Option<Arc<Certificate>>,
    holding: Holding,
    /// The restarts to come.
    restarts: &'a [Instant],
    end: Instant,
}

impl<'a> Node<'a> {
    fn begin(scenario: &Scenario, number: u32, restarts: &'a [Instant], end: Instant, site: &mut Site) -> Self {
        let template = Template::node(&format!("worker-{}-{number}", scenario.seed));
        let seed = seed(SIGNER, template.common_name());
        let chosen = |whole: Duration| whole.mul_f64(mix(seed, number.into(), scenario.seed) as f64 / 2_f64.powi(64));
        let (started, validity) = match &scenario.start {
            Start::Within(span) => (Instant::default().after(chosen(*span)), None),
            Start::Spread => {
                let issued = BEGIN.before(chosen(scenario.lifetime.mul_f64(0.7)));
                let ends = issued.after(scenario.lifetime);
                (Instant::default(), Validity::new(issued.before(scenario.backdate), ends).ok())
            }
            Start::With(certificates) => (Instant::default(), certificates.get(number as usize).copied()),
        };
        site.begin(number, Arc::new(template), started);
        let certificate = validity.map(|validity| site.mint(validity));
        let past = restarts.partition_point(|at| *at <= started);
        Self { seed, certificate, holding: Holding::new(validity, started), restarts: &restarts[past..], end }
    }

    /// The earliest of these times and the next restart; `None`: the node makes no further step before the end.
    fn next_step(&self, moments: [Option<Instant>; 2]) -> Option<Instant> {
        let restart = self.restarts.first().copied();
        moments.into_iter().flatten().chain(restart).min().filter(|at| *at < self.end)
    }

    /// Whether the node restarts at this time. Each restart happens once.
    fn restarts_at(&mut self, at: Instant) -> bool {
        match self.restarts {
            [first, later @ ..] if *first <= at => {
                self.restarts = later;
                true
            }
            _ => false,
        }
    }

    fn end(&mut self, site: &mut Site) {
        site.end();
        self.holding.end(&mut site.tally);
    }
}

/// A node that runs perennial: the machine, and a driver whose disk takes no time.
struct PerennialNode<'a> {
    node: Node<'a>,
    policy: Arc<Policy>,
    machine: RotationMachine,
    in_flight: Option<(RequestId, Object)>,
    /// The number of the pending key.
    key: u64,
}

impl<'a> PerennialNode<'a> {
    fn run(mut node: Node<'a>, policy: &Arc<Policy>, site: &mut Site) {
        let certificate = node.certificate.take();
        let machine = Self::machine(&node, policy, certificate, None, site);
        Self { node, policy: policy.clone(), machine, in_flight: None, key: 0 }.run_to_end(site);
    }

    fn machine(
        node: &Node<'_>,
        policy: &Arc<Policy>,
        certificate: Option<Arc<Certificate>>,
        pending: Option<Pending>,
        site: &Site,
    ) -> RotationMachine {
        let template = Some(site.template.clone());
        let setup =
            Setup { policy: policy.clone(), seed: node.seed, template, certificate, pending, ..Setup::default() };
        RotationMachine::new(setup, now(site.now))
    }

    fn run_to_end(mut self, site: &mut Site) {
        while let Some(at) = self.node.next_step([self.machine.deadline(), site.answers_at()]) {
            site.now = at;
            if self.node.restarts_at(at) {
                self.restart(site);
            } else if let Some(reply) = self.reply(site) {
                self.handle(reply, site);
            } else {
                self.handle(Event::Tick, site);
            }
        }
        self.node.end(site);
    }

    /// The event for the decision that the node sees now; `None`: there is none.
    fn reply(&mut self, site: &mut Site) -> Option<Event> {
        site.answers_at().filter(|at| *at <= site.now)?;
        let (id, object) = self.in_flight.take()?;
        let failure = match site.watch(object) {
            Seen::Nothing => return None,
            Seen::Issued(certificate) => {
                site.settle();
                return Some(Event::CsrIssued { id, certificate });
            }
            Seen::Denied => Failure::Denied,
            Seen::Failed => Failure::SignerFailed,
            Seen::Deleted => Failure::Deleted,
        };
        site.settle();
        Some(Event::CsrFailed { id, failure, retry_after: None })
    }

    fn handle(&mut self, event: Event, site: &mut Site) {
        let actions = self.machine.handle(event, now(site.now));
        let is_new = actions.outcomes().iter().any(|outcome| matches!(outcome, Outcome::Accepted { .. }));
        if let Some(certificate) = self.machine.certificate().filter(|_| is_new) {
            self.node.holding.replace(certificate.validity, site.now, &mut site.tally);
        }
        let (mut written, mut failed) = (None, None);
        for action in actions {
            match action {
                Action::SubmitCsr { id, template: _, key } => failed = self.submit(id, key, site),
                Action::WriteCert { id, .. } => written = Some(Event::CertWritten { id }),
                Action::CancelRequest { .. } => {
                    self.in_flight = None;
                    site.settle();
                }
                // The loop reads the deadline.
                Action::SetTimer(_) => {}
            }
        }
        for event in [written, failed].into_iter().flatten() {
            self.handle(event, site);
        }
    }

    /// Submits a request. Returns the failure if the API server does not accept it.
    fn submit(&mut self, id: RequestId, key: Key, site: &mut Site) -> Option<Event> {
        self.key += u64::from(key == Key::New);
        let (failure, retry_after) = match site.submit(Some(self.key)) {
            Submitted::Accepted(object) => {
                self.in_flight = Some((id, object));
                return None;
            }
            Submitted::Unreachable => (Failure::Unreachable, None),
            // Status 503, or 429: the machine treats both alike.
            Submitted::Throttled(retry_after) => (Failure::Throttled, Some(retry_after)),
        };
        Some(Event::CsrFailed { id, failure, retry_after })
    }

    /// Restarts the program from its files: the certificate and the pending record, with its key.
    fn restart(&mut self, site: &mut Site) {
        site.settle();
        self.in_flight = None;
        let pending = self.machine.pending(now(site.now));
        let certificate = self.machine.certificate().cloned();
        self.machine = Self::machine(&self.node, &self.policy, certificate, pending, site);
    }
}

/// Runs client-go's certificate manager on a node.
fn run_client_go(mut node: Node<'_>, site: &Rc<RefCell<Site>>) {
    let mut held = node.certificate.take();
    let mut manager = Oracle::begin(site.clone(), node.seed, held.clone());
    loop {
        manager.run();
        let mut around = site.borrow_mut();
        if around.answers_at().is_some_and(|at| at <= around.now) {
            around.settle();
        }
        let current = manager.certificate();
        if let Some(new) = current.filter(|new| held.as_ref().is_none_or(|held| !Arc::ptr_eq(held, new))) {
            let at = around.now;
            node.holding.replace(new.validity, at, &mut around.tally);
            held = Some(new);
        }
        let wakes = manager.sleeps_until().map(instant);
        let Some(at) = node.next_step([wakes, around.answers_at()]) else { break };
        around.now = at;
        if node.restarts_at(at) {
            around.settle();
            drop(around);
            manager.restart();
        }
    }
    node.end(&mut site.borrow_mut());
}

/// The first whole millisecond at or after a time on the clock of [`Surroundings::awake`].
fn instant(awake: Duration) -> Instant {
    Instant::from_millis(u64::try_from(awake.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

impl Surroundings for Site {
    fn now(&self) -> Now {
        now(self.now)
    }

    fn awake(&self) -> Duration {
        self.now.since(Instant::default())
    }

    fn template(&self) -> Option<Arc<Template>> {
        Some(self.template.clone())
    }

    /// Each attempt of client-go has a new key and a name that the server generates.
    fn submit(&mut self, _template: &Arc<Template>) -> Submitted {
        self.submit(None)
    }

    fn watch(&self, object: Object) -> Seen {
        self.watch(object)
    }
}
