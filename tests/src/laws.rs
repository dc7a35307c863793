//! What the machine promises, each promise a function: of one step, of one state, or of a whole trace.
//!
//! Whoever has steps and states puts them to the laws: a property test and a fuzz target those of a trace ([`check`]), the
//! [model checker](crate::check) all there are of a small world. A law of states tries: what if this machine, in this
//! state, were ticked early, restarted, or never answered again? So every state a hostile life leads to is put to every
//! test.
//!
//! That the machine never panics, whatever happens in whatever order by whatever clocks, is the first law, and needs no
//! function: whoever gets a trace has seen it hold.

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
    /// Of every step.
    Step(fn(&Step<'_>) -> Verdict),
    /// Of every state.
    State(fn(&Moment<'_, S>) -> Verdict),
    /// Of every state of a machine that has just looked at the clocks.
    Fresh(fn(&Moment<'_, S>) -> Verdict),
    /// Of a whole life.
    Trace(fn(&Trace) -> Verdict),
}

/// One step, and what the driver knew.
#[derive(Debug)]
pub struct Step<'a> {
    pub(crate) seed: u64,
    pub(crate) now: Now,
    pub(crate) before: &'a RotationMachine,
    pub(crate) event: &'a Event,
    pub(crate) duties: &'a Duties,
    pub(crate) after: &'a RotationMachine,
    /// Before the step.
    pub(crate) books: &'a Books,
    /// After it.
    pub(crate) noted: &'a Books,
}

/// One state.
#[derive(Debug)]
pub struct Moment<'a, S> {
    pub(crate) policy: &'a Arc<Policy>,
    pub(crate) seed: u64,
    pub(crate) subject: &'a S,
    pub(crate) now: Now,
    /// The machine has looked at the clocks, and nobody has set them since.
    pub(crate) fresh: bool,
}

impl<S: Subject> Law<S> {
    /// Hold whatever the clocks do.
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

    /// Hold as long as the monotonic clock is monotonic.
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
    /// Puts a trace to this law. Of its states about forty are tried.
    ///
    /// # Errors
    /// How it is broken.
    pub fn check(&self, trace: &Trace) -> Verdict {
        match self {
            Self::Step(law) => each_step(trace, law),
            Self::State(law) => moments(trace, SAMPLES, false).iter().try_for_each(law),
            Self::Fresh(law) => moments(trace, SAMPLES, true).iter().try_for_each(law),
            Self::Trace(law) => law(trace),
        }
    }
}

/// Every law that applies to this trace.
///
/// # Errors
/// The first one that is broken, and how.
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

/// Puts every step of a trace to this, with the books of the driver.
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

/// About so many states of a trace, evenly spread, the last included; of all, or of those that are fresh: a stale reply makes
/// no machine look at the clocks.
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
    /// The books, with the answer noted if the event is one.
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

    /// How much longer everything may take, because nobody has noticed yet that the clock was set.
    fn unnoticed(&self) -> Duration {
        if self.fresh { Duration::ZERO } else { self.policy.max_sleep + Duration::from_millis(1) }
    }
}

/// How many snapshots of a trace an experiment takes.
const SAMPLES: usize = 40;

/// What this is, or that there is nothing.
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
