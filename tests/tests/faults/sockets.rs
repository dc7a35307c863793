//! Runs the faults of `table.md` over real sockets, on each runtime. Outcomes and requests must be those of virtual
//! time, except for the cases in [`outcome`] and [`requests`].

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use perennial::{Failure, State};
use perennial_dev::faults::{ConnectionFault, Fault, Plan, Rule};
use perennial_dev::{Options, Random, ServingApproval};
use perennial_kubernetes::client::Limits;
use perennial_rotation::{Snapshot, clock};

use crate::in_short;
use crate::node::{kubelet, template};
use crate::table::{Kind, Outcome, kinds};
use perennial_tests::loopback::{self, BOUND, Runtime, issued, new_authority, serve_at};

const DAY: Duration = Duration::from_secs(86_400);
/// The number of rotations that run at once. There may be many, since a rotation waits most of the time.
const AT_ONCE: usize = 32;

#[test]
fn every_fault_ends_as_table_md_lists_over_sockets() {
    let runs: Vec<(Kind, Runtime)> = [Runtime::Std, Runtime::Smol]
        .into_iter()
        .flat_map(|on| kinds().into_iter().map(move |kind| (kind, on)))
        .collect();
    let (queue, wrong) = (Mutex::new(runs.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((kind, runtime)) = next else { return };
                    if let Err(why) = check_kind(&kind, runtime) {
                        wrong.lock().unwrap().push(format!("{} on {runtime:?}: {why}", kind.name));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs one rotation under the fault of this row of `table.md`, then one without the fault. If the run differs from the
/// row, the error names the difference.
fn check_kind(kind: &Kind, runtime: Runtime) -> Result<(), String> {
    let authority = new_authority();
    let mut random = Random::from_os().map_err(|error| error.to_string())?;
    let asks_as = "system:node:worker-1";
    let node = authority.client_credential(asks_as, &["system:nodes"], &mut random, clock::now().unix, DAY).unwrap();
    let roots = authority.roots().unwrap();
    let options = Options { approve_serving: ServingApproval::Any, signing_duration: DAY, ..Options::default() };
    let server = serve_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), authority, options);

    let outcome = outcome(kind);
    let mut holder = loopback::node(runtime, &server.cluster);
    let mut signer = kubelet(server.cluster.clone(), kind.serving.then(|| Arc::new(node)));
    signer.profile.issuers = Some(roots);
    signer.limits = limits(kind, outcome);
    holder.signer = Some(signer);
    holder.template = Some(template(kind.serving));
    // Long enough for a failure to be seen, on a machine however busy.
    holder.policy.transient = loopback::steady(Duration::from_secs(2));
    holder.policy.refused = holder.policy.transient;
    holder.policy.request_timeout = match outcome {
        Outcome::Failed(Failure::TimedOut) => Duration::from_secs(3),
        Outcome::Failed(_) | Outcome::Issued => Duration::from_secs(40),
    };
    let handle = holder.start();
    let first = issued(&handle, 1);

    server.handle.with_api(|api, now| api.set_faults(kind.plan.clone(), now));
    handle.rotate_now();
    let failed = |now: &Snapshot| match now.state {
        State::BackingOff { last, .. } => Some(Outcome::Failed(last)),
        _ => None,
    };
    let met = handle.wait_for(|now| now.issued > 1 || failed(now).is_some()).within(BOUND);
    let met = met.ok_or_else(|| format!("the request has no outcome: {:?}", handle.snapshot()))?;
    let actual = failed(&met).unwrap_or(Outcome::Issued);
    if actual != outcome {
        return Err(format!("{actual:?} instead of {outcome:?}: {:?}", met.last_error));
    }
    let (wanted, exact) = requests(kind);
    let long = length(wanted);
    let (requests, count) =
        server.handle.with_api(|api, _| (in_short(api.journal().take(long)), api.journal().count()));
    // A late check may see the next submission as well.
    let in_time = matches!(handle.snapshot().state, State::BackingOff { failures: 1, .. } | State::Scheduled { .. });
    if requests != wanted || exact && in_time && count != long {
        return Err(format!("{count} requests, at first {requests}: {:?}", met.last_error));
    }
    let served = met.credential.as_ref().ok_or("the certificate was dropped")?;
    if actual != Outcome::Issued && served.chain() != first.chain() {
        return Err("another certificate was served".into());
    }
    server.handle.with_api(|api, now| api.set_faults(Plan::default(), now));
    issued(&handle, 2);
    handle.shutdown().wait();
    Ok(())
}

/// The outcome over sockets, which is that of `table.md` except in two cases. With `only bookmarks`, the request times
/// out, since the request timeout is shorter here than a watch. With `connection refused once`, the certificate is
/// issued, since the listener cannot refuse a connection and resets it, and the client retries after a reset.
fn outcome(kind: &Kind) -> Outcome {
    match kind.name {
        "only bookmarks" => Outcome::Failed(Failure::TimedOut),
        "connection refused once" => Outcome::Issued,
        _ => kind.outcome,
    }
}

/// The first requests that the submission sends, abbreviated as in `table.md`; and true if the submission must send no
/// request after those.
fn requests(kind: &Kind) -> (&str, bool) {
    match kind.name {
        // How many more there are depends on pauses, and on how soon the request times out.
        "every watch and read answered 503" => ("POST WATCH GET", false),
        // The request times out before the server ends the watch.
        "only bookmarks" | "approved and never issued" => ("POST WATCH", true),
        // The listener cannot refuse connections, so it resets them, as `outcome` says.
        "connection refused" => ("CONNECT*3", true),
        "connection refused once" => ("CONNECT POST WATCH", true),
        _ => (kind.requests, true),
    }
}

/// The number of requests in an abbreviated journal, such as 4 for `POST*3 WATCH`.
fn length(short: &str) -> usize {
    let count = |word: &str| word.split_once('*').map_or(1, |(_, count)| count.parse().unwrap());
    short.split(' ').map(count).sum()
}

/// The time limits of a request. They are short if the fault is that no answer comes in time, so that the test does not
/// wait for long. Else they are long, since a busy machine takes its time for a long answer.
fn limits(kind: &Kind, outcome: Outcome) -> Limits {
    use Fault::{Connection, Delay, Silence, Trickle};
    let never =
        |rule: &Rule| matches!(rule.fault, Silence | Delay(_) | Trickle(_) | Connection(ConnectionFault::Silent));
    let is_late = outcome != Outcome::Issued && kind.plan.rules.iter().any(never);
    let mut limits = Limits::default();
    limits.answer = Duration::from_secs(if is_late { 2 } else { 10 });
    limits
}
