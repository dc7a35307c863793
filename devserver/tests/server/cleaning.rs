//! The cleaner of the embedded server: removal of old requests.

use std::time::Duration;

use crate::support::*;
use perennial_dev::{Decision, Options};

#[test]
fn ended_requests_are_removed_after_an_hour_and_pending_ones_after_a_day() {
    let hour = 3600;
    let mut server = Server::new(manual());
    for name in ["issued", "denied", "pending", "short"] {
        let mut object = node_csr(name, "one");
        object["spec"]["expirationSeconds"] = if name == "short" { 600.into() } else { 86_400.into() };
        server.create(&Role::Bootstrap, &object);
    }
    server.approve("issued");
    server.approve("short");
    server.api.decide("denied", Decision::Deny, "", NOW).unwrap();
    let mut names = |seconds: u64| {
        server.api.tick(after(seconds));
        server.api.requests().map(|object| object.metadata.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(hour / 2), ["denied", "issued", "pending"], "the expired certificate first");
    assert_eq!(names(hour), ["denied", "issued", "pending"]);
    assert_eq!(names(hour + 60), ["pending"]);
    assert_eq!(names(24 * hour), ["pending"]);
    assert_eq!(names(24 * hour + 60), [""; 0]);
}

#[test]
fn retention_of_requests_is_configurable() {
    let mut server = Server::new(Options {
        cleaning_interval: Duration::ZERO,
        keep_ended: Duration::from_secs(5),
        keep_pending: Duration::from_secs(10),
        ..manual()
    });
    for name in ["ended", "pending"] {
        server.create(&Role::Bootstrap, &node_csr(name, "one"));
    }
    server.approve("ended");
    assert_eq!(server.api.deadline(), after(1), "often, but not all the time");
    for (seconds, left) in [(5, 2), (6, 1), (10, 1), (11, 0)] {
        server.api.tick(after(seconds));
        assert_eq!(server.api.requests().count(), left, "{seconds}");
    }
}
