//! The limit of open files of a list.

use std::process::Command;

use super::*;

const MEMBERS: usize = 64;

/// Starts `run` for a list of [`MEMBERS`] certificates after this `ulimit` command.
fn start_after(ulimit: &str, directory: &Path) -> Process {
    let list = List::new(directory).with_node();
    (1..MEMBERS).fold(list, |list, n| list.with_other(&format!("m{n}"), "mesh")).write();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{ulimit}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_perennial")]);
    command.args(run_list(&[])).env("PERENNIAL_LOG", "info");
    Process::spawn(directory, command)
}

#[test]
fn soft_limit_of_descriptors_is_raised_for_list() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    let run = start_after("ulimit -S -n 40", directory);
    until("certificates", || (run.events("issued").len() == MEMBERS).then_some(()));
    // One descriptor per certificate.
    let open = || fs::read_dir(format!("/proc/{}/fd", run.id())).unwrap().count();
    until("rest", || (open() < MEMBERS + 24).then_some(()));
    assert!(open() >= MEMBERS);
    assert!(!stop(run).stderr.contains("limit of open files"));
}

#[test]
fn certificate_without_descriptor_names_the_limit() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    let run = start_after("ulimit -n 40", directory);
    let named =
        "the limit of open files is 40, and each certificate needs one: raise the limit (ulimit -n, LimitNOFILE)";
    until("error", || run.stderr().contains(named).then_some(()));
    stop(run);
}
