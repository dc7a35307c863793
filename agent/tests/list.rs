//! `perennial run --certificates`: many certificates in one process.

mod descriptors;
mod pods;
mod reload;
mod rotate;
mod shipped;
mod status;
mod stores;
mod trust_bundles;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::preload::library;
use crate::support::{Process, Signer, event_of, files, get, key_lines, perennial, start, start_with, stop, until};
use perennial_pki::Credential;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// The arguments of `run` for the list in `list.yaml`.
fn run_list<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [["run", "--json", "--certificates", "list.yaml"].as_slice(), more].concat()
}

/// Starts `run` for the list with a fault of [`library`]: the variable that selects the fault, and a word.
fn start_with_fault(directory: &Path, more: &[&str], fault: (&str, &str)) -> Process {
    let preload = ("LD_PRELOAD", library().to_str().unwrap());
    start_with(directory, &run_list(more), &[("PERENNIAL_LOG", "info"), preload, fault])
}

/// A list of certificates in the directory of a test.
struct List<'a> {
    directory: &'a Path,
    members: Vec<String>,
}

impl<'a> List<'a> {
    fn new(directory: &'a Path) -> Self {
        Self { directory, members: Vec::new() }
    }

    /// Adds the node's client certificate, `node`, which authenticates the requests of other members.
    fn with_node(self) -> Self {
        let at = self.directory.display();
        let lines = format!(
            "signer: kubernetes.io/kube-apiserver-client-kubelet, commonName: 'system:node:worker', \
             organizations: ['system:nodes'], \
             identity: {{bootstrapKubeconfig: {at}/signer/bootstrap.kubeconfig}}"
        );
        self.with("node", &lines)
    }

    /// Adds a certificate of the signer `example.com/KIND`.
    fn with_other(self, name: &str, kind: &str) -> Self {
        self.with(name, &format!("signer: example.com/{kind}, commonName: {name}, identity: {{certificate: node}}"))
    }

    /// Adds a member with these lines. Its files are in the directory with the member's name.
    fn with(mut self, name: &str, lines: &str) -> Self {
        let at = self.directory.display();
        let store = format!("store: {{directory: {{path: {at}/{name}, prefix: {name}}}}}");
        self.members.push(format!("- {{name: {name}, {lines}, {store}}}\n"));
        self
    }

    fn write(&self) {
        let text = format!("apiVersion: perennial/v1\ncertificates:\n{}", self.members.concat());
        fs::write(self.directory.join("list.yaml"), text).unwrap();
    }
}

fn current(directory: &Path, name: &str) -> Credential {
    let path = directory.join(name).join(format!("{name}-current.pem"));
    Credential::from_pem(&fs::read(path).unwrap()).unwrap()
}

/// Waits until hooks have written this many lines to the file `runs`, and returns them.
fn hook_runs(directory: &Path, count: usize) -> String {
    until("hook runs", || {
        let runs = fs::read_to_string(directory.join("runs")).unwrap_or_default();
        (runs.lines().count() == count).then_some(runs)
    })
}

/// A number of `/proc/PID/status`.
fn resource(run: &Process, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", run.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn two_hundred_members_get_certificates_in_one_process() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let list = List::new(directory).with_node();
    let list = (1..199).fold(list, |list, n| list.with_other(&format!("m{n}"), ["mesh", "etcd"][n % 2]));
    // A person would have to approve this one.
    let refused = "signer: kubernetes.io/kube-apiserver-client, commonName: admin, identity: {certificate: node}";
    list.with("waits", refused).write();
    let more = ["--metrics-listen", "127.0.0.1:0", "--journal", "journal"];
    let begun = Instant::now();
    let mut run = start(directory, &run_list(&more));
    until("certificates", || {
        assert!(!run.has_ended(), "{}", run.stderr());
        (run.events("issued").len() == 199).then_some(())
    });
    let took = begun.elapsed();
    let names: Vec<String> = ["node".to_owned()].into_iter().chain((1..199).map(|n| format!("m{n}"))).collect();
    for name in &names {
        event_of(&run, name, "resting", 1);
        let common_name = current(directory, name).chain().certificate().common_name().to_owned();
        assert_eq!(common_name, if name == "node" { "system:node:worker" } else { name.as_str() });
    }
    event_of(&run, "waits", "waiting_for_approval", 1);
    let requests = signer.requests();
    assert_eq!(requests.len(), 200);
    let by_node = requests.iter().filter(|request| request.spec.username == "system:node:worker").count();
    assert_eq!((by_node, signer.bootstraps()), (199, 1));

    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    for name in &names {
        let line = format!("perennial_submissions_total{{certificate=\"{name}\"}} 1\n");
        until(&line, || get(&address, "/metrics").contains(&line).then_some(()));
    }
    let state = get(&address, "/state");
    let state: Value = serde_json::from_str(state.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(state["certificates"].as_object().unwrap().len(), 200);
    // One loop for all members. Threads of requests end when there is no further work for some seconds.
    until("rest", || (resource(&run, "Threads") <= 14).then_some(()));
    println!(
        "certificates: 200 rss_kib: {} threads: {} issued_in_s: {:.1}",
        resource(&run, "VmRSS"),
        resource(&run, "Threads"),
        took.as_secs_f64()
    );
    let log = stop(run).stderr;
    let secrets = key_lines(&files(directory).into_iter().filter(|(path, _)| path.ends_with(".pem")).collect());
    assert!(secrets.iter().all(|secret| !log.contains(secret)));
    let replay = perennial(directory, &["replay", "journal"]);
    assert_eq!(replay.code, Some(0), "{}", replay.stderr);
    for name in &names {
        assert!(replay.stdout.contains(&format!("{name}: ")), "{name}");
    }
}

#[test]
fn member_that_cannot_start_disturbs_no_other() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    // A regular file in the place of the directory.
    fs::write(directory.join("broken"), "").unwrap();
    List::new(directory).with_node().with_other("broken", "mesh").with_other("proxy", "mesh").write();
    let mut run = start(directory, &run_list(&["--metrics-listen", "127.0.0.1:0"]));
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    event_of(&run, "proxy", "issued", 1);
    event_of(&run, "node", "issued", 1);
    let trouble = event_of(&run, "broken", "trouble", 1);
    assert!(trouble["reason"].as_str().unwrap().starts_with("cannot start: "), "{trouble}");
    // An alert needs a sample of a member that cannot start.
    let shows = |sample: &str| get(&address, "/metrics").contains(&format!("\nperennial_cannot_start{sample}\n"));
    until("metric", || (shows("{certificate=\"broken\"} 1") && shows("{certificate=\"proxy\"} 0")).then_some(()));
    fs::remove_file(directory.join("broken")).unwrap();
    run.signal(Signal::HUP);
    event_of(&run, "broken", "issued", 1);
    assert!(shows("{certificate=\"broken\"} 0"));
    stop(run);

    // With --once, the other members get their certificates first.
    let files = ["node", "broken", "proxy"];
    files.iter().for_each(|name| fs::remove_dir_all(directory.join(name)).unwrap());
    fs::write(directory.join("broken"), "").unwrap();
    let once = perennial(directory, &run_list(&["--once"]));
    assert_eq!(once.code, Some(1), "{once:?}");
    assert!(once.stderr.contains("broken: cannot start"), "{once:?}");
    ["node", "proxy"].iter().for_each(|name| drop(current(directory, name)));
}

#[test]
fn list_of_which_no_member_can_start_is_refused() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    List::new(directory).with_node().write();
    perennial(directory, &run_list(&[])).expect_refusal(&["run"], &["no certificate of the list can start", "node"]);
    // Names the key and the remedy.
    let missing = ["bootstrap.kubeconfig: there is no such file", "`clusterKubeconfig`", "provide the file"];
    perennial(directory, &run_list(&[])).expect_refusal(&["run"], &missing);
    assert!(!directory.join("node").exists());
}

#[test]
fn flag_for_one_certificate_is_refused_with_key_of_list() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    for (flag, key) in [
        ("--cert-dir=pki", "`store`"),
        ("--on-rotated=true", "`onRotated`"),
        ("--rotation-window=70%-90%", "`timing: {rotationWindow: FROM-TO}`"),
        ("--dns=a.example", "`dnsNames`"),
    ] {
        perennial(directory, &run_list(&[flag])).expect_refusal(&[flag], &["cannot be used with --certificates", key]);
    }
}

#[test]
fn member_waits_for_members_before_it() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true", "--approve", "manual"]);
    let list = List::new(directory).with_node();
    let after = "signer: example.com/mesh, commonName: late, after: [proxy], \
                 identity: {kubeconfig: ADMIN}"
        .replace("ADMIN", directory.join("signer/admin.kubeconfig").to_str().unwrap());
    list.with_other("proxy", "mesh").with("late", &after).write();
    let run = start(directory, &run_list(&[]));
    let approve = |name: &str| {
        let csr = event_of(&run, name, "waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned();
        signer.decide(&csr, perennial_dev::Decision::Approve);
        event_of(&run, name, "issued", 1);
    };
    approve("node");
    approve("proxy");
    approve("late");
    let common_names: Vec<_> = run.events("issued").iter().map(|event| event["of"].clone()).collect();
    assert_eq!(common_names, ["node", "proxy", "late"]);
    stop(run);
}

#[test]
fn full_disk_of_one_member_does_not_stop_others() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    let list = List::new(directory).with_node().with_other("full", "mesh").with_other("proxy", "mesh");
    list.write();
    let run = start_with_fault(directory, &[], ("FULL_DISK", "/full/full-2"));
    event_of(&run, "proxy", "resting", 1);
    until("certificate in memory", || run.stderr().contains("full: a new certificate is in use").then_some(()));
    let trouble = event_of(&run, "full", "trouble", 1);
    assert!(trouble["reason"].as_str().unwrap().contains("No space left"), "{trouble}");
    run.signal(Signal::USR1);
    event_of(&run, "proxy", "rotated", 1);
    event_of(&run, "node", "rotated", 1);
    assert!(!directory.join("full/full-current.pem").exists());
    fs::write(directory.join("freed"), "").unwrap();
    event_of(&run, "full", "issued", 1);
    drop(current(directory, "full"));
    stop(run);
}

#[test]
fn killed_run_continues_all_members_without_second_requests() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let list = List::new(directory).with_node();
    let names: Vec<String> = (0..12).map(|n| format!("m{n}")).collect();
    names.iter().fold(list, |list, name| list.with_other(name, "mesh")).write();
    for (n, millis) in [30, 60, 90, 120, 150, 200, 250, 300].into_iter().enumerate() {
        let run = start(directory, &run_list(&["--runtime", ["std", "smol"][n % 2]]));
        std::thread::sleep(Duration::from_millis(millis));
        run.signal(Signal::KILL);
        run.end();
    }
    let once = perennial(directory, &run_list(&["--once", "--runtime", "smol"]));
    assert_eq!(once.code, Some(0), "{once:?}");
    names.iter().for_each(|name| drop(current(directory, name)));
    let mut common_names: Vec<_> = signer.requests().iter().map(|csr| csr.metadata.name.clone()).collect();
    common_names.sort();
    common_names.dedup();
    assert_eq!(common_names.len(), 13, "{common_names:?}");
}

#[test]
fn hanging_disk_does_not_keep_run_from_ending_without_certificate() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    List::new(directory).with_node().write();
    // The record of the first request cannot be written.
    let fault = ("HANG_WRITE", "/node/node-pending");
    let ended = start_with_fault(directory, &["--exit-without-certificate", "1s"], fault).end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no certificate of the list has been valid"), "{ended:?}");
    assert!(ended.stderr.contains("node: not stopped within 10 s"), "{ended:?}");
}
