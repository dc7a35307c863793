//! Counters and durations of one certificate.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial::{Action, Certificate, Failure, Instant, Now, Outcome, RotationMachine, Slot, UnixTime};
use perennial_rotation::{News, Notice};

const DAY: f64 = 86_400.0;
/// Upper bounds of the buckets of [`Tally::age_ratio`]. The buckets are narrowest from 0.7, where the default rotation
/// window begins, to 1.0, where the certificate expires.
pub(super) const RATIOS: [f64; 9] = [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];
/// Upper bounds of the buckets of [`Tally::age_seconds`], those of kubelet's
/// certificate_manager_server_rotation_seconds.
pub(super) const AGES: [f64; 10] =
    [60.0, 3600.0, 14400.0, DAY, 7.0 * DAY, 30.0 * DAY, 90.0 * DAY, 180.0 * DAY, 360.0 * DAY, 1440.0 * DAY];

/// Counts since the process began, and the state after the last notice.
#[derive(Clone, Default)]
pub(super) struct Tally {
    /// The machine after the last step.
    pub(super) machine: Option<Arc<RotationMachine>>,
    /// Time from which a new certificate has been due; `None` if no new certificate is due. A failed request does not
    /// change the time.
    pub(super) due_since: Option<Instant>,
    /// Time from which the current certificate has been in memory only; `None` if the certificate is on disk.
    pub(super) unwritten_since: Option<UnixTime>,
    pub(super) submissions: u64,
    /// Failed requests by reason. A reason without a failure has no entry.
    pub(super) failures: BTreeMap<Failure, u64>,
    pub(super) write_failures: u64,
    pub(super) panics: u64,
    pub(super) rotations: u64,
    /// Ages of certificates when they were replaced, as a fraction of their lifetime.
    pub(super) age_ratio: Histogram,
    /// Ages of certificates when they were replaced, in seconds.
    pub(super) age_seconds: Histogram,
}

impl Tally {
    /// Updates the counters and durations by one notice of the rotation.
    pub(super) fn take(&mut self, notice: &Notice) {
        let Notice { at, news, snapshot } = notice;
        match news {
            News::Stepped(step) => {
                self.submissions += u64::from(step.actions.clone().any(|it| matches!(it, Action::SubmitCsr { .. })));
                let failed = |outcome: &&Outcome| matches!(outcome, Outcome::WriteFailed { .. });
                self.write_failures += step.actions.outcomes().iter().filter(failed).count() as u64;
                self.machine = Some(step.after.clone());
            }
            // The queue dropped these steps: only their result is known, so the counters miss them.
            News::Missed { machine, .. } => self.machine = Some(machine.clone()),
            News::Failed { failure, .. } => *self.failures.entry(*failure).or_default() += 1,
            News::Panicked { .. } => self.panics += 1,
            // A successor that is due at once has been due since it came, not since its predecessor was.
            News::TakenOver { slot: Slot::Served, .. } => self.due_since = None,
            News::Issued { slot: Slot::Served, replaced } | News::TookTurn { replaced } => {
                self.due_since = None;
                replaced.iter().for_each(|old| self.rotated(*at, old));
            }
            _ => {}
        }
        self.due_since = snapshot.due.map(|_| self.due_since.unwrap_or(at.instant));
        self.unwritten_since = snapshot.unwritten.then(|| self.unwritten_since.unwrap_or(at.unix));
    }

    fn rotated(&mut self, at: Now, old: &Certificate) {
        let age = at.unix.since(old.validity.not_before());
        self.rotations += 1;
        self.age_seconds.observe(&AGES, age.as_secs_f64());
        self.age_ratio.observe(&RATIOS, age.as_secs_f64() / old.validity.lifetime().as_secs_f64());
    }

    /// The number of failed requests, for any reason.
    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// A Prometheus histogram: the number of values in each bucket, and the sum and the number of all values.
#[derive(Clone, Default)]
pub(super) struct Histogram {
    /// Number of values in each bucket: those up to the bucket's bound that are above the bound before. Unlike in
    /// Prometheus' format, a value counts in one bucket only. Empty before the first value.
    pub(super) counts: Vec<u64>,
    pub(super) sum: f64,
    pub(super) count: u64,
}

impl Histogram {
    fn observe(&mut self, bounds: &[f64], value: f64) {
        self.counts.resize(bounds.len(), 0);
        // A value above the last bound is in no entry of `counts`, only in `count`: the `+Inf` bucket.
        if let Some(place) = bounds.iter().position(|bound| value <= *bound) {
            self.counts[place] += 1;
        }
        self.sum += value;
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use perennial::{Event, Fingerprint, RequestId, Setup, Template, Validity};
    use perennial_rotation::{Rotator, Snapshot, Transition};

    use super::*;

    /// A machine to which the test sends events, and a tally that counts the machine's notices.
    struct Life {
        machine: Arc<RotationMachine>,
        tally: Tally,
        now: Now,
    }

    impl Life {
        fn new() -> Self {
            let now = Now { unix: UnixTime::from_secs(1_767_225_600), ..Now::default() };
            let template = Some(Arc::new(Template::node("worker-1")));
            let machine = Arc::new(RotationMachine::new(Setup { template, ..Setup::default() }, now));
            Self { machine, tally: Tally::default(), now }
        }

        fn handle(&mut self, event: Event) {
            let step = Transition::of(&mut self.machine, event, self.now);
            let (due, unwritten) = (self.machine.due(self.now), self.machine.is_unwritten());
            let mut snapshot = Snapshot::clone(&Rotator::new().prepare().unwrap().0.snapshot());
            (snapshot.due, snapshot.unwritten) = (due, unwritten);
            let snapshot = Arc::new(snapshot);
            let decided = step.news();
            for news in [News::Stepped(Arc::new(step))].into_iter().chain(decided) {
                self.tally.take(&Notice { at: self.now, news, snapshot: snapshot.clone() });
            }
        }

        /// Ticks until the machine submits a request. Returns the request's ID.
        fn submit(&mut self) -> RequestId {
            let submitted = self.tally.submissions;
            while self.tally.submissions == submitted {
                let sleep = self.machine.deadline().unwrap().since(self.now.instant);
                self.now = Now { instant: self.now.instant.after(sleep), unix: self.now.unix.after(sleep) };
                self.handle(Event::Tick);
            }
            id(submitted + 1)
        }

        fn issue(&mut self, lifetime: Duration) {
            self.issue_early(Duration::ZERO, lifetime);
        }

        /// Ticks until a request is submitted, and issues a certificate at once. The certificate becomes valid when the
        /// time `early` has passed.
        fn issue_early(&mut self, early: Duration, lifetime: Duration) {
            let (id, begin) = (self.submit(), self.now.unix.after(early));
            let validity = Validity::new(begin, begin.after(lifetime)).unwrap();
            let fingerprint = Fingerprint([u8::try_from(id.get()).unwrap(); 32]);
            let certificate = Certificate::for_template(Template::node("worker-1"), validity, fingerprint);
            let certificate = Arc::new(certificate);
            self.handle(Event::CsrIssued { id, certificate });
        }
    }

    fn id(number: u64) -> RequestId {
        RequestId::new(NonZeroU64::new(number).unwrap())
    }

    #[test]
    fn replaced_certificate_counts_as_rotation_with_age() {
        let mut life = Life::new();
        life.issue(Duration::from_secs(86_400));
        assert_eq!((life.tally.submissions, life.tally.rotations), (1, 0), "the first one replaces none");
        life.handle(Event::CertWritten { id: id(1) });
        life.issue(Duration::from_secs(86_400));
        let tally = life.tally;
        assert_eq!((tally.submissions, tally.rotations, tally.failed()), (2, 1, 0));
        assert_eq!((tally.age_ratio.count, tally.age_seconds.count), (1, 1));
        assert!((0.7..=0.9).contains(&tally.age_ratio.sum), "{}", tally.age_ratio.sum);
        assert!((60_480.0..=77_760.0).contains(&tally.age_seconds.sum), "{}", tally.age_seconds.sum);
        assert_eq!(tally.age_seconds.counts, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn waiting_certificate_counts_as_rotation_once_served() {
        let mut life = Life::new();
        life.issue(Duration::from_secs(86_400));
        life.issue_early(Duration::from_secs(600), Duration::from_secs(86_400));
        assert_eq!((life.tally.submissions, life.tally.rotations), (2, 0));
        life.now = Now {
            instant: life.now.instant.after(Duration::from_secs(600)),
            unix: life.now.unix.after(Duration::from_secs(600)),
        };
        life.handle(Event::Tick);
        assert_eq!((life.machine.waiting(), life.tally.rotations, life.tally.age_seconds.count), (None, 1, 1));
    }

    #[test]
    fn failed_request_counts_once_by_reason() {
        let mut life = Life::new();
        for failure in [Failure::Unreachable, Failure::Denied, Failure::Unreachable] {
            let id = life.submit();
            life.handle(Event::CsrFailed { id, failure, retry_after: None });
            life.handle(Event::CsrFailed { id, failure, retry_after: None });
        }
        // A request without an answer ends when the next one is submitted.
        life.submit();
        life.submit();
        let count = |failure| life.tally.failures[&failure];
        assert_eq!([Failure::Unreachable, Failure::Denied, Failure::TimedOut].map(count), [2, 1, 1]);
        assert_eq!((life.tally.failed(), life.tally.failures.len()), (4, 3));
    }

    #[test]
    fn due_since_stays_after_failed_request_and_clears_after_replacement() {
        let mut life = Life::new();
        life.issue(Duration::from_secs(86_400));
        assert_eq!(life.tally.due_since, None);
        let id = life.submit();
        let since = life.tally.due_since.unwrap();
        assert_eq!(since, life.now.instant);
        life.handle(Event::CsrFailed { id, failure: Failure::Unreachable, retry_after: None });
        life.submit();
        // That request times out after 15 minutes, and another is submitted.
        life.submit();
        assert_eq!(life.tally.due_since, Some(since));
        assert!(life.now.instant.since(since) >= Duration::from_secs(900));
        life.issue(Duration::from_secs(86_400));
        assert_eq!(life.tally.due_since, None);
    }

    #[test]
    fn failed_write_is_counted_once() {
        let mut life = Life::new();
        life.issue(Duration::from_secs(86_400));
        life.handle(Event::WriteFailed { id: id(1) });
        life.handle(Event::WriteFailed { id: id(1) });
        life.handle(Event::WriteFailed { id: id(9) });
        assert_eq!(life.tally.write_failures, 1);
    }
}
