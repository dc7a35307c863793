//! Templates that change: addresses that come, go and flap.

use perennial_tests::simulation::field::{Conduct, Happening, Scenario};

use super::{HOUR, MINUTE, SECOND, ZERO, every, named};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![second_change(), flapping(false), flapping(true), no_address_for_ten_minutes()]
}

/// The node's address changes twice while all requests are ignored; then an approver compares requests with the node.
/// client-go's watcher of the template still blocks on sending the first change, so that the request for the second
/// address waits out its 15 minutes.
fn second_change() -> Scenario {
    Scenario::new("second address change while waiting")
        .with_template(Some(named(&["a.example"])))
        .at(ZERO, Happening::Requests(Conduct::Ignores))
        .at(5 * MINUTE, Happening::Wants(Some(named(&["b.example"]))))
        .at(6 * MINUTE, Happening::Wants(Some(named(&["c.example"]))))
        .at(7 * MINUTE, Happening::Requests(Conduct::Compares { after: 2 * SECOND }))
}

/// An address that comes and goes every half minute for an hour. The signer takes a second, or a minute if `slow`:
/// longer than an address stays.
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

/// A node whose address is not known at first submits no request, and submits one as soon as the address is known:
/// <https://github.com/kubernetes/kubernetes/issues/130001>
fn no_address_for_ten_minutes() -> Scenario {
    Scenario::new("no address for 10 min")
        .with_template(None)
        .at(10 * MINUTE, Happening::Wants(Some(named(&["a.example"]))))
}
