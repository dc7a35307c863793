//! Counters and durations of one certificate.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial::{Action, Certificate, Failure, Instant, Now, Outcome, RotationMachine, Slot, UnixTime};
use perennial_rotation::{News, Transition};

/// Counts since the process began, and the present state.
#[derive(Clone)]
pub(super) struct Tally {
    /// The machine after the last step.
    pub(super) machine: Option<Arc<RotationMachine>>,
    /// Since when the certificate there is has been due, if it is: however often another is asked for meanwhile.
    pub(super) due_since: Option<Instant>,
    /// Since when the certificate in use is in memory only, if it is.
    pub(super) unwritten_since: Option<UnixTime>,
    pub(super) submissions: u64,
    pub(super) failures: BTreeMap<Failure, u64>,
    pub(super) write_failures: u64,
    pub(super) panics: u64,
    pub(super) rotations: u64,
    /// Of certificates that were replaced: how much of their lifetime had passed.
    pub(super) age_ratio: Histogram,
    /// Of the same: how many seconds.
    pub(super) age_seconds: Histogram,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            machine: None,
            due_since: None,
            unwritten_since: None,
            submissions: 0,
            failures: Failure::ALL.into_iter().map(|failure| (failure, 0)).collect(),
            write_failures: 0,
            panics: 0,
            rotations: 0,
            // Where a policy's window may lie, and where it gets late.
            age_ratio: Histogram::new(&[0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]),
            // As kubelet's.
            age_seconds: Histogram::new(&[
                60.0,
                3600.0,
                14400.0,
                86400.0,
                604800.0,
                2592000.0,
                7776000.0,
                15552000.0,
                31104000.0,
                124416000.0,
            ]),
        }
    }
}

impl Tally {
    /// Counts a piece of news. `at`: when it happened.
    pub(super) fn take(&mut self, at: Now, news: &News) {
        match news {
            News::Stepped(step) => self.take_step(step),
            News::Failed { failure, .. } => *self.failures.entry(*failure).or_default() += 1,
            News::Panicked { .. } => self.panics += 1,
            News::Issued { replaced: Some(old), .. } => self.rotated(at, old),
            News::Missed { machine, .. } => self.take_machine(at, machine, false),
            _ => {}
        }
    }

    fn take_step(&mut self, step: &Transition) {
        let submits = |action| matches!(action, Action::SubmitCsr { .. });
        self.submissions += u64::from(step.actions.clone().any(submits));
        let mut is_replaced = false;
        for outcome in step.actions.outcomes().iter() {
            self.write_failures += u64::from(matches!(outcome, Outcome::WriteFailed { .. }));
            is_replaced |= matches!(
                outcome,
                Outcome::Accepted { slot: Slot::Served, .. }
                    | Outcome::TakenOver { slot: Slot::Served, .. }
                    | Outcome::TookTurn { .. }
            );
        }
        self.take_machine(step.now, &step.after, is_replaced);
    }

    fn take_machine(&mut self, at: Now, machine: &Arc<RotationMachine>, is_replaced: bool) {
        let since = self.due_since.filter(|_| !is_replaced).unwrap_or(at.instant);
        self.due_since = machine.due(at).map(|_| since);
        let since = self.unwritten_since.unwrap_or(at.unix);
        self.unwritten_since = machine.is_unwritten().then_some(since);
        self.machine = Some(machine.clone());
    }

    fn rotated(&mut self, at: Now, old: &Certificate) {
        let age = at.unix.since(old.validity.not_before());
        self.rotations += 1;
        self.age_seconds.observe(age.as_secs_f64());
        self.age_ratio.observe(age.as_secs_f64() / old.validity.lifetime().as_secs_f64());
    }

    /// Attempts that came to nothing.
    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// Counts of values by upper bounds.
#[derive(Clone)]
pub(super) struct Histogram {
    pub(super) bounds: &'static [f64],
    /// For each bound, those that are not below an earlier one already.
    pub(super) counts: Vec<u64>,
    pub(super) sum: f64,
    pub(super) count: u64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len()], sum: 0.0, count: 0 }
    }

    fn observe(&mut self, value: f64) {
        let place = self.bounds.iter().position(|bound| value <= *bound);
        if let Some(count) = place.and_then(|place| self.counts.get_mut(place)) {
            *count += 1;
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

    use super::*;

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
            let news = step.news();
            self.tally.take(self.now, &News::Stepped(Arc::new(step)));
            news.iter().for_each(|news| self.tally.take(self.now, news));
        }

        /// Ticks until a request is out.
        fn ask(&mut self) -> RequestId {
            let asked = self.tally.submissions;
            while self.tally.submissions == asked {
                let sleep = self.machine.deadline().unwrap().since(self.now.instant);
                self.now = Now { instant: self.now.instant.after(sleep), unix: self.now.unix.after(sleep) };
                self.handle(Event::Tick);
            }
            id(asked + 1)
        }

        fn issue(&mut self, lifetime: Duration) {
            let id = self.ask();
            let certificate = Arc::new(Certificate {
                validity: Validity::new(self.now.unix, self.now.unix.after(lifetime)).unwrap(),
                fingerprint: Fingerprint([u8::try_from(id.get()).unwrap(); 32]),
                common_name: "system:node:worker-1".into(),
                organizations: vec!["system:nodes".into()],
                dns_names: vec![],
                ip_addresses: vec![],
                provisional: false,
                chain: Arc::from([]),
            });
            self.handle(Event::CsrIssued { id, certificate });
        }
    }

    fn id(number: u64) -> RequestId {
        RequestId::new(NonZeroU64::new(number).unwrap())
    }

    #[test]
    fn a_rotation_is_the_replacement_of_a_certificate_and_tells_its_age() {
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
    fn attempts_that_fail_are_counted_by_their_reason_and_stale_answers_are_not() {
        let mut life = Life::new();
        for failure in [Failure::Unreachable, Failure::Denied, Failure::Unreachable] {
            let id = life.ask();
            life.handle(Event::CsrFailed { id, failure, retry_after: None });
            life.handle(Event::CsrFailed { id, failure, retry_after: None });
        }
        // Asked once more, never answered, and asked after that.
        life.ask();
        life.ask();
        let count = |failure| life.tally.failures[&failure];
        assert_eq!([Failure::Unreachable, Failure::Denied, Failure::TimedOut].map(count), [2, 1, 1]);
        assert_eq!((life.tally.failed(), life.tally.failures.len()), (4, Failure::ALL.len()));
    }

    #[test]
    fn a_certificate_is_due_until_another_takes_its_place_however_often_that_is_asked_for() {
        let mut life = Life::new();
        life.issue(Duration::from_secs(86_400));
        assert_eq!(life.tally.due_since, None);
        let id = life.ask();
        let since = life.tally.due_since.unwrap();
        assert_eq!(since, life.now.instant);
        life.handle(Event::CsrFailed { id, failure: Failure::Unreachable, retry_after: None });
        life.ask();
        // Given up after a quarter of an hour, and asked again.
        life.ask();
        assert_eq!(life.tally.due_since, Some(since));
        assert!(life.now.instant.since(since) >= Duration::from_secs(900));
        life.issue(Duration::from_secs(86_400));
        assert_eq!(life.tally.due_since, None);
    }

    #[test]
    fn writes_that_fail_are_counted_once_each() {
        let mut life = Life::new();
        life.issue(Duration::from_secs(86_400));
        life.handle(Event::WriteFailed { id: id(1) });
        life.handle(Event::WriteFailed { id: id(1) });
        life.handle(Event::WriteFailed { id: id(9) });
        assert_eq!(life.tally.write_failures, 1);
    }
}
