//! `perennial run --trust-bundle`: CA certificates of ClusterTrustBundles in files, with `run` as a process.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::exposition::Page;
use crate::support::{Ca, Process, Signer, as_nobody, get, perennial, run_arguments, start, start_with, stop, until};
use perennial_pki::Roots;
use perennial_tests::address;
use tempfile::TempDir;

const BUNDLE: &str = "example.com:mesh:roots";
const MESH: &str = "example.com/mesh";
const OPTION: [&str; 2] = ["--trust-bundle", "signer=example.com/mesh,path=mesh/ca.pem"];

fn start_run(directory: &Path, more: &[&str]) -> Process {
    start(directory, &run_arguments(&[&["--json"][..], &OPTION, more].concat()))
}

fn new_ca() -> String {
    Ca::new().authority.certificate_pem().to_owned()
}

fn roots(pem: &str) -> Roots {
    Roots::from_pem(pem.as_bytes()).unwrap()
}

/// The CA certificates in the file, sorted; `None` without the file.
fn written(directory: &Path) -> Option<Vec<String>> {
    let pem = fs::read(directory.join("mesh/ca.pem")).ok()?;
    Some(blocks(&Roots::from_pem(&pem).unwrap()))
}

fn blocks(roots: &Roots) -> Vec<String> {
    let mut blocks: Vec<_> = roots.pem().split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect();
    blocks.sort();
    blocks
}

#[test]
fn file_follows_bundle_of_signer_atomically() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    let [old, new] = [new_ca(), new_ca()];
    let both = format!("{old}{new}");
    signer.put_trust_bundle(BUNDLE, MESH, &old);
    let mut run = start_run(path, &["--metrics-listen", "127.0.0.1:0"]);
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    let event = run.event("trust_bundle", 1);
    assert_eq!((&event["signer"], &event["bundles"]), (&MESH.into(), &1.into()), "{event}");
    assert_eq!(written(path), Some(blocks(&roots(&old))));

    let (is_over, phases) = (AtomicBool::new(false), [&old, &both, &new].map(|pem| blocks(&roots(pem))));
    thread::scope(|scope| {
        // A reader finds the certificates of one phase at any time, and never an earlier phase again.
        let reader = scope.spawn(|| {
            let mut phase = 0;
            while !is_over.load(Ordering::SeqCst) {
                let found = written(path).unwrap();
                let now = phases.iter().position(|phase| *phase == found).unwrap();
                assert!(now >= phase, "phase {now} after {phase}");
                phase = now;
            }
        });
        for (pem, phase) in [(&both, &phases[1]), (&new, &phases[2])] {
            signer.put_trust_bundle(BUNDLE, MESH, pem);
            until("the changed file", || (written(path).as_ref() == Some(phase)).then_some(()));
        }
        is_over.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
    run.event("trust_bundle", 3);
    let page = until("metrics", || {
        let answer = get(&address, "/metrics");
        let page = Page::read(answer.split_once("\r\n\r\n").unwrap().1);
        (page.get("perennial_trust_bundle_certificates") == 1.0).then_some(page)
    });
    assert_eq!(page.get("perennial_trust_bundle_failing"), 0.0);
    for metric in ["changed", "read"] {
        assert!(page.get(&format!("perennial_trust_bundle_{metric}_timestamp_seconds")) > 1.7e9, "{page:?}");
    }
    let state = get(&address, "/state");
    assert!(state.contains(r#""trust_bundles":[{"#) && state.contains(r#""signer":"example.com/mesh""#), "{state}");
    let page = get(&address, "/");
    assert!(page.contains("<h2>Trust bundle</h2>") && page.contains("(1 on the API server)"), "{page}");
    assert_eq!(fs::read_dir(path.join("mesh")).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn bundle_that_is_gone_leaves_file_and_is_reported() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let address = address::unused().to_string();
    let signer = Signer::start_at(path, &address, &[]);
    let (old, new) = (new_ca(), new_ca());
    signer.put_trust_bundle(BUNDLE, MESH, &old);
    let mut run = start_run(path, &["--metrics-listen", "127.0.0.1:0"]);
    let listening = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    run.event("trust_bundle", 1);
    signer.stop();
    // The new server has the CA of the old one, and no bundle.
    let signer = Signer::start_at(path, &address, &[]);
    let gone = "the server has no such bundle; the CAs read before stay trusted";
    until("the report", || run.stderr().contains(gone).then_some(()));
    assert_eq!(written(path), Some(blocks(&roots(&old))));
    let metrics = get(&listening, "/metrics");
    let page = Page::read(metrics.split_once("\r\n\r\n").unwrap().1);
    assert_eq!(page.get("perennial_trust_bundle_failing"), 1.0);
    assert_eq!(page.get("perennial_trust_bundle_certificates"), 1.0);
    assert!(get(&listening, "/").contains(gone));
    signer.put_trust_bundle(BUNDLE, MESH, &new);
    until("the new CA", || (written(path) == Some(blocks(&roots(&new)))).then_some(()));
    until("the end of the problem", || run.stderr().contains("the last problem is over").then_some(()));
}

#[test]
fn file_of_another_program_stays_and_is_reported() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    let (foreign, wanted) = (new_ca(), new_ca());
    signer.put_trust_bundle(BUNDLE, MESH, &wanted);
    fs::create_dir(path.join("mesh")).unwrap();
    fs::write(path.join("mesh/ca.pem"), &foreign).unwrap();
    let run = start_run(path, &[]);
    until("the report", || run.stderr().contains("perennial did not write these CA certificates").then_some(()));
    // The certificate does not wait for the file.
    until("the certificate", || run.events("issued").pop());
    assert_eq!(fs::read_to_string(path.join("mesh/ca.pem")).unwrap(), foreign);
    stop(run);
    for command in ["status", "verify"] {
        let shown = perennial(path, &[&[command, "--cert-dir", "worker/pki"], &OPTION[..]].concat());
        assert_eq!(shown.code, Some(1), "{shown:?}");
        let words =
            ["perennial did not write these CA certificates", "to do     if no program needs this file as it is"];
        assert!(words.iter().all(|words| shown.stdout.contains(words)), "{shown:?}");
        assert!(shown.stderr.contains("trust bundle ") && shown.stderr.contains("mesh/ca.pem"), "{shown:?}");
    }
    let option = format!("{},replaceForeign=true", OPTION[1]);
    let ended = perennial(path, &run_arguments(&["--once", "--trust-bundle", &option]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(written(path), Some(blocks(&roots(&wanted))));
    for (command, words) in [("status", "good: written"), ("verify", "ca.pem, which has 1 CA certificate since ")] {
        let shown = perennial(path, &[&[command, "--cert-dir", "worker/pki"], &OPTION[..]].concat());
        assert!(shown.code == Some(0) && shown.stdout.contains(words), "{shown:?}");
    }
}

#[test]
fn once_waits_for_bundles_and_fails_without_them() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    let once = run_arguments(&[&["--once"][..], &OPTION].concat());
    let ended = perennial(path, &once);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("mesh/ca.pem: the server has no such bundle"), "{}", ended.stderr);
    assert!(path.join("worker/pki/kubelet-client-current.pem").exists() && !path.join("mesh").exists());
    let pem = new_ca();
    signer.put_trust_bundle(BUNDLE, MESH, &pem);
    let ended = perennial(path, &once);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(written(path), Some(blocks(&roots(&pem))));
}

#[test]
fn unusable_trust_bundle_option_is_usage_error() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let same = ["--trust-bundle", "name=a,path=ca.pem", "--trust-bundle", "name=b,path=./ca.pem"];
    for (arguments, why) in [
        (&["--trust-bundle", "signer=mesh,path=a"][..], "the signer name `mesh` has not the form"),
        (&["--trust-bundle", "signer=example.com/mesh"], "path=FILE is missing"),
        (&["--trust-bundle", "name=a,path=/"], "trust bundle: /: this path names no file"),
        (&same, "two --trust-bundle have the path"),
    ] {
        let ended = perennial(path, &run_arguments(arguments));
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(why), "{arguments:?}: {}", ended.stderr);
        assert!(!path.join("worker").exists(), "{arguments:?}");
    }
}

#[test]
fn restart_keeps_cas_of_bundle_that_is_disregarded() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let address = address::unused().to_string();
    let signer = Signer::start_at(path, &address, &[]);
    let [many, last, first] = [new_ca(), new_ca(), new_ca()];
    let put = |name: &str, pem: &str| signer.put_trust_bundle(&format!("example.com:mesh:{name}"), MESH, pem);
    // As many bundles as a selection may have.
    (0..999).for_each(|number| put(&format!("m{number}"), &many));
    put("z", &last);
    let run = start_run(path, &[]);
    let all = |pems: &[&String]| Some(blocks(&roots(&pems.iter().map(|pem| pem.as_str()).collect::<String>())));
    until("both CAs", || (written(path) == all(&[&many, &last])).then_some(()));
    stop(run);

    // The list of the next process has the additional bundle first, and the process disregards `z`.
    put("a", &first);
    let run = start_run(path, &[]);
    until("the first CA", || written(path).filter(|written| written.contains(&first)));
    assert_eq!(written(path), all(&[&many, &last, &first]));
    // A removal from a good bundle counts, and so does the end of the problem.
    put("a", &many);
    until("the removal", || (written(path) == all(&[&many, &last])).then_some(()));
    // Without a problem, the bundles alone decide.
    signer.stop();
    let signer = Signer::start_at(path, &address, &[]);
    signer.put_trust_bundle(BUNDLE, MESH, &many);
    until("the end of the problem", || (written(path) == all(&[&many])).then_some(()));
    stop(run);
}

#[test]
fn restart_reports_only_what_changed_in_the_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    signer.put_trust_bundle(BUNDLE, MESH, &new_ca());
    let mut run = start_run(path, &[]);
    run.event("trust_bundle", 1);
    stop(run);
    let debug = [("PERENNIAL_LOG", "info,perennial=debug")];
    let restart = || start_with(path, &run_arguments(&OPTION), &debug);

    let run = restart();
    until("the comparison", || run.stderr().contains("trust bundle unchanged: ").then_some(()));
    assert!(!run.stderr().contains("trust bundle written"), "{}", run.stderr());
    signer.put_trust_bundle("example.com:mesh:other", MESH, &new_ca());
    let line = |run: &Process| run.stderr().lines().find(|line| line.contains("bundle written: ")).map(str::to_owned);
    let written = until("the second CA", || line(&run));
    assert!(written.contains(" 2 CA certificates of ") && written.matches(": CN=").count() == 1, "{written}");
    stop(run);

    signer.put_trust_bundle(BUNDLE, MESH, &new_ca());
    let run = restart();
    let written = until("the changed file", || line(&run));
    assert!(written.contains(", added: CN=") && written.contains(", removed: CN="), "{written}");
    assert!(!written.contains(';'), "the CA that stays is not listed: {written}");
    stop(run);
}

#[test]
fn status_shows_file_to_user_who_can_only_read_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    signer.put_trust_bundle(BUNDLE, MESH, &new_ca());
    let ended = perennial(path, &run_arguments(&["--once", OPTION[0], OPTION[1]]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let set_mode = |mode| fs::set_permissions(path.join("mesh"), Permissions::from_mode(mode)).unwrap();
    set_mode(0o555);
    let shown = as_nobody(path, &["status", "--cert-dir", "worker/pki", OPTION[0], OPTION[1]]);
    let verified = as_nobody(path, &["verify", "--cert-dir", "worker/pki", OPTION[0], OPTION[1]]);
    set_mode(0o755);
    assert!(shown.code == Some(0) && shown.stdout.contains("state       good: written"), "{shown:?}");
    assert!(verified.code == Some(1) && verified.stdout.contains("could not write the file"), "{verified:?}");
}

#[test]
fn file_removed_by_another_program_is_written_again_and_reported() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    let pem = new_ca();
    signer.put_trust_bundle(BUNDLE, MESH, &pem);
    signer.put_trust_bundle("company", "", &new_ca());
    let mut run = start_run(path, &["--trust-bundle", "name=company,path=company.pem"]);
    run.event("trust_bundle", 2);
    assert!(!run.stderr().contains("another program"), "{}", run.stderr());
    fs::remove_file(path.join("mesh/ca.pem")).unwrap();
    // All files are compared when one of them has to change.
    signer.put_trust_bundle("company", "", &new_ca());
    let why = "mesh/ca.pem: another program has removed or changed the file; wrote it again";
    until("the report", || run.stderr().contains(why).then_some(()));
    assert_eq!(written(path), Some(blocks(&roots(&pem))));
    run.event("trust_bundle", 3);
    assert_eq!(run.events("trust_bundle").len(), 3, "the CA certificates are the same");
    stop(run);
}
