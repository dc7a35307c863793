//! `perennial rotate`, hooks of members, and the service manager's status.

use super::*;
use crate::support::run_arguments;
use std::process::Command;

#[test]
fn rotate_requests_named_certificate_only() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    List::new(directory).with_node().with_other("one", "mesh").with_other("two", "mesh").write();
    let run = start(directory, &run_list(&["--control", "control"]));
    ["node", "one", "two"].iter().for_each(|name| drop(event_of(&run, name, "resting", 1)));
    let rotate =
        |names: &[&str]| perennial(directory, &[["rotate", "--control", "control"].as_slice(), names].concat());
    let done = rotate(&["two"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "two: requesting a new certificate\n"), "{done:?}");
    event_of(&run, "two", "rotated", 1);
    assert_eq!(signer.requests().len(), 4);
    rotate(&["two", "three"]).expect_refusal(&["rotate"], &["no certificate three;", "node, one, two"]);
    assert_eq!(rotate(&[]).code, Some(0));
    ["node", "one"].iter().for_each(|name| drop(event_of(&run, name, "rotated", 1)));
    event_of(&run, "two", "rotated", 2);
    stop(run);
    assert!(!directory.join("control").exists());
    let late = rotate(&["two"]);
    assert_eq!(late.code, Some(1), "{late:?}");
}

#[test]
fn rotate_works_for_certificates_of_flags() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let more = ["--json", "--control", "control", "--rotate-server-certificates", "--node-ip", "10.0.0.7"];
    let run = start(directory, &run_arguments(&more));
    ["kubelet-client", "kubelet-server"].iter().for_each(|name| drop(event_of(&run, name, "resting", 1)));
    let done = perennial(directory, &["rotate", "--control", "control", "kubelet-server"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    event_of(&run, "kubelet-server", "rotated", 1);
    assert!(run.events("rotated").iter().all(|event| event["of"] == "kubelet-server"));
    stop(run);
}

#[test]
fn hooks_of_members_run_command_and_signal_process() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    let script = "trap 'echo signalled >> runs' HUP; echo $$ > pid; while :; do sleep 0.1; done";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    let _reader = Process::spawn(directory, shell);
    let pid = until("process ID", || fs::read_to_string(directory.join("pid")).ok().filter(|text| !text.is_empty()));
    let (at, other) = (directory.display(), "signer: example.com/mesh, identity: {certificate: node}, commonName");
    let list = List::new(directory).with_node();
    let list = list.with(
        "one",
        &format!(
            "{other}: one, onRotated: {{run: [sh, -c, 'echo $PERENNIAL_CERTIFICATE $PERENNIAL_FILE >> {at}/runs']}}"
        ),
    );
    list.with("two", &format!("{other}: two, onRotated: {{pidFile: {at}/pid}}")).write();
    let run = start(directory, &run_list(&["--metrics-listen", "127.0.0.1:0"]));
    let runs = hook_runs(directory, 2);
    let expected = format!("one {at}/one/one-current.pem");
    assert!(runs.lines().any(|line| line == expected) && runs.contains("signalled"), "{runs} {pid}");
    let record = |name: &str| directory.join(name).join(format!("{name}-hook.json"));
    until("records", || (record("one").exists() && record("two").exists()).then_some(()));
    assert!(!record("node").exists());

    // A process that does not run is a failed run, which is owed.
    fs::write(directory.join("pid"), "2147483646\n").unwrap();
    run.signal(Signal::USR1);
    until("failed signal", || {
        let stderr = run.stderr();
        let failed = stderr.contains("two: onRotated could not signal the process in ");
        (failed && stderr.contains("/pid: process 2147483646: ")).then_some(())
    });
    stop(run);
    let record = fs::read_to_string(record("two")).unwrap();
    assert!(record.contains("could not signal"), "{record}");
}
