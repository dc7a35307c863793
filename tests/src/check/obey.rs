//! The laws, of one step and of one state. See [`laws`](crate::laws) for the same of a whole trace.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Event, Instant, Key, Now, Policy, Reason, SignerStatus, State};

use super::life::{Life, Out, SEED};
use super::setting::{AHEAD, Flavour, LATE, Setting, WISHES};
use super::subject::{Duties, Subject};
use crate::laws::{
    Verdict, asks_before_expiry, displaces_nothing_valid, ends_its_key, ensure, goes_on, longest_silence, no_later,
    no_worse_for_the_servers_clock, nothing_valid_is_given_up, says_what_was_decided, takes_its_turn,
    takes_only_what_is_wanted,
};
use crate::trace::{can_ask, live};

/// What may not go wrong in any step, from `before` to `life`. The world takes note of what was done.
pub(super) fn step<S: Subject>(before: &Life<S>, life: &mut Life<S>, event: &Event, duties: &Duties) -> Verdict {
    nothing_valid_is_given_up(SEED, before.subject.machine(), life.subject.machine(), life.now)?;
    takes_only_what_is_wanted(before.subject.machine(), life.subject.machine())?;
    displaces_nothing_valid(before.subject.machine(), event, life.subject.machine(), life.now)?;
    requests(life, event, duties)?;
    let out = life.out.clone();
    life.note(event, duties);
    let machine = life.subject.machine();
    let (is_out, should) = (live(machine), life.out.as_ref().map(|out| out.id));
    ensure!(is_out == should, "{} is out, by the machine {}", name(should), name(is_out));
    let (unwritten, owed) = (machine.is_unwritten(), life.owed.map(|(id, _)| id));
    ensure!(
        unwritten == owed.is_some(),
        "{} is not durable, by the machine {}",
        name(owed),
        if unwritten { "something" } else { "nothing" }
    );
    ensure!(
        life.timer == machine.deadline(),
        "the timer is {}, the deadline {}",
        name(life.timer),
        name(machine.deadline())
    );
    ensure!(duties.timer.is_none() || duties.timer != Some(before.timer), "the timer is set to what it was");
    match event {
        Event::CsrIssued { id, certificate } if out.is_some_and(|out| out.id == *id) => {
            let taken = machine.certificate() == Some(certificate);
            ensure!(!taken || duties.write.is_some(), "what was issued is taken, but not written");
            let waits = machine.waiting() == Some(certificate);
            ensure!(!waits || life.owed.is_some(), "what was issued waits, but is not written");
        }
        Event::CertReplaced(found) => {
            let ours = machine.certificate_at(life.now.unix).filter(|held| !held.provisional);
            // Without a signer somebody else keeps the store.
            let keeps = machine.signer().is_configured();
            let written_back = life.owed.is_some_and(|(_, serve)| serve);
            let safe = ours.is_none_or(|ours| found.as_ref() == Some(ours) || written_back);
            ensure!(safe || !keeps, "what is served is no longer in the store, and not to be written");
        }
        Event::Tick => {
            let next = machine.deadline();
            ensure!(next.is_none_or(|at| at > life.now.instant), "after a Tick the deadline is {}", name(next));
            let early = before.subject.machine().deadline().is_none_or(|at| life.now.instant < at);
            let nothing = duties.is_empty() && life.subject == before.subject;
            ensure!(!early || before.unnoticed || nothing, "a Tick too early leads to {duties}");
        }
        _ => {}
    }
    let (cancels, before) = (duties.cancel.is_some(), before.subject.machine());
    says_what_was_decided(before, event, &duties.outcomes, cancels, machine, life.now)
}

fn name(one: Option<impl Display>) -> String {
    one.map_or_else(|| "nothing".into(), |one| one.to_string())
}

/// Requests: one at a time, each ended once, for what is wanted, with the right key, and within the budget.
fn requests<S: Subject>(life: &Life<S>, event: &Event, duties: &Duties) -> Verdict {
    let (now, machine) = (life.now.instant, life.subject.machine());
    let replied = match event {
        Event::CsrIssued { id, .. } | Event::CsrFailed { id, .. } => Some(*id),
        _ => None,
    };
    let out = life.out.as_ref().filter(|out| Some(out.id) != replied);
    if let Some(id) = duties.cancel {
        ensure!(out.is_some_and(|out| out.id == id), "{id} is cancelled, but is not out");
    }
    if let Some((_, certificate, serve)) = &duties.write {
        let expected = if *serve { machine.certificate() } else { machine.waiting() };
        ensure!(expected == Some(certificate), "{certificate} is to be written, but is not held");
    }
    let Some((id, template, key)) = &duties.submit else { return Ok(()) };
    ensure!(out.is_none() || duties.cancel.is_some(), "a second request is out");
    ensure!(Some(*id) > life.last_id, "{id} does not follow {}", name(life.last_id));
    ensure!(can_ask(machine) && machine.template() == Some(template), "{template} is asked for, but is not wanted");
    let spent = life.out.as_ref().map(|out| out.id) == replied && ends_its_key(event)
        || policy_after(life, event).new_key_per_attempt;
    let expected = if spent { Key::New } else { life.key_for(template) };
    ensure!(*key == expected, "it is asked with the {key}, not the {expected}");
    let superseded = out.is_some_and(|out| !timed_out(policy_after(life, event), out, now));
    paced(life, event, superseded || is_wish(machine.state()))
}

/// Spacing, budget, and the last token.
fn paced<S: Subject>(life: &Life<S>, event: &Event, is_wish: bool) -> Verdict {
    let now = life.now.instant;
    let spacing = policy_after(life, event).spacing.max(Duration::from_millis(1));
    ensure!(life.spent.is_none_or(|at| now.since(at) >= spacing), "a request too soon after the last one");
    let mut bucket = life.bucket.clone();
    bucket.change(event, now);
    let (tokens, needed) = (bucket.take(now), if is_wish { 2 } else { 1 });
    ensure!(tokens >= needed, "{tokens} tokens are left, {needed} are needed");
    Ok(())
}

/// The policy that holds from this event on.
const fn policy_after<'a, S>(life: &'a Life<S>, event: &'a Event) -> &'a Arc<Policy> {
    if let Event::PolicyChanged(policy) = event { policy } else { &life.policy }
}

fn timed_out(policy: &Policy, out: &Out, now: Instant) -> bool {
    out.since.after(policy.request_timeout) <= now
}

const fn is_wish(state: State) -> bool {
    matches!(state, State::Requesting { reason: Reason::Asked | Reason::TemplateNotSatisfied, .. })
}

/// What may not go wrong from this state on: what if somebody repeats himself, nobody answers, the clock is set back,
/// the process restarts, all is well again?
pub(super) fn state<S: Subject>(setting: &Setting, life: &Life<S>) -> Verdict {
    let (machine, now) = (life.subject.machine(), life.now);
    for event in life.stale() {
        let mut told = life.subject.clone();
        let duties = told.handle(event.clone(), now);
        ensure!(duties == Duties::default() && told == life.subject, "{event} is stale, but is heeded: {duties}");
    }
    nobody_answers(life)?;
    all_is_well(setting, life)?;
    no_later(machine, now, AHEAD)?;
    // A restart looks at the clocks at once.
    if life.unnoticed {
        return Ok(());
    }
    asks_before_expiry(&life.policy, machine, now)?;
    takes_its_turn(machine, now)?;
    no_worse_for_the_servers_clock(machine, now)?;
    goes_on(SEED, machine, now)
}

/// Ticks alone, each at its deadline: what is due is asked for, what is unwritten is written.
fn nobody_answers<S: Subject>(life: &Life<S>) -> Verdict {
    let policy = &life.policy;
    let (mut subject, mut now) = (life.subject.clone(), life.now);
    let mut asks = can_ask(subject.machine()) && subject.machine().due(now).is_some();
    let mut writes = subject.machine().is_unwritten();
    // Somebody may have set the clock, or be late.
    let unnoticed = policy.max_sleep + Duration::from_millis(LATE);
    let most = longest_silence(policy).max(policy.write.cap()).max(policy.write.longest()) + unnoticed;
    while asks || writes {
        let Some(deadline) = subject.machine().deadline() else { break };
        now = at(now, deadline);
        ensure!(now.instant.since(life.now.instant) <= most, "within {most:?} {} by itself", missing(asks));
        let duties = subject.handle(Event::Tick, now);
        asks &= duties.submit.is_none();
        // What waits need not be written once nobody wants it.
        writes &= duties.write.is_none() && subject.machine().is_unwritten();
        ensure!(subject.machine().deadline() > Some(deadline), "a Tick at the deadline leaves it at {deadline}");
    }
    ensure!(!asks && !writes, "no Tick is wanted, but {} by itself", missing(asks));
    Ok(())
}

const fn missing(asks: bool) -> &'static str {
    if asks { "nothing is asked" } else { "nothing is written" }
}

/// The signer answers again: a good certificate is had in a time the policy tells.
fn all_is_well<S: Subject>(setting: &Setting, life: &Life<S>) -> Verdict {
    let policy = &life.policy;
    let most = longest_silence(policy) * 2 + policy.max_sleep;
    let (mut subject, mut now) = (life.subject.clone(), life.now);
    let mut ask = Vec::new();
    if subject.machine().template().is_none() {
        ask.push(Event::TemplateChanged(Some(WISHES[0].clone())));
    }
    let agrees = Event::ServerDated { unix: now.unix };
    ask.extend([Event::SignerChanged(SignerStatus::Ready), Event::RotateNow, agrees]);
    // What is out may be answered too.
    let issue = |id, template: &perennial::Template, serial, now| Event::CsrIssued {
        id,
        certificate: setting.mint(template, Flavour::Good, serial, now),
    };
    for serial in 1_000_000.. {
        let event = ask.pop().unwrap_or(Event::Tick);
        let submitted = subject.handle(event, now).submit;
        if let Some((id, template, _)) = submitted {
            ask.push(issue(id, &template, serial, now));
        } else if ask.is_empty() {
            if subject.machine().due(now).is_none() {
                break;
            }
            let deadline = subject.machine().deadline().ok_or("no Tick is wanted")?;
            now = at(now, deadline);
            let took = now.instant.since(life.now.instant);
            ensure!(took <= most, "{most:?} after the signer is back there is no good certificate");
        }
    }
    Ok(())
}

/// The time of a deadline, by clocks that agree.
fn at(now: Now, deadline: Instant) -> Now {
    let span = deadline.since(now.instant);
    Now { instant: now.instant.after(span), unix: now.unix.after(span) }
}
