//! A fleet of one member acts as a rotation alone, under random inputs in virtual time: the work and the snapshots are
//! the same. Only the turn comes in addition.

mod twin;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use perennial::{Backoff, Failure, Instant, Now, Policy, Template, UnixTime, Window};
use perennial_rotation::{Cancel, Exchange, Handle, clock};
use proptest::collection::vec;
use proptest::prelude::*;
use twin::Twin;
use world::{Answer, World};

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
