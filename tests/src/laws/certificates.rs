//! Certificates: served without a gap, written in the end, replaced in time.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Action, Certificate, Event, Failure, Instant, Now, Policy, Reason, RotationMachine, Setup, State};
use perennial::{SignerStatus, Slot, UnixTime, rotation_point};

use super::bounds::{later, longest_silence};
use super::clocks::ticks;
use super::{SAMPLES, Verdict, ensure};
use crate::trace::{Trace, can_ask, live, submitted};
use crate::world::{Answer, World};

/// A valid certificate is served until it expires, or until one takes its place that is at least as good:
/// no failure, no refusal, no change of template and no empty directory takes it away.
pub fn a_valid_certificate_is_never_given_up(trace: &Trace) -> Verdict {
    for (before, record) in trace.steps() {
        nothing_valid_is_given_up(trace.seed, before, &record.after, record.now)?;
    }
    Ok(())
}

/// The same of one step.
pub(crate) fn nothing_valid_is_given_up(
    seed: u64,
    before: &RotationMachine,
    after: &RotationMachine,
    now: Now,
) -> Verdict {
    let (earliest, _) = after.both_clocks(now);
    let valid =
        |machine: &'_ RotationMachine| machine.certificate().filter(|held| !held.validity.expired(earliest)).cloned();
    let Some(old) = valid(before) else { return Ok(()) };
    let Some(new) = valid(after) else {
        return Err(format!("{old} is given up for nothing at {now}"));
    };
    if old != new {
        let quality = |certificate| Quality::of(seed, certificate, after, now);
        let (was, is) = (quality(&old), quality(&new));
        // A refused certificate is as good as due: it has to go.
        let was = if before.due(now) == Some(Reason::Refused) { Quality { due: true, ..was } } else { was };
        ensure!(is.is_no_worse_than(&was), "{old} is given up for {new} at {now}");
    }
    Ok(())
}

/// No answer, no find and no restart gives a machine a certificate in the name of another party than the one it wants:
/// not even while it holds none. Who is wanted may change; what is held then is served on. What was lent is exempt, and so
/// is what somebody else keeps, where there is no signer.
pub fn only_the_wanted_party_is_served(trace: &Trace) -> Verdict {
    for run in &trace.runs {
        let keeps = run.first.signer().is_configured();
        ensure!(!keeps || is_wanted(&run.first), "begins with another party's: {}", run.first);
        for (before, record) in run.steps() {
            takes_only_what_is_wanted(before, &record.after)?;
        }
    }
    Ok(())
}

/// The same of one step.
pub(crate) fn takes_only_what_is_wanted(before: &RotationMachine, after: &RotationMachine) -> Verdict {
    let is_news = before.certificate() != after.certificate();
    ensure!(!is_news || is_wanted(after), "another party's is taken: {after}");
    Ok(())
}

fn is_wanted(machine: &RotationMachine) -> bool {
    let foreign = |held: &Arc<Certificate>| {
        !held.provisional && machine.template().is_some_and(|template| template.common_name() != held.common_name)
    };
    !machine.certificate().is_some_and(foreign)
}

/// A certificate that is not valid yet displaces none that is, unless its server refused that one: every server whose clock
/// is right would refuse the new one.
pub fn nothing_early_displaces_a_valid_certificate(trace: &Trace) -> Verdict {
    for (before, record) in trace.steps() {
        displaces_nothing_valid(before, &record.event, &record.after, record.now)?;
    }
    Ok(())
}

/// The same of one step.
pub(crate) fn displaces_nothing_valid(
    before: &RotationMachine,
    event: &Event,
    after: &RotationMachine,
    now: Now,
) -> Verdict {
    let (Some(old), Some(new)) = (before.certificate_at(now.unix), after.certificate()) else { return Ok(()) };
    let (_, latest) = after.both_clocks(now);
    let is_early = old != new && new.validity.not_before() > latest;
    let refused = || before.checkpoint().refused || matches!(event, Event::CertRefused { .. });
    ensure!(!is_early || refused(), "{new}, which is not valid yet, displaces {old} at {now}");
    Ok(())
}

/// What waits is served from its notBefore on, without any event but Ticks, unless nobody wants it by then.
pub fn what_waits_takes_its_turn(trace: &Trace) -> Verdict {
    for (now, machine) in trace.fresh_snapshots(SAMPLES) {
        takes_its_turn(machine, now)?;
    }
    Ok(())
}

/// The same of one moment.
pub(crate) fn takes_its_turn(machine: &RotationMachine, mut now: Now) -> Verdict {
    let Some(waiting) = machine.waiting() else { return Ok(()) };
    let (mut machine, begins) = (machine.clone(), waiting.validity.not_before());
    // Some wait for years.
    for _ in 0..2_000 {
        if now.unix >= begins || machine.waiting().is_none() {
            let _ = machine.handle(Event::Tick, now);
            let is_wanted = machine.template().is_none_or(|template| template.satisfied_by(waiting));
            let served = machine.certificate() == Some(waiting) && machine.waiting().is_none();
            ensure!(!is_wanted || served, "at {now} it is the turn of {waiting}: {machine}");
            return Ok(());
        }
        let deadline = machine.deadline().ok_or("something waits, and no Tick is wanted")?;
        now = later(now, deadline.since(now.instant));
        let _ = machine.handle(Event::Tick, now);
    }
    Ok(())
}

/// How good a certificate is, as its holder sees it.
struct Quality {
    own: bool,
    named: bool,
    satisfying: bool,
    due: bool,
    life: Duration,
}

impl Quality {
    fn of(seed: u64, certificate: &Certificate, machine: &RotationMachine, now: Now) -> Self {
        Self {
            own: !certificate.provisional,
            named: machine.template().is_none_or(|template| template.common_name() == certificate.common_name),
            satisfying: machine.template().is_none_or(|template| template.satisfied_by(certificate)),
            due: machine.both_clocks(now).1 >= rotation_point(machine.policy(), seed, certificate),
            life: certificate.validity.not_after().since(now.unix),
        }
    }

    fn is_no_worse_than(&self, other: &Self) -> bool {
        let (rank, others) = (self.rank(), other.rank());
        self.rank() == 4 || rank > others || (rank == others && self.life >= other.life)
    }

    const fn rank(&self) -> u8 {
        match (self.own, self.named, self.satisfying, self.due) {
            (false, ..) => 0,
            (true, false, ..) => 1,
            (true, true, false, _) => 2,
            (true, true, true, true) => 3,
            (true, true, true, false) => 4,
        }
    }
}

/// A certificate that was issued and taken is written at once, and again until it is durable: a full disk costs
/// nothing but warnings.
pub fn every_issued_certificate_gets_written(trace: &Trace) -> Verdict {
    for (before, record) in trace.steps() {
        let taken = matches!(&record.event, Event::CsrIssued { id, certificate }
            if live(before) == Some(*id) && record.after.certificate() == Some(certificate));
        ensure!(!taken || record.written().is_some(), "{} at {} is not written", record.event, record.now);
        let waits = matches!(&record.event, Event::CsrIssued { id, certificate }
            if live(before) == Some(*id) && record.after.waiting() == Some(certificate));
        ensure!(!waits || record.after.is_unwritten(), "{} at {} is not to be written", record.event, record.now);
    }
    let most = |machine: &RotationMachine| {
        let write = machine.policy().write;
        write.cap().max(write.longest()) + Duration::from_millis(1)
    };
    // A waiting certificate need not be written once another identity is wanted, or once its time is over.
    let is_owed = |now: Now, machine: &RotationMachine| {
        let wanted = |waiting: &Certificate| {
            let satisfies = machine.template().is_none_or(|template| template.satisfied_by(waiting));
            satisfies && !waiting.validity.expired(now.unix.after(most(machine)))
        };
        let of_held = machine.checkpoint().unwritten.is_some_and(|write| write.slot == Slot::Served);
        machine.is_unwritten() && (of_held || machine.waiting().is_some_and(|waiting| wanted(waiting)))
    };
    for (now, machine) in trace.snapshots(SAMPLES).filter(|(now, machine)| is_owed(*now, machine)) {
        let most = most(machine);
        let mut soon = ticks(machine, now).take_while(|(at, _)| at.instant.since(now.instant) <= most);
        let writes = soon.any(|(_, actions)| { actions }.any(|action| matches!(action, Action::WriteCert { .. })));
        ensure!(writes, "within {most:?} after {now} nothing is written: {machine}");
    }
    Ok(())
}

/// Every wait, the server's wishes included, leaves at least one more attempt before the certificate held expires, if
/// spacing and budget have one to give; and without a valid certificate nobody but a refusal is waited for longer than
/// the backoff for outages says: one misconfigured load balancer must not let a fleet expire.
pub fn no_wait_reaches_past_expiry(trace: &Trace) -> Verdict {
    for (now, machine) in trace.fresh_snapshots(SAMPLES) {
        asks_before_expiry(machine.policy(), machine, now)?;
    }
    Ok(())
}

/// The same of one moment.
pub(crate) fn asks_before_expiry(policy: &Policy, machine: &RotationMachine, now: Now) -> Verdict {
    let Some(reason) = machine.due(now).filter(|_| can_ask(machine) && live(machine).is_none()) else { return Ok(()) };
    let (affordable, spaced) = allowed(policy, machine, reason, now);
    let expiry = machine.certificate_at(now.unix).map(|held| held.validity.not_after().since(now.unix));
    let refused = machine.last_failure().is_some_and(Failure::is_refusal);
    let latest = match expiry {
        Some(left) if affordable.max(spaced) >= now.instant.after(left) => return Ok(()),
        Some(left) => now.instant.after(left / 2),
        None if refused => return Ok(()),
        None => affordable.max(now.instant).after(policy.transient.cap() + policy.transient.longest()),
    };
    let latest = latest.max(affordable).max(spaced);
    let mut soon = ticks(machine, now).take_while(|(at, _)| at.instant <= latest);
    ensure!(
        soon.any(|(_, actions)| submitted(&actions).is_some()),
        "after {now} nothing is asked until {latest}, and the certificate expires: {machine}"
    );
    Ok(())
}

/// When the budget, and when the spacing, let a request be made for this reason.
fn allowed(policy: &Policy, machine: &RotationMachine, reason: Reason, now: Now) -> (Instant, Instant) {
    let Some(pending) = machine.pending(now) else { return Default::default() };
    let instant = |at: UnixTime| now.instant.after(at.since(now.unix));
    let tokens = if matches!(reason, Reason::Asked | Reason::TemplateNotSatisfied) { 2 } else { 1 };
    let ahead = policy.budget.refill() * (policy.budget.size() - tokens);
    let spacing = policy.spacing.max(Duration::from_millis(1));
    (instant(pending.budget_whole.before(ahead)), instant(pending.submitted.after(spacing)))
}

/// Whatever happened before: once the signer answers, a certificate is had within a time the policy tells, and from
/// then on each is replaced at its rotation point, inside the window, and none ever expires.
/// Lifetimes down to [`shortest_lifetime`](perennial::Policy::shortest_lifetime), counted from the moment of issue.
pub fn a_healthy_signer_is_enough(trace: &Trace) -> Verdict {
    let Some((now, machine)) = trace.snapshots(1).last() else { return Ok(()) };
    let policy = machine.policy();
    let life = policy.shortest_lifetime();
    let setup = Setup { policy: policy.clone(), seed: trace.seed, ..Setup::default() };
    let mut world = World::around(machine.clone(), setup, life, now);
    let delay = (life / 100).min(policy.request_timeout / 2);
    world.habit = Answer::healthy(life).after(delay);
    // A reading that disagrees ends the belief in those before.
    world.handle(Event::ServerDated { unix: world.now.unix });
    if machine.template().is_none() {
        world.handle(Event::TemplateChanged(Some(Arc::new(perennial::Template::node("worker-1")))));
    }
    world.handle(Event::SignerChanged(SignerStatus::Ready));
    world.handle(Event::RotateNow);

    let soon = longest_silence(policy) * 2 + delay;
    let mut steps = 0;
    while world.machine.due(world.now).is_some() {
        world.step();
        steps += 1;
        ensure!(
            world.now.instant.since(now.instant) <= soon && steps < 100_000,
            "{soon:?} after {now} there is no good certificate:\n{}",
            world.transcript()
        );
    }
    for _ in 0..3 {
        renewed_in_time(&mut world)?;
    }
    Ok(())
}

fn renewed_in_time(world: &mut World) -> Verdict {
    let held = world.machine.certificate().cloned().ok_or("no certificate")?;
    let point = world.machine.rotation_point().ok_or("no rotation point")?;
    let (mut asked_at, mut steps) = (None, 0);
    while world.machine.certificate() == Some(&held) {
        world.step();
        steps += 1;
        if matches!(world.machine.state(), State::Requesting { .. }) {
            asked_at = asked_at.or(Some(world.now.unix));
        }
        ensure!(
            world.machine.certificate_at(world.now.unix).is_some() && steps < 100_000,
            "{held} expires unreplaced:\n{}",
            world.transcript()
        );
    }
    ensure!(asked_at == Some(point), "{held} was to be replaced {point}, not {asked_at:?}:\n{}", world.transcript());
    Ok(())
}
