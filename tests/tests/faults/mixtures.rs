//! Random mixtures of faults. Under each, the node keeps a valid certificate. Once the faults end, it gets a new one.

use perennial::Policy;
use perennial_dev::faults::{Fault, Match, Plan, Rule};
use proptest::prelude::*;
use proptest::sample::select;

use crate::table::kinds;
use crate::{HOUR, MINUTE};
use perennial_tests::simulation::Member as _;
use perennial_tests::simulation::Node;

use crate::node::node;

/// Random rules of `table.md`. Each rule begins at a random request or at the first, and applies to a random number of
/// requests or to all that follow. Rules with oversized answers are omitted, since they would only take time.
fn rule() -> impl Strategy<Value = Rule> {
    let rules = kinds().into_iter().flat_map(|kind| kind.plan.rules);
    let rules: Vec<Rule> = rules.filter(|rule| !matches!(rule.fault, Fault::Oversized(_))).collect();
    (select(rules), prop::option::of(1..6_u32), prop::option::of(1..4_u32)).prop_map(|(rule, nth, times)| {
        let matches = Match { nth, ..rule.matches };
        Rule { matches, times, fault: rule.fault }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn node_recovers_from_any_mixture_of_faults(rules in prop::collection::vec(rule(), 1..8)) {
        let mut world = node(false);
        world.set_faults(Plan { rules });
        let met = |world: &Node| world.failure().is_some() || world.issued() > 1;
        prop_assert!(world.run_until(40 * HOUR, met), "{:?}", world.rotation.snapshot(world.now()));
        let before = world.submissions;
        world.run_until(90 * MINUTE, |world| world.issued() > 1);
        prop_assert!(world.submissions - before <= Policy::default().submissions_within(90 * MINUTE));
        prop_assert!(world.most_requests <= 64, "{} requests", world.most_requests);
        world.set_faults(Plan::default());
        let well = |world: &Node| world.issued() > 1 && world.failure().is_none();
        prop_assert!(world.run_until(2 * HOUR, well), "{:?}", world.rotation.snapshot(world.now()));
        prop_assert_eq!(world.dropped, 0);
        prop_assert_eq!(world.lawful(), Ok(()));
    }
}
