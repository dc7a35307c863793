//! The wall clock of a node is set forward or back, while the clock of the cluster runs on. With real processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Process, Signer, get, run_arguments, start_with, until};
use rustix::process::Signal;
use tempfile::TempDir;

/// Longest time to wait until `run` notices a clock step: `run` reads the wall clock once a minute, and a busy machine
/// is slow.
const NOTICED: Duration = Duration::from_secs(100);

/// The dated file that `kubelet-client-current.pem` links to.
fn current(directory: &Path) -> PathBuf {
    fs::read_link(directory.join("worker/pki/kubelet-client-current.pem")).unwrap()
}

/// Starts a node, waits for a certificate with a lifetime of one hour, and steps the node's clock by `minutes`. Calls
/// `then` with the process, the directory, the address of the metrics and the file of the certificate before the clock
/// step. Stops the node.
fn step(minutes: i64, runtime: &str, then: impl FnOnce(&Process, &Path, &str, &Path)) {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let clock = directory.join("clock");
    let environment = [("PERENNIAL_TEST_CLOCK", clock.to_str().unwrap()), ("PERENNIAL_LOG", "info")];
    fs::write(&clock, "0").unwrap();
    let _signer = Signer::start(directory, &["--signing-duration", "3600s"]);
    let more = ["--json", "--runtime", runtime, "--metrics-listen", "127.0.0.1:0"];
    let mut run = start_with(directory, &run_arguments(&more), &environment);
    run.event("resting", 1);
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    let before = current(directory);
    fs::write(clock, (minutes * 60_000).to_string()).unwrap();
    then(&run, directory, &address, &before);
    assert!(get(&address, "/healthz").contains(" 200 OK"), "{minutes} {runtime}");
    run.signal(Signal::TERM);
    let output = run.end();
    assert_eq!(output.code, Some(0), "{minutes} {runtime}: {output:?}");
}

/// Waits until another certificate is current than that in the file `before`. Returns false if that takes longer than
/// [`NOTICED`].
fn replaced(directory: &Path, before: &Path) -> bool {
    let end = Instant::now() + NOTICED;
    while current(directory) == before {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
    true
}

fn body(answer: &str) -> serde_json::Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

fn on_both(scenario: impl Fn(&'static str) + Sync) {
    thread::scope(|scope| {
        for runtime in ["std", "smol"] {
            scope.spawn(|| scenario(runtime));
        }
    });
}

#[test]
fn clock_step_past_rotation_point_leads_to_rotation() {
    on_both(|runtime| {
        step(58, runtime, |_, directory, _, before| assert!(replaced(directory, before), "{runtime}"));
    });
}

#[test]
fn readyz_fails_until_clock_step_past_expiry_is_undone() {
    on_both(|runtime| {
        step(180, runtime, |run, directory, address, _| {
            // An expired certificate is not ready, even before the loop has read the clock.
            assert!(get(address, "/readyz").contains(" 503 "), "{runtime}");
            fs::write(directory.join("clock"), "0").unwrap();
            until("readiness", || get(address, "/readyz").contains(" 200 OK").then_some(()));
            let before = current(directory);
            run.signal(Signal::USR1);
            assert!(replaced(directory, &before), "{runtime}: {}", run.stderr());
        });
    });
}

#[test]
fn clock_step_back_keeps_certificate_and_is_logged() {
    on_both(|runtime| {
        step(-360, runtime, |run, directory, address, before| {
            run.signal(Signal::USR1);
            // By this node's clock, the server's certificate is not valid yet.
            until("reason", || run.stderr().contains("check the clocks; next attempt in").then_some(()));
            assert!(get(address, "/readyz").contains(" 200 OK"), "{runtime}");
            assert_eq!(current(directory), before);
            fs::write(directory.join("clock"), "0").unwrap();
            assert!(replaced(directory, before), "{runtime}: {}", run.stderr());
        });
    });
}

/// `run` compares the local clock with the server's, which `run` reads from the Date header of each answer.
#[test]
fn wrong_local_clock_and_its_correction_are_logged() {
    on_both(|runtime| {
        step(30, runtime, |run, directory, address, before| {
            run.signal(Signal::USR1);
            assert!(replaced(directory, before), "{runtime}: {}", run.stderr());
            let named = "local clock differs from the signer's by 30 min 0 s (ahead)";
            let almost = "local clock differs from the signer's by 30 min 1 s (ahead)";
            until("warning", || [named, almost].iter().any(|words| run.stderr().contains(words)).then_some(()));
            let state = body(&get(address, "/state"));
            let offset = &state["certificates"]["kubelet-client"]["server_clock_offset_seconds"];
            assert!((offset.as_f64().unwrap() + 1800.0).abs() < 10.0, "{runtime}: {offset}");
            fs::write(directory.join("clock"), "0").unwrap();
            run.signal(Signal::USR1);
            until("all-clear", || run.stderr().contains("clock agrees with the signer's again").then_some(()));
        });
    });
}
