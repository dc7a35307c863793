//! A node and a faulty API server: every fault of `table.md`, in virtual time and over sockets.

mod kept;
mod mixtures;
mod node;
mod own_ca;
mod patience;
mod sockets;
mod table;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use node::node;
use perennial::{Backoff, Policy, Window};
use perennial_dev::faults::Plan;
use perennial_rotation::Input;
use perennial_tests::simulation::Member as _;
use perennial_tests::simulation::Node;
use table::{Kind, Outcome, kinds};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn every_fault_ends_as_table_md_lists_in_virtual_time() {
    let mut wrong = Vec::new();
    let mut dropped = 0;
    let kinds = kinds();
    for kind in &kinds {
        match check_kind(kind) {
            Ok(lost) => dropped += lost,
            Err(why) => wrong.push(format!("{}: {why}", kind.name)),
        }
    }
    let (all, recovered) = (kinds.len(), kinds.len() - wrong.len());
    assert!(wrong.is_empty(), "{} of {all}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(all >= 40 && dropped == 0);
    println!("faults: {all} recovered: {recovered} dropped certificates: {dropped}");
}

/// Runs one rotation under the fault of this row of `table.md`, then one without the fault. Returns the number of steps
/// without a valid certificate. If the run differs from the row, the error names the difference.
fn check_kind(kind: &Kind) -> Result<u32, String> {
    let mut world = node(kind.serving);
    world.handle(Input::PolicyChanged(policy()));
    world.set_faults(kind.plan.clone());
    let met = |world: &Node| world.failure().is_some() || world.issued() > 1;
    if !world.run_until(40 * HOUR, met) {
        return Err(format!("the request has no outcome: {:?}", world.rotation.snapshot(world.now())));
    }
    let outcome = world.failure().map_or(Outcome::Issued, Outcome::Failed);
    let (requests, healthy) = (in_short(world.server.api.journal()), world.healthy);
    if (outcome, healthy, requests.as_str()) != (kind.outcome, kind.healthy, kind.requests) {
        let error = world.rotation.snapshot(world.now()).last_error;
        return Err(format!("{outcome:?}, healthy: {healthy:?}, after {requests}: {error:?}"));
    }
    patience::is_kept(kind, &mut world)?;

    let (before, span) = (world.submissions, 30 * MINUTE);
    world.run_until(span, |_| false);
    let bound = Policy::default().submissions_within(span);
    if world.submissions - before > bound || world.most_requests > 64 {
        return Err(format!("{} submissions, {} requests", world.submissions - before, world.most_requests));
    }
    world.set_faults(Plan::default());
    if !world.run_until(2 * HOUR, |world| world.issued() > 1 && world.failure().is_none()) {
        return Err(format!("no recovery: {:?}", world.rotation.snapshot(world.now())));
    }
    world.lawful()?;
    Ok(world.dropped)
}

/// The default policy, but no backoff is shorter than 10 ms. With a jitter of zero, the step that ends a submission would
/// also begin the next one, and the tests could not see the first submission alone.
fn policy() -> Arc<Policy> {
    let usual = Policy::default();
    let spread = Window::new(10, usual.transient.spread().to()).unwrap();
    let transient = Backoff::new(usual.transient.first(), usual.transient.cap(), spread).unwrap();
    Arc::new(Policy { transient, ..usual })
}

/// Abbreviates a journal of requests as `table.md` does: each request by its method, but a GET with a query as WATCH or
/// LIST. Two to nine successive requests with the same abbreviation become one with a count (`POST*3`), more become one
/// without a count (`POST*`).
fn in_short<'a>(journal: impl Iterator<Item = &'a str>) -> String {
    let mut runs: Vec<(&str, u32)> = Vec::new();
    for line in journal {
        let word = line.split(' ').next().unwrap_or_default();
        let word = match line.split_once('?') {
            Some((_, query)) if query.contains("watch=true") => "WATCH",
            Some(_) => "LIST",
            None => word,
        };
        match runs.last_mut() {
            Some((last, count)) if *last == word => *count += 1,
            _ => runs.push((word, 1)),
        }
    }
    let words = runs.iter().map(|(word, count)| match count {
        1 => (*word).to_owned(),
        2..10 => format!("{word}*{count}"),
        _ => format!("{word}*"),
    });
    words.collect::<Vec<_>>().join(" ")
}
