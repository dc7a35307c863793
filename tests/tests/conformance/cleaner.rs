//! The cases of cleaner_test.go: the age at which request objects in each state are deleted.

use std::time::Duration;

use perennial::Template;
use perennial_dev::{Approval, Decision, Method, Options};

use super::{Row, different, same};
use perennial_tests::simulation::{CLIENT, DAY, HOUR, MINUTE, SECOND, Server, admin, csr, json};

const SOURCE: &str = "cleaner_test.go";
const KEPT: &str = "kept";
const DELETED: &str = "deleted";
/// A signer name that no signer of the cluster serves.
const FOREIGN: &str = "example.com/test";

pub(crate) const ROWS: &[Row] = &[
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/no delete approved not passed deadline", KEPT, || {
        assert!(kept(issued, 50 * MINUTE))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/no delete approved passed deadline not issued", KEPT, || {
        assert!(kept(approved, 50 * MINUTE))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/delete approved passed deadline", DELETED, || {
        assert!(!kept(issued, 2 * HOUR))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/no delete denied not passed deadline", KEPT, || {
        assert!(kept(denied, 50 * MINUTE))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/delete denied passed deadline", DELETED, || {
        assert!(!kept(denied, 2 * HOUR))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/no delete failed not passed deadline", KEPT, || {
        assert!(kept(failed_later, 50 * MINUTE))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/delete failed passed deadline", DELETED, || {
        assert!(!kept(failed, 2 * HOUR))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/no delete pending not passed deadline", KEPT, || {
        assert!(kept(pending, 5 * HOUR))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/delete pending passed deadline", DELETED, || {
        assert!(!kept(pending, 25 * HOUR))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/no delete approved not passed deadline unexpired", KEPT, || {
        assert!(kept(issued, 50 * MINUTE))
    }),
    same(SOURCE, "TestCleanerWithApprovedExpiredCSR/delete approved not passed deadline expired", DELETED, || {
        assert!(!kept(short, 50 * MINUTE))
    }),
    different(
        SOURCE,
        "TestCleanerWithApprovedExpiredCSR/delete approved passed deadline unparseable",
        "the API refuses to store a certificate that cannot be parsed",
        "a cluster's API refuses it, too; only the cleaner's own test stores one",
        || {
            let mut server = manual();
            approved(&mut server);
            let mut object = server.object("a").unwrap();
            object.status.certificate = b"garbage".to_vec();
            assert_eq!(server.send(&admin(), Method::PUT, "/a/status", json(&object)), 422);
        },
    ),
    same(
        SOURCE,
        "TestCleanerWithApprovedExpiredCSR/no delete approved not issued not passed deadline (5 h)",
        KEPT,
        || assert!(kept(approved, 5 * HOUR)),
    ),
    same(
        SOURCE,
        "TestCleanerWithApprovedExpiredCSR/delete approved not issued passed deadline (25 h)",
        DELETED,
        || assert!(!kept(approved, 25 * HOUR)),
    ),
];

fn manual() -> Server {
    let options =
        Options { approval: Approval::Manual, cleaning_interval: SECOND, signing_duration: DAY, ..Options::default() };
    Server::new(options)
}

/// True if the request object that `make` creates still exists `age` after `make` returned.
fn kept(make: fn(&mut Server), age: Duration) -> bool {
    let mut server = manual();
    make(&mut server);
    assert!(server.object("a").is_some());
    server.pass(age);
    server.object("a").is_some()
}

fn create(server: &mut Server, signer: &str, seconds: i32) {
    let mut object = csr("a", signer, &["client auth"], &Template::new("a"));
    object.spec.expiration_seconds = Some(seconds);
    assert_eq!(server.create(&admin(), &object), 201);
}

fn pending(server: &mut Server) {
    create(server, FOREIGN, 86_400);
}

fn approved(server: &mut Server) {
    pending(server);
    assert_eq!(server.approve("a"), 200);
}

fn issued(server: &mut Server) {
    create(server, CLIENT, 86_400);
    assert_eq!(server.approve("a"), 200);
    assert!(server.chain("a").is_some());
}

fn short(server: &mut Server) {
    create(server, CLIENT, 600);
    assert_eq!(server.approve("a"), 200);
    assert!(server.chain("a").is_some());
}

fn denied(server: &mut Server) {
    pending(server);
    server.api.decide("a", Decision::Deny, "", server.now().unix).unwrap();
}

fn failed(server: &mut Server) {
    approved(server);
    assert_eq!(server.add_condition("a", "Failed", "status"), 200);
}

/// Creates an object that is approved at once and gets the condition `Failed` 70 minutes later. The cleaner counts the
/// age from the condition `Failed`, which is the later one.
fn failed_later(server: &mut Server) {
    approved(server);
    server.pass(70 * MINUTE);
    assert_eq!(server.add_condition("a", "Failed", "status"), 200);
}
