//! Laws of time: Ticks, deadlines, and clocks that are wrong.

use std::time::Duration;

use perennial::{Action, Checkpoint, Event, Now, Reason, RotationMachine, ServerClock, State};

use super::bounds::{later, longest_silence};
use super::{Moment, Step, Verdict, ensure, shown};
use crate::subject::{Duties, Subject};
use crate::trace::{can_submit, has_duty, in_flight, submitted};

/// A Tick before the deadline changes nothing: a loop may wake up early.
pub(super) fn an_early_tick_changes_nothing<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let (machine, now) = (moment.machine(), moment.now);
    let most = machine.deadline().map_or(Duration::from_secs(1 << 30), |at| at.since(now.instant));
    let Some(most) = most.checked_sub(Duration::from_millis(1)) else { return Ok(()) };
    for early in [Duration::ZERO, Duration::from_millis(1).min(most), most / 2, most] {
        let mut ticked = moment.subject.clone();
        let duties = ticked.handle(Event::Tick, later(now, early));
        ensure!(
            duties.is_empty() && ticked == *moment.subject,
            "a Tick {early:?} after {now}, before the deadline, leads to {duties} and from {machine} to {}",
            ticked.machine()
        );
    }
    Ok(())
}

/// After any Tick, the deadline lies in the future: a loop that sends a Tick at each deadline does not spin.
pub(super) fn a_tick_makes_progress(step: &Step<'_>) -> Verdict {
    let deadline = step.after.deadline().filter(|_| *step.event == Event::Tick);
    ensure!(
        deadline.is_none_or(|at| at > step.now.instant),
        "the deadline after a Tick, {}, is not in the future",
        shown(deadline)
    );
    Ok(())
}

/// After a Tick exactly at the deadline the next deadline lies in the future.
pub(super) fn a_tick_at_the_deadline_makes_progress<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let Some(deadline) = moment.machine().deadline() else { return Ok(()) };
    let now = later(moment.now, deadline.since(moment.now.instant));
    let mut ticked = moment.subject.clone();
    let _ = ticked.handle(Event::Tick, now);
    let next = ticked.machine().deadline();
    ensure!(
        next.is_none_or(|at| at > now.instant),
        "the deadline after a Tick at the deadline, {}, is not in the future",
        shown(next)
    );
    Ok(())
}

/// If no reply ever comes, Ticks alone lead to the next submission, within a bound from the policy.
pub(super) fn lost_replies_lead_to_another_request<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let (machine, now) = (moment.machine(), moment.now);
    if !can_submit(machine) || machine.due(now).is_none() {
        return Ok(());
    }
    // A waiting certificate may have expired since the last event. Without it, the served one may be due later.
    let mut ticked = moment.subject.clone();
    if ticked.handle(Event::Tick, now).submit.is_none() && ticked.machine().due(now).is_none() {
        return Ok(());
    }
    let most = longest_silence(moment.policy) + moment.unnoticed();
    let submits = ticks_lead_to(moment, most, |duties, _| duties.submit.is_some());
    ensure!(submits, "no request is submitted within {most:?} after {now}: {machine}");
    Ok(())
}

/// Sends a copy of the machine Ticks at its deadlines, while both clocks advance alike. Returns true at the first step
/// that is as `expected`, and false if there is no such step within `most`.
pub(super) fn ticks_lead_to<S: Subject>(
    moment: &Moment<'_, S>,
    most: Duration,
    expected: impl Fn(&Duties, &RotationMachine) -> bool,
) -> bool {
    let (mut subject, mut now) = (moment.subject.clone(), moment.now);
    // Bounded, so that a machine whose deadline stands still fails.
    for _ in 0..100_000 {
        let Some(deadline) = subject.machine().deadline() else { return false };
        now = later(now, deadline.since(now.instant));
        if now.instant.since(moment.now.instant) > most {
            return false;
        }
        let duties = subject.handle(Event::Tick, now);
        if expected(&duties, subject.machine()) {
            return true;
        }
    }
    false
}

/// Between two actions, the number of Ticks makes no difference: a single Tick leads to the same machine as several
/// Ticks, the last one at the time of the single one.
pub(super) fn many_ticks_are_one_tick<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let (machine, now) = (moment.machine(), moment.now);
    let mut many = machine.clone();
    let step = machine.deadline().map_or(Duration::from_secs(1), |at| at.since(now.instant)) / 3;
    for i in 1..12 {
        let at = later(now, step * i);
        if has_duty(&many.handle(Event::Tick, at)) {
            break;
        }
        let mut one = machine.clone();
        let _ = one.handle(Event::Tick, at);
        ensure!(one == many, "{i} Ticks after {now} lead to {many:?}, a single Tick to {one:?}");
    }
    Ok(())
}

/// If the wall clock is set back by a second, an hour or a year, a wait under way (timeout, backoff or spacing) ends no
/// later than it would have ended otherwise.
pub(super) fn clock_set_back_delays_nothing<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let backs = [1, 3_600, 31_536_000].map(Duration::from_secs);
    { backs }.into_iter().try_for_each(|back| wait_ends_in_time(moment.machine(), moment.now, back))
}

/// Checks that the timeout, backoff or spacing under way ends in time if the wall clock is set back by this much now.
fn wait_ends_in_time(machine: &RotationMachine, now: Now, back: Duration) -> Verdict {
    let (State::Requesting { reason, until, .. }
    | State::BackingOff { reason, until, .. }
    | State::Waiting { reason, until }) = machine.state()
    else {
        return Ok(());
    };
    let is_normal = |reason| matches!(reason, Reason::RotateNow | Reason::TemplateNotSatisfied);
    let set_back = |at: Now| Now { unix: at.unix.before(back), ..at };
    let end = set_back(later(now, until.since(now.instant)));
    let mut machine = machine.clone();
    let keeps_priority = machine.due(end).is_some_and(|then| is_normal(then) == is_normal(reason));

    let actions = machine.handle(Event::Tick, set_back(now));
    if !keeps_priority || until <= now.instant || has_duty(&actions) {
        return Ok(());
    }
    ensure!(
        machine.deadline().is_some_and(|at| at <= until),
        "after the wall clock is set back {back:?} at {now}, the deadline is later than {until}: {machine}"
    );
    let was_in_flight = in_flight(&machine).is_some();
    let actions = machine.handle(Event::Tick, end);
    let cancels = actions.clone().any(|action| matches!(action, Action::CancelRequest { .. }));
    ensure!(
        if was_in_flight { cancels } else { submitted(&actions).is_some() },
        "after the wall clock is set back {back:?} at {now}, the wait does not end at {end}: {machine}"
    );
    Ok(())
}

/// Readings of the API server's clock neither make a certificate expire nor delay a request. A certificate that is due
/// without the readings is also due with the readings, and no less urgently. With the readings, the next request is
/// submitted no later.
pub(super) fn the_servers_clock_neither_delays_nor_expires_anything<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let (policy, machine, now) = (moment.policy, moment.machine(), moment.now);
    let Some(server) = machine.server_time(now) else { return Ok(()) };
    let valid = machine.certificate_at(now.unix);
    ensure!(
        valid.is_none() || machine.valid_by_either_clock(now) == valid,
        "at {now} the server's clock, {server}, makes the served certificate expire: {machine}"
    );
    let alone = without_server_clock(machine);
    let is_urgent = |reason| !matches!(reason, Reason::RotateNow | Reason::TemplateNotSatisfied);
    let (due, due_alone) = (machine.due(now), alone.due(now));
    ensure!(
        due_alone.is_none_or(|alone| due.is_some_and(|due| is_urgent(due) || !is_urgent(alone))),
        "at {now} the reason is {due:?} with the server's clock, {server}, and {due_alone:?} without: {machine}"
    );
    // Later requests are not compared: their jitter and their certificates differ.
    if in_flight(machine).is_some() || machine.waiting().is_some() {
        return Ok(());
    }
    let most = longest_silence(policy);
    let submits_at = |machine: &RotationMachine| {
        let mut soon = ticks(machine, now).take_while(|(at, _)| at.instant.since(now.instant) <= most);
        soon.find_map(|(at, actions)| submitted(&actions).map(|_| at.instant))
    };
    if let Some(alone) = submits_at(&alone) {
        let with = submits_at(machine);
        ensure!(
            with.is_some_and(|with| with <= alone),
            "after {now} a request is submitted at {with:?} with the server's clock, {server}, and at {alone} without"
        );
    }
    Ok(())
}

/// A copy of the machine that has no readings of the API server's clock.
pub(super) fn without_server_clock(machine: &RotationMachine) -> RotationMachine {
    RotationMachine::restore(Checkpoint { server_clock: ServerClock::default(), ..machine.checkpoint() })
}

/// The time in the last `SetTimer` is always the machine's deadline. So a loop that arms a timer and a loop that asks
/// for the deadline wake up at the same time.
pub(super) fn the_timer_equals_the_deadline(step: &Step<'_>) -> Verdict {
    let (timer, deadline) = (step.driver_after.timer, step.after.deadline());
    ensure!(timer == deadline, "the timer is set to {}, the deadline is {}", shown(timer), shown(deadline));
    let set = step.duties.timer;
    ensure!(set.is_none() || set != Some(step.before.deadline()), "the timer is set again to the same deadline");
    Ok(())
}

/// Sends a copy of the machine Ticks at its deadlines, while both clocks advance alike. Returns the time and the
/// actions of each step. Stops after 100,000 steps, so that a law about a machine whose deadline stands still fails and
/// does not hang.
pub(super) fn ticks(
    machine: &RotationMachine,
    mut now: Now,
) -> impl Iterator<Item = (Now, perennial::Actions)> + use<> {
    let mut machine = machine.clone();
    let tick = move || {
        now = later(now, machine.deadline()?.since(now.instant));
        Some((now, machine.handle(Event::Tick, now)))
    };
    std::iter::from_fn(tick).take(100_000)
}
