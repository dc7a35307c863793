//! `perennial-dev demo`, on the runtimes `std` and `smol`.

use std::path::Path;
use std::process::Stdio;
use std::thread;

use crate::support::{command, perennial_dev};
use perennial_tests::command::{events, files};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

fn demo(arguments: &[&str]) -> Vec<Value> {
    let output = perennial_dev(Path::new("."), &[["demo", "--json"].as_slice(), arguments].concat());
    assert_eq!(output.code, Some(0), "{output:?}");
    events(&output.stdout)
}

#[test]
fn demo_rotates_as_often_as_requested_on_std_and_smol() {
    // Long enough for a busy machine to rotate before expiry, after which only the bootstrap token authenticates.
    let shows = ["std", "smol"].map(|runtime| {
        (runtime, thread::spawn(move || demo(&["--runtime", runtime, "--rotations", "2", "--lifetime", "8s"])))
    });
    for (runtime, show) in shows {
        let events = show.join().unwrap();
        let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
        assert_eq!(names, ["started", "issued", "rotated", "rotated", "done"], "{runtime}");

        assert_eq!(events[1]["asked_with"], "bootstrap token");
        let mut serials = vec![events[1]["serial"].as_str().unwrap()];
        for (n, rotated) in [(1, &events[2]), (2, &events[3])] {
            assert_eq!(rotated["n"], n);
            assert_eq!(rotated["asked_with"], "certificate", "{runtime}: {rotated}");
            assert_eq!(rotated["identity"], "system:node:demo-node");
            assert!(rotated["not_before"].as_str() < rotated["not_after"].as_str());
            assert!(rotated["latency_ms"].is_u64());
            serials.push(rotated["serial"].as_str().unwrap());
        }
        serials.dedup();
        assert_eq!(serials.len(), 3, "{runtime}: every certificate is a new one");

        let done = &events[4];
        assert_eq!((&done["runtime"], &done["rotations"]), (&runtime.into(), &2.into()));
        assert_eq!(done["identity"], "system:node:demo-node");
    }
}

#[test]
fn demo_prints_readable_lines_and_retains_a_given_directory() {
    let directory = TempDir::new().unwrap();
    let arguments = ["demo", "--rotations", "1", "--lifetime", "2s", "--dir", "certificates"];
    let output = perennial_dev(directory.path(), &arguments);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("rotation 1/1  system:node:demo-node"), "{output:?}");
    assert!(output.stdout.contains("requested with its bootstrap token"), "{output:?}");
    assert!(!output.stdout.contains('\x1b'), "no line is rewritten in place outside a terminal");
    assert!(directory.path().join("certificates/kubelet-client-current.pem").exists());

    let before = files(directory.path());
    let again = perennial_dev(directory.path(), &arguments);
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.stderr.contains("holds a certificate already"), "{again:?}");
    assert_eq!(files(directory.path()), before);
}

#[test]
fn interrupted_demo_fails_and_removes_its_files() {
    let mut demo = crate::support::start(Path::new("."), &["demo", "--json", "--lifetime", "1h"]);
    let directory = demo.event("started", 1)["directory"].as_str().unwrap().to_owned();
    demo.event("issued", 1);
    demo.signal(Signal::INT);
    let output = demo.end();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(events(&output.stdout).last().unwrap()["reason"], "interrupted");
    assert!(!Path::new(&directory).exists());
}

#[test]
fn demo_continues_if_stderr_is_closed() {
    for runtime in ["std", "smol"] {
        let arguments = ["demo", "--runtime", runtime, "--rotations", "1", "--lifetime", "2s"];
        let mut command = command();
        command.args(arguments).env("PERENNIAL_LOG", "trace").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{runtime}");
    }
}

#[test]
fn demo_with_missing_tmpdir_fails_and_names_option_dir() {
    let mut command = command();
    let output = command.arg("demo").env("TMPDIR", "/nowhere").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("/nowhere") && stderr.contains("--dir"), "{stderr}");
}
