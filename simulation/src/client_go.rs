//! A port of client-go's certificate manager for comparison: `util/certificate/certificate_manager.go`, function by
//! function, in virtual time. The port shares no code with the machine. Where it is clumsy, so is the original.
//!
//! As in client-go, there are two goroutines. The first one rotates. The second one polls the template every second and
//! notifies the first one, which may be busy. Only the certificate survives a restart: the key of a request is in
//! memory.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use perennial::{Certificate, Template, UnixTime};

use crate::surroundings::{Object, Seen, Submitted, Surroundings};

const SECOND: Duration = Duration::from_secs(1);
/// The time that client-go waits for a certificate: `certificateWaitTimeout`.
const WAIT: Duration = Duration::from_secs(15 * 60);
/// The time between client-go's attempts after the five attempts of its backoff have failed: the interval of
/// `wait.PollInfinite`.
const POLL: Duration = Duration::from_secs(32);
/// How often client-go's REST client repeats a request if each answer has a `Retry-After`.
const RETRIES: usize = 10;

type Goroutine = Pin<Box<dyn Future<Output = ()>>>;

/// A running certificate manager of client-go. Its template may change during the run, as for kubelet's serving
/// certificate.
pub struct Oracle<S> {
    manager: Rc<Manager<S>>,
    goroutines: [Goroutine; 2],
}

struct Manager<S> {
    world: Rc<RefCell<S>>,
    dice: Cell<u64>,
    store: RefCell<Option<Arc<Certificate>>>,
    current: RefCell<Option<Arc<Certificate>>>,
    force_rotation: Cell<bool>,
    /// The template of the last request, whether that request is in flight or has ended.
    last_request: RefCell<Option<Arc<Template>>>,
    /// True if `lastRequestCancel` was called since the last request was submitted.
    cancelled: Cell<bool>,
    /// True while the second goroutine waits to send on `templateChanged`. The channel has no buffer, so the send
    /// blocks until the first goroutine receives.
    template_changed: Cell<bool>,
    /// The earliest time at which one of the two goroutines wakes up; `None` if both wait for something else than time.
    wakes: Cell<Option<Duration>>,
    /// True if a wait of a goroutine has ended in this round. Then both goroutines are polled once more, since one may
    /// have made the other ready.
    moved: Cell<bool>,
}

impl<S: Surroundings + 'static> Oracle<S> {
    /// Starts a manager with this seed for its jitter and this certificate in its store, as `NewManager` and then
    /// `Start` do. A bootstrap pair goes into the store, too, as if a signer had issued it to this manager.
    pub fn begin(world: Rc<RefCell<S>>, seed: u64, certificate: Option<Arc<Certificate>>) -> Self {
        let bootstrap = certificate.clone().filter(|certificate| certificate.provisional);
        Self::start(world, seed, certificate, bootstrap)
    }

    /// Chooses the first certificate as `getCurrentCertificateOrBootstrap` does, with `bootstrap` as the bootstrap
    /// pair. Then starts the two goroutines.
    fn start(
        world: Rc<RefCell<S>>,
        seed: u64,
        certificate: Option<Arc<Certificate>>,
        bootstrap: Option<Arc<Certificate>>,
    ) -> Self {
        let valid = |stored: &Arc<Certificate>| world.borrow().now().unix < stored.validity.not_after();
        let current = bootstrap.clone().or_else(|| certificate.clone().filter(valid));
        let manager = Rc::new(Manager {
            force_rotation: Cell::new(bootstrap.is_some() || current.is_none()),
            current: RefCell::new(current),
            world,
            dice: Cell::new(seed),
            store: RefCell::new(certificate),
            last_request: RefCell::default(),
            cancelled: Cell::default(),
            template_changed: Cell::default(),
            wakes: Cell::default(),
            moved: Cell::default(),
        });
        let (rotator, watcher) = (manager.clone(), manager.clone());
        let rotate = async move {
            loop {
                rotator.rotate().await;
                rotator.sleep(SECOND).await;
            }
        };
        let watch = async move {
            loop {
                watcher.watch_template().await;
                watcher.sleep_until_next_poll().await;
            }
        };
        Self { manager, goroutines: [Box::pin(rotate), Box::pin(watch)] }
    }

    /// Carries out everything that is due now.
    pub fn run(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            self.manager.wakes.set(None);
            self.manager.moved.set(false);
            for goroutine in &mut self.goroutines {
                let Poll::Pending = goroutine.as_mut().poll(&mut context) else { unreachable!("loops do not end") };
            }
            if !self.manager.moved.get() {
                return;
            }
        }
    }

    /// The time by [`Surroundings::awake`] at which the manager wakes up if nothing happens; `None`: never.
    pub fn sleeps_until(&self) -> Option<Duration> {
        self.manager.wakes.get()
    }

    /// The certificate that the manager presents, expired or not.
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.manager.current.borrow().clone()
    }

    /// Restarts the process. Only the certificate survives.
    pub fn restart(&mut self) {
        let Manager { world, dice, store, .. } = &*self.manager;
        let certificate = store.borrow().clone();
        *self = Self::start(world.clone(), dice.get(), certificate, None);
    }
}

impl<S: Surroundings> Manager<S> {
    /// Loop A, client-go's first goroutine: waits for the rotation deadline or a change of the template, and rotates.
    async fn rotate(&self) {
        let deadline = self.next_rotation_deadline();
        let left = deadline.since(self.now());
        if !left.is_zero() {
            let timer = self.awake() + left;
            if self.wait(Some(timer), || self.template_changed.get()).await {
                self.template_changed.set(false);
                if *self.last_request.borrow() == self.template() {
                    return;
                }
            }
        }
        if self.template().is_none() {
            return;
        }
        if !self.exponential_backoff().await {
            self.poll_infinite().await;
        }
    }

    /// Loop B, client-go's second goroutine. If the template has changed, cancels the request in flight and notifies
    /// loop A. The send blocks until loop A receives.
    async fn watch_template(&self) {
        let template = self.template();
        if self.certificate_satisfies_template() || *self.last_request.borrow() == template {
            return;
        }
        self.cancelled.set(true);
        self.template_changed.set(true);
        self.wait(None, || !self.template_changed.get()).await;
    }

    /// The pause between two polls of the template. Lasts a second, or as many seconds as nothing changes: polls that
    /// would find no change are skipped.
    async fn sleep_until_next_poll(&self) {
        let scene = || (self.template(), self.current.borrow().clone(), self.last_request.borrow().clone());
        let (last_poll, seen) = (self.awake(), scene());
        self.wait(None, || scene() != seen).await;
        let since = self.awake() - last_poll;
        let polls = since.as_millis().div_ceil(SECOND.as_millis()).max(1);
        self.wait(Some(last_poll + SECOND * u32::try_from(polls).unwrap_or(u32::MAX)), || false).await;
    }

    /// `ExponentialBackoff{Duration: 2s, Factor: 2, Jitter: 0.1, Steps: 5}`: five attempts, four sleeps. Returns
    /// whether an attempt succeeded.
    async fn exponential_backoff(&self) -> bool {
        for step in 0..5 {
            if self.rotate_certs().await {
                return true;
            }
            if step < 4 {
                let base = 2 * SECOND * (1 << step);
                self.sleep(base + base.mul_f64(0.1 * self.random())).await;
            }
        }
        false
    }

    /// `wait.PollInfinite`: makes an attempt at each tick of a ticker until an attempt succeeds. The first attempt
    /// waits for the first tick. Ticks during an attempt are lost.
    async fn poll_infinite(&self) {
        let mut tick = self.awake() + POLL;
        loop {
            self.wait(Some(tick), || false).await;
            if self.rotate_certs().await {
                return;
            }
            while tick <= self.awake() {
                tick += POLL;
            }
        }
    }

    /// One attempt to get a certificate, with a new key and so with a new request object. Returns whether a certificate
    /// was issued.
    async fn rotate_certs(&self) -> bool {
        let Some(template) = self.template() else { return false };
        let Some(object) = self.post(&template).await else { return false };
        self.last_request.replace(Some(template));
        self.cancelled.set(false);
        let answered = || self.cancelled.get() || self.watch_object(object) != Seen::Nothing;
        let end = self.awake() + WAIT;
        if !self.wait(Some(end), answered).await || self.cancelled.get() {
            return false;
        }
        let Seen::Issued(certificate) = self.watch_object(object) else { return false };
        // client-go checks only that the certificate fits the key.
        self.store.replace(Some(certificate.clone()));
        self.current.replace(Some(certificate));
        true
    }

    async fn post(&self, template: &Arc<Template>) -> Option<Object> {
        for _ in 0..=RETRIES {
            let answer = self.world.borrow_mut().submit(template);
            match answer {
                Submitted::Accepted(object) => return Some(object),
                Submitted::Unreachable => return None,
                Submitted::Throttled(retry_after) => self.sleep(retry_after).await,
            }
        }
        None
    }

    /// `nextRotationDeadline`, which draws a new deadline on every call.
    fn next_rotation_deadline(&self) -> UnixTime {
        if self.force_rotation.replace(false) || !self.certificate_satisfies_template() {
            return self.now();
        }
        let current = self.current.borrow();
        let validity = current.as_ref().expect("none satisfies no template").validity;
        validity.not_before().after(validity.lifetime().mul_f64(0.7 + 0.2 * self.random()))
    }

    fn certificate_satisfies_template(&self) -> bool {
        let current = self.current.borrow();
        let (Some(current), template) = (current.as_ref(), self.template()) else { return false };
        let Some(template) = template else { return true };
        template.common_name() == current.common_name()
            && template.dns_names().all(|name| current.names.dns_names().any(|present| present == name))
            && template.ip_addresses().all(|address| current.names.ip_addresses().any(|present| present == address))
            && template.organizations().all(|name| current.names.organizations().any(|present| present == name))
    }

    /// Waits until `ready` returns true, and returns true. Returns false if the time `until` comes first. The time does
    /// not advance while the computer is suspended.
    async fn wait(&self, until: Option<Duration>, mut ready: impl FnMut() -> bool) -> bool {
        let outcome = poll_fn(|_| {
            if ready() {
                return Poll::Ready(true);
            }
            if until.is_some_and(|until| until <= self.awake()) {
                return Poll::Ready(false);
            }
            let earlier = self.wakes.get().into_iter().chain(until).min();
            self.wakes.set(earlier);
            Poll::Pending
        });
        let outcome = outcome.await;
        self.moved.set(true);
        outcome
    }

    async fn sleep(&self, span: Duration) {
        // Clocks here tick in milliseconds.
        let end = self.awake().as_millis() + span.as_millis();
        let end = Duration::from_millis(u64::try_from(end).unwrap_or(u64::MAX));
        self.wait(Some(end), || false).await;
    }

    fn awake(&self) -> Duration {
        self.world.borrow().awake()
    }

    fn now(&self) -> UnixTime {
        self.world.borrow().now().unix
    }

    fn template(&self) -> Option<Arc<Template>> {
        self.world.borrow().template()
    }

    fn watch_object(&self, object: Object) -> Seen {
        self.world.borrow().watch(object)
    }

    /// A random number, uniform in 0..1: SplitMix64 (Steele, Lea and Flood, 2014).
    fn random(&self) -> f64 {
        let state = self.dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.dice.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl<S> fmt::Debug for Oracle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oracle").field("current", &self.manager.current).finish_non_exhaustive()
    }
}
