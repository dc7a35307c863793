//! Laws of certificates: a valid one is served without interruption, becomes durable in the end, and is replaced before
//! it expires.

use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Certificate, Event, Failure, Instant, Now, Outcome, Policy, Reason, RotationMachine, Setup, SignerStatus, State,
    UnixTime, rotation_point,
};

use super::bounds::{later, longest_silence};
use super::clocks::{ticks, ticks_lead_to};
use super::{Moment, Step, Verdict, ensure, moments, shown};
use crate::mint;
use crate::simulation::Member as _;
use crate::simulation::world::{Answer, World};
use crate::subject::Subject;
use crate::trace::{Trace, can_submit, in_flight, newest, submitted};

/// A valid certificate is served until it expires or one at least as good takes its place: no failure, no refusal, no
/// change of template and no empty directory removes it.
pub(super) fn a_valid_certificate_is_never_replaced_by_a_worse_one(step: &Step<'_>) -> Verdict {
    let Step { seed, now, before, after, .. } = *step;
    let (earliest, _) = after.both_clocks(now);
    let valid =
        |machine: &'_ RotationMachine| machine.certificate().filter(|held| !held.validity.expired(earliest)).cloned();
    let Some(old) = valid(before) else { return Ok(()) };
    let Some(new) = valid(after) else {
        return Err(format!("at {now} {old}, which is valid, is dropped without a successor"));
    };
    if old != new {
        let quality =
            |holder, certificate| Quality::of(&step.driver_after.policy, seed, certificate, holder, after, now);
        let (was, is) = (quality(before, &old), quality(after, &new));
        // A certificate that a server refused counts as due at best.
        let was = if before.due(now) == Some(Reason::Refused) { Quality { due: true, ..was } } else { was };
        ensure!(is.is_no_worse_than(&was), "at {now} {old} is replaced by {new}, which is worse");
    }
    Ok(())
}

/// A machine accepts no issued certificate, and takes over no found one, whose common name differs from the template's,
/// not even while it has no certificate. After a change of the template, the machine keeps serving the certificate that
/// it has. Bootstrap credentials are exempt.
pub(super) fn no_certificate_of_another_name_is_taken(step: &Step<'_>) -> Verdict {
    let is_news = step.before.certificate() != step.after.certificate();
    ensure!(!is_news || is_wanted(step.after), "a certificate of another common name is taken: {}", step.after);
    Ok(())
}

/// A restart never serves a certificate whose common name differs from the template's. Without a signer the certificate
/// is externally managed, and exempt.
pub(super) fn no_start_serves_another_name(trace: &Trace) -> Verdict {
    for first in trace.runs.iter().map(|run| &run.first) {
        ensure!(
            !first.signer().is_configured() || is_wanted(first),
            "a start serves a certificate of another common name: {first}"
        );
    }
    Ok(())
}

/// False if the machine serves a certificate with another common name than the template's, and the certificate is not a
/// bootstrap credential.
fn is_wanted(machine: &RotationMachine) -> bool {
    let foreign = |held: &Arc<Certificate>| {
        !held.provisional && machine.template().is_some_and(|template| template.common_name() != held.common_name())
    };
    !machine.certificate().is_some_and(foreign)
}

/// A certificate that is not valid yet never takes the place of a valid one, since every server whose clock is right
/// would refuse the new one. The law does not apply if a server has refused the valid one.
pub(super) fn no_early_certificate_displaces_a_valid_one(step: &Step<'_>) -> Verdict {
    let Step { now, before, event, after, .. } = *step;
    let (Some(old), Some(new)) = (before.certificate_at(now.unix), after.certificate()) else { return Ok(()) };
    let (_, latest) = after.both_clocks(now);
    let is_early = old != new && new.validity.not_before() > latest;
    let refused = || before.checkpoint().refused || matches!(event, Event::CertRefused { .. });
    ensure!(!is_early || refused(), "at {now} {new}, which is not valid yet, displaces {old}, which is valid");
    Ok(())
}

/// A hint about the newest certificate moves the rotation point into the period of the hint, as far as that lies within
/// the lifetime and not close to its ends. A hint with a fault leaves the rotation point that follows from the policy's
/// window, and is reported. A hint never makes a certificate due at once.
pub(super) fn hints_move_the_rotation_point(step: &Step<'_>) -> Verdict {
    let Event::RenewalHinted { fingerprint, hint } = step.event else { return Ok(()) };
    let Some(about) = newest(step.before).filter(|newest| newest.fingerprint == *fingerprint) else { return Ok(()) };
    let Some(about) = newest(step.after).filter(|after| *after == about) else { return Ok(()) };
    let (begin, end) = (about.validity.not_before(), about.validity.not_after());
    let life = about.validity.lifetime();
    let (margin, spread) = ((life / 6).min(Duration::from_secs(600)), (life / 12).min(Duration::from_secs(300)));
    let (from, until) = (hint.from, if hint.until > hint.from { hint.until } else { hint.from.after(spread) });
    let within = |at: UnixTime| at.clamp(begin.after(margin), end.before(margin));
    let (earliest, last) = (within(from), within(until));
    let (is_outside, (_, latest)) = (from < begin || from > end, step.after.both_clocks(step.now));
    match step.after.renewal().map(|renewal| renewal.rotate_at) {
        Some(at) => ensure!(
            !is_outside && at >= earliest && at <= last && at > latest,
            "at {} the hint {hint} sets the rotation point of {about} to {at}",
            step.now
        ),
        None => {
            let is_reported = step.duties.outcomes.iter().any(|it| matches!(it, Outcome::HintDisregarded { .. }));
            ensure!(
                is_reported && (is_outside || earliest <= latest),
                "at {} the hint {hint} about {about} is disregarded",
                step.now
            );
        }
    }
    Ok(())
}

/// Ticks alone make the machine serve a waiting certificate from its notBefore on, unless the certificate does not
/// satisfy the template by then.
pub(super) fn waiting_certificates_are_served_from_not_before<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let (machine, mut now) = (moment.machine(), moment.now);
    let Some(waiting) = machine.waiting() else { return Ok(()) };
    let (mut machine, begins) = (machine.clone(), waiting.validity.not_before());
    // A certificate may wait for years of virtual time.
    for _ in 0..2_000 {
        if now.unix >= begins || machine.waiting().is_none() {
            let quality = |certificate: &Certificate| {
                Quality::of(moment.policy, moment.seed, certificate, &machine, &machine, now)
            };
            // A waiting certificate that is due from its start on does not displace one that lives longer.
            let is_worse = |served: &Arc<Certificate>| !quality(waiting).is_no_worse_than(&quality(served));
            let is_wanted = machine.template().is_none_or(|template| template.satisfied_by(waiting))
                && !machine.certificate().is_some_and(is_worse);
            let _ = machine.handle(Event::Tick, now);
            let served = machine.certificate() == Some(waiting) && machine.waiting().is_none();
            ensure!(!is_wanted || served, "at {now}, its notBefore, {waiting} is not served: {machine}");
            return Ok(());
        }
        let deadline = machine.deadline().ok_or("there is a waiting certificate, but no deadline")?;
        now = later(now, deadline.since(now.instant));
        let _ = machine.handle(Event::Tick, now);
    }
    Ok(())
}

/// The quality of a certificate, judged without the machine's own code.
struct Quality {
    own: bool,
    named: bool,
    satisfying: bool,
    due: bool,
    life: Duration,
}

impl Quality {
    /// `holder` is a machine that has the certificate, and knows the signer's hint about it.
    fn of(
        policy: &Policy,
        seed: u64,
        certificate: &Certificate,
        holder: &RotationMachine,
        machine: &RotationMachine,
        now: Now,
    ) -> Self {
        let is_newest = newest(holder).is_some_and(|newest| newest.fingerprint == certificate.fingerprint);
        let hinted = holder.renewal().filter(|_| is_newest).map(|renewal| renewal.rotate_at);
        let rotate_at = hinted.unwrap_or_else(|| rotation_point(policy, seed, certificate));
        Self {
            own: !certificate.provisional,
            named: machine.template().is_none_or(|template| template.common_name() == certificate.common_name()),
            satisfying: machine.template().is_none_or(|template| template.satisfied_by(certificate)),
            due: machine.both_clocks(now).1 >= rotate_at,
            life: certificate.validity.not_after().since(now.unix),
        }
    }

    /// A flawless certificate may replace any other. One with a fault may replace a bootstrap credential or a certificate
    /// of another name; any other only if it has no greater fault and ends no earlier.
    fn is_no_worse_than(&self, other: &Self) -> bool {
        let (rank, others) = (self.rank(), other.rank());
        rank == 4 || (rank > others && others <= 1) || (rank >= others && self.life >= other.life)
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

/// If the machine serves an issued certificate, it orders the write in the same step. If it lets an issued certificate
/// wait, a write of that certificate is owed, and may be ordered after the write of the served certificate.
pub(super) fn issued_certificates_are_written_at_once(step: &Step<'_>) -> Verdict {
    let Event::CsrIssued { certificate, .. } = step.event else { return Ok(()) };
    if !step.driver.is_answer(step.event) {
        return Ok(());
    }
    let taken = step.after.certificate() == Some(certificate);
    ensure!(!taken || step.duties.write.is_some(), "an issued certificate is served without an order to write it");
    let waits = step.after.waiting() == Some(certificate);
    ensure!(!waits || step.after.is_unwritten(), "an issued certificate waits, but no write of it is owed");
    Ok(())
}

/// The machine orders writes only of the certificate that it serves and of the one that waits.
pub(super) fn only_current_certificates_are_written(step: &Step<'_>) -> Verdict {
    let Some((_, certificate, serve)) = &step.duties.write else { return Ok(()) };
    let expected = if *serve { step.after.certificate() } else { step.after.waiting() };
    ensure!(expected == Some(certificate), "a write of {certificate} is ordered, which is neither served nor waiting");
    Ok(())
}

/// The machine reports a certificate as unwritten if and only if the driver's state has an owed write.
pub(super) fn unwritten_certificates_have_an_owed_write(step: &Step<'_>) -> Verdict {
    let (unwritten, owed) = (step.after.is_unwritten(), step.driver_after.owed.map(|(id, _)| id));
    ensure!(
        unwritten == owed.is_some(),
        "the driver owes the write {}, but the machine reports unwritten as {unwritten}",
        shown(owed)
    );
    Ok(())
}

/// After another program has changed the store, the served certificate is in the store, or a write of it is owed.
/// Without a signer the law does not apply: the other program manages the store.
pub(super) fn the_served_certificate_is_stored_or_rewritten(step: &Step<'_>) -> Verdict {
    let Event::CertReplaced(found) = step.event else { return Ok(()) };
    let ours = step.after.certificate_at(step.now.unix).filter(|held| !held.provisional);
    let written_back = step.driver_after.owed.is_some_and(|(_, serve)| serve);
    let safe = ours.is_none_or(|ours| found.as_ref() == Some(ours) || written_back);
    let keeps = step.after.signer().is_configured();
    ensure!(safe || !keeps, "the served certificate is no longer in the store, and no write of it is owed");
    Ok(())
}

/// The machine orders a write again and again until the certificate is durable, however long the disk is full. The
/// write of a waiting certificate is owed only as long as the certificate waits.
pub(super) fn owed_writes_are_repeated<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let (machine, now) = (moment.machine(), moment.now);
    let Some((_, serve)) = machine.writes() else { return Ok(()) };
    let write = moment.policy.write;
    let most = write.cap().max(write.longest()) + Duration::from_millis(1) + moment.unnoticed();
    let writes =
        ticks_lead_to(moment, most, |duties, after| duties.write.is_some() || !(serve || after.is_unwritten()));
    ensure!(writes, "no write is ordered within {most:?} after {now}: {machine}");
    Ok(())
}

/// While a certificate is valid, a wait leaves time for at least one more request before the certificate expires, if
/// spacing and budget allow one. Without a valid certificate, a wait is at most the longest transient backoff plus the
/// cap of that backoff, except after a refusal. Both limits include a `Retry-After`, since a misconfigured load
/// balancer must not let the certificates of a fleet expire.
pub(super) fn no_wait_reaches_past_expiry<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let (policy, machine, now) = (moment.policy, moment.machine(), moment.now);
    let Some(reason) = machine.due(now).filter(|_| can_submit(machine) && in_flight(machine).is_none()) else {
        return Ok(());
    };
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
        "after {now} no request is submitted until {latest}, which leaves none before the certificate expires: {machine}"
    );
    Ok(())
}

/// The earliest times at which the submission budget (first) and the spacing (second) allow a request for this reason.
fn allowed(policy: &Policy, machine: &RotationMachine, reason: Reason, now: Now) -> (Instant, Instant) {
    let Some(pending) = machine.pending(now) else { return Default::default() };
    let instant = |at: UnixTime| now.instant.after(at.since(now.unix));
    let tokens = if matches!(reason, Reason::RotateNow | Reason::TemplateNotSatisfied) { 2 } else { 1 };
    let ahead = policy.budget.refill() * (policy.budget.size() - tokens);
    let spacing = policy.spacing.max(Duration::from_millis(1));
    (instant(pending.budget_whole.before(ahead)), instant(pending.submitted.after(spacing)))
}

/// Whatever happened before, a signer that answers each request at once leads to a good certificate, within a bound
/// from the policy.
pub(super) fn an_answering_signer_leads_to_a_good_certificate<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    recovers(moment, Duration::ZERO).map(|_| ())
}

/// With a healthy signer, the successor of each certificate is requested at the rotation point and issued before the
/// certificate expires. This holds for lifetimes down to [`shortest_lifetime`](perennial::Policy::shortest_lifetime).
pub(super) fn a_healthy_signer_keeps_rotation_in_the_window(trace: &Trace) -> Verdict {
    let Some(last) = moments(trace, 1, false).pop() else { return Ok(()) };
    let (policy, seed) = (last.policy, last.seed);
    let life = policy.shortest_lifetime();
    let delay = (life / 100).min(policy.request_timeout / 2);
    let (machine, now) = recovers(&last, delay)?;
    let setup = Setup { policy: policy.clone(), seed, ..Setup::default() };
    let mut world = World::around(machine, setup, life, now);
    world.habit = Answer::healthy(life).after(delay);
    (0..3).try_for_each(|_| rotates_in_time(&mut world))
}

/// Lets the signer answer each request after `delay`, until the machine has a certificate that is not due. Returns the
/// machine and the time at that point.
///
/// # Errors
/// There is no such certificate within the time that the policy allows.
fn recovers<S: Subject>(moment: &Moment<'_, S>, delay: Duration) -> Result<(S, Now), String> {
    let (policy, began) = (moment.policy, moment.now.instant);
    let most = longest_silence(policy) * 2 + moment.unnoticed() + delay;
    let life = policy.shortest_lifetime();
    let (mut subject, mut now) = (moment.subject.clone(), moment.now);
    let mut reply = None;
    let handle = |subject: &mut S, event, now: Now, reply: &mut Option<_>| {
        let duties = subject.handle(event, now);
        if duties.cancel.is_some() {
            *reply = None;
        }
        if let Some((id, template, _)) = duties.submit {
            *reply = Some((now.instant.after(delay), id, template));
        }
    };
    // A reading of the local time: if the server's clock differs, it is no longer used.
    handle(&mut subject, Event::ServerDated { unix: now.unix }, now, &mut reply);
    if subject.machine().template().is_none() {
        let template = Arc::new(perennial::Template::node("worker-1"));
        handle(&mut subject, Event::TemplateChanged(Some(template)), now, &mut reply);
    }
    for event in [Event::SignerChanged(SignerStatus::Ready), Event::RotateNow] {
        handle(&mut subject, event, now, &mut reply);
    }
    let mut serial = 1 << 40;
    while subject.machine().due(now).is_some() {
        let deadline = subject.machine().deadline();
        let first = reply.take_if(|(at, ..)| deadline.is_none_or(|deadline| *at <= deadline));
        let at =
            first.as_ref().map(|(at, ..)| *at).or(deadline).ok_or("a certificate is due, but there is no deadline")?;
        now = later(now, at.since(now.instant));
        serial += 1;
        let event = first.map_or(Event::Tick, |(_, id, template): (_, _, Arc<perennial::Template>)| {
            let certificate = Arc::new(mint::certificate(&template, serial, now.unix, life));
            Event::CsrIssued { id, certificate }
        });
        handle(&mut subject, event, now, &mut reply);
        ensure!(
            now.instant.since(began) <= most && serial < (1 << 40) + 100_000,
            "there is no good certificate {most:?} after the signer has recovered: {}",
            subject.machine()
        );
    }
    Ok((subject, now))
}

/// Checks that the successor of the served certificate is requested at the rotation point, and issued before the served
/// certificate expires.
fn rotates_in_time(world: &mut World) -> Verdict {
    let held = world.machine.certificate().cloned().ok_or("no certificate")?;
    let point = world.machine.rotation_point().ok_or("no rotation point")?;
    let (mut requested_at, mut steps) = (None, 0);
    while world.machine.certificate() == Some(&held) {
        world.step();
        steps += 1;
        if matches!(world.machine.state(), State::Requesting { .. }) {
            requested_at = requested_at.or_else(|| Some(world.now().unix));
        }
        ensure!(
            world.machine.certificate_at(world.now().unix).is_some() && steps < 100_000,
            "{held} expires before its successor is issued:\n{}",
            world.transcript()
        );
    }
    ensure!(
        requested_at == Some(point),
        "the successor of {held} is requested at {}, not at its rotation point, {point}:\n{}",
        shown(requested_at),
        world.transcript()
    );
    Ok(())
}
