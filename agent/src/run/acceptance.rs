//! Checks at intervals whether the API server still accepts the client certificate. A refusal counts once a second one
//! confirms it.
//!
//! Without these checks, perennial would notice a replaced client CA only at the next rotation or, if the Node object
//! is polled, at the next poll.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use perennial::{Fingerprint, Instant};
use perennial_kubernetes::client::{ExchangeError, Limits};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Credential;
use perennial_rotation::{Handle, clock};

use crate::failure::Failure;
use crate::spans::{spread, words};
use crate::threads;
use crate::whoami;

/// Largest deviation of a wait from the interval, in permille of the interval. Nodes that were started together do not
/// check together.
const SPREAD: u32 = 500;
/// Least time between a refusal and a second one that confirms the first. A single refusal may be a fault of the
/// server, for example while the server starts.
const CONFIRM: Duration = Duration::from_secs(60);

/// Longest time that a check delays the others. A check may take longer if the disk with its CA file does not answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The checks of all certificates, which one thread begins one after the other. Clones share the thread.
#[derive(Clone, Default)]
pub(super) struct Checks(Arc<Shared>);

#[derive(Default)]
struct Shared {
    planned: Mutex<Planned>,
    /// Notified when a certificate is added or removed.
    changed: Condvar,
}

#[derive(Default)]
struct Planned {
    checks: Vec<Check>,
    /// The number of checks that were ever added, which numbers the next one.
    added: u64,
    has_thread: bool,
}

/// A certificate to check.
struct Check {
    number: u64,
    schedule: Schedule,
    /// Carries out the check, and plans the next one.
    run: Arc<dyn Fn(&mut Schedule) + Send + Sync>,
    /// True while a thread carries out the check.
    running: bool,
}

/// The checks whether one certificate is accepted. Dropping this ends them.
pub(super) struct Acceptance {
    number: u64,
    checks: Checks,
}

impl Checks {
    /// Checks from now on, about every `interval`, whether `cluster` accepts the certificate of `rotation`. `name`, the
    /// common name of the certificate, seeds the jitter.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn add(
        &self,
        name: &str,
        interval: Duration,
        cluster: Arc<Cluster>,
        rotation: Handle,
    ) -> Result<Acceptance, Failure> {
        let run = move |schedule: &mut Schedule| check(schedule, &cluster, &rotation);
        let added = self.insert(Schedule::new(name, interval, clock::now().instant), run);
        let mut planned = self.planned();
        if !planned.has_thread {
            let checks = self.clone();
            threads::start("acceptance", "certificate checks", move || checks.run(PATIENCE))?;
            planned.has_thread = true;
        }
        drop(planned);
        Ok(added)
    }

    /// Plans a check.
    fn insert(&self, schedule: Schedule, run: impl Fn(&mut Schedule) + Send + Sync + 'static) -> Acceptance {
        let mut planned = self.planned();
        planned.added += 1;
        let number = planned.added;
        planned.checks.push(Check { number, schedule, run: Arc::new(run), running: false });
        drop(planned);
        self.0.changed.notify_all();
        Acceptance { number, checks: self.clone() }
    }

    fn planned(&self) -> MutexGuard<'_, Planned> {
        self.0.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the checks when they are due, each once the previous one has ended or `patience` has passed. Returns once no
    /// certificate is to be checked.
    fn run(&self, patience: Duration) {
        loop {
            let mut planned = self.planned();
            if planned.checks.is_empty() {
                planned.has_thread = false;
                return;
            }
            let waiting = planned.checks.iter_mut().filter(|check| !check.running);
            let next = waiting.min_by_key(|check| check.schedule.next);
            // At most a minute at once: the wait stands still in suspend, and the schedule's clock does not.
            let left =
                next.as_ref().map_or(CONFIRM, |next| next.schedule.next.since(clock::now().instant).min(CONFIRM));
            match next.filter(|_| left.is_zero()) {
                Some(next) => {
                    next.running = true;
                    let (number, schedule, run) = (next.number, next.schedule.clone(), next.run.clone());
                    drop(planned);
                    self.begin(number, schedule, run, patience);
                }
                None => drop(self.0.changed.wait_timeout(planned, left)),
            }
        }
    }

    /// Carries out a check on a thread of its own. Waits for its end, for at most `most`.
    fn begin(&self, number: u64, schedule: Schedule, run: Arc<dyn Fn(&mut Schedule) + Send + Sync>, most: Duration) {
        let (ended, end) = mpsc::channel::<()>();
        let (checks, mut planned) = (self.clone(), schedule.clone());
        let started = threads::start("check", "a certificate check", move || {
            // The panic hook logs a panic.
            if catch_unwind(AssertUnwindSafe(|| run(&mut planned))).is_err() {
                planned.plan(clock::now().instant);
            }
            checks.end(number, planned);
            drop(ended);
        });
        match started {
            // An error is the end of the thread, or of the time.
            Ok(_) => drop(end.recv_timeout(most)),
            Err(why) => {
                tracing::warn!("{why}; checking later whether the API server accepts the certificate");
                let mut schedule = schedule;
                schedule.plan(clock::now().instant);
                self.end(number, schedule);
            }
        }
    }

    /// Plans the next check of a certificate whose check has ended.
    fn end(&self, number: u64, schedule: Schedule) {
        // Absent if the certificate was removed during the check.
        if let Some(checked) = self.planned().checks.iter_mut().find(|check| check.number == number) {
            (checked.schedule, checked.running) = (schedule, false);
        }
        self.0.changed.notify_all();
    }
}

impl Drop for Acceptance {
    fn drop(&mut self) {
        self.checks.planned().checks.retain(|check| check.number != self.number);
        self.checks.0.changed.notify_all();
    }
}

/// Checks once whether the API server accepts the certificate. Logs a refusal, and reports a confirmed refusal to the
/// rotation.
fn check(schedule: &mut Schedule, cluster: &Arc<Cluster>, rotation: &Handle) {
    // Without a valid certificate there is nothing to check.
    let Some(shown) = rotation.credential() else {
        schedule.plan(clock::now().instant);
        return;
    };
    let answer = review(cluster, &shown, rotation);
    let now = clock::now().instant;
    match schedule.answered(shown.chain().certificate().fingerprint, answer, now) {
        Conclusion::Nothing => {}
        Conclusion::Doubted => tracing::warn!(
            "{cluster} refused the client certificate (serial {}): checking once more in {}, \
             before requesting a new one",
            shown.chain().serial(),
            words(schedule.next.since(now)),
        ),
        Conclusion::Refused => {
            tracing::warn!(
                "{cluster} refused the client certificate (serial {}) again: requesting a new one; \
                 was the server's client CA replaced?",
                shown.chain().serial(),
            );
            rotation.report_refused(&shown);
        }
    }
}

/// The meaning of the API server's answer for the certificate that the check presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Accepted,
    Refused,
    /// No information: the server does not know SelfSubjectReview, does not allow it, or is unreachable.
    Unknown,
}

/// Submits a SelfSubjectReview, authenticated with the certificate `shown`. If the server accepts the certificate,
/// reports the date of the server's answer to the rotation.
fn review(cluster: &Arc<Cluster>, shown: &Arc<Credential>, rotation: &Handle) -> Answer {
    match whoami::review_self(cluster, shown, Limits::default()) {
        Ok(answer) if answer.status == 401 => Answer::Refused,
        Ok(answer) if answer.status == 201 => {
            if let Some(date) = answer.date {
                rotation.report_server_date(date);
            }
            Answer::Accepted
        }
        Err(ExchangeError::CertificateRefused(_)) => Answer::Refused,
        Ok(answer) => unknown(cluster, &format!("it answered {}", answer.status)),
        Err(error) => unknown(cluster, &error.to_string()),
    }
}

/// Logs why a check had no result. Returns [`Answer::Unknown`].
fn unknown(cluster: &Cluster, why: &str) -> Answer {
    tracing::debug!("certificate check without a result: {cluster}: {why}; checking again later");
    Answer::Unknown
}

/// The conclusion from the answers to all checks so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conclusion {
    Nothing,
    /// The certificate was refused for the first time. The next check comes soon, and may confirm the refusal.
    Doubted,
    /// The certificate was refused again, at least [`CONFIRM`] after the first refusal.
    Refused,
}

/// The times of checks, and the conclusions from their answers.
#[derive(Clone)]
struct Schedule {
    name: String,
    interval: Duration,
    attempt: u64,
    next: Instant,
    /// The refused certificate, and the time of its first refusal; `None` if the server has refused no certificate
    /// since it last accepted one. An answer [`Answer::Unknown`] does not change this.
    doubt: Option<(Fingerprint, Instant)>,
}

impl Schedule {
    fn new(name: &str, interval: Duration, now: Instant) -> Self {
        let mut schedule = Self { name: name.to_owned(), interval, attempt: 0, next: now, doubt: None };
        schedule.plan(now);
        schedule
    }

    /// Sets the time of the next check: about one interval after `now`.
    fn plan(&mut self, now: Instant) {
        self.next = now.after(spread(self.interval, SPREAD, &self.name, self.attempt));
        self.attempt += 1;
    }

    /// Plans the next check after an answer for the certificate `shown`, and returns the conclusion.
    fn answered(&mut self, shown: Fingerprint, answer: Answer, now: Instant) -> Conclusion {
        self.plan(now);
        let doubted = self.doubt.filter(|(doubted, _)| *doubted == shown);
        let verdict = match (answer, doubted) {
            (Answer::Accepted, _) => {
                self.doubt = None;
                return Conclusion::Nothing;
            }
            (Answer::Unknown, None) => return Conclusion::Nothing,
            (Answer::Refused, Some((_, since))) if now.since(since) >= CONFIRM => return Conclusion::Refused,
            (Answer::Unknown | Answer::Refused, Some(_)) => Conclusion::Nothing,
            (Answer::Refused, None) => {
                self.doubt = Some((shown, now));
                Conclusion::Doubted
            }
        };
        // In doubt, the next check comes after 60 to 90 seconds, however long the interval.
        self.next = now.after(CONFIRM + spread(CONFIRM / 4, 1000, &self.name, self.attempt));
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::Answer::{Accepted, Refused, Unknown};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const OURS: Fingerprint = Fingerprint([1; 32]);

    fn schedule() -> Schedule {
        Schedule::new("system:node:worker", 6 * HOUR, Instant::from_millis(0))
    }

    /// Passes `answers` to a new schedule one by one, each at the time of the schedule's next check. Returns for each
    /// answer the conclusion, and the wait until the following check.
    fn conclusions(answers: &[(Fingerprint, Answer)]) -> (Vec<Conclusion>, Vec<Duration>) {
        let mut schedule = schedule();
        let step = |(shown, answer): &(Fingerprint, Answer)| {
            let now = schedule.next;
            (schedule.answered(*shown, *answer, now), schedule.next.since(now))
        };
        answers.iter().map(step).unzip()
    }

    #[test]
    fn second_refusal_after_a_minute_confirms_the_first() {
        use Conclusion::{Doubted, Nothing};
        let other = Fingerprint([2; 32]);
        let amount_to = |answers: &[(Fingerprint, Answer)], expected: &[Conclusion]| {
            assert_eq!(conclusions(answers).0, *expected, "{answers:?}");
        };
        amount_to(&[(OURS, Accepted), (OURS, Accepted)], &[Nothing, Nothing]);
        amount_to(&[(OURS, Refused), (OURS, Refused)], &[Doubted, Conclusion::Refused]);
        amount_to(&[(OURS, Refused), (OURS, Accepted), (OURS, Refused)], &[Doubted, Nothing, Doubted]);
        // An unknown answer (403, 404, unreachable) between two refusals does not cancel the first.
        amount_to(&[(OURS, Refused), (OURS, Unknown), (OURS, Refused)], &[Doubted, Nothing, Conclusion::Refused]);
        amount_to(&[(OURS, Unknown), (OURS, Unknown)], &[Nothing, Nothing]);
        // The refusal of an earlier certificate does not count for its successor.
        amount_to(&[(OURS, Refused), (other, Refused), (other, Refused)], &[Doubted, Doubted, Conclusion::Refused]);
        // A refused certificate that is still current is reported again.
        amount_to(
            &[(OURS, Refused), (OURS, Refused), (OURS, Refused)],
            &[Doubted, Conclusion::Refused, Conclusion::Refused],
        );
    }

    #[test]
    fn second_refusal_within_a_minute_does_not_confirm_the_first() {
        let mut schedule = schedule();
        let now = schedule.next;
        assert_eq!(schedule.answered(OURS, Refused, now), Conclusion::Doubted);
        assert_eq!(
            schedule.answered(OURS, Refused, now.after(CONFIRM - Duration::from_millis(1))),
            Conclusion::Nothing
        );
        assert_eq!(schedule.answered(OURS, Refused, now.after(CONFIRM)), Conclusion::Refused);
    }

    #[test]
    fn check_that_hangs_or_panics_stops_no_other_check() {
        let checks = Checks::default();
        let soon = || Schedule::new("worker", Duration::ZERO, clock::now().instant);
        let (release, hold) = mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let hanging = checks.insert(soon(), move |_| assert!(hold.lock().unwrap().recv().is_err()));
        let panicking = checks.insert(soon(), |_| panic!("a bug in a check"));
        let (checked, done) = mpsc::channel();
        let sound = checks.insert(soon(), move |schedule| {
            schedule.plan(clock::now().instant);
            let _ = checked.send(());
        });
        let runner = checks.clone();
        let thread = std::thread::spawn(move || runner.run(Duration::from_millis(10)));
        for _ in 0..3 {
            done.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        drop((hanging, panicking, sound, release));
        thread.join().unwrap();
    }

    #[test]
    fn acceptance_checks_are_jittered_by_up_to_half_their_interval() {
        let (_, regular) = conclusions(&[(OURS, Accepted); 50]);
        let within = |from: Duration, to: Duration| move |wait: &Duration| (from..=to).contains(wait);
        assert!(regular.iter().all(within(3 * HOUR, 9 * HOUR)), "{regular:?}");
        assert!(regular.iter().any(|wait| *wait < 5 * HOUR) && regular.iter().any(|wait| *wait > 7 * HOUR));
        let (_, doubted) = conclusions(&[(OURS, Refused), (OURS, Unknown), (OURS, Unknown), (OURS, Accepted)]);
        assert!(doubted[..3].iter().all(within(CONFIRM, CONFIRM * 3 / 2)), "{doubted:?}");
        assert!(doubted[3] >= 3 * HOUR, "{doubted:?}");
    }
}
