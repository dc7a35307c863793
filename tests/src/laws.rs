//! The promises of the machine, each a function of one step, of one state, or of a whole trace.
//!
//! A property test and a fuzz target check the steps and states of a trace ([`check`]); the [model
//! checker](crate::check) checks all steps and states of a small world. A law of states experiments with a copy of the
//! machine: it ticks the copy early, restarts it, or never answers it again. So every state of a hostile life is put to
//! every test.
//!
//! The first law is that the machine never panics, whatever the events, their order and the clocks. It needs no
//! function: a trace exists only if it held.

mod books;
mod bounds;
mod certificates;
mod clocks;
mod outcomes;
mod requests;
mod restarts;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Event, Now, Policy, RotationMachine};

pub(crate) use books::{Books, InFlight, spacing};

use crate::subject::{Duties, Subject};
use crate::trace::Trace;

/// A broken law: what was promised, and where it was not kept.
pub type Verdict = Result<(), String>;

/// A law.
#[derive(Debug)]
pub enum Law<S> {
    /// Holds for every step.
    Step(fn(&Step<'_>) -> Verdict),
    /// Holds for every state.
    State(fn(&Moment<'_, S>) -> Verdict),
    /// Holds for every state in which the machine has just read the clocks.
    Fresh(fn(&Moment<'_, S>) -> Verdict),
    /// Holds for a whole trace.
    Trace(fn(&Trace) -> Verdict),
}

/// One step, with the driver's books.
#[derive(Debug)]
pub struct Step<'a> {
    pub(crate) seed: u64,
    pub(crate) now: Now,
    pub(crate) before: &'a RotationMachine,
    pub(crate) event: &'a Event,
    pub(crate) duties: &'a Duties,
    pub(crate) after: &'a RotationMachine,
    /// The driver's books before the step.
    pub(crate) books: &'a Books,
    /// The driver's books after the step.
    pub(crate) noted: &'a Books,
}

/// One state of a machine at one time.
#[derive(Debug)]
pub struct Moment<'a, S> {
    pub(crate) policy: &'a Arc<Policy>,
    pub(crate) seed: u64,
    pub(crate) subject: &'a S,
    pub(crate) now: Now,
    /// True if the machine has read the clocks, and the wall clock was not set since.
    pub(crate) fresh: bool,
}

impl<S: Subject> Law<S> {
    /// Laws that hold whatever the clocks do.
    pub const ALWAYS: &'static [(&'static str, Self)] = &[
        ("stale replies change nothing", Self::Step(requests::stale_replies_change_nothing)),
        ("at most one request is out", Self::Step(requests::at_most_one_request_is_out)),
        ("every request is closed once", Self::Step(requests::every_request_is_closed_once)),
        (
            "nothing is asked without a template and a signer",
            Self::Step(requests::nothing_is_asked_without_a_template_and_a_signer),
        ),
        ("keys are kept or changed", Self::Step(requests::keys_are_kept_or_changed)),
        ("the timer is the deadline", Self::Step(clocks::the_timer_is_the_deadline)),
        ("a clone stays equal", Self::Trace(restarts::a_clone_stays_equal)),
        ("a valid certificate is never given up", Self::Step(certificates::a_valid_certificate_is_never_given_up)),
        ("only the wanted party is served", Self::Step(certificates::only_the_wanted_party_is_served)),
        ("no start serves another party", Self::Trace(certificates::no_start_serves_another_party)),
        (
            "nothing early displaces a valid certificate",
            Self::Step(certificates::nothing_early_displaces_a_valid_certificate),
        ),
        ("what is issued is written at once", Self::Step(certificates::what_is_issued_is_written_at_once)),
        ("what is written is held", Self::Step(certificates::what_is_written_is_held)),
        ("what is not durable is owed", Self::Step(certificates::what_is_not_durable_is_owed)),
        ("what is served is stored or written", Self::Step(certificates::what_is_served_is_stored_or_written)),
        ("what was decided is said", Self::Step(outcomes::what_was_decided_is_said)),
    ];

    /// Laws that hold as long as the monotonic clock is monotonic.
    pub const MONOTONIC: &'static [(&'static str, Self)] = &[
        ("the budget holds", Self::Trace(requests::the_budget_holds)),
        ("requests keep their distance", Self::Step(requests::requests_keep_their_distance)),
        ("churn never spends the last token", Self::Step(requests::churn_never_spends_the_last_token)),
        ("an early Tick changes nothing", Self::Fresh(clocks::an_early_tick_changes_nothing)),
        ("a Tick makes progress", Self::Step(clocks::a_tick_makes_progress)),
        ("a Tick at the deadline makes progress", Self::State(clocks::a_tick_at_the_deadline_makes_progress)),
        ("lost replies are survived", Self::State(clocks::lost_replies_are_survived)),
        ("many Ticks are one Tick", Self::Fresh(clocks::many_ticks_are_one_tick)),
        ("setting the clock back delays nothing", Self::State(clocks::setting_the_clock_back_delays_nothing)),
        (
            "the servers clock delays nothing and expires nothing",
            Self::Fresh(clocks::the_servers_clock_delays_nothing_and_expires_nothing),
        ),
        ("every issued certificate gets written", Self::State(certificates::every_issued_certificate_gets_written)),
        ("no wait reaches past expiry", Self::Fresh(certificates::no_wait_reaches_past_expiry)),
        ("what waits takes its turn", Self::Fresh(certificates::what_waits_takes_its_turn)),
        ("a restart goes on", Self::Fresh(restarts::a_restart_goes_on)),
        ("a signer that answers is enough", Self::State(certificates::a_signer_that_answers_is_enough)),
        ("a healthy signer is enough", Self::Trace(certificates::a_healthy_signer_is_enough)),
    ];
}

impl Law<RotationMachine> {
    /// Checks a trace by this law: every step, or about forty of the states.
    ///
    /// # Errors
    /// How the law is broken.
    pub fn check(&self, trace: &Trace) -> Verdict {
        match self {
            Self::Step(law) => each_step(trace, law),
            Self::State(law) => moments(trace, SAMPLES, false).iter().try_for_each(law),
            Self::Fresh(law) => moments(trace, SAMPLES, true).iter().try_for_each(law),
            Self::Trace(law) => law(trace),
        }
    }
}

/// Checks a trace by every law that applies to it.
///
/// # Errors
/// The first law that is broken, and how.
pub fn check(trace: &Trace) -> Verdict {
    let monotonic = Law::MONOTONIC.iter().filter(|_| !trace.wild);
    let laws = || Law::ALWAYS.iter().chain(monotonic.clone());
    let broken = |name: &str, how: String| format!("law \"{name}\" is broken: {how}");
    each_step(trace, |step| {
        laws().try_for_each(|(name, law)| match law {
            Law::Step(law) => law(step).map_err(|how| broken(name, how)),
            _ => Ok(()),
        })
    })?;
    let rest = laws().filter(|(_, law)| !matches!(law, Law::Step(_)));
    { rest }.try_for_each(|(name, law)| law.check(trace).map_err(|how| broken(name, how)))
}

/// Calls `law` for every step of a trace, with the driver's books.
fn each_step(trace: &Trace, mut law: impl FnMut(&Step<'_>) -> Verdict) -> Verdict {
    let mut last: Option<Books> = None;
    for run in &trace.runs {
        let (first, pending, at) = (&run.first, run.pending.as_ref(), run.started.instant);
        let mut books = match last {
            Some(last) => last.restart(first, pending, run.remembers, at),
            None => Books::begin(first.policy().clone(), first, pending, at),
        };
        for (before, record) in run.steps() {
            let (now, event, after, duties) = (record.now, &record.event, &record.after, record.actions.clone().into());
            let mut noted = books.clone();
            noted.note(event, &duties, after, now.instant);
            let step =
                Step { seed: trace.seed, now, before, event, duties: &duties, after, books: &books, noted: &noted };
            law(&step).map_err(|broken| format!("at {now} after {event}: {broken}"))?;
            books = noted;
        }
        last = Some(books);
    }
    Ok(())
}

/// About `most` states of a trace, evenly spread, including the last. With `fresh_only`, of those states in which the
/// machine has read the clocks: it does not for a stale reply.
fn moments(trace: &Trace, most: usize, fresh_only: bool) -> Vec<Moment<'_, RotationMachine>> {
    let states = trace.steps().map(|(_, record)| {
        let (subject, fresh) = (&record.after, !record.actions.outcomes().is_ignored());
        Moment { policy: subject.policy(), seed: trace.seed, subject, now: record.now, fresh }
    });
    let states: Vec<_> = states.filter(|moment| moment.fresh || !fresh_only).collect();
    let (last, stride) = (states.len().saturating_sub(1), states.len().div_ceil(most).max(1));
    { states }.into_iter().enumerate().filter(|(i, _)| (last - i).is_multiple_of(stride)).map(|(_, one)| one).collect()
}

impl Step<'_> {
    /// The books before the step, with the answer entered if the event is one.
    fn answered(&self) -> Books {
        let mut books = self.books.clone();
        books.note(self.event, &Duties::default(), self.after, self.now.instant);
        books
    }
}

impl<S: Subject> Moment<'_, S> {
    fn machine(&self) -> &RotationMachine {
        self.subject.machine()
    }

    /// The extra time that a law allows if the machine has not noticed a step of the wall clock yet.
    fn unnoticed(&self) -> Duration {
        if self.fresh { Duration::ZERO } else { self.policy.max_sleep + Duration::from_millis(1) }
    }
}

/// The number of states of a trace that an experiment starts from.
const SAMPLES: usize = 40;

/// The text of a value, or "nothing".
fn name(one: Option<impl Display>) -> String {
    one.map_or_else(|| "nothing".into(), |one| one.to_string())
}

macro_rules! ensure {
    ($holds:expr, $($broken:tt)*) => {
        if !$holds {
            return Err(format!($($broken)*));
        }
    };
}
pub(crate) use ensure;
