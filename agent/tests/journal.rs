//! `perennial run --journal` and `perennial replay`, also after kills, full disks, truncation and damage.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use crate::support::{Output, Signer, events, files, get, key_lines, perennial, run_arguments, start};
use crate::support::{steps_until_rest, stop, until};
use perennial_rotation::journal;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;
use tempfile::TempDir;

const JOURNAL: [&str; 3] = ["--json", "--journal", "journal"];

fn with_journal<'a>(more: &[&'a str]) -> Vec<&'a str> {
    run_arguments(&[JOURNAL.as_slice(), more].concat())
}

/// Replays these journals, and expects each step to be identical.
fn replayed(directory: &Path, journals: &[&str]) -> Output {
    let output = perennial(directory, &[["replay"].as_slice(), journals].concat());
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(
        output.stdout.contains(" identical, 0 different\n") && output.stdout.contains("\ndamaged lines: 0"),
        "{output:?}"
    );
    output
}

/// Runs `perennial run --once` with a journal. Returns the journal's text.
fn first_certificate(directory: &Path) -> String {
    let output = perennial(directory, &with_journal(&["--once"]));
    assert_eq!(output.code, Some(0), "{output:?}");
    fs::read_to_string(directory.join("journal")).unwrap()
}

#[test]
fn replay_prints_recorded_run_as_text_and_json() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let faults = "rules: [{ match: { method: POST }, times: 1, fault: { answer: { status: 503, retryAfter: 1 } } }]";
    fs::write(path.join("faults.yaml"), faults).unwrap();
    let _signer = Signer::start(path, &["--signing-duration", "4s", "--faults", "faults.yaml"]);
    let mut run = start(path, &with_journal(&["--runtime", "smol"]));
    run.event("rotated", 1);
    stop(run);
    assert_eq!(fs::metadata(path.join("journal")).unwrap().permissions().mode() & 0o777, 0o600);

    let story = replayed(path, &["journal"]).stdout;
    for words in [
        "Z  kubelet-client: the journal begins | next attempt at once\n",
        "Z  clock check -> submits request #1 with a new key for CN=system:node:worker,O=system:nodes, because \
         there is no certificate yet | request #1 in flight, times out in ",
        "-> serves and writes certificate ",
        "is on disk | next rotation in ",
        ", because the current certificate has passed its rotation point",
        " steps of kubelet-client: ",
    ] {
        assert!(story.contains(words), "no {words:?} in:\n{story}");
    }
    assert!(!story.contains("SetTimer"), "{story}");

    let output = perennial(path, &["replay", "--json", "--all", "journal"]);
    let mut events = events(&output.stdout);
    let summary = events.pop().unwrap();
    let steps = events.iter().filter(|event| event["event"] == "step").count();
    assert_eq!((&summary["event"], &summary["steps"]), (&"summary".into(), &steps.into()));
    assert!(summary["issued"].as_u64() >= Some(2), "{summary}");
    let lines = fs::read_to_string(path.join("journal")).unwrap().lines().count();
    assert_eq!(events.last().unwrap()["place"], format!("journal:{lines}"));

    let piped = Command::new(env!("CARGO_BIN_EXE_perennial"))
        .args(["replay", "-"])
        .stdin(File::open(path.join("journal")).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), story);
}

#[test]
fn journal_at_its_limit_is_renamed_to_dot_1_and_both_files_replay() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &["--signing-duration", "2s"]);
    let run = start(path, &with_journal(&["--journal-limit", "4KiB"]));
    let aside = path.join("journal.1");
    let inode = until("full journal", || fs::metadata(&aside).ok()).ino();
    until("second full journal", || (fs::metadata(&aside).ok()?.ino() != inode).then_some(()));
    stop(run);
    for file in ["journal", "journal.1"] {
        let metadata = fs::metadata(path.join(file)).unwrap();
        assert!(metadata.len() <= 4096 && metadata.permissions().mode() & 0o777 == 0o600, "{metadata:?}");
        replayed(path, &[file]);
    }
    // No snapshot is reported for the second file, since it begins where the first one ends.
    let both = replayed(path, &["journal.1", "journal"]).stdout;
    assert_eq!(both.matches("the journal begins").count(), 1, "{both}");
}

#[test]
fn journal_of_killed_run_is_continued_by_next_run() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        let _signer = Signer::start(path, &["--signing-duration", "4s"]);
        for _ in 0..2 {
            let mut run = start(path, &with_journal(&["--runtime", runtime]));
            run.event("rotated", 1);
            run.signal(Signal::KILL);
            run.end();
            // As if the kill had come while a line was being written.
            let file = OpenOptions::new().write(true).open(path.join("journal")).unwrap();
            file.set_len(file.metadata().unwrap().len() - 20).unwrap();
        }
        // A cut last line is no damage.
        replayed(path, &["journal"]);
        let mut run = start(path, &with_journal(&["--runtime", runtime]));
        run.event("resting", 1);
        stop(run);
        let story = replayed(path, &["journal"]).stdout;
        assert_eq!(story.matches("CUT SHORT, journal:").count(), 2, "{story}");
        assert!(story.contains("cut short: 2\n"), "{story}");
    }
}

/// The dated file that `kubelet-client-current.pem` links to; `None` if there is no such link.
fn current(path: &Path) -> Option<std::path::PathBuf> {
    fs::read_link(path.join("worker/pki/kubelet-client-current.pem")).ok()
}

#[test]
fn journal_on_full_disk_does_not_delay_rotation() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &["--signing-duration", "3s"]);
    // Longer than any other file of the process, which the size limit must not affect.
    let before = first_certificate(path).repeat(50);
    fs::write(path.join("journal"), &before).unwrap();
    let mut run = start(path, &with_journal(&[]));
    let process = Pid::from_raw(run.id().try_into().unwrap());
    let length = || fs::metadata(path.join("journal")).unwrap().len();
    until("step", || (length() > before.len() as u64).then_some(()));

    // The limit lies within the next line. At rest, no line is written meanwhile.
    run.event("resting", 1);
    steps_until_rest(&path.join("journal"), "kubelet-client");
    let limit = |current| prlimit(process, Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
    limit(Some(length() + 50));
    let mut seen = current(path);
    for _ in 0..2 {
        until("rotation without a journal", || (current(path) != seen).then_some(()));
        seen = current(path);
    }
    limit(None);
    until("line", || run.stderr().contains("can be written again; it lacks ").then_some(()));
    let written = length();
    until("more lines", || (length() > written).then_some(()));
    let output = stop(run);
    assert_eq!(output.stderr.matches("steps are lost until").count(), 1, "{}", output.stderr);
    let story = replayed(path, &["journal"]).stdout;
    assert!(story.contains("cut short: 1, steps missing: "), "{story}");
}

#[test]
fn run_begins_new_journal_if_its_file_is_moved_or_truncated() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &["--signing-duration", "2s"]);
    let run = start(path, &with_journal(&[]));
    let journal = path.join("journal");
    let filled = || (fs::metadata(&journal).ok()?.len() > 0).then_some(());
    until("journal", filled);
    fs::rename(&journal, path.join("kept")).unwrap();
    until("journal in its place", filled);
    replayed(path, &["kept"]);
    File::create(&journal).unwrap();
    until("journal after it was emptied", filled);
    stop(run);
    replayed(path, &["journal"]);
}

#[test]
fn unwritable_journal_does_not_prevent_start() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &["--signing-duration", "2s"]);
    let run = start(path, &with_journal(&[]));
    until("journal", || path.join("journal").exists().then_some(()));
    assert!(Command::new("mkfifo").arg(path.join("fifo")).status().unwrap().success());
    for (number, (journal, words)) in [
        ("journal", "another process is writing it"),
        (".", "Is a directory"),
        ("/dev/null", "not a regular file"),
        ("fifo", "not a regular file"),
        ("nowhere/journal", "No such file"),
    ]
    .into_iter()
    .enumerate()
    {
        let (pki, kubeconfig) = (format!("other-{number}"), format!("other-{number}.kubeconfig"));
        let other = ["run", "--once", "--node-name", "other", "--cert-dir", &pki, "--kubeconfig", &kubeconfig];
        let more = ["--bootstrap-kubeconfig", "signer/bootstrap.kubeconfig", "--journal", journal];
        let output = perennial(path, &[other.as_slice(), &more].concat());
        assert_eq!(output.code, Some(0), "{output:?}");
        let warning = output.stderr.lines().find(|line| line.contains("steps are lost until"));
        assert!(warning.is_some_and(|line| line.contains(words)), "{journal}: {output:?}");
        assert!(path.join(pki).join("kubelet-client-current.pem").exists());
    }
    let small = ["run", "--cert-dir", "other", "--kubeconfig", "other", "--journal", "j", "--journal-limit", "1KiB"];
    let small = perennial(path, &small);
    assert!(small.code == Some(2) && small.stderr.contains("4KiB at least"), "{small:?}");
    stop(run);
}

/// Faults of the server. Each makes `run` report an error about a request that has a credential, which must not appear
/// in the report.
const FAULTS: &str = "
rules:
- { match: { method: POST }, times: 1, fault: { answer: { status: 401 } } }
- { match: { method: POST }, times: 1, fault: { answer: { status: 503, body: html } } }
- { match: { method: GET }, times: 1, fault: { events: unreadable } }
";

#[test]
fn secrets_are_in_neither_journal_nor_replay_nor_metrics() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("faults.yaml"), FAULTS).unwrap();
    let _signer = Signer::start(path, &["--faults", "faults.yaml"]);
    let mut run = start(path, &with_journal(&["--metrics-listen", "127.0.0.1:0"]));
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    run.event("trouble", 1);
    let pages = ["/metrics", "/state", "/readyz"].map(|path| get(&address, path));
    run.event("issued", 1);
    stop(run);
    let token = fs::read_to_string(path.join("signer/bootstrap.token")).unwrap();
    let keys = key_lines(&files(&path.join("worker/pki")));
    let journal = fs::read_to_string(path.join("journal")).unwrap();
    assert!(journal.contains("csrFailed"), "nothing went wrong: {journal}");
    let story = perennial(path, &["replay", "--json", "--all", "journal"]).stdout;

    let mut secrets = vec![token.split_once('.').unwrap().1.to_owned()];
    secrets.extend(keys);
    assert!(secrets.len() > 2, "{}", secrets.len());
    for secret in secrets {
        assert!(![&journal, &story, &pages.concat()].iter().any(|text| text.contains(&secret)), "a secret was found");
    }
}

/// Applies `change` to the line with the number `line` of a journal, counted from 1.
fn changed(text: &str, line: usize, change: impl Fn(&str) -> String) -> String {
    let line = |(number, text)| if number + 1 == line { change(text) } else { format!("{text}\n") };
    text.lines().enumerate().map(line).collect()
}

#[test]
fn replay_names_each_changed_or_damaged_line() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let text = first_certificate(path);
    let replay = |text: String| {
        fs::write(path.join("changed"), text).unwrap();
        perennial(path, &["replay", "changed"])
    };

    let output = replay(changed(&text, 2, |line| line.replace("new key", "pending key") + "\n"));
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stdout.contains("DIFFERS, changed:2: Tick: the journal has SubmitCsr #1 pending key"), "{output:?}");
    assert!(output.stderr.contains("different: changed:2"), "{output:?}");

    // A cut line is damage if no snapshot follows.
    let output = replay(changed(&text, 2, |line| line[..40].to_owned() + "\n"));
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stdout.contains("DAMAGED, changed:2: the line is cut short"), "{output:?}");
    for damage in ["\u{0}\u{1}garbage", "{\"step\":7}", &"x".repeat(3 << 20)] {
        let output = replay(text.clone() + damage + "\n");
        assert_eq!(output.code, Some(1), "{output:?}");
        let last = text.lines().count() + 1;
        assert!(output.stderr.contains(&format!("could not be replayed: changed:{last}")), "{output:?}");
    }
    // Zeros, as a power cut may leave at the end of a file.
    let output = replay(text.clone() + &"\u{0}".repeat(300) + "\n" + &text);
    assert_eq!(output.code, Some(0), "{output:?}");
}

#[test]
fn replay_of_unusable_journal_exits_with_code_2() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let text = first_certificate(path);
    fs::write(path.join("headless"), changed(&text, 1, |_| String::new())).unwrap();
    fs::write(path.join("newer"), text.replace("\"version\":2", "\"version\":3")).unwrap();
    File::create(path.join("notes")).unwrap().write_all(b"milk\neggs\n").unwrap();
    for (file, words) in [
        ("missing", "missing: cannot be read"),
        (".", ".: cannot be read"),
        ("notes", "no line could be replayed"),
        ("headless", "or its beginning is missing"),
        ("newer", "newer:1: the journal has format version 3, and this perennial reads version 2"),
    ] {
        let output = perennial(path, &["replay", file]);
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains(words), "{file}: {output:?}");
    }
    assert!(perennial(path, &["replay", "headless"]).stdout.contains("the beginning of the journal is missing"));
    // A journal of another perennial version is replayed, and its version reported.
    let ours = format!("\"perennial\":\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&ours), "{text}");
    fs::write(path.join("older"), text.replace(&ours, "\"perennial\":\"0.0.9\"")).unwrap();
    let older = perennial(path, &["replay", "older"]);
    assert!(older.code == Some(0) && older.stdout.contains("written by perennial 0.0.9"), "{older:?}");
    fs::write(path.join("silent"), text.replace(&(ours + ","), "")).unwrap();
    assert_eq!(perennial(path, &["replay", "silent"]).code, Some(0));
    // The journal of a run that was stopped before its first step.
    File::create(path.join("empty")).unwrap();
    assert_eq!(perennial(path, &["replay", "empty"]).code, Some(0));
}

#[test]
fn replay_of_shared_journal_names_each_certificate() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let text = first_certificate(path);
    let of_both: String = text
        .lines()
        .flat_map(|line| [line.into(), line.replace("kubelet-client", "kubelet-server")])
        .map(|line: String| line + "\n")
        .collect();
    fs::write(path.join("both"), of_both).unwrap();
    let story = replayed(path, &["both"]).stdout;
    assert!(story.contains("Z  kubelet-server: ") && story.contains("of kubelet-client and kubelet-server"), "{story}");
    let output = perennial(path, &["replay", "--json", "both"]).stdout;
    let summary: Value = events(&output).pop().unwrap();
    assert_eq!(summary["machines"]["kubelet-client"], summary["machines"]["kubelet-server"]);
    // The library reads the same format.
    let mut replay = journal::Replay::new();
    assert!(text.lines().all(|line| replay.line(line).is_ok_and(|replayed| replayed.of == "kubelet-client")));
}

#[test]
fn journal_flag_leaves_file_that_is_no_journal_unchanged() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    first_certificate(path);
    fs::write(path.join("text"), "\n").unwrap();
    fs::write(path.join("binary"), [0; 3]).unwrap();
    for file in ["worker/pki/kubelet-client-current.pem", "worker/kubeconfig", "text", "binary"] {
        let before = fs::read(path.join(file)).unwrap();
        let mut run = start(path, &run_arguments(&["--json", "--rotate-certificates=false", "--journal", file]));
        run.logged("the file is not a journal and stays unchanged");
        // Before that, SIGTERM ends the process at once.
        run.event("started", 1);
        stop(run);
        assert!(fs::read(path.join(file)).unwrap() == before, "{file}");
    }
}

#[test]
fn journal_at_its_limit_leaves_dot_1_file_of_another_program_unchanged() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("journal.1"), "of another program\n").unwrap();
    let _signer = Signer::start(path, &["--signing-duration", "2s"]);
    let mut run = start(path, &with_journal(&["--journal-limit", "4KiB"]));
    until("warning", || run.stderr().contains("journal.1: the file there is not a journal").then_some(()));
    let rotated = run.events("rotated").len();
    run.event("rotated", rotated + 1);
    stop(run);
    assert_eq!(fs::read_to_string(path.join("journal.1")).unwrap(), "of another program\n");
    replayed(path, &["journal"]);
}
