//! Machines that break one rule each, for tests of the model checker, which must find each fault.

use std::marker::PhantomData;
use std::sync::Arc;

use perennial::{
    Backoff, Budget, Checkpoint, Event, Failure, Instant, Now, Pending, Policy, RotationMachine, Setup, SignerStatus,
};

use crate::subject::{Duties, Subject};
use crate::trace::in_flight;

/// A machine that breaks one rule, in the way of the [`Fault`] `F`.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken<F> {
    machine: RotationMachine,
    fault: PhantomData<F>,
}

/// One way to break a rule. Each method does what the shipped machine does, unless the fault overrides the method.
pub trait Fault: Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static {
    /// The policy that the broken machine applies instead of `policy`.
    fn policy(policy: &Policy) -> Policy {
        policy.clone()
    }

    /// Lets the broken machine handle an event, and returns its actions and outcomes.
    fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
        machine.handle(event, now).into()
    }

    /// The pending record that the broken machine leaves for a restart.
    fn pending(machine: &RotationMachine, now: Now) -> Option<Pending> {
        machine.pending(now)
    }
}

impl<F: Fault> Subject for Broken<F> {
    fn start(setup: Setup, now: Now) -> Self {
        let policy = Arc::new(F::policy(&setup.policy));
        Self { machine: RotationMachine::new(Setup { policy, ..setup }, now), fault: PhantomData }
    }

    fn handle(&mut self, event: Event, now: Now) -> Duties {
        F::handle(&mut self.machine, event, now)
    }

    fn machine(&self) -> &RotationMachine {
        &self.machine
    }

    fn pending(&self, now: Now) -> Option<Pending> {
        F::pending(&self.machine, now)
    }
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident { $($body:tt)* })*) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name;

        impl Fault for $name {
            $($body)*
        })*
    };
}

faults! {
    /// Omits every `CancelRequest` from the actions. So the driver does not notice that the machine has ended a
    /// request.
    OmitsCancel {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            Duties { cancel: None, ..machine.handle(event, now).into() }
        }
    }

    /// Submits a second request on `RotateNow` while the first one is in flight.
    SubmitsTwice {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            if let (Event::RotateNow, Some(id)) = (&event, in_flight(machine)) {
                let mut hurried = machine.clone();
                let _ = hurried.handle(Event::CsrFailed { id, failure: Failure::Local, retry_after: None }, now);
                let duties = Duties::from(hurried.handle(event.clone(), now));
                if duties.submit.is_some() {
                    *machine = hurried;
                    return duties;
                }
            }
            machine.handle(event, now).into()
        }
    }

    /// Has one token more in its submission budget than the policy gives.
    Overspends {
        fn policy(policy: &Policy) -> Policy {
            let budget = Budget::new(policy.budget.size() + 1, policy.budget.refill()).expect("larger than enough");
            Policy { budget, ..policy.clone() }
        }
    }

    /// Takes the failure of any request for a failure of the request in flight.
    AcceptsAnyReply {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let event = match (event, in_flight(machine)) {
                (Event::CsrFailed { failure, retry_after, .. }, Some(id)) => {
                    Event::CsrFailed { id, failure, retry_after }
                }
                (event, _) => event,
            };
            machine.handle(event, now).into()
        }
    }

    /// Takes over any certificate that another program puts into the store, good or bad, while no request is in flight.
    TakesAnyFoundCertificate {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let held = machine.certificate().map(|held| held.fingerprint);
            if let (Event::CertReplaced(Some(_)), Some(fingerprint), None) = (&event, held, in_flight(machine)) {
                let mut greedy = machine.clone();
                // Without a signer a refused certificate leads to no request, which would reveal the detour.
                for event in [Event::SignerChanged(SignerStatus::Absent), Event::CertRefused { fingerprint }] {
                    let _ = greedy.handle(event, now);
                }
                let outcomes = greedy.handle(event.clone(), now).outcomes().clone();
                let duties = Duties::from(greedy.handle(Event::SignerChanged(SignerStatus::Ready), now));
                if greedy.certificate() != machine.certificate() {
                    let timer = duties.timer.filter(|_| greedy.deadline() != machine.deadline());
                    *machine = greedy;
                    return Duties { timer, outcomes, ..duties };
                }
            }
            machine.handle(event, now).into()
        }
    }

    /// While no certificate is served, serves any certificate that is issued, whatever its common name.
    ServesAnyName {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let issued = match &event {
                Event::CsrIssued { id, certificate } if in_flight(machine) == Some(*id) => Some(certificate.clone()),
                _ => None,
            };
            let duties = Duties::from(machine.handle(event, now));
            if machine.certificate().is_none() && issued.is_some() {
                *machine = RotationMachine::restore(Checkpoint { certificate: issued, ..machine.checkpoint() });
            }
            duties
        }
    }

    /// Omits the new time of the timer from the actions of a step that submits a request.
    OmitsTimer {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let duties = Duties::from(machine.handle(event, now));
            Duties { timer: duties.timer.filter(|_| duties.submit.is_none()), ..duties }
        }
    }

    /// Leaves no pending record for the next run.
    LosesPendingRecord {
        fn pending(_: &RotationMachine, _: Now) -> Option<Pending> {
            None
        }
    }

    /// Treats a failed write as a completed one.
    ForgetsFailedWrite {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let event = if let Event::WriteFailed { id } = event { Event::CertWritten { id } } else { event };
            machine.handle(event, now).into()
        }
    }

    /// Ignores every Tick after a refusal.
    IgnoresTicksAfterRefusal {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let refused = machine.last_failure().is_some_and(Failure::is_refusal);
            if refused && event == Event::Tick { Duties::default() } else { machine.handle(event, now).into() }
        }
    }

    /// Fills the submission budget at each change of policy.
    RefillsOnPolicyChange {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            if let Event::PolicyChanged(policy) = &event && machine.policy() != policy {
                let mut full = machine.checkpoint();
                full.pacing.budget_whole_at = Instant::default();
                *machine = RotationMachine::restore(full);
            }
            machine.handle(event, now).into()
        }
    }

    /// Omits from the outcomes that a request has failed.
    HidesFailures {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let is_failure = matches!(event, Event::CsrFailed { .. });
            let duties = Duties::from(machine.handle(event, now));
            let noted = || machine.clone().handle(Event::Tick, now).outcomes().clone();
            Duties { outcomes: if is_failure { noted() } else { duties.outcomes.clone() }, ..duties }
        }
    }

    /// Multiplies the cap of the backoff after refusals by a hundred. So it honours a `Retry-After` up to a hundred
    /// times longer than the policy allows.
    WaitsTooLong {
        fn policy(policy: &Policy) -> Policy {
            let cap = policy.refused.cap() * 100;
            let refused = Backoff::new(policy.refused.first(), cap, policy.refused.spread()).expect("in order");
            Policy { refused, ..policy.clone() }
        }
    }
}
