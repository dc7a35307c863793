//! The command of `--on-rotated`: `run` repeats the command for the newest certificate until one run of the command
//! succeeds within its time limit.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::{COMMAND, Output, Process, Signer, get, perennial, run_arguments, start, until};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

fn once(directory: &Path, hook: &str) -> Output {
    perennial(directory, &run_arguments(&["--once", "--json", "--on-rotated", hook]))
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn status(directory: &Path) -> Value {
    let status = perennial(directory, &["status", "--cert-dir", "worker/pki", "--json"]);
    serde_json::from_str::<Value>(&status.stdout).unwrap_or_else(|_| panic!("{status:?}"))
}

/// From the field, a failed hook that is never run again: <https://github.com/acmesh-official/acme.sh/issues/3388>
#[test]
fn failed_hook_is_owed_until_it_succeeds() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    for attempt in 1..=2 {
        let failed = once(directory, "echo failed >> runs; exit 7");
        assert_eq!(failed.code, Some(1), "{failed:?}");
        assert!(failed.stderr.contains("--on-rotated failed: exit status: 7"), "{failed:?}");
        let hook = &status(directory)["hook"];
        assert_eq!((&hook["owed"], &hook["attempts"]), (&true.into(), &attempt.into()), "{hook}");
    }
    let text = perennial(directory, &["status", "--cert-dir", "worker/pki"]).stdout;
    assert!(text.contains("owed: --on-rotated failed: exit status: 7; failed attempts: 2"), "{text}");
    for _ in 0..2 {
        // The second start finds no debt.
        let done = once(directory, "echo done >> runs");
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_eq!(status(directory)["hook"]["owed"], false);
    }
    assert_eq!(lines(&directory.join("runs")), ["failed", "failed", "done"]);
}

/// From the field, a hook that is lost when the process is killed: <https://github.com/certbot/certbot/issues/5034>
#[test]
fn hook_of_killed_run_runs_at_next_start() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let _signer = Signer::start(directory, &[]);
        let more = ["--json", "--runtime", runtime, "--on-rotated", "echo $PERENNIAL_SERIAL >> begun; sleep 2"];
        let mut run = start(directory, &run_arguments(&more));
        let issued = run.event("issued", 1);
        until("run of the hook", || directory.join("begun").exists().then_some(()));
        run.signal(Signal::KILL);
        run.end();
        assert_eq!(status(directory)["hook"]["owed"], true);

        let again = once(directory, "echo $PERENNIAL_SERIAL $PERENNIAL_CERTIFICATE $PERENNIAL_FILE > done");
        assert_eq!(again.code, Some(0), "{again:?}");
        let file = directory.join("worker/pki/kubelet-client-current.pem");
        let expected = format!("{} kubelet-client {}", issued["serial"].as_str().unwrap(), file.display());
        assert_eq!(lines(&directory.join("done")), [expected]);
    }
}

#[test]
fn hook_runs_again_if_its_record_is_damaged_or_untrusted() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    assert_eq!(once(directory, "echo done >> runs").code, Some(0));
    let record = directory.join("worker/pki/kubelet-client-hook.json");
    let cut: fn(&Path) = |record| fs::write(record, "{\"version\"").unwrap();
    let open: fn(&Path) = |record| fs::set_permissions(record, Permissions::from_mode(0o666)).unwrap();
    for (count, damage) in [(2, cut), (3, open)] {
        damage(&record);
        for _ in 0..2 {
            let done = once(directory, "echo done >> runs");
            assert_eq!(done.code, Some(0), "{done:?}");
            assert_eq!(lines(&directory.join("runs")).len(), count, "{done:?}");
        }
    }
}

#[test]
fn hook_does_not_run_for_pair_older_than_its_flag() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let first = perennial(directory, &run_arguments(&["--once"]));
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(!directory.join("worker/pki/kubelet-client-hook.json").exists());
    assert_eq!(once(directory, "touch ran").code, Some(0));
    assert!(!directory.join("ran").exists());

    // Without the flag there is no debt, and without rotation no record.
    assert_eq!(perennial(directory, &run_arguments(&["--once"])).code, Some(0));
    assert!(!directory.join("worker/pki/kubelet-client-hook.json").exists());
    let off = run_arguments(&["--json", "--rotate-certificates=false", "--on-rotated", "touch ran"]);
    let mut run = start(directory, &off);
    run.event("disabled", 1);
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));
    assert!(!directory.join("worker/pki/kubelet-client-hook.json").exists());
}

#[test]
fn hanging_hook_is_killed_with_its_process_group_and_retried() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let hook = "test -e ready && exit 0
        grep -h -e SigIgn -e SigBlk /proc/self/status > signals
        sleep 1000 & echo $! > child; wait";
    let more = ["--json", "--metrics-listen", "127.0.0.1:0", "--on-rotated", hook, "--on-rotated-timeout", "500ms"];
    // Starts `perennial` with three signals ignored, as a shell ignores SIGQUIT for a command with `&`.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' QUIT CHLD USR2; exec \"$@\"", "sh", COMMAND]).args(run_arguments(&more));
    let mut run = Process::spawn(directory, command);
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    let metric = |name: &str| {
        let page = get(&address, "/metrics");
        let line = page.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {name} in {page}"))
    };
    until("failure", || (!metric("perennial_hook_failures_total").ends_with(" 0")).then_some(()));
    run.logged("--on-rotated did not end within 0.5 s and was killed");
    assert!(metric("perennial_hook_owed").ends_with(" 1"));
    // A run that was killed too early has no child yet; the next one follows after ten seconds.
    let child = &until("child", || lines(&directory.join("child")).into_iter().next());
    until("end of the child", || {
        let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // A zombie has ended.
        (state.is_empty() || state.contains(" Z ")).then_some(())
    });
    let signals = until("signals", || Some(lines(&directory.join("signals"))).filter(|lines| lines.len() == 2));
    // Standard signals only: the C library uses higher numbers itself.
    let standard =
        |line: &String| u64::from_str_radix(line.split_once('\t')?.1, 16).ok().map(|mask| mask & 0x7fff_ffff);
    assert_eq!(signals.iter().map(standard).collect::<Vec<_>>(), [Some(0), Some(0)], "{signals:?}");

    fs::write(directory.join("ready"), "").unwrap();
    until("payment", || metric("perennial_hook_owed").ends_with(" 0").then_some(()));
    assert!(get(&address, "/state").contains("\"hook\":{\"kubelet-client\":{\"attempts\":0"));
}
