//! A request is in flight for minutes, in a busy cluster whose API servers restart. A restart ends a watch with 410
//! (Gone), which the node must not take for an outage.

use std::time::{Duration, Instant};

use perennial_dev::faults::Plan;
use perennial_dev::{Approval, Decision, Options};

use crate::{HOUR, MINUTE, in_short};
use perennial_tests::loopback::{self, issued, on_both, serve, waits_for_approval};
use perennial_tests::simulation::Member as _;
use perennial_tests::simulation::Node;

use crate::node::node_at;

const SECOND: Duration = Duration::from_secs(1);
/// The time from the submission to the signature. It is longer than the longest watch, and shorter than the request
/// timeout.
const WAIT: Duration = Duration::from_secs(12 * 60);

/// A plan with a fault that no request meets. The plan makes the server record requests, which a server without a plan
/// does not do.
fn noted() -> Plan {
    Plan::parse("rules: [{ match: { path: /nowhere }, fault: silence }]").unwrap()
}

/// Runs a rotation whose certificate is signed after [`WAIT`]. Meanwhile another resource is written each second, and
/// the watch cache restarts at the interval `restarts`, or never if that is `None`. Returns the node and the journal of
/// its requests.
fn busy(restarts: Option<Duration>) -> (Node, Vec<String>) {
    // For the clock of the server's TLS, which stands still, the first certificate must be valid at the start.
    let (signing_delay, backdate) = (WAIT, Some(HOUR));
    let options = Options { signing_delay, backdate, signing_duration: 40 * HOUR, ..Options::default() };
    let mut world = node_at(false, options);
    assert!(world.run_until(40 * HOUR, |world| world.rotation.machine().due(world.now()).is_some()));
    world.set_faults(noted());
    let before = world.submissions;
    let (began, mut restarted) = (world.now().instant, world.now().instant);
    while world.issued() < 2 && world.now().instant.since(began) < HOUR {
        world.run_until(SECOND, |world| world.issued() > 1);
        world.server.api.write_elsewhere();
        if restarts.is_some_and(|span| world.now().instant.since(restarted) >= span) {
            world.server.api.restart_watch_cache();
            restarted = world.now().instant;
        }
    }
    let took = world.now().instant.since(began);
    // A server that restarts within each minute is polled.
    let late = if restarts.is_some_and(|every| every < MINUTE) { 32 * SECOND } else { 4 * SECOND };
    assert!((WAIT..WAIT + late).contains(&took), "noticed after {took:?}");
    assert_eq!((world.failure(), world.submissions - before, world.dropped), (None, 1, 0));
    assert_eq!(world.lawful(), Ok(()));
    let journal = world.server.api.journal().map(str::to_owned).collect();
    (world, journal)
}

/// The resource versions at which watches began.
fn versions(journal: &[String]) -> Vec<u64> {
    let of_watch = |line: &String| {
        let version = line.split_once("watch=true")?.1.split_once("resourceVersion=")?.1;
        version.split('&').next()?.parse().ok()
    };
    journal.iter().filter_map(of_watch).collect()
}

#[test]
fn watch_that_timed_out_resumes_at_its_last_bookmark() {
    let (_, journal) = busy(None);
    let versions = versions(&journal);
    assert!(versions.len() > 1 && !in_short(journal.iter().map(String::as_str)).contains("LIST"), "{journal:?}");
    // A bookmark comes at the end of each watch: the next one begins where the last one ended, minutes of writes later.
    assert!(versions.windows(2).all(|pair| pair[1] >= pair[0] + 300), "{versions:?}");
}

#[test]
fn each_watch_cache_restart_leads_to_at_most_one_list() {
    for every in [20 * SECOND, MINUTE, 5 * MINUTE] {
        let (world, journal) = busy(Some(every));
        let lists = journal.iter().filter(|line| line.contains('?') && !line.contains("watch=true")).count();
        let restarts = (WAIT.as_secs() / every.as_secs()) as usize;
        assert!((1..=restarts).contains(&lists), "{every:?}: {lists} lists, {restarts} restarts");
        assert!(world.most_requests <= 64, "{every:?}: {}", world.most_requests);
        let versions = versions(&journal);
        assert!(versions.windows(2).all(|pair| pair[1] > pair[0]), "{every:?}: {versions:?}");
    }
}

#[test]
fn watch_cache_restart_leads_to_one_list_over_sockets() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        server.handle.with_api(|api, now| api.set_faults(noted(), now));
        let node = loopback::node(runtime, &server.cluster).start();
        waits_for_approval(&node);
        server.handle.with_api(|api, _| {
            api.write_elsewhere();
            api.restart_watch_cache();
        });
        let journal = || server.handle.with_api(|api, _| in_short(api.journal()));
        let end = Instant::now() + 30 * SECOND;
        while journal() != "POST WATCH LIST WATCH" {
            assert!(Instant::now() < end, "{runtime:?}: {}", journal());
            std::thread::sleep(Duration::from_millis(10));
        }
        server.decide_all(Decision::Approve);
        issued(&node, 1);
        assert_eq!(journal(), "POST WATCH LIST WATCH", "{runtime:?}");
        assert_eq!(node.snapshot().last_error, None, "{runtime:?}");
        node.shutdown().wait();
    });
}
