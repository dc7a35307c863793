//! Life in the field. One description of what goes wrong around a holder, a [`Scenario`], drives perennial under any
//! policy and the [oracle](crate::oracle) of client-go alike; a [`Tally`] says what it cost the control plane, and how
//! long the holder was without a valid certificate.
//!
//! What both are spared, so that they differ in nothing but their decisions: the network takes no time, a watch sees
//! a decision as soon as the API can be reached, and there always is a credential to ask with.

mod cluster;
mod holder;

use std::cell::RefCell;
use std::iter::Peekable;
use std::rc::Rc;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Instant, Now, Template, UnixTime};

pub use cluster::{Api, Cluster, Conduct, Object, Seen, Submitted};
pub use holder::Perennial;

use super::{Clocks, Member};
use crate::laws::Verdict;
use crate::mint;

/// Happenings and the cluster go by the truth: how long ago everything began.
pub type Elapsed = Duration;

/// What happens to one holder.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called in the table.
    pub name: &'static str,
    /// What the holder wants at first.
    pub template: Option<Template>,
    /// How long ago the certificate it starts with was issued, if it has one.
    pub holds: Option<Duration>,
    /// That certificate is a bootstrap credential: lent, to ask for the first one with.
    pub lent: bool,
    /// How long certificates live.
    pub lifetime: Duration,
    /// How long it goes on.
    pub span: Duration,
    /// What happens, and when.
    pub events: Vec<(Elapsed, Happening)>,
    /// By how much the default policy may be longer without a certificate than client-go, and why.
    pub concedes: (Duration, &'static str),
}

/// Something that happens around a holder.
#[derive(Clone, Debug)]
pub enum Happening {
    /// What becomes of requests from now on.
    Requests(Conduct),
    /// How the API answers from now on.
    Api(Api),
    /// Another authority signs, for so long.
    Authority(Duration),
    /// Another identity is wanted.
    Wants(Option<Template>),
    /// The holder's wall clock is set: so many seconds before (or, negative, behind) the truth.
    ClockAhead(i64),
    /// The computer sleeps.
    Suspend(Duration),
    /// The process restarts; what it wrote down beside the certificate is still there, or is not.
    Restart {
        /// Whether it is.
        remembers: bool,
    },
}

impl Scenario {
    /// A node without a certificate and a healthy cluster, for a day. Certificates live for a day.
    pub fn new(name: &'static str) -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            name,
            template: Some(Template::node("worker-1")),
            holds: None,
            lent: false,
            lifetime: day,
            span: day,
            events: vec![],
            concedes: (Duration::ZERO, "nothing"),
        }
    }

    /// The holder starts with a certificate issued so long ago.
    #[must_use]
    pub fn holding(mut self, age: Duration) -> Self {
        self.holds = Some(age);
        self
    }

    /// What it starts with is a bootstrap credential.
    #[must_use]
    pub fn bootstrapping(mut self) -> Self {
        self.lent = true;
        self
    }

    /// The holder wants this at first.
    #[must_use]
    pub fn wanting(mut self, template: Option<Template>) -> Self {
        self.template = template;
        self
    }

    /// Certificates live so long.
    #[must_use]
    pub fn living(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// It goes on for so long.
    #[must_use]
    pub fn lasting(mut self, span: Duration) -> Self {
        self.span = span;
        self
    }

    /// This happens then. Happenings are given in order.
    #[must_use]
    pub fn at(mut self, elapsed: Elapsed, happening: Happening) -> Self {
        assert!(self.events.last().is_none_or(|(last, _)| *last <= elapsed), "{}: out of order", self.name);
        self.events.push((elapsed, happening));
        self
    }

    /// The default policy may be so much longer without a certificate than client-go.
    #[must_use]
    pub fn conceding(mut self, most: Duration, why: &'static str) -> Self {
        self.concedes = (most, why);
        self
    }
}

/// The true time.
pub fn utc(elapsed: Elapsed) -> UnixTime {
    mint::EPOCH.after(elapsed)
}

/// Everything around a holder.
#[derive(Debug)]
pub struct Scene {
    /// Its clocks.
    pub clocks: Clocks,
    /// The cluster.
    pub cluster: Cluster,
    /// The identity wanted.
    pub template: Option<Arc<Template>>,
}

/// A scene, seen by the driver and the holder in turns.
pub type SharedScene = Rc<RefCell<Scene>>;

/// Whoever keeps a certificate fresh.
pub trait Holder {
    /// Does what is to be done now.
    fn run(&mut self);
    /// Until when it sleeps if nothing happens, by [`Clocks::awake`].
    fn sleeps_until(&self) -> Option<Duration>;
    /// The certificate it would present, expired or not.
    fn certificate(&self) -> Option<Arc<Certificate>>;
    /// The process starts anew.
    fn restart(&mut self, remembers: bool);
    /// Whether it kept the laws. They are perennial's own.
    fn lawful(&self) -> Verdict {
        Ok(())
    }
}

/// What a scenario came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// When requests were submitted, by the truth.
    pub submissions: Vec<Elapsed>,
    /// Request objects made.
    pub objects: usize,
    /// The most objects there were at a time.
    pub most: usize,
    /// How long the holder was awake without a certificate that it and everybody else thought valid.
    pub without: Duration,
    /// Where it ended.
    pub end: End,
}

/// Where a scenario ended, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// With a valid certificate that has all that is wanted.
    Good,
    /// With a valid certificate that lacks something.
    Lacking,
    /// With the bootstrap credential, still valid.
    Lent,
    /// With none.
    None,
}

/// Lives it.
pub fn live<H: Holder>(scenario: &Scenario, seed: u64, begin: impl FnOnce(SharedScene, HolderStart) -> H) -> Tally {
    let mut life = Life::new(scenario, seed, begin);
    life.run_until(scenario.span, |_| false);
    life.holder.lawful().unwrap_or_else(|broken| panic!("{}: {broken}", scenario.name));
    tally(&life.scene.borrow(), life.holder.certificate().as_deref(), life.without)
}

/// A holder and everything around it.
struct Life<'a, H> {
    name: &'static str,
    /// What is still to happen.
    events: Peekable<slice::Iter<'a, (Elapsed, Happening)>>,
    scene: SharedScene,
    holder: H,
    without: Duration,
    steps: u32,
}

impl<'a, H: Holder> Life<'a, H> {
    fn new(scenario: &'a Scenario, seed: u64, begin: impl FnOnce(SharedScene, HolderStart) -> H) -> Self {
        let certificate = scenario.holds.map(|age| {
            let whole = scenario.lifetime + cluster::BACKDATE;
            let template = scenario.template.clone().unwrap_or_else(|| Template::node("worker-1"));
            let held = mint::certificate(&template, 1, mint::EPOCH.before(age + cluster::BACKDATE), whole);
            Arc::new(if scenario.lent { mint::provisional(held) } else { held })
        });
        let template = scenario.template.clone().map(Arc::new);
        let cluster = Cluster::new(scenario.lifetime, template.clone());
        let mut scene = Scene { clocks: Clocks::default(), cluster, template };
        // What is so at the very beginning is so before anybody looks.
        let mut events = scenario.events.iter().peekable();
        while let Some((_, happening)) = events.next_if(|(at, _)| at.is_zero()) {
            scene.happen(happening);
        }
        let scene = Rc::new(RefCell::new(scene));
        let holder = begin(scene.clone(), HolderStart { seed, certificate });
        Self { name: scenario.name, events, scene, holder, without: Duration::ZERO, steps: 0 }
    }
}

impl<H: Holder> Member for Life<'_, H> {
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
                other => self.scene.borrow_mut().happen(other),
            }
        }
        let elapsed = self.scene.borrow().clocks.elapsed();
        self.scene.borrow_mut().cluster.run(elapsed);
        self.holder.run();
    }
}

/// What a holder starts with.
#[derive(Clone, Debug)]
pub struct HolderStart {
    /// Spreads it among others.
    pub seed: u64,
    /// The certificate it has.
    pub certificate: Option<Arc<Certificate>>,
}

impl Scene {
    fn happen(&mut self, happening: &Happening) {
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
            // Nobody is there yet.
            Happening::Restart { .. } => {}
        }
    }
}

/// For how much of this span from now on the certificate is good: to the holder, who must not think it expired, and to
/// everybody else.
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
        Some(held) if held.provisional => End::Lent,
        Some(held) if scene.template.as_ref().is_none_or(|template| template.satisfied_by(held)) => End::Good,
        Some(_) => End::Lacking,
    };
    let cluster = &scene.cluster;
    Tally { submissions: cluster.submissions.clone(), objects: cluster.made, most: cluster.most, without, end }
}
