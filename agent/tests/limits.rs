//! Few descriptors and threads are allowed: `run` works, or ends with an error that names the operation and the limit.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::support::{self, Output, Process, Signer, get, run_arguments, until};
use rustix::process::Signal;
use tempfile::TempDir;

/// File descriptors of a `run` at rest with the flags [`ALL`], as `agent/docs/metrics.md` documents.
const DESCRIPTORS: usize = 20;
/// Threads of a `run` at rest with the flags [`ALL`], as `agent/docs/metrics.md` documents.
const THREADS: usize = 16;
/// Limit of file descriptors under which a `run` with the flags [`ALL`] rotates while 32 clients read metrics.
const MOST_DESCRIPTORS: usize = 96;
/// Limit of threads under which a `run` with the flags [`ALL`] rotates while 32 clients read metrics.
const MOST_THREADS: usize = 28;

const ALL: [&str; 8] = [
    "--rotate-server-certificates",
    "--node-ip",
    "10.0.0.7",
    "--metrics-listen",
    "127.0.0.1:0",
    "--journal",
    "journal",
    "--on-rotated=true",
];

#[derive(Clone, Copy, Debug)]
enum Limit {
    Descriptors(usize),
    Threads(usize),
}

/// Starts `perennial run` with this limit of file descriptors or threads.
fn within(limit: Limit, directory: &Path, more: &[&str]) -> Process {
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_perennial");
    match limit {
        Limit::Descriptors(most) => {
            command.args(["-c", &format!("ulimit -n {most}; exec \"$@\""), "sh", program]);
        }
        Limit::Threads(most) => {
            command.args(["-c", "exec \"$@\"", "sh", program]);
            command.env("LD_PRELOAD", support::preload::library()).env("MOST_THREADS", most.to_string());
        }
    }
    command.args(run_arguments(more)).env("PERENNIAL_LOG", "info");
    Process::spawn(directory, command)
}

/// Creates a node's directory with a copy of the bootstrap kubeconfig.
fn node(signer: &Path) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("signer")).unwrap();
    let bootstrap = "signer/bootstrap.kubeconfig";
    fs::copy(signer.join(bootstrap), directory.path().join(bootstrap)).unwrap();
    directory
}

fn works_or_says_why(limit: Limit, runtime: &str, output: &Output) {
    let Output { code, stderr, .. } = output;
    assert!(!stderr.contains("internal error") && !stderr.contains("panicked"), "{limit:?} {runtime}: {output:?}");
    if *code == Some(0) {
        return;
    }
    let why = stderr.lines().find_map(|line| line.strip_prefix("perennial: "));
    let why = why.unwrap_or_else(|| panic!("{limit:?} {runtime}: {output:?}"));
    let bare = ["Too many open files", "Resource temporarily unavailable"];
    assert!(!why.is_empty() && !bare.iter().any(|bare| why.starts_with(bare)), "{limit:?} {runtime}: {why}");
}

#[test]
fn run_with_few_descriptors_or_threads_works_or_names_the_limit() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    // With fewer than five descriptors, no program can start.
    let limits = (5..=24).map(Limit::Descriptors).chain((0..=12).map(Limit::Threads));
    let limits: Vec<Limit> = limits.collect();
    for some in limits.chunks(6) {
        thread::scope(|scope| {
            for limit in some {
                let signer = directory.path();
                scope.spawn(move || {
                    for runtime in ["std", "smol"] {
                        let node = node(signer);
                        let more = ["--once", "--runtime", runtime, "--metrics-listen", "127.0.0.1:0"];
                        let run = within(*limit, node.path(), &more);
                        // Some limits allow a start, but not a connection, which `run` retries for ever.
                        let tried = until(&format!("end, or another attempt, {limit:?} {runtime}"), || {
                            let waits = run.stderr().contains("next attempt in");
                            (waits || run.has_ended()).then_some(waits)
                        });
                        if tried {
                            run.signal(Signal::TERM);
                        }
                        works_or_says_why(*limit, runtime, &run.end());
                    }
                });
            }
        });
    }
}

#[test]
fn run_needs_no_more_descriptors_and_threads_than_documented() {
    let documented = include_str!("../docs/metrics.md");
    for (what, rest, most) in [("descriptors", DESCRIPTORS, MOST_DESCRIPTORS), ("threads", THREADS, MOST_THREADS)] {
        assert!(documented.contains(&format!("| {what} | {rest} | {most} |")), "{what}");
    }
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    for runtime in ["std", "smol"] {
        for limit in [Limit::Descriptors(MOST_DESCRIPTORS), Limit::Threads(MOST_THREADS)] {
            let node = node(directory.path());
            let more = [ALL.as_slice(), &["--json", "--runtime", runtime]].concat();
            let mut run = within(limit, node.path(), &more);
            let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
            until("readiness", || get(&address, "/readyz").contains(" 200 OK").then_some(()));
            let process = run.id();
            let count = |what: &str| fs::read_dir(format!("/proc/{process}/{what}")).unwrap().count();
            until("rest", || (count("fd") <= DESCRIPTORS && count("task") <= THREADS).then_some(()));
            // The most clients that the metrics server serves at a time.
            let clients: Vec<_> = (0..32).map(|_| TcpStream::connect(&address).unwrap()).collect();
            until("clients", || (count("fd") >= clients.len()).then_some(()));
            run.signal(Signal::USR1);
            run.event("rotated", 1);
            let [descriptors, threads] = ["fd", "task"].map(count);
            assert!(descriptors <= MOST_DESCRIPTORS && threads <= MOST_THREADS, "{descriptors} {threads}");
            drop(clients);
            run.signal(Signal::TERM);
            let output = run.end();
            assert_eq!(output.code, Some(0), "{limit:?} {runtime}: {output:?}");
            assert!(!output.stderr.contains(" WARN "), "{limit:?} {runtime}: {output:?}");
        }
    }
}
