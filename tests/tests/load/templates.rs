//! Templates that change, since the addresses of the node change.

use perennial_tests::simulation::field::{Conduct, Happening, Scenario};

use super::{HOUR, MINUTE, SECOND, ZERO, every, named};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![second_change(), flapping(false), flapping(true), no_address_for_ten_minutes()]
}

/// The node's address changes from a to b and from b to c while all requests are ignored. Then an approver approves
/// only a request for the address c. client-go does not notice the change to c, since its watcher of the template still
/// blocks on sending the change to b. Its request for b waits until the request timeout of 15 minutes.
fn second_change() -> Scenario {
    Scenario::new("second address change while waiting")
        .with_template(Some(named(&["a.example"])))
        .at(ZERO, Happening::Requests(Conduct::Ignores))
        .at(5 * MINUTE, Happening::Wants(Some(named(&["b.example"]))))
        .at(6 * MINUTE, Happening::Wants(Some(named(&["c.example"]))))
        .at(7 * MINUTE, Happening::Requests(Conduct::Compares { after: 2 * SECOND }))
}

/// The node's address changes every half minute for an hour. The signer takes a second or, if `slow`, a minute, which
/// is longer than the node keeps an address.
fn flapping(slow: bool) -> Scenario {
    let (name, after) =
        if slow { ("address flaps, signer slower", MINUTE) } else { ("address flaps, signer quick", SECOND) };
    let steady = Scenario::new(name)
        .with_template(Some(named(&["a.example"])))
        .with_certificate_of_age(HOUR)
        .with_span(3 * HOUR)
        .at(ZERO, Happening::Requests(Conduct::signs_after(after)));
    every(MINUTE / 2, HOUR, steady, |i| {
        Happening::Wants(Some(named(if i % 2 == 0 { &["b.example"] } else { &["a.example"] })))
    })
}

/// The node's address is not known for ten minutes. The node submits no request before the address is known, and one as
/// soon as it is: <https://github.com/kubernetes/kubernetes/issues/130001>
fn no_address_for_ten_minutes() -> Scenario {
    Scenario::new("no address for 10 min")
        .with_template(None)
        .at(10 * MINUTE, Happening::Wants(Some(named(&["a.example"]))))
}
