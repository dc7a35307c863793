//! Tests upgrade and rollback: two versions of `perennial` continue each other's certificate directory, pending record
//! and journal, in both directions. `.ci/upgrade` builds the older version from the history of this repository.
//!
//! `upgrade OLD NEW`: the executables of the older and of the newer version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use perennial_dev::{Approval, ClusterSetup, Decision, Options, TestCluster};
use perennial_tests::command::{Process, stop};
use rustix::process::Signal;
use tempfile::TempDir;

const CURRENT: &str = "pki/kubelet-client-current.pem";
const JOURNAL: &str = "journal";
/// How long a version that must not submit a request is observed.
const OBSERVED: Duration = Duration::from_secs(3);

fn main() {
    let executables: Vec<PathBuf> = std::env::args_os().skip(1).map(|path| fs::canonicalize(path).unwrap()).collect();
    let [old, new] = &executables[..] else { panic!("usage: upgrade OLD NEW") };
    for (direction, first, second) in [("upgrade", old, new), ("rollback", new, old)] {
        for (what, test) in TESTS {
            println!("{direction}: {what}");
            test(&Node::new(), first, second);
        }
    }
    println!("the journal is replayed after a rollback and an upgrade");
    journal_of_both_versions_is_replayed(&Node::new(), old, new);
}

type Test = fn(&Node, &Path, &Path);

const TESTS: [(&str, Test); 4] = [
    ("a request that waits for approval is continued", pending_request_is_continued),
    ("a certificate issued in between is fetched", certificate_issued_in_between_is_fetched),
    ("a denial is remembered", denial_is_remembered),
    ("a certificate at rest is used as it is", certificate_at_rest_is_used),
];

fn pending_request_is_continued(node: &Node, first: &Path, second: &Path) {
    let mut run = node.run(first, &[]);
    let name = waiting(&mut run);
    kill(run);
    let mut run = node.run(second, &[]);
    assert_eq!(waiting(&mut run), name);
    node.decide(&name, Decision::Approve);
    run.event("issued", 1);
    stop(run);
    assert_eq!(node.requests(), [name]);
    node.rests(first);
}

fn certificate_issued_in_between_is_fetched(node: &Node, first: &Path, second: &Path) {
    let mut run = node.run(first, &[]);
    let name = waiting(&mut run);
    kill(run);
    node.decide(&name, Decision::Approve);
    let once = node.run(second, &["--once"]).end();
    assert_eq!(once.code, Some(0), "{once:?}");
    assert_eq!(node.requests(), [name]);
    node.rests(first);
}

fn denial_is_remembered(node: &Node, first: &Path, second: &Path) {
    let mut run = node.run(first, &[]);
    let name = waiting(&mut run);
    node.decide(&name, Decision::Deny);
    run.event("trouble", 1);
    kill(run);
    for version in [second, first, second] {
        let run = node.run(version, &[]);
        thread::sleep(OBSERVED);
        assert!(!run.has_ended(), "{}{}", run.stdout(), run.stderr());
        kill(run);
        assert_eq!(node.requests(), [name.as_str()]);
    }
}

fn certificate_at_rest_is_used(node: &Node, first: &Path, second: &Path) {
    let mut run = node.run(first, &[]);
    let name = waiting(&mut run);
    node.decide(&name, Decision::Approve);
    let rest = run.event("resting", 1);
    stop(run);
    let pair = node.pair();
    // Both versions compute the same rotation point.
    assert_eq!(node.rests(second), rest["rotate_at"]);
    assert_eq!(node.rests(first), rest["rotate_at"]);
    assert_eq!(node.pair(), pair);
    assert_eq!(node.requests(), [name]);
}

fn journal_of_both_versions_is_replayed(node: &Node, old: &Path, new: &Path) {
    let mut run = node.run(old, &[]);
    let name = waiting(&mut run);
    node.decide(&name, Decision::Approve);
    run.event("resting", 1);
    stop(run);
    for version in [new, old, new] {
        node.rests(version);
    }
    // The older version has appended its lines to those of the newer one. The newer one has begun another file since.
    let replayed = Process::spawn(node.path(), command(new, &["replay", JOURNAL])).end();
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
}

/// The files of a node, and a server whose requests wait for approval.
struct Node {
    directory: TempDir,
    cluster: TestCluster,
}

impl Node {
    fn new() -> Self {
        let options = Options { approval: Approval::Manual, ..Options::default() };
        let cluster = TestCluster::start_with(ClusterSetup { options, ..ClusterSetup::default() }).unwrap();
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("bootstrap"), cluster.bootstrap_kubeconfig()).unwrap();
        Self { directory, cluster }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, version: &Path, more: &[&str]) -> Process {
        let fixed = ["run", "--json", "--node-name", "worker", "--cert-dir", "pki", "--kubeconfig", "kubeconfig"];
        let files = ["--bootstrap-kubeconfig", "bootstrap", "--journal", JOURNAL];
        Process::spawn(self.path(), command(version, &[&fixed, files.as_slice(), more].concat()))
    }

    /// Runs this version until it rests, which it must do without a request. Returns the rotation point.
    fn rests(&self, version: &Path) -> String {
        let mut run = self.run(version, &[]);
        let rest = run.event("resting", 1);
        stop(run);
        rest["rotate_at"].as_str().unwrap().to_owned()
    }

    fn decide(&self, name: &str, decision: Decision) {
        self.cluster.decide(name, decision).unwrap();
    }

    fn requests(&self) -> Vec<String> {
        self.cluster.requests().into_iter().map(|request| request.metadata.name).collect()
    }

    fn pair(&self) -> Vec<u8> {
        fs::read(self.path().join(CURRENT)).unwrap()
    }
}

fn command(version: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(version);
    command.args(arguments).env("PERENNIAL_LOG", "info");
    command
}

/// Waits until the request waits for approval. Returns the name of the request.
fn waiting(run: &mut Process) -> String {
    run.event("waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned()
}

fn kill(run: Process) {
    run.signal(Signal::KILL);
    run.end();
}
