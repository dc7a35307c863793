//! After an answer with `Retry-After`, the node waits for that time, but not longer than a bound, and then soon sends
//! the next request.

use std::time::Duration;

use perennial::Policy;
use perennial_dev::faults::{Fault, Plan};

use crate::table::{Kind, kinds};
use crate::{HOUR, MINUTE};
use perennial_tests::simulation::Member as _;
use perennial_tests::simulation::Node;

use crate::node::{node, node_living};

const SECOND: Duration = Duration::from_secs(1);

/// The maximum of the first backoff. A node waits for the `Retry-After` and then for the backoff.
const SOON: Duration = Duration::from_secs(2);

/// If the fault of this row is an answer with `Retry-After`, checks the pause between that answer and the next request.
/// An error names the actual pause.
pub(crate) fn is_kept(kind: &Kind, world: &mut Node) -> Result<(), String> {
    let Some((answered, pause)) = pause(kind) else { return Ok(()) };
    world.run_until(2 * HOUR, |world| world.request_times.len() > answered + 1);
    let [before, after] = world.request_times[answered..answered + 2] else { unreachable!("a slice of two") };
    let waited = after.since(before);
    match (pause..=pause + SOON).contains(&waited) {
        true => Ok(()),
        false => Err(format!("the next request followed after {waited:?} instead of {pause:?}")),
    }
}

/// The index of the first request that this fault answers with `Retry-After`, and the pause that must follow that
/// request. `None` if the fault has no `Retry-After`.
fn pause(kind: &Kind) -> Option<(usize, Duration)> {
    let rule = &kind.plan.rules[0];
    let Fault::Answer(answer) = &rule.fault else { return None };
    let wanted = Duration::from_secs(answer.retry_after?.into());
    let policy = Policy::default();
    Some(match rule.matches.method.as_deref() {
        // A watch: the request object stays, so the pause is part of the request.
        Some("GET") => (1, wanted.min(policy.request_timeout)),
        _ => (0, wanted.min(policy.refused.cap())),
    })
}

/// A certificate is due, and the server answers each POST, or each GET, with a `Retry-After` of an hour. When three
/// quarters of the time between the due time and expiry have passed, the server works again. The node must still get
/// its new certificate before expiry.
#[test]
fn short_certificate_survives_retry_after_of_an_hour() {
    for (method, status) in [("POST", 503), ("POST", 429), ("GET", 503), ("GET", 429)] {
        let mut world = node_living(false, 80 * SECOND);
        world.run_until(MINUTE, |world| world.rotation.machine().due(world.now()).is_some());
        let began = world.now();
        let held = world.rotation.machine().certificate().unwrap().clone();
        let left = held.validity.not_after().since(began.unix);
        // The signer backdates by seconds, which count as lifetime.
        assert!(left <= held.validity.lifetime() * 3 / 10 + SECOND, "{left:?}");
        let rule =
            format!("match: {{ method: {method} }}, fault: {{ answer: {{ status: {status}, retryAfter: 3600 }} }}");
        world.set_faults(Plan::parse(&format!("rules: [{{ {rule} }}]")).unwrap());
        world.run_until(left * 3 / 4, |_| false);
        assert!(world.request_times.len() > 1 && world.issued() == 1, "{method} {status}: {:?}", world.request_times);
        world.set_faults(Plan::default());
        world.run_until(MINUTE, |world| world.issued() > 1);
        let took = world.now().instant.since(began.instant);
        assert!(world.dropped == 0 && world.issued() > 1, "{method} {status}: {took:?} of {left:?}");
        assert_eq!(world.lawful(), Ok(()), "{method} {status}");
    }
}

#[test]
fn long_retry_after_never_outlasts_the_certificate() {
    let longest = Policy::default().refused.cap();
    for name in ["throttled for a hundred years", "unavailable for a hundred years"] {
        let mut world = node(false);
        world.set_faults(kinds().into_iter().find(|kind| kind.name == name).unwrap().plan);
        world.run_until(40 * HOUR, |world| !world.request_times.is_empty());
        let held = world.rotation.snapshot(world.now()).credential.unwrap();
        let expiry = held.chain().certificate().validity.not_after();
        let origin = world.now();
        world.run_until(expiry.since(origin.unix) - 5 * MINUTE, |_| false);

        let mut halved = 0;
        for pair in world.request_times.windows(2) {
            let left = expiry.since(origin.unix.after(pair[0].since(origin.instant)));
            let waited = pair[1].since(pair[0]);
            if left / 2 <= longest {
                assert_eq!(waited.as_millis(), left.as_millis() / 2, "{name}");
                halved += 1;
            } else {
                // The backoff that is added to the `Retry-After` has grown meanwhile.
                let spread = Policy::default().transient.longest();
                assert!((longest..=longest + spread).contains(&waited), "{name}: {waited:?} of {left:?}");
            }
        }
        assert!(halved >= 3, "{name}: {halved}");
        world.set_faults(Plan::default());
        assert!(world.run_until(5 * MINUTE, |world| world.issued() > 1), "{name}");
        assert_eq!(world.dropped, 0, "{name}");
        assert_eq!(world.lawful(), Ok(()), "{name}");
    }
}
