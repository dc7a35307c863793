//! The machine as a value: cloned, and rebuilt after a restart.

use perennial::{Event, Failure, Key, Now, Pending, RotationMachine, Setup, State};

use super::bounds::longest_silence;
use super::clocks::ticks;
use super::{SAMPLES, Verdict, ensure};
use crate::trace::{Trace, can_ask, live, submitted};

/// The same event at the same time leads a copy to the same place: a run can be replayed, a state compared.
pub fn a_clone_stays_equal(trace: &Trace) -> Verdict {
    for (before, record) in trace.steps() {
        let mut clone = before.clone();
        let actions = clone.handle(record.event.clone(), record.now);
        ensure!(actions == record.actions && clone == record.after, "at {} a clone goes another way", record.now);
    }
    Ok(())
}

/// A restart with the certificate, the pending record and the seed goes on: the same rotation point, the same choice of
/// key, and no sooner after a refusal. So a crash loop is no heavier on the signer than a process that lives.
pub fn a_restart_goes_on(trace: &Trace) -> Verdict {
    for (now, machine) in trace.snapshots(SAMPLES) {
        let Some(pending) = machine.pending(now) else { continue };
        let restarted = restart(trace, machine, pending.clone(), now);
        ensure!(
            restarted.rotation_point() == machine.rotation_point(),
            "the rotation point moves in a restart at {now}"
        );
        if !can_ask(machine) || machine.due(now).is_none() || machine.due(now) != restarted.due(now) {
            continue; // a wish is not remembered
        }
        let goes_on = next_request(trace, machine, now);
        let resumes = first_request(trace, &restarted, now);
        let (Some((asks_at, key)), Some((resumes_at, resumed_key))) = (goes_on, resumes) else {
            return Err(format!("after {now} nothing is asked: {machine}"));
        };
        ensure!(key == resumed_key, "after {now} it goes on with the {key}, a restart with the {resumed_key}");
        let slow = pending.refusal.is_some() && pending.template == *machine.template().unwrap_or(&pending.template);
        let patient = now.instant.after(trace.policy.refused.cap()).min(asks_at.instant);
        ensure!(
            !slow || live(machine).is_some() || resumes_at.instant >= patient,
            "refused, it asks at {asks_at}, after a restart at {resumes_at}"
        );
    }
    Ok(())
}

fn restart(trace: &Trace, machine: &RotationMachine, pending: Pending, now: Now) -> RotationMachine {
    let setup = Setup {
        policy: trace.policy.clone(),
        seed: trace.seed,
        signer: machine.state() != State::NotEnabled,
        template: machine.template().cloned(),
        certificate: machine.certificate().cloned(),
        pending: Some(pending),
    };
    RotationMachine::new(setup, now)
}

/// The next request. What is out is lost, as it would be in a restart.
fn next_request(trace: &Trace, machine: &RotationMachine, now: Now) -> Option<(Now, Key)> {
    let mut machine = machine.clone();
    let lost = live(&machine).map(|id| Event::CsrFailed { id, failure: Failure::Unreachable, retry_after: None });
    let at_once = lost.and_then(|lost| submitted(&machine.handle(lost, now)));
    at_once.map(|(_, _, key)| (now, key)).or_else(|| first_request(trace, &machine, now))
}

/// The next request, by Ticks alone.
fn first_request(trace: &Trace, machine: &RotationMachine, now: Now) -> Option<(Now, Key)> {
    let most = longest_silence(&trace.policy) * 2;
    ticks(machine, now)
        .take_while(|(at, _)| at.instant.since(now.instant) <= most)
        .find_map(|(at, actions)| submitted(&actions).map(|(_, _, key)| (at, key)))
}
