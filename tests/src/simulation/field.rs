//! A program that rotates its certificate (a [`Holder`]) in a simulated cluster. A [`Scenario`] describes the faults
//! around the holder. [`run_scenario`] runs perennial under any policy and the [oracle](perennial_simulation::Oracle) of
//! client-go alike; a [`Tally`] reports the load on the control plane, and for how long the holder was without a valid
//! certificate.
//!
//! The simulation is simplified so that perennial and client-go differ only in their decisions: the network takes no
//! time, a watch sees a decision as soon as the API can be reached, and there always is a credential to authenticate
//! with.

mod client_go;
mod cluster;
mod holder;

use std::cell::RefCell;
use std::iter::Peekable;
use std::rc::Rc;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Instant, Now, Template, UnixTime};

pub use client_go::client_go;
pub use cluster::{Api, Cluster, Conduct};
pub use holder::Perennial;

use super::{Clocks, Member};
use crate::laws::Verdict;
use crate::mint;

/// The true time since a scenario began, whatever the holder's clocks show.
pub type Elapsed = Duration;

/// The start of one [`Holder`], and the happenings around the holder.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The name of the scenario, for tables and failure messages.
    pub name: &'static str,
    /// The first template of the holder; `None`: the holder starts without a template.
    pub template: Option<Template>,
    /// The age of the first certificate; `None`: the holder starts without a certificate.
    pub holds: Option<Duration>,
    /// True if the first certificate is a bootstrap credential.
    pub is_bootstrap: bool,
    /// The time from issue to notAfter of every certificate.
    pub lifetime: Duration,
    /// The time that the scenario takes.
    pub span: Duration,
    /// The happenings, in order of time.
    pub events: Vec<(Elapsed, Happening)>,
    /// How much longer than client-go perennial may be without a certificate under its default policy, and the reason.
    pub concedes: (Duration, &'static str),
}

/// Something that happens around a holder.
#[derive(Clone, Debug)]
pub enum Happening {
    /// Changes what approver and signer do with requests.
    Requests(Conduct),
    /// Changes how the API answers.
    Api(Api),
    /// Another CA signs certificates from now on. It expires after this time.
    Authority(Duration),
    /// The holder's template changes to this one; `None`: the holder has no template from now on.
    Wants(Option<Template>),
    /// The holder's wall clock is set this many seconds ahead of the true time (negative: behind).
    ClockAhead(i64),
    /// The computer is suspended for this time.
    Suspend(Duration),
    /// The process restarts.
    Restart {
        /// True if the pending record survives the restart.
        remembers: bool,
    },
}

impl Scenario {
    /// A scenario of one day: a healthy cluster, and a node without a certificate. Certificates are valid for a day.
    pub fn new(name: &'static str) -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            name,
            template: Some(Template::node("worker-1")),
            holds: None,
            is_bootstrap: false,
            lifetime: day,
            span: day,
            events: vec![],
            concedes: (Duration::ZERO, "nothing"),
        }
    }

    /// Starts the holder with a certificate of this age.
    #[must_use]
    pub fn with_certificate_of_age(mut self, age: Duration) -> Self {
        self.holds = Some(age);
        self
    }

    /// Makes the first certificate a bootstrap credential.
    #[must_use]
    pub fn with_bootstrap_credential(mut self) -> Self {
        self.is_bootstrap = true;
        self
    }

    /// Sets the first template of the holder.
    #[must_use]
    pub fn with_template(mut self, template: Option<Template>) -> Self {
        self.template = template;
        self
    }

    /// Sets the time from issue to notAfter of every certificate.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Sets the time that the scenario takes.
    #[must_use]
    pub fn with_span(mut self, span: Duration) -> Self {
        self.span = span;
        self
    }

    /// Adds a happening. Happenings must be added in order of time.
    #[must_use]
    pub fn at(mut self, elapsed: Elapsed, happening: Happening) -> Self {
        assert!(self.events.last().is_none_or(|(last, _)| *last <= elapsed), "{}: out of order", self.name);
        self.events.push((elapsed, happening));
        self
    }

    /// Allows perennial's default policy to be without a certificate for up to `most` longer than client-go, for the
    /// reason `why`.
    #[must_use]
    pub fn conceding(mut self, most: Duration, why: &'static str) -> Self {
        self.concedes = (most, why);
        self
    }
}

/// The true date and time, `elapsed` after the scenario began.
pub fn utc(elapsed: Elapsed) -> UnixTime {
    mint::EPOCH.after(elapsed)
}

/// Clocks, cluster and template of a holder.
#[derive(Debug)]
pub struct Scene {
    /// The clocks of the holder's computer.
    pub clocks: Clocks,
    /// The simulated cluster.
    pub cluster: Cluster,
    /// The template that the holder has now; `None`: no template.
    pub template: Option<Arc<Template>>,
}

/// A scene that the holder and the run of the scenario share, and borrow in turns.
pub type SharedScene = Rc<RefCell<Scene>>;

/// A program that rotates a certificate: perennial or client-go.
pub trait Holder {
    /// Carries out everything that is due now.
    fn run(&mut self);
    /// The time by [`Clocks::awake`] at which the holder wakes up if nothing happens; `None`: never.
    fn sleeps_until(&self) -> Option<Duration>;
    /// The certificate that the holder presents, expired or not.
    fn certificate(&self) -> Option<Arc<Certificate>>;
    /// Restarts the process. The pending record is lost unless `remembers` is true.
    fn restart(&mut self, remembers: bool);
    /// Checks that the trace of perennial keeps the laws. client-go has no trace, and passes.
    fn lawful(&self) -> Verdict {
        Ok(())
    }
}

/// The result of a scenario: the load on the control plane, and the time without a valid certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The true time of each submission.
    pub submissions: Vec<Elapsed>,
    /// The number of request objects that were created.
    pub objects: usize,
    /// The most request objects that existed at a time.
    pub most: usize,
    /// How long the holder had no usable certificate: one that is valid by the true time and not expired by the
    /// holder's clock. Time in which the holder is suspended does not count.
    pub without: Duration,
    /// The certificate at the end.
    pub end: End,
}

/// The certificate at the end of a scenario, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A valid certificate that satisfies the template.
    Good,
    /// A valid certificate that does not satisfy the template.
    Unsatisfying,
    /// Only the bootstrap credential, still valid: no issued certificate has replaced it.
    Bootstrap,
    /// No valid certificate.
    None,
}

/// Runs a scenario with the holder that `begin` makes, and returns the result.
pub fn run_scenario<H: Holder>(
    scenario: &Scenario,
    seed: u64,
    begin: impl FnOnce(SharedScene, HolderStart) -> H,
) -> Tally {
    let mut run = ScenarioRun::new(scenario, seed, begin);
    run.run_until(scenario.span, |_| false);
    run.holder.lawful().unwrap_or_else(|broken| panic!("{}: {broken}", scenario.name));
    tally(&run.scene.borrow(), run.holder.certificate().as_deref(), run.without)
}

/// A scenario that runs: the holder, its scene, and the happenings to come.
struct ScenarioRun<'a, H> {
    name: &'static str,
    /// The happenings to come.
    events: Peekable<slice::Iter<'a, (Elapsed, Happening)>>,
    scene: SharedScene,
    holder: H,
    without: Duration,
    steps: u32,
}

impl<'a, H: Holder> ScenarioRun<'a, H> {
    fn new(scenario: &'a Scenario, seed: u64, begin: impl FnOnce(SharedScene, HolderStart) -> H) -> Self {
        let certificate = scenario.holds.map(|age| {
            let whole = scenario.lifetime + cluster::BACKDATE;
            let template = scenario.template.clone().unwrap_or_else(|| Template::node("worker-1"));
            let held = mint::certificate(&template, 1, mint::EPOCH.before(age + cluster::BACKDATE), whole);
            Arc::new(if scenario.is_bootstrap { mint::provisional(held) } else { held })
        });
        let template = scenario.template.clone().map(Arc::new);
        let cluster = Cluster::new(scenario.lifetime, template.clone());
        let mut scene = Scene { clocks: Clocks::default(), cluster, template };
        // Happenings at time zero take effect before the holder starts.
        let mut events = scenario.events.iter().peekable();
        while let Some((_, happening)) = events.next_if(|(at, _)| at.is_zero()) {
            scene.apply(happening);
        }
        let scene = Rc::new(RefCell::new(scene));
        let holder = begin(scene.clone(), HolderStart { seed, certificate });
        Self { name: scenario.name, events, scene, holder, without: Duration::ZERO, steps: 0 }
    }
}

impl<H: Holder> Member for ScenarioRun<'_, H> {
    fn now(&self) -> Now {
        self.scene.borrow().clocks.now
    }

    fn next_at(&self) -> Option<Instant> {
        let scene = self.scene.borrow();
        let Clocks { suspended, .. } = scene.clocks;
        let due = self.holder.sleeps_until().map(|awake| awake + suspended);
        let event = self.events.clone().next().map(|(at, _)| *at);
        let next = [due, scene.cluster.next(), event].into_iter().flatten().min()?;
        // Clocks here tick in milliseconds.
        let millis = u64::try_from(next.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Some(Instant::from_millis(millis).max(scene.clocks.now.instant))
    }

    fn pass(&mut self, span: Duration) {
        let mut scene = self.scene.borrow_mut();
        self.without += span - presented(self.holder.certificate().as_deref(), scene.clocks, span);
        scene.clocks.pass(span);
    }

    fn act(&mut self) {
        self.steps += 1;
        assert!(self.steps < 3_000_000, "{}: something spins", self.name);
        let elapsed = self.scene.borrow().clocks.elapsed();
        while let Some((_, happening)) = self.events.next_if(|(at, _)| *at <= elapsed) {
            match happening {
                Happening::Restart { remembers } => self.holder.restart(*remembers),
                other => self.scene.borrow_mut().apply(other),
            }
        }
        let elapsed = self.scene.borrow().clocks.elapsed();
        self.scene.borrow_mut().cluster.run(elapsed);
        self.holder.run();
    }
}

/// The seed and the certificate with which a holder starts.
#[derive(Clone, Debug)]
pub struct HolderStart {
    /// The seed of all jitter.
    pub seed: u64,
    /// The first certificate.
    pub certificate: Option<Arc<Certificate>>,
}

impl Scene {
    fn apply(&mut self, happening: &Happening) {
        let elapsed = self.clocks.elapsed();
        match happening {
            Happening::Requests(conduct) => self.cluster.conduct = *conduct,
            Happening::Api(api) => self.cluster.api = *api,
            Happening::Authority(span) => self.cluster.authority_ends = elapsed + *span,
            Happening::Wants(template) => {
                self.template = template.clone().map(Arc::new);
                self.cluster.wanted.clone_from(&self.template);
            }
            Happening::ClockAhead(seconds) => {
                self.clocks.now.unix = UnixTime::from_millis(utc(elapsed).as_millis() + seconds * 1000)
            }
            Happening::Suspend(span) => self.clocks.suspend(*span),
            // At time zero there is no process to restart.
            Happening::Restart { .. } => {}
        }
    }
}

/// How long, within the next `span`, the holder has a usable certificate: one that is valid by the true time and not
/// expired by the holder's clock.
fn presented(certificate: Option<&Certificate>, clocks: Clocks, span: Duration) -> Duration {
    let Some(certificate) = certificate else { return Duration::ZERO };
    let (from, to) = (certificate.validity.not_before().as_millis(), certificate.validity.not_after().as_millis());
    let (truth, later) = (utc(clocks.elapsed()), utc(clocks.elapsed() + span));
    let ahead = clocks.now.unix.as_millis() - truth.as_millis();
    let begin = truth.as_millis().max(from);
    let end = later.as_millis().min(to).min(to - ahead);
    Duration::from_millis(u64::try_from(end - begin).unwrap_or(0))
}

fn tally(scene: &Scene, certificate: Option<&Certificate>, without: Duration) -> Tally {
    let now = utc(scene.clocks.elapsed());
    let valid = certificate.filter(|c| c.validity.not_before() <= now && !c.validity.expired(now));
    let end = match valid {
        None => End::None,
        Some(held) if held.provisional => End::Bootstrap,
        Some(held) if scene.template.as_ref().is_none_or(|template| template.satisfied_by(held)) => End::Good,
        Some(_) => End::Unsatisfying,
    };
    let cluster = &scene.cluster;
    Tally { submissions: cluster.submissions.clone(), objects: cluster.made, most: cluster.most, without, end }
}
