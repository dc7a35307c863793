//! What the machine promises, each promise a function over a trace.
//!
//! Some laws read what was recorded. Others take snapshots out of it and try: what if this machine, in
//! this state, were ticked early, restarted, cloned, or never answered again? So every state a hostile
//! life leads to is put to every test.
//!
//! That the machine never panics, whatever happens in whatever order by whatever clocks, is the first law, and needs no
//! function: whoever gets a trace has seen it hold.

mod bounds;
mod certificates;
mod clocks;
mod outcomes;
mod requests;
mod restarts;

pub use bounds::{longest_silence, longest_wait};
pub use certificates::{
    a_healthy_signer_is_enough, a_valid_certificate_is_never_given_up, every_issued_certificate_gets_written,
    no_wait_reaches_past_expiry, nothing_early_displaces_a_valid_certificate, only_the_wanted_party_is_served,
    what_waits_takes_its_turn,
};
pub(crate) use certificates::{
    asks_before_expiry, displaces_nothing_valid, nothing_valid_is_given_up, takes_its_turn, takes_only_what_is_wanted,
};
pub use clocks::{
    a_tick_makes_progress, an_early_tick_changes_nothing, lost_replies_are_survived, many_ticks_are_one_tick,
    setting_the_clock_back_delays_nothing, the_servers_clock_delays_nothing_and_expires_nothing,
    the_timer_is_the_deadline,
};
pub(crate) use clocks::{no_later, no_worse_for_the_servers_clock};
pub(crate) use outcomes::says_what_was_decided;
pub use outcomes::what_was_decided_is_said;
pub(crate) use requests::{Bucket, ends_its_key};
pub use requests::{
    at_most_one_request_is_out, churn_never_spends_the_last_token, every_request_is_closed_once,
    keys_are_kept_or_changed, nothing_is_asked_without_a_template_and_a_signer, stale_replies_change_nothing,
    the_budget_holds,
};
pub(crate) use restarts::goes_on;
pub use restarts::{a_clone_stays_equal, a_restart_goes_on};

use crate::trace::Trace;

/// A broken law: what was promised, and where it was not kept.
pub type Verdict = Result<(), String>;

/// A law.
pub type Law = fn(&Trace) -> Verdict;

/// Holds whatever the clocks do.
pub const ALWAYS: &[(&str, Law)] = &[
    ("at most one request is out", at_most_one_request_is_out),
    ("every request is closed once", every_request_is_closed_once),
    ("stale replies change nothing", stale_replies_change_nothing),
    ("nothing is asked without a template and a signer", nothing_is_asked_without_a_template_and_a_signer),
    ("keys are kept or changed", keys_are_kept_or_changed),
    ("the timer is the deadline", the_timer_is_the_deadline),
    ("a clone stays equal", a_clone_stays_equal),
    ("a valid certificate is never given up", a_valid_certificate_is_never_given_up),
    ("only the wanted party is served", only_the_wanted_party_is_served),
    ("nothing early displaces a valid certificate", nothing_early_displaces_a_valid_certificate),
    ("what was decided is said", what_was_decided_is_said),
];

/// Holds as long as the monotonic clock is monotonic.
pub const MONOTONIC: &[(&str, Law)] = &[
    ("the budget holds", the_budget_holds),
    ("churn never spends the last token", churn_never_spends_the_last_token),
    ("an early Tick changes nothing", an_early_tick_changes_nothing),
    ("a Tick makes progress", a_tick_makes_progress),
    ("lost replies are survived", lost_replies_are_survived),
    ("many Ticks are one Tick", many_ticks_are_one_tick),
    ("setting the clock back delays nothing", setting_the_clock_back_delays_nothing),
    ("the servers clock delays nothing and expires nothing", the_servers_clock_delays_nothing_and_expires_nothing),
    ("every issued certificate gets written", every_issued_certificate_gets_written),
    ("no wait reaches past expiry", no_wait_reaches_past_expiry),
    ("what waits takes its turn", what_waits_takes_its_turn),
    ("a restart goes on", a_restart_goes_on),
    ("a healthy signer is enough", a_healthy_signer_is_enough),
];

/// Every law that applies to this trace.
///
/// # Errors
/// The first one that is broken, and how.
pub fn check(trace: &Trace) -> Verdict {
    let monotonic = MONOTONIC.iter().filter(|_| !trace.wild);
    for (name, law) in ALWAYS.iter().chain(monotonic) {
        law(trace).map_err(|broken| format!("law \"{name}\" is broken: {broken}"))?;
    }
    Ok(())
}

/// How many snapshots of a trace an experiment takes.
const SAMPLES: usize = 40;

macro_rules! ensure {
    ($holds:expr, $($broken:tt)*) => {
        if !$holds {
            return Err(format!($($broken)*));
        }
    };
}
pub(crate) use ensure;
