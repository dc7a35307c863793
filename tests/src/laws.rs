//! The promises of the machine, each a function of one step, of one state, or of a whole trace.
//!
//! A property test and a fuzz target check the steps and states of a trace ([`check`]); the [model
//! checker](crate::check) checks all steps and states of a small world. A law of states needs no steps of the trace: it
//! makes its own experiment with a copy of the machine. For example, it sends the copy a Tick before the deadline,
//! restarts the copy, or answers none of its requests. So every law of states applies to any state of a [hostile
//! life](crate::script).
//!
//! The first law is that the machine never panics, whatever the events, their order and the clocks. This law needs no
//! function: a machine that panics leaves no trace.

mod bounds;
mod certificates;
mod clocks;
mod driver;
mod outcomes;
mod requests;
mod restarts;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Event, Now, Policy, RotationMachine, SignerStatus};

pub(crate) use driver::{DriverState, InFlight, spacing};

use crate::subject::{Duties, Subject};
use crate::trace::Trace;

/// The result of a check. The error describes the step or state that breaks the law.
pub type Verdict = Result<(), String>;

/// A promise of the machine, as a function that checks it.
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

/// One step of a machine, with the driver's state before and after: all that a law of steps needs.
#[derive(Debug)]
pub struct Step<'a> {
    pub(crate) seed: u64,
    pub(crate) now: Now,
    pub(crate) before: &'a RotationMachine,
    pub(crate) event: &'a Event,
    pub(crate) duties: &'a Duties,
    pub(crate) after: &'a RotationMachine,
    /// The driver's state before the step.
    pub(crate) driver: &'a DriverState,
    /// The driver's state after the step.
    pub(crate) driver_after: &'a DriverState,
}

/// A state of a machine at one time: all that a law of states needs.
#[derive(Debug)]
pub struct Moment<'a, S> {
    pub(crate) policy: &'a Arc<Policy>,
    pub(crate) seed: u64,
    pub(crate) subject: &'a S,
    pub(crate) now: Now,
    /// True if the machine has read the clocks, and the wall clock was not set after that.
    pub(crate) fresh: bool,
}

impl<S: Subject> Law<S> {
    /// Laws that hold whatever the clocks do.
    pub const ALWAYS: &'static [(&'static str, Self)] = &[
        ("stale replies change nothing", Self::Step(requests::stale_replies_change_nothing)),
        ("at most one request is in flight", Self::Step(requests::at_most_one_request_is_in_flight)),
        ("every request ends once", Self::Step(requests::every_request_ends_once)),
        ("no request without template and signer", Self::Step(requests::no_request_without_template_and_signer)),
        ("retries reuse the key until an answer", Self::Step(requests::retries_reuse_the_key_until_an_answer)),
        ("the timer equals the deadline", Self::Step(clocks::the_timer_equals_the_deadline)),
        ("a clone stays equal", Self::Trace(restarts::a_clone_stays_equal)),
        (
            "a valid certificate is never replaced by a worse one",
            Self::Step(certificates::a_valid_certificate_is_never_replaced_by_a_worse_one),
        ),
        ("no certificate of another name is taken", Self::Step(certificates::no_certificate_of_another_name_is_taken)),
        ("no start serves another name", Self::Trace(certificates::no_start_serves_another_name)),
        (
            "no early certificate displaces a valid one",
            Self::Step(certificates::no_early_certificate_displaces_a_valid_one),
        ),
        ("issued certificates are written at once", Self::Step(certificates::issued_certificates_are_written_at_once)),
        ("only current certificates are written", Self::Step(certificates::only_current_certificates_are_written)),
        (
            "unwritten certificates have an owed write",
            Self::Step(certificates::unwritten_certificates_have_an_owed_write),
        ),
        (
            "the served certificate is stored or rewritten",
            Self::Step(certificates::the_served_certificate_is_stored_or_rewritten),
        ),
        ("hints move the rotation point", Self::Step(certificates::hints_move_the_rotation_point)),
        ("outcomes report every change", Self::Step(outcomes::outcomes_report_every_change)),
    ];

    /// Laws that hold as long as the monotonic clock never goes back.
    pub const MONOTONIC: &'static [(&'static str, Self)] = &[
        ("the budget holds", Self::Trace(requests::the_budget_holds)),
        ("submissions keep the spacing", Self::Step(requests::submissions_keep_the_spacing)),
        (
            "normal requests leave the last token of the budget to urgent ones",
            Self::Step(requests::normal_requests_leave_the_last_token_of_the_budget_to_urgent_ones),
        ),
        ("an early Tick changes nothing", Self::Fresh(clocks::an_early_tick_changes_nothing)),
        ("a Tick makes progress", Self::Step(clocks::a_tick_makes_progress)),
        ("a Tick at the deadline makes progress", Self::State(clocks::a_tick_at_the_deadline_makes_progress)),
        ("lost replies lead to another request", Self::State(clocks::lost_replies_lead_to_another_request)),
        ("many Ticks are one Tick", Self::Fresh(clocks::many_ticks_are_one_tick)),
        ("clock set back delays nothing", Self::State(clocks::clock_set_back_delays_nothing)),
        (
            "the servers clock neither delays nor expires anything",
            Self::Fresh(clocks::the_servers_clock_neither_delays_nor_expires_anything),
        ),
        ("owed writes are repeated", Self::State(certificates::owed_writes_are_repeated)),
        ("no wait reaches past expiry", Self::Fresh(certificates::no_wait_reaches_past_expiry)),
        (
            "waiting certificates are served from not before",
            Self::Fresh(certificates::waiting_certificates_are_served_from_not_before),
        ),
        ("a restart continues", Self::Fresh(restarts::a_restart_continues)),
        (
            "an answering signer leads to a good certificate",
            Self::State(certificates::an_answering_signer_leads_to_a_good_certificate),
        ),
        (
            "a healthy signer keeps rotation in the window",
            Self::Trace(certificates::a_healthy_signer_keeps_rotation_in_the_window),
        ),
    ];
}

impl Law<RotationMachine> {
    /// Checks a trace by this law: every step, about forty of the states, or the whole trace.
    ///
    /// # Errors
    /// How the law is broken.
    pub fn check(&self, trace: &Trace) -> Verdict {
        match self {
            Self::Step(law) => each_step(trace, law),
            Self::State(law) => moments(&alone(trace), SAMPLES, false).iter().try_for_each(law),
            Self::Fresh(law) => moments(&alone(trace), SAMPLES, true).iter().try_for_each(law),
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

/// Calls `law` for every step of a trace, with the driver's state.
fn each_step(trace: &Trace, mut law: impl FnMut(&Step<'_>) -> Verdict) -> Verdict {
    let mut last: Option<DriverState> = None;
    for run in &trace.runs {
        let (first, pending, at) = (&run.first, run.pending.as_ref(), run.started.instant);
        let mut driver = match last {
            Some(last) => last.restart(first, pending, run.remembers, at),
            None => DriverState::start(first.policy().clone(), first, pending, at),
        };
        for (before, record) in run.steps() {
            let (now, event, after, duties) = (record.now, &record.event, &record.after, record.actions.clone().into());
            let mut driver_after = driver.clone();
            driver_after.update(event, &duties, after, now.instant);
            let step = Step {
                seed: trace.seed,
                now,
                before,
                event,
                duties: &duties,
                after,
                driver: &driver,
                driver_after: &driver_after,
            };
            law(&step).map_err(|broken| format!("at {now} after {event}: {broken}"))?;
            driver = driver_after;
        }
        last = Some(driver);
    }
    Ok(())
}

/// The trace, with a signer of its own for each machine whose signer is shared. A law of states makes an experiment with
/// a machine that no fleet grants a turn; the laws of [fleets](crate::fleet) are about turns.
fn alone(trace: &Trace) -> Trace {
    let mut trace = trace.clone();
    for record in trace.runs.iter_mut().flat_map(|run| &mut run.records) {
        if record.after.signer().is_shared() {
            let _ = record.after.handle(Event::SignerChanged(SignerStatus::Ready), record.now);
        }
    }
    trace
}

/// About `most` states of a trace, evenly spread, the last included. With `fresh_only`, selects only from the states in
/// which the machine has just read the clocks: those after an event that the machine did not ignore.
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
    /// The driver's state after the event, before the driver carries out the machine's actions.
    fn driver_after_event(&self) -> DriverState {
        let mut driver = self.driver.clone();
        driver.update(self.event, &Duties::default(), self.after, self.now.instant);
        driver
    }
}

impl<S: Subject> Moment<'_, S> {
    fn machine(&self) -> &RotationMachine {
        self.subject.machine()
    }

    /// The extra time that a law allows. It is zero if the machine has just read the clocks. Otherwise it is the
    /// longest time until the next regular check of the clocks, when the machine notices a step of the wall clock.
    fn unnoticed(&self) -> Duration {
        if self.fresh { Duration::ZERO } else { self.policy.max_sleep + Duration::from_millis(1) }
    }
}

/// The approximate number of states of a trace that each law of states checks.
const SAMPLES: usize = 40;

/// The text of a value, or "none".
fn shown(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".into(), |value| value.to_string())
}

macro_rules! ensure {
    ($holds:expr, $($broken:tt)*) => {
        if !$holds {
            return Err(format!($($broken)*));
        }
    };
}
pub(crate) use ensure;
