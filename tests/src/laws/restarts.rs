//! Laws of copies of a machine: a clone behaves like the original, and a restart continues where the machine was.

use std::sync::Arc;

use perennial::{Certificate, Event, Failure, Key, Now, Pending, Policy, Reason, RotationMachine, Setup};

use super::bounds::longest_silence;
use super::clocks::{ticks, without_server_clock};
use super::{Moment, Verdict, ensure};
use crate::subject::Subject;
use crate::trace::{Trace, can_submit, in_flight, submitted};

/// A clone handles every event like the original. Other laws rely on this, since they send events to clones.
pub(super) fn a_clone_stays_equal(trace: &Trace) -> Verdict {
    for (before, record) in trace.steps() {
        let mut clone = before.clone();
        let actions = clone.handle(record.event.clone(), record.now);
        ensure!(actions == record.actions && clone == record.after, "at {} a clone behaves differently", record.now);
    }
    Ok(())
}

/// A restart with the certificate, the pending record, the rotation point of a hint and the seed continues where the
/// machine was. The rotation point and the choice of key are the same, and after a refusal the next request comes no
/// sooner. So a crash loop costs the signer no more than a process that runs on.
///
/// A restarted machine reads the clocks immediately, so the law compares it with a machine that has just read the
/// clocks.
pub(super) fn a_restart_continues<S: Subject>(moment: &Moment<'_, S>) -> Verdict {
    let (policy, seed, machine, now) = (moment.policy, moment.seed, moment.machine(), moment.now);
    // Readings of the API server's clock are lost in a restart.
    let machine = &without_server_clock(machine);
    let pending = machine.pending(now);
    let restarted = restart(policy, seed, machine, pending.clone(), now);
    // The machine still serves a certificate from before a change of the name; a restart with the new name does not.
    let is_foreign = |held: &Arc<Certificate>| {
        !held.provisional && machine.template().is_some_and(|template| template.common_name() != held.common_name())
    };
    let [held, waits] = [machine.certificate(), machine.waiting()].map(|held| held.is_some_and(is_foreign));
    if machine.signer().is_configured() && (held || waits) {
        ensure!(
            !held || restarted.certificate().is_none(),
            "a restart at {now} serves a certificate of another common name"
        );
        ensure!(
            !waits || restarted.waiting().is_none(),
            "a restart at {now} keeps a waiting certificate of another common name"
        );
        return Ok(());
    }
    ensure!(restarted.rotation_point() == machine.rotation_point(), "a restart at {now} changes the rotation point");
    let (due, due_again) = (machine.due(now), restarted.due(now));
    // This restart forgets `RotateNow` and `CertRefused`; the other reasons follow from the certificate.
    let is_forgotten = matches!(due, Some(Reason::RotateNow | Reason::Refused));
    ensure!(is_forgotten || due == due_again, "a restart at {now} changes the reason from {due:?} to {due_again:?}");
    if !can_submit(machine) || due.is_none() || due != due_again {
        return Ok(());
    }
    let (Some((next_at, key)), Some((resumes_at, resumed_key))) =
        (next_request(policy, machine, now), first_request(policy, &restarted, now))
    else {
        return Err(format!("after {now} no request is submitted, with a restart or without: {machine}"));
    };
    ensure!(key == resumed_key, "after {now} the next request uses the {key}, after a restart the {resumed_key}");
    let is_refused = pending.is_some_and(|pending| {
        pending.refusal.is_some() && pending.template == *machine.template().unwrap_or(&pending.template)
    });
    let earliest = now.instant.after(policy.refused.cap()).min(next_at.instant);
    ensure!(
        !is_refused || in_flight(machine).is_some() || resumes_at.instant >= earliest,
        "after a refusal the next request is at {next_at}, after a restart at {resumes_at}"
    );
    Ok(())
}

fn restart(
    policy: &Arc<Policy>,
    seed: u64,
    machine: &RotationMachine,
    pending: Option<Pending>,
    now: Now,
) -> RotationMachine {
    let setup = Setup {
        policy: policy.clone(),
        seed,
        signer: machine.signer(),
        template: machine.template().cloned(),
        certificate: machine.certificate().cloned(),
        waiting: machine.waiting().cloned(),
        rotate_now: false,
        pending,
        renewal: machine.renewal(),
    };
    RotationMachine::new(setup, now)
}

/// The time and the key of the next request after the one in flight, which counts as lost, as in a restart. `None` if
/// no request follows.
fn next_request(policy: &Policy, machine: &RotationMachine, now: Now) -> Option<(Now, Key)> {
    let mut machine = machine.clone();
    let lost = in_flight(&machine).map(|id| Event::CsrFailed { id, failure: Failure::Unreachable, retry_after: None });
    let at_once = lost.and_then(|lost| submitted(&machine.handle(lost, now)));
    at_once.map(|(_, _, key)| (now, key)).or_else(|| first_request(policy, &machine, now))
}

/// The time and the key of the next request if the machine gets only Ticks; `None` if no request follows.
fn first_request(policy: &Policy, machine: &RotationMachine, now: Now) -> Option<(Now, Key)> {
    let most = longest_silence(policy) * 2;
    ticks(machine, now)
        .take_while(|(at, _)| at.instant.since(now.instant) <= most)
        .find_map(|(at, actions)| submitted(&actions).map(|(_, _, key)| (at, key)))
}
