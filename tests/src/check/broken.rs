//! Machines that break a rule, each in one way, so that the checker can be seen to find it.

use std::marker::PhantomData;
use std::sync::Arc;

use perennial::{
    Backoff, Budget, Checkpoint, Event, Failure, Instant, Now, Pending, Policy, RotationMachine, Setup, SignerStatus,
};

use crate::subject::{Duties, Subject};
use crate::trace::live;

/// A machine with a fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken<F> {
    machine: RotationMachine,
    fault: PhantomData<F>,
}

/// One way to break a rule. What is not said goes right.
pub trait Fault: Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static {
    /// The policy it really goes by.
    fn policy(policy: &Policy) -> Policy {
        policy.clone()
    }

    /// What it does.
    fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
        machine.handle(event, now).into()
    }

    /// What it leaves behind.
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
    /// Forgets a request that timed out, without a word to the driver.
    ForgetsToCancel {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            Duties { cancel: None, ..machine.handle(event, now).into() }
        }
    }

    /// Whoever asks gets a request at once, even while one is out.
    AsksTwice {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            if let (Event::RotateNow, Some(id)) = (&event, live(machine)) {
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

    /// Finds a token more than there is.
    Overspends {
        fn policy(policy: &Policy) -> Policy {
            let budget = Budget::new(policy.budget.size() + 1, policy.budget.refill()).expect("larger than enough");
            Policy { budget, ..policy.clone() }
        }
    }

    /// Takes a reply to any request for one to its own.
    BelievesAnyReply {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let event = match (event, live(machine)) {
                (Event::CsrFailed { failure, retry_after, .. }, Some(id)) => {
                    Event::CsrFailed { id, failure, retry_after }
                }
                (event, _) => event,
            };
            machine.handle(event, now).into()
        }
    }

    /// Takes whatever is found in the store, good or bad.
    TakesWhatIsFound {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let held = machine.certificate().map(|held| held.fingerprint);
            if let (Event::CertReplaced(Some(_)), Some(fingerprint), None) = (&event, held, live(machine)) {
                let mut greedy = machine.clone();
                // While nothing can be asked, nobody notices.
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

    /// Without a certificate, takes whatever is issued, in whoever's name.
    ServesAnybody {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let issued = match &event {
                Event::CsrIssued { id, certificate } if live(machine) == Some(*id) => Some(certificate.clone()),
                _ => None,
            };
            let duties = Duties::from(machine.handle(event, now));
            if machine.certificate().is_none() && issued.is_some() {
                *machine = RotationMachine::restore(Checkpoint { certificate: issued, ..machine.checkpoint() });
            }
            duties
        }
    }

    /// Has no timer set when there is something else to do.
    ForgetsTheTimer {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let duties = Duties::from(machine.handle(event, now));
            Duties { timer: duties.timer.filter(|_| duties.submit.is_none()), ..duties }
        }
    }

    /// Leaves nothing to the next run.
    LosesItsPast {
        fn pending(_: &RotationMachine, _: Now) -> Option<Pending> {
            None
        }
    }

    /// Takes a failed write for a done one.
    GivesUpWriting {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let event = if let Event::WriteFailed { id } = event { Event::CertWritten { id } } else { event };
            machine.handle(event, now).into()
        }
    }

    /// After a refusal, waits for somebody to say what now.
    Sulks {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let refused = machine.last_failure().is_some_and(Failure::is_refusal);
            if refused && event == Event::Tick { Duties::default() } else { machine.handle(event, now).into() }
        }
    }

    /// Begins anew with a full bucket whenever the policy changes.
    RefillsOnChange {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            if let Event::PolicyChanged(policy) = &event && machine.policy() != policy {
                let mut full = machine.checkpoint();
                full.pacing.budget_whole_at = Instant::default();
                *machine = RotationMachine::restore(full);
            }
            machine.handle(event, now).into()
        }
    }

    /// Counts no failure of a signer.
    HidesFailures {
        fn handle(machine: &mut RotationMachine, event: Event, now: Now) -> Duties {
            let is_failure = matches!(event, Event::CsrFailed { .. });
            let duties = Duties::from(machine.handle(event, now));
            let noted = || machine.clone().handle(Event::Tick, now).outcomes().clone();
            Duties { outcomes: if is_failure { noted() } else { duties.outcomes.clone() }, ..duties }
        }
    }

    /// Waits as long as the server says, whatever its policy says.
    WaitsTooLong {
        fn policy(policy: &Policy) -> Policy {
            let cap = policy.refused.cap() * 100;
            let refused = Backoff::new(policy.refused.first(), cap, policy.refused.spread()).expect("in order");
            Policy { refused, ..policy.clone() }
        }
    }
}
