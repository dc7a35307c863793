//! Submissions over a kept connection meet the faults of `table.md`.

use std::time::Duration;

use perennial::Failure;
use perennial_dev::Options;
use perennial_dev::faults::Plan;
use perennial_tests::simulation::{KUBELET_CLIENT, Server, desired_csr, key};

use crate::table::{Kind, kinds};
use crate::{HOUR, MINUTE};

/// Longer than any submission that ends by itself.
const SPAN: Duration = Duration::from_secs(4 * 3600);

/// A server whose clients keep connections.
fn server() -> Server {
    let mut server = Server::signed_by(Options { signing_duration: HOUR, ..Options::default() }, 1000 * HOUR);
    server.keep_connections();
    server
}

/// Submits a request. Returns its number of HTTP requests, or its failure; `None` if the submission does not end.
fn submit(server: &mut Server) -> Option<Result<u32, Failure>> {
    let outcome = server.submit(&desired_csr(&key(), KUBELET_CLIENT), SPAN, |_| ())?;
    Some(outcome.map(|issued| issued.requests).map_err(|error| error.failure))
}

/// Submits a request under the fault: over a connection that an earlier submission has kept, or over a new one. Then
/// submits one without the fault.
fn under(kind: &Kind, is_kept: bool) -> Option<Result<u32, Failure>> {
    let mut server = server();
    if is_kept {
        assert_eq!(submit(&mut server), Some(Ok(2)));
    }
    let now = server.now().unix;
    server.api.set_faults(kind.plan.clone(), now);
    let outcome = submit(&mut server);
    let now = server.now().unix;
    server.api.set_faults(Plan::default(), now);
    server.pass(MINUTE);
    assert_eq!(submit(&mut server), Some(Ok(2)), "{}: no recovery", kind.name);
    outcome
}

#[test]
fn kept_connection_makes_no_fault_worse() {
    let mut avoided = 0;
    for kind in kinds().iter().filter(|kind| !kind.serving) {
        let (fresh, kept) = (under(kind, false), under(kind, true));
        match (fresh, kept) {
            (Some(Ok(fresh)), Some(Ok(kept))) => assert!(kept <= fresh + 1, "{}: {kept} requests", kind.name),
            // A fault in making a connection does not meet a connection that exists.
            (Some(Err(_)), Some(Ok(2))) if format!("{:?}", kind.plan).contains("Connection(") => avoided += 1,
            (fresh, kept) => assert_eq!(kept, fresh, "{}", kind.name),
        }
    }
    assert!(avoided >= 10, "{avoided} faults avoided");
}
