//! A fleet of one member acts as a rotation alone, under random inputs in virtual time: the work and the snapshots are
//! the same. Only the turn comes in addition.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use perennial::{Backoff, Failure, Instant, Now, Policy, Template, UnixTime, Validity, Window};
use perennial_pki::{
    Chain, Credential, Issuer, KeyAlgorithm, KeyPair, Terms, Usage, certificate_request, read_request, self_signed,
};
use perennial_rotation::{
    Authentication, Cancel, Exchange, Fleet, FleetTask, Handle, Identity, IdentitySource, Job, Limits, LoadRequest,
    NotYet, Reporter, Rotator, SignError, SignRequest, SignWith, Signer, Snapshot, Store, StoreError, Stored, Task,
    Wait, Work, clock,
};
use proptest::collection::vec;
use proptest::prelude::*;
use zeroize::Zeroizing;

const HOUR: Duration = Duration::from_secs(3600);

/// A policy without jitter: keys and certificates, and so their fingerprints, differ between the twins.
fn policy(timeout: Duration) -> Policy {
    let backoff = |first, cap| Backoff::new(Duration::from_secs(first), cap, Window::new(1000, 1000).unwrap()).unwrap();
    Policy {
        window: Window::new(800, 800).unwrap(),
        request_timeout: timeout,
        transient: backoff(2, timeout),
        refused: backoff(60, 4 * HOUR),
        write: backoff(5, HOUR),
        ..Policy::default()
    }
}

/// The answer of the CA to the next request that it signs: notBefore and notAfter from now, in seconds, or a failure.
type Answer = Result<(i64, u32), Failure>;

/// A CA that both twins share, with the next answers of CA and store, and an identity that comes and goes.
struct World {
    issuer: Issuer,
    answer: Mutex<(Answer, UnixTime)>,
    store_works: AtomicBool,
    store_hangs: AtomicBool,
    identity: Arc<Gate>,
}

/// The source of an identity that comes and goes.
struct Gate(Mutex<(bool, Vec<Waker>)>);

impl Gate {
    fn set(&self, is_open: bool) {
        let mut gate = self.0.lock().unwrap();
        gate.0 = is_open;
        let wakers = std::mem::take(&mut gate.1);
        drop(gate);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl IdentitySource for Gate {
    fn identity(&self) -> Result<Identity, NotYet> {
        self.0.lock().unwrap().0.then_some(Identity::Anonymous).ok_or_else(|| NotYet::coming("no identity yet"))
    }

    fn wake_on_change(&self, waker: &Waker) {
        self.0.lock().unwrap().1.push(waker.clone());
    }
}

impl World {
    fn new(now: UnixTime) -> Self {
        let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let validity = Validity::new(now.before(HOUR), now.after(100_000 * HOUR)).unwrap();
        let chain = self_signed("CA", &key, &[1], validity).unwrap();
        Self {
            issuer: Issuer::new(Credential::new(chain, key).unwrap()).unwrap(),
            answer: Mutex::new((Err(Failure::Unreachable), now)),
            store_works: AtomicBool::new(true),
            store_hangs: AtomicBool::new(false),
            identity: Arc::new(Gate(Mutex::new((true, vec![])))),
        }
    }

    fn sign(&self, csr_pem: &str) -> Result<Chain, SignError> {
        let (answer, now) = *self.answer.lock().unwrap();
        let (begins, lasts) = answer.map_err(|failure| SignError::new(failure, "a failure"))?;
        let begin = UnixTime::from_secs(now.as_secs() + begins);
        let validity = Validity::new(begin, begin.after(Duration::from_secs(lasts.into()))).unwrap();
        let request = read_request(csr_pem.as_bytes()).unwrap();
        let terms = Terms {
            serial: &[1, 2, 3],
            validity,
            key_usages: &[],
            extended_key_usages: &[Usage::ClientAuth, Usage::ServerAuth],
        };
        Ok(self.issuer.issue(&request, &terms).unwrap())
    }

    /// A pair for this template, issued `age` ago, that lives for a day.
    fn pair(&self, template: &Template, age: Duration, now: UnixTime) -> Arc<Credential> {
        let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
        *self.answer.lock().unwrap() = (Ok((-60, 86_400)), now.before(age));
        let chain = self.sign(&certificate_request(template, &key).unwrap().pem).unwrap();
        Arc::new(Credential::new(chain, key).unwrap())
    }

    fn signer(self: &Arc<Self>, name: &str) -> Arc<dyn Signer> {
        let ca = self.clone();
        let sign = move |request: SignRequest, _: &Cancel| ca.sign(&request.csr.pem);
        Arc::new(SignWith::blocking(name, sign).authentication(Authentication::other(self.identity.clone())))
    }
}

/// A store that holds a pair at the start.
struct Disk {
    world: Arc<World>,
    held: Option<Arc<Credential>>,
    /// The pairs that were written, and the last record, without its key.
    contents: Mutex<(Vec<String>, String)>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Store for Disk {
    fn load(&self, _: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        Ok(Stored { credential: self.held.clone(), ..Stored::default() })
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, at: UnixTime) -> Result<(), StoreError> {
        let line = format!("{}, serve {serve}, at {at}", shown(Some(credential)));
        self.contents.lock().unwrap().0.push(line);
        self.world.store_works.load(Ordering::SeqCst).then_some(()).ok_or_else(|| "no space".into())
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    fn remember(&self, record: &[u8]) -> Result<(), StoreError> {
        // The key is the last field.
        let text = str::from_utf8(record).unwrap();
        self.contents.lock().unwrap().1 = text.split("\"key\"").next().unwrap_or_default().to_owned();
        Ok(())
    }
}

fn shown(credential: Option<&Arc<Credential>>) -> String {
    let Some(credential) = credential else { return "none".to_owned() };
    let certificate = credential.chain().certificate();
    let names: Vec<_> = certificate.names.dns_names().collect();
    format!("{} {names:?} {:?}", certificate.common_name(), certificate.validity)
}

/// The task of a rotation alone, or of a fleet of one.
enum Loop {
    Alone(Box<Task>),
    Fleet(Box<FleetTask>, #[expect(dead_code, reason = "the last clone closes the fleet")] Fleet),
}

impl Loop {
    fn step(&mut self, now: Now) -> Vec<Work> {
        match self {
            Self::Alone(task) => task.step(now),
            Self::Fleet(task, _) => task.step(now).into_iter().map(|(_, work)| work).collect(),
        }
    }

    fn arrival(&self) -> Wait<'static, ()> {
        match self {
            Self::Alone(task) => task.arrival(),
            Self::Fleet(task, _) => task.arrival(),
        }
    }

    /// True once the rotation has ended. A runtime drops the task of a rotation alone then.
    fn is_over(&self, handle: &Handle) -> bool {
        match self {
            Self::Alone(task) => task.is_over(),
            Self::Fleet(..) => handle.has_ended(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Alone(task) => task.deadline(),
            Self::Fleet(task, _) => task.deadline(),
        }
    }
}

/// All that is to be equal. The credentials are apart, since the keys differ.
#[derive(Debug, PartialEq)]
struct Seen {
    work: Vec<&'static str>,
    is_driving: bool,
    contents: (Vec<String>, String),
    snapshot: Snapshot,
    pairs: [String; 2],
    is_over: bool,
}

/// One of the two rotations, and what its runtime has been given to do.
struct Twin {
    handle: Handle,
    run: Loop,
    disk: Arc<Disk>,
    /// The exchange that is driven, and those that were dropped: the code of one that has begun may still report.
    driven: Option<(Exchange, Reporter)>,
    dropped: Vec<(Exchange, Reporter)>,
    /// The calls to the store that hang.
    jobs: Vec<Job>,
    /// The exchanges that were begun and cancelled since the last comparison.
    work: Vec<&'static str>,
}

impl Twin {
    fn new(is_alone: bool, world: &Arc<World>, held: Option<Arc<Credential>>, signer: Option<Arc<dyn Signer>>) -> Self {
        let disk = Arc::new(Disk { world: world.clone(), held, contents: Mutex::default() });
        let mut rotator = Rotator::new().template(template(0)).policy(policy(HOUR / 4)).store(disk.clone());
        if let Some(signer) = signer {
            rotator = rotator.signer(signer);
        }
        let (handle, run) = match is_alone {
            true => rotator.prepare().map(|(handle, task)| (handle, Loop::Alone(Box::new(task)))).unwrap(),
            false => {
                let (fleet, task) = Fleet::prepare(Limits { in_flight: 1.try_into().unwrap(), ..Limits::default() });
                (fleet.add(rotator).unwrap(), Loop::Fleet(Box::new(task), fleet))
            }
        };
        Self { handle, run, disk, driven: None, dropped: vec![], jobs: vec![], work: vec![] }
    }

    /// Steps until no message is left.
    fn step(&mut self, now: Now) {
        for turn in 0.. {
            assert!(turn < 20, "the loop spins at {now:?}");
            for work in self.run.step(now) {
                match work {
                    Work::Drive(exchange, reporter) => {
                        assert!(self.driven.is_none(), "two exchanges are driven");
                        self.driven = Some((exchange, reporter));
                        self.work.push("drive");
                    }
                    Work::Cancel => {
                        self.dropped.extend(self.driven.take());
                        self.work.push("cancel");
                    }
                    Work::Store(job) => self.jobs.push(job),
                }
            }
            if !self.disk.world.store_hangs.load(Ordering::SeqCst) {
                self.jobs.drain(..).for_each(Job::run);
            }
            if pin!(self.run.arrival()).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                return;
            }
        }
    }

    fn seen(&mut self) -> Seen {
        let snapshot = self.handle.snapshot();
        let pairs = [&snapshot.credential, &snapshot.waiting].map(|pair| shown(pair.as_ref()));
        let mut snapshot = Snapshot::clone(&snapshot);
        (snapshot.credential, snapshot.waiting) = (None, None);
        // A request that waits for its turn, and is withdrawn in the same step, is a change of a moment.
        snapshot.at = Now::default();
        Seen {
            work: std::mem::take(&mut self.work),
            is_driving: self.driven.is_some(),
            contents: self.disk.contents.lock().unwrap().clone(),
            snapshot,
            pairs,
            is_over: self.run.is_over(&self.handle),
        }
    }
}

fn template(kind: u8) -> Template {
    match kind % 3 {
        0 => Template::new("mesh-1"),
        1 => Template::new("mesh-1").with_dns_names(["mesh-1.example"]),
        _ => Template::new("mesh-2"),
    }
}

struct Life {
    world: Arc<World>,
    twins: [Twin; 2],
    now: Now,
}

impl Life {
    fn new(kind: u8) -> Self {
        let unix = clock::now().unix;
        let world = Arc::new(World::new(unix));
        let held = (kind & 1 > 0).then(|| world.pair(&template(kind >> 1), HOUR * u32::from(kind >> 3), unix));
        let signer = (kind & 4 == 0 || kind & 8 > 0).then(|| world.signer("example.com/mesh"));
        let twins = [true, false].map(|is_alone| Twin::new(is_alone, &world, held.clone(), signer.clone()));
        // Both have begun.
        let now = clock::now();
        let mut life = Self { world, twins, now };
        life.step();
        life
    }

    fn step(&mut self) {
        self.twins.iter_mut().for_each(|twin| twin.step(self.now));
    }

    /// Both twins step at the deadlines of either within `span`. `steps`: the wall clock steps by so many seconds when
    /// the rotation alone next reads it, since a fleet reads it whenever it steps.
    fn pass(&mut self, span: Duration, mut steps: Option<i64>) -> Result<(), TestCaseError> {
        let end = self.now.instant.after(span);
        for turn in 0.. {
            prop_assert!(turn < 10_000, "too many steps");
            let [alone, fleet] = self.twins.each_ref().map(|twin| twin.run.deadline());
            let soon = self.now.instant.after(Duration::from_millis(1));
            let at = alone.into_iter().chain(fleet).fold(end, Instant::min).max(soon).min(end.max(soon));
            self.now = Now { instant: at, unix: self.now.unix.after(at.since(self.now.instant)) };
            if alone.is_some_and(|alone| alone <= at)
                && let Some(by) = steps.take()
            {
                self.now.unix = UnixTime::from_millis(self.now.unix.as_millis() + by * 1000);
            }
            self.step();
            self.compare()?;
            if at >= end {
                return Ok(());
            }
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        let [alone, fleet] = self.twins.each_mut().map(Twin::seen);
        prop_assert_eq!(alone, fleet, "at {:?}", self.now);
        Ok(())
    }

    /// Answers the request in flight, or reports for one that was dropped.
    fn answer(&mut self, answer: Answer, of_dropped: bool) {
        *self.world.answer.lock().unwrap() = (answer, self.now.unix);
        for twin in &mut self.twins {
            let exchange = if of_dropped { twin.dropped.pop() } else { twin.driven.take() };
            match exchange {
                Some((Exchange::Blocking(work), reporter)) => reporter.finish(work(&Cancel::default())),
                Some((exchange, _)) => panic!("{exchange:?}"),
                None => {}
            }
        }
    }

    fn apply(&mut self, [kind, a, b]: [u8; 3]) -> Result<(), TestCaseError> {
        let each = |twins: &[Twin; 2], call: &dyn Fn(&Handle)| twins.iter().for_each(|twin| call(&twin.handle));
        match kind % 19 {
            0 => self.pass(Duration::from_millis(u64::from(a) << (b % 8)), None)?,
            1 | 2 => self.pass(Duration::from_secs(u64::from(a) << (b % 8)), None)?,
            3 => self.pass(HOUR * u32::from(a % 6), None)?,
            // By more than the tolerance of a fleet.
            4 => self.pass(HOUR, Some((3 + (i64::from(a) << (b % 12))) * if a & 1 > 0 { 1 } else { -1 }))?,
            5 | 6 => self.answer(Ok((-60, 600 << (a % 8))), false),
            7 => self.answer(Ok((i64::from(b) * 4 - 300, 600 << (a % 8))), b & 1 > 0),
            8 | 9 => {
                let all = [
                    Failure::Denied,
                    Failure::Rejected,
                    Failure::Unauthorized,
                    Failure::Throttled,
                    Failure::Unreachable,
                    Failure::Deleted,
                    Failure::Local,
                ];
                self.answer(Err(all[usize::from(a) % all.len()]), b % 8 == 0);
            }
            10 => self.world.store_hangs.store(a % 4 == 0, Ordering::SeqCst),
            11 => self.world.store_works.store(a % 4 > 0, Ordering::SeqCst),
            12 => {
                let wanted = (a % 4 > 0).then(|| template(b));
                each(&self.twins, &|handle| handle.set_template(wanted.clone()).unwrap());
            }
            13 => {
                let policy = policy(if a % 2 > 0 { HOUR / 4 } else { HOUR / 60 });
                each(&self.twins, &|handle| handle.set_policy(policy.clone()));
            }
            14 => {
                let name = if b % 2 > 0 { "example.com/mesh" } else { "example.com/other" };
                let signer = (a % 4 > 0).then(|| self.world.signer(name));
                each(&self.twins, &|handle| handle.set_signer(signer.clone()));
            }
            15 => each(&self.twins, &Handle::rotate_now),
            16 => each(&self.twins, &|handle| {
                handle.snapshot().credential.iter().for_each(|credential| handle.report_refused(credential));
            }),
            17 => self.world.identity.set(a % 4 == 0),
            _ => {
                let found = (a % 4 > 0).then(|| self.world.pair(&template(b), HOUR * u32::from(a % 32), self.now.unix));
                each(&self.twins, &|handle| handle.report_replaced(found.clone()));
            }
        }
        self.step();
        self.compare()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn fleet_of_one_acts_as_rotation_alone(kind in any::<u8>(), steps in vec(any::<[u8; 3]>(), 0..120)) {
        let mut life = Life::new(kind);
        life.compare()?;
        for step in steps {
            life.apply(step)?;
        }
        life.twins.iter().for_each(|twin| drop(twin.handle.shutdown()));
        life.step();
        life.compare()?;
        life.world.store_hangs.store(false, Ordering::SeqCst);
        life.step();
        life.compare()?;
        prop_assert!(life.twins.iter().all(|twin| twin.run.is_over(&twin.handle)));
    }
}
