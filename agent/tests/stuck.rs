//! Readers, hooks, servers, name servers and disks that do not answer: rotation continues, and a signal ends the
//! process.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::preload::library;
use crate::support::{Signer, get, run_arguments, until};
use perennial_tests::address;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest time from a signal to the end of `perennial run`, as `perennial run --help` documents.
const END: Duration = Duration::from_secs(10);
/// Time beyond [`END`] that a busy machine may take.
const SLACK: Duration = Duration::from_secs(10);

/// A `perennial` process, killed on drop. Its stdout and stderr are files unless the test sets other ones.
struct Run(Child);

impl Run {
    fn start(directory: &Path, arguments: &[&str], set: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
        command.args(arguments).current_dir(directory).env("PERENNIAL_LOG", "info");
        let file = |name| Stdio::from(File::create(directory.join(name)).unwrap());
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        set(&mut command);
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Sends the signal, and waits until the process ends. Returns the exit code, and the time from the signal to the
    /// end.
    fn end_by(mut self, signal: Signal) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        self.signal(signal);
        let status = until("end of the process", || self.0.try_wait().unwrap());
        (status.code(), begun.elapsed())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // An error means that the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Creates a pipe that is full and is not read, so that the next write blocks.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'\n'; 512]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// The dated file that `kubelet-client-current.pem` links to; `None` if there is no such link.
fn current(directory: &Path) -> Option<PathBuf> {
    fs::read_link(directory.join("worker/pki/kubelet-client-current.pem")).ok()
}

/// Runs `scenario` on both runtimes in parallel, since a scenario mostly waits.
fn on_both(scenario: impl Fn(&'static str) + Sync) {
    thread::scope(|scope| {
        for runtime in ["std", "smol"] {
            scope.spawn(|| scenario(runtime));
        }
    });
}

#[test]
fn rotation_continues_while_stderr_is_not_read() {
    on_both(|runtime| keeps_rotating(runtime, |command, pipe| command.stderr(pipe).env("PERENNIAL_LOG", "trace")));
}

#[test]
fn rotation_continues_while_stdout_is_not_read() {
    on_both(|runtime| keeps_rotating(runtime, |command, pipe| command.stdout(pipe)));
}

fn keeps_rotating(runtime: &str, stick: impl FnOnce(&mut Command, PipeWriter) -> &mut Command) {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--signing-duration", "6s"]);
    let (_reader, writer) = full_pipe();
    let address = address::unused().to_string();
    let more = ["--json", "--runtime", runtime, "--metrics-listen", &address, "--rotation-window", "30%-50%"];
    let run = Run::start(directory, &run_arguments(&more), |command| stick(command, writer));
    let mut seen = None;
    for _ in 0..3 {
        until("rotation", || (current(directory) != seen).then_some(()));
        seen = current(directory);
        assert!(get(&address, "/healthz").contains(" 200 OK"), "{runtime}");
    }
    assert!(get(&address, "/readyz").contains(" 200 OK"), "{runtime}");
    let (code, took) = run.end_by(Signal::TERM);
    assert_eq!(code, Some(0), "{runtime}");
    assert!(took < END, "{runtime}: {took:?}");
}

#[test]
fn run_once_fails_if_its_output_is_not_read() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    for (more, takes_result) in [(["--once", "--json"], false), (["--once", "--log-format=text"], true)] {
        let (_reader, writer) = full_pipe();
        let mut run = Run::start(directory, &run_arguments(&more), |command| command.stdout(writer));
        let status = until("end of the process", || run.0.try_wait().unwrap());
        // Without --json, nothing is written to stdout.
        assert_eq!(status.success(), takes_result, "{more:?} {status}");
        assert!(current(directory).is_some());
    }
    let (_reader, writer) = full_pipe();
    let mut run = Run::start(directory, &run_arguments(&["--once"]), |command| command.stderr(writer));
    assert_eq!(until("end of the process", || run.0.try_wait().unwrap()).code(), Some(1));
}

/// The part that hangs: the reader of stderr or stdout, the hook, the API server, the name server or the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hang {
    Log,
    Report,
    Hook,
    Server,
    Dns,
    DiskAtStart,
    Disk,
}

#[test]
fn signal_ends_process_whatever_hangs() {
    let hangs = [Hang::Log, Hang::Report, Hang::Hook, Hang::Server, Hang::Dns, Hang::DiskAtStart, Hang::Disk];
    let signals = [Signal::TERM, Signal::INT];
    thread::scope(|scope| {
        for (hang, signal) in hangs.into_iter().flat_map(|hang| signals.map(|signal| (hang, signal))) {
            for runtime in ["std", "smol"] {
                scope.spawn(move || ends(hang, signal, runtime));
            }
        }
    });
}

fn ends(hang: Hang, signal: Signal, runtime: &str) {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &[]);
    let (_reader, writer) = full_pipe();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = |server: String| {
        let path = directory.join("signer/bootstrap.kubeconfig");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&signer.server));
        fs::write(path, text.replace(&signer.server, &server)).unwrap();
    };
    let mut more = vec!["--json", "--runtime", runtime];
    match hang {
        Hang::Hook => more.extend(["--on-rotated", "echo > hook; trap '' TERM INT; while :; do sleep 1; done"]),
        Hang::Server => elsewhere(format!("https://{}", silent.local_addr().unwrap())),
        Hang::Dns => elsewhere("https://server.test:6443".into()),
        Hang::Log | Hang::Report | Hang::DiskAtStart | Hang::Disk => {}
    }
    let run = Run::start(directory, &run_arguments(&more), |command| match hang {
        Hang::Log => command.stderr(writer),
        Hang::Report => command.stdout(writer),
        Hang::Dns => command.env("LD_PRELOAD", library()).env("HANG_LOOKUP", "1"),
        Hang::DiskAtStart => command.env("LD_PRELOAD", library()).env("HANG_WRITE", "/pki/"),
        Hang::Disk => command.env("LD_PRELOAD", library()).env("HANG_WRITE", "/pki/kubelet-client-2"),
        Hang::Hook | Hang::Server => command,
    });
    let log_contains = |words: &str| fs::read_to_string(directory.join("stderr")).unwrap().contains(words);
    match hang {
        Hang::Log | Hang::Report => until("certificate", || current(directory).map(drop)),
        Hang::Hook => until("hook", || directory.join("hook").exists().then_some(())),
        Hang::Server => until("connection", || silent.accept().ok().map(drop)),
        Hang::Dns | Hang::DiskAtStart | Hang::Disk => until("hanging call", || log_contains("hanging").then_some(())),
    }
    let (code, took) = run.end_by(signal);
    assert!(took < END + SLACK, "{hang:?} {signal:?} {runtime}: {took:?}");
    let expected = match hang {
        // A forced end: a certificate in memory only may be lost.
        Hang::DiskAtStart | Hang::Disk => Some(1),
        _ => Some(0),
    };
    let log = fs::read_to_string(directory.join("stderr")).unwrap();
    assert_eq!(code, expected, "{hang:?} {signal:?} {runtime}: {log}");
    assert_eq!(expected == Some(1), log_contains("not stopped 10s after the signal"), "{log}");
}

#[test]
fn process_suspended_beyond_expiry_rotates_when_continued() {
    on_both(|runtime| {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let _signer = Signer::start(directory, &["--signing-duration", "6s"]);
        let address = address::unused().to_string();
        let more = ["--json", "--runtime", runtime, "--metrics-listen", &address];
        let run = Run::start(directory, &run_arguments(&more), |command| command);
        let seen = until("certificate", || current(directory));
        until("metrics", || TcpStream::connect(&address).ok());
        run.signal(Signal::STOP);
        // Longer than the certificate's lifetime.
        thread::sleep(Duration::from_secs(7));
        run.signal(Signal::CONT);
        assert!(get(&address, "/healthz").contains(" 200 OK"), "{runtime}");
        until("rotation", || (current(directory)? != seen).then_some(()));
        until("readiness", || get(&address, "/readyz").contains(" 200 OK").then_some(()));
        assert_eq!(run.end_by(Signal::TERM).0, Some(0), "{runtime}");
    });
}
