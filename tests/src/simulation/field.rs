//! Life in the field. One description of what goes wrong around a holder, a [`Scenario`], drives perennial under any
//! policy and the [oracle](crate::oracle) of client-go alike; a [`Tally`] says what it cost the control plane, and how
//! long the holder was without a valid certificate.
//!
//! What both are spared, so that they differ in nothing but their decisions: the network takes no time, a watch sees
//! a decision as soon as the API can be reached, and there always is a credential to ask with.

mod cluster;
mod holder;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Template, UnixTime};

pub use cluster::{Answer, Api, Cluster, Conduct, Object, Seen};
pub use holder::Perennial;

use crate::laws::Verdict;
use crate::mint;

/// Happenings and the cluster go by the truth: how long ago everything began.
pub type Moment = Duration;

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
    pub events: Vec<(Moment, Happening)>,
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
    pub fn at(mut self, moment: Moment, happening: Happening) -> Self {
        assert!(self.events.last().is_none_or(|(last, _)| *last <= moment), "{}: out of order", self.name);
        self.events.push((moment, happening));
        self
    }

    /// The default policy may be so much longer without a certificate than client-go.
    #[must_use]
    pub fn conceding(mut self, most: Duration, why: &'static str) -> Self {
        self.concedes = (most, why);
        self
    }
}

/// The holder's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    /// Stands still in suspend: what timers of either kind run on.
    pub awake: Duration,
    asleep: Duration,
    ahead: i64,
}

impl Clocks {
    /// The truth.
    pub fn moment(&self) -> Moment {
        self.awake + self.asleep
    }

    /// What the holder believes.
    pub fn wall(&self) -> UnixTime {
        UnixTime::from_millis(utc(self.moment()).as_millis() + self.ahead * 1000)
    }
}

/// The true time.
pub fn utc(moment: Moment) -> UnixTime {
    mint::EPOCH.after(moment)
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
pub type World = Rc<RefCell<Scene>>;

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
    pub submissions: Vec<Moment>,
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
pub fn live<H: Holder>(scenario: &Scenario, seed: u64, begin: impl FnOnce(World, Start) -> H) -> Tally {
    let certificate = scenario.holds.map(|age| {
        let whole = scenario.lifetime + cluster::BACKDATE;
        let template = scenario.template.clone().unwrap_or_else(|| Template::node("worker-1"));
        let held = mint::certificate(&template, 1, mint::EPOCH.before(age + cluster::BACKDATE), whole);
        Arc::new(if scenario.lent { mint::provisional(held) } else { held })
    });
    let template = scenario.template.clone().map(Arc::new);
    let scene =
        Scene { clocks: Clocks::default(), cluster: Cluster::new(scenario.lifetime, template.clone()), template };
    let world = Rc::new(RefCell::new(scene));
    let mut events = scenario.events.iter().peekable();
    let mut holder: Option<H> = None;
    let mut begin = Some((begin, Start { seed, certificate }));
    let (mut without, mut steps) = (Duration::ZERO, 0_u32);
    loop {
        steps += 1;
        assert!(steps < 3_000_000, "{}: something spins", scenario.name);
        let moment = world.borrow().clocks.moment();
        while let Some((_, happening)) = events.next_if(|(at, _)| *at <= moment) {
            match (happening, &mut holder) {
                (Happening::Restart { remembers }, Some(holder)) => holder.restart(*remembers),
                (other, _) => world.borrow_mut().happen(other),
            }
        }
        // What is so at the very beginning is so before anybody looks.
        let holder = holder.get_or_insert_with(|| {
            let (begin, start) = begin.take().expect("it begins once");
            begin(world.clone(), start)
        });
        let moment = world.borrow().clocks.moment();
        world.borrow_mut().cluster.run(moment);
        holder.run();

        let sleeps_until = holder.sleeps_until();
        let mut scene = world.borrow_mut();
        let clocks = scene.clocks;
        let asleep = clocks.asleep;
        let due = sleeps_until.map(|awake| awake.max(clocks.awake) + asleep);
        let next = [due, scene.cluster.next(), events.peek().map(|(at, _)| *at), Some(scenario.span)];
        let next = next.into_iter().flatten().min().unwrap_or(scenario.span).max(moment);
        without += next.saturating_sub(moment) - presented(holder.certificate().as_deref(), clocks, next);
        scene.clocks.awake = next - asleep;
        if next >= scenario.span {
            holder.lawful().unwrap_or_else(|broken| panic!("{}: {broken}", scenario.name));
            break tally(&scene, holder.certificate().as_deref(), without);
        }
    }
}

/// What a holder starts with.
#[derive(Clone, Debug)]
pub struct Start {
    /// Spreads it among others.
    pub seed: u64,
    /// The certificate it has.
    pub certificate: Option<Arc<Certificate>>,
}

impl Scene {
    fn happen(&mut self, happening: &Happening) {
        let moment = self.clocks.moment();
        match happening {
            Happening::Requests(conduct) => self.cluster.conduct = *conduct,
            Happening::Api(api) => self.cluster.api = *api,
            Happening::Authority(span) => self.cluster.authority_ends = moment + *span,
            Happening::Wants(template) => {
                self.template = template.clone().map(Arc::new);
                self.cluster.wanted.clone_from(&self.template);
            }
            Happening::ClockAhead(seconds) => self.clocks.ahead = *seconds,
            Happening::Suspend(span) => self.clocks.asleep += *span,
            // Nobody is there yet.
            Happening::Restart { .. } => {}
        }
    }
}

/// For how much of the time until `next` this certificate is good: to the holder, who must not think it expired, and to everybody else.
fn presented(certificate: Option<&Certificate>, clocks: Clocks, next: Moment) -> Duration {
    let Some(certificate) = certificate else { return Duration::ZERO };
    let (from, to) = (certificate.validity.not_before().as_millis(), certificate.validity.not_after().as_millis());
    let begin = utc(clocks.moment()).as_millis().max(from);
    let end = utc(next).as_millis().min(to).min(to - clocks.ahead * 1000);
    Duration::from_millis(u64::try_from(end - begin).unwrap_or(0))
}

fn tally(scene: &Scene, certificate: Option<&Certificate>, without: Duration) -> Tally {
    let now = utc(scene.clocks.moment());
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
