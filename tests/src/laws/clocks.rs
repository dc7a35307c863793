//! Time: Ticks, deadlines, and clocks that lie.

use std::time::Duration;

use perennial::{Action, Checkpoint, Event, Now, Reason, RotationMachine, ServerClock, State};

use super::bounds::{later, longest_silence};
use super::{SAMPLES, Verdict, ensure};
use crate::trace::{Trace, can_ask, has_duty, live, submitted};

/// A loop that wakes up too early does no harm.
pub fn an_early_tick_changes_nothing(trace: &Trace) -> Verdict {
    for (now, machine) in trace.fresh_snapshots(SAMPLES) {
        let most = machine.deadline().map_or(Duration::from_secs(1 << 30), |at| at.since(now.instant));
        let Some(most) = most.checked_sub(Duration::from_millis(1)) else { continue };
        for early in [Duration::ZERO, Duration::from_millis(1).min(most), most / 2, most] {
            let mut ticked = machine.clone();
            let actions = ticked.handle(Event::Tick, later(now, early));
            ensure!(
                actions.is_empty() && ticked == *machine,
                "{early:?} after {now} a Tick leads to {actions} and from {machine} to {ticked}"
            );
        }
    }
    Ok(())
}

/// After a Tick the deadline lies in the future: no loop spins.
pub fn a_tick_makes_progress(trace: &Trace) -> Verdict {
    let recorded = trace.steps().map(|(_, record)| record).filter(|record| record.event == Event::Tick);
    let recorded = recorded.map(|record| (record.now, record.after.clone()));
    let tried = trace.snapshots(SAMPLES).filter_map(|(now, machine)| {
        let deadline = later(now, machine.deadline()?.since(now.instant));
        let mut ticked = machine.clone();
        let _ = ticked.handle(Event::Tick, deadline);
        Some((deadline, ticked))
    });
    for (now, machine) in recorded.chain(tried) {
        let deadline = machine.deadline();
        ensure!(deadline.is_none_or(|at| at > now.instant), "a Tick at {now} leaves the deadline at {deadline:?}");
    }
    Ok(())
}

/// Lose any reply, and Ticks alone get the machine to ask again, within a time the policy tells.
pub fn lost_replies_are_survived(trace: &Trace) -> Verdict {
    for (now, machine) in trace.fresh_snapshots(SAMPLES) {
        if !can_ask(machine) || machine.due(now).is_none() {
            continue;
        }
        let most = longest_silence(machine.policy());
        let asks = ticks(machine, now).take_while(|(at, _)| at.instant.since(now.instant) <= most);
        ensure!(
            { asks }.any(|(_, actions)| submitted(&actions).is_some()),
            "within {most:?} after {now} nothing is asked: {machine}"
        );
    }
    Ok(())
}

/// How often a loop ticks makes no difference: as long as nothing is to be done, one Tick equals many.
pub fn many_ticks_are_one_tick(trace: &Trace) -> Verdict {
    for (now, machine) in trace.fresh_snapshots(SAMPLES) {
        let mut many = machine.clone();
        let step = machine.deadline().map_or(Duration::from_secs(1), |at| at.since(now.instant)) / 3;
        for i in 1..12 {
            let at = later(now, step * i);
            if has_duty(&many.handle(Event::Tick, at)) {
                break;
            }
            let mut one = machine.clone();
            let _ = one.handle(Event::Tick, at);
            ensure!(one == many, "{i} Ticks from {now} lead to {many:?}, one to {one:?}");
        }
    }
    Ok(())
}

/// Somebody sets the wall clock back, by a second or a year: backoff and timeouts end when they would have.
pub fn setting_the_clock_back_delays_nothing(trace: &Trace) -> Verdict {
    for (now, machine) in trace.snapshots(SAMPLES) {
        for back in [1, 3_600, 31_536_000].map(Duration::from_secs) {
            no_later(machine, now, back)?;
        }
    }
    Ok(())
}

/// The same of one moment.
pub(crate) fn no_later(machine: &RotationMachine, now: Now, back: Duration) -> Verdict {
    let (State::Requesting { reason, until, .. }
    | State::BackingOff { reason, until, .. }
    | State::Waiting { reason, until }) = machine.state()
    else {
        return Ok(());
    };
    let is_wish = |reason| matches!(reason, Reason::Asked | Reason::TemplateNotSatisfied);
    let set_back = |at: Now| Now { unix: at.unix.before(back), ..at };
    let end = set_back(later(now, until.since(now.instant)));
    let mut machine = machine.clone();
    let as_pressing = machine.due(end).is_some_and(|then| is_wish(then) == is_wish(reason));

    let noticed = machine.handle(Event::Tick, set_back(now));
    if !as_pressing || until <= now.instant || has_duty(&noticed) {
        return Ok(());
    }
    ensure!(machine.deadline().is_some_and(|at| at <= until), "{back:?} back at {now}: sleeps past {until}: {machine}");
    let was_out = live(&machine);
    let actions = machine.handle(Event::Tick, end);
    let gave_up = actions.clone().any(|action| matches!(action, Action::CancelRequest { .. }));
    ensure!(
        if was_out.is_some() { gave_up } else { submitted(&actions).is_some() },
        "{back:?} back at {now}: at {end} nothing happens: {machine}"
    );
    Ok(())
}

/// The API server's clock makes nothing expire, and delays nothing: what is due without it is due with it, and no less
/// urgently; and is requested no later.
pub fn the_servers_clock_delays_nothing_and_expires_nothing(trace: &Trace) -> Verdict {
    for (now, machine) in trace.fresh_snapshots(SAMPLES) {
        no_worse_for_the_servers_clock(machine, now)?;
    }
    Ok(())
}

/// The same of one moment.
pub(crate) fn no_worse_for_the_servers_clock(machine: &RotationMachine, now: Now) -> Verdict {
    let Some(server) = machine.server_time(now) else { return Ok(()) };
    let valid = machine.certificate_at(now.unix);
    ensure!(
        valid.is_none() || machine.valid_by_either_clock(now) == valid,
        "at {now} the server's clock, {server}, makes a certificate expire: {machine}"
    );
    let alone = without_server_clock(machine);
    let is_urgent = |reason| !matches!(reason, Reason::Asked | Reason::TemplateNotSatisfied);
    let (due, due_alone) = (machine.due(now), alone.due(now));
    ensure!(
        due_alone.is_none_or(|alone| due.is_some_and(|due| is_urgent(due) || !is_urgent(alone))),
        "at {now} by the server's clock, {server}, due is {due:?}, by the local clock {due_alone:?}: {machine}"
    );
    // Beyond this, jitter is drawn, and what is held differs.
    if live(machine).is_some() || machine.waiting().is_some() {
        return Ok(());
    }
    let most = longest_silence(machine.policy());
    let asks = |machine: &RotationMachine| {
        let mut soon = ticks(machine, now).take_while(|(at, _)| at.instant.since(now.instant) <= most);
        soon.find_map(|(at, actions)| submitted(&actions).map(|_| at.instant))
    };
    if let Some(alone) = asks(&alone) {
        let with = asks(machine);
        ensure!(
            with.is_some_and(|with| with <= alone),
            "after {now} by the server's clock, {server}, a request is made at {with:?}, by the local clock at {alone}"
        );
    }
    Ok(())
}

/// The same machine, which has had no answers from the API server.
pub(super) fn without_server_clock(machine: &RotationMachine) -> RotationMachine {
    RotationMachine::restore(Checkpoint { server_clock: ServerClock::default(), ..machine.checkpoint() })
}

/// Loops that arm timers and loops that poll `deadline()` wake up at the same time.
pub fn the_timer_is_the_deadline(trace: &Trace) -> Verdict {
    for run in &trace.runs {
        let mut timer = Some(run.started.instant);
        for (before, record) in run.steps() {
            for action in record.actions.clone() {
                if let Action::SetTimer(at) = action {
                    ensure!(before.deadline() != at, "at {} the timer is set to what it was", record.now);
                    timer = at;
                }
            }
            let deadline = record.after.deadline();
            ensure!(timer == deadline, "at {} the timer is {timer:?}, the deadline {deadline:?}", record.now);
        }
    }
    Ok(())
}

/// Nothing but Ticks, each at its deadline, by clocks that agree. It ends, so that a machine that spins is found out.
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
