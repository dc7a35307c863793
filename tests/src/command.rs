//! Runs commands as people and scripts do: each command is a process that writes its output to files. Reads events from
//! the output, and lists the files that a command leaves.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The longest that a test waits for a command: enough on a busy machine.
pub const BOUND: Duration = Duration::from_secs(60);

/// Calls `poll` every 5 ms until it returns a value, and returns that value.
///
/// # Panics
/// `poll` returned nothing within [`BOUND`]; `what` names the missing thing.
pub fn until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < end, "no {what} within {BOUND:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running command. Dropping it kills the process.
pub struct Process {
    child: Child,
    output: TempDir,
}

/// The exit code and output of a process that has ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` if a signal killed the process.
    pub code: Option<i32>,
    /// The text that the process wrote to stdout.
    pub stdout: String,
    /// The text that the process wrote to stderr.
    pub stderr: String,
}

impl Process {
    /// Starts `command` in `directory`, without input. The process inherits no proxy variables from the environment of
    /// the test. Proxy variables that `command` itself sets stay.
    pub fn spawn(directory: &Path, mut command: Command) -> Self {
        let output = TempDir::new().expect("a temporary directory");
        let file = |name| Stdio::from(File::create(output.path().join(name)).expect("a new file"));
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
            // A test of proxies sets its own.
            if command.get_envs().all(|(set, _)| set != name) {
                command.env_remove(name);
            }
        }
        let command = command.current_dir(directory).stdin(Stdio::null());
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().expect("the command starts");
        Self { child, output }
    }

    /// Stdout so far.
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Stderr so far.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.output.path().join(name)).expect("UTF-8 in a file of ours")
    }

    /// The events of this name that the process has reported so far, as JSON on stdout.
    pub fn events(&self, name: &str) -> Vec<Value> {
        events(&self.stdout()).into_iter().filter(|event| event["event"] == name).collect()
    }

    /// Waits for the `count`th event of this name, counted from 1.
    ///
    /// # Panics
    /// The process ended without that event, or the event did not come within [`BOUND`].
    pub fn event(&mut self, name: &str, count: usize) -> Value {
        until(&format!("{name} event {count}"), || {
            // Check for the end before reading events: the last event may come just before the end.
            let ended = self.child.try_wait().expect("a child of ours");
            let found = self.events(name).into_iter().nth(count - 1);
            assert!(found.is_some() || ended.is_none(), "ended before: {}{}", self.stdout(), self.stderr());
            found
        })
    }

    /// Waits until stderr contains `words`. Threads of their own write the log and the events of `perennial run`, so
    /// that a line of the log may come after an event that it precedes.
    ///
    /// # Panics
    /// Stderr did not contain the words within [`BOUND`].
    pub fn logged(&self, words: &str) {
        until(&format!("{words:?} on stderr"), || self.stderr().contains(words).then_some(()));
    }

    /// The process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends this signal to the process.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process can be signalled");
    }

    /// True once the process has ended. Reads only the state in `/proc`: the ended process stays for [`end`](Self::end)
    /// to reap.
    pub fn has_ended(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        state.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
    }

    /// Waits until the process ends, and returns its exit code and output.
    ///
    /// # Panics
    /// The process did not end within [`BOUND`].
    pub fn end(mut self) -> Output {
        let status = until("end of the process", || self.child.try_wait().expect("a child of ours"));
        Output { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    /// Checks that the command refused its input: exit code 2, each of `words` on stderr, and no panic. A failed check
    /// shows `what`, the arguments of the command.
    ///
    /// # Panics
    /// One of these checks fails.
    pub fn expect_refusal(&self, what: &[&str], words: &[&str]) {
        assert_eq!(self.code, Some(2), "{what:?}: {self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{what:?}: no {word:?} in: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Waits for the `count`th event of this name about the certificate `of`, counted from 1.
///
/// # Panics
/// The process ended, or the event did not come within [`BOUND`].
pub fn event_of(run: &Process, of: &str, name: &str, count: usize) -> Value {
    until(&format!("{name} event {count} of {of}"), || {
        assert!(!run.has_ended(), "{}{}", run.stdout(), run.stderr());
        run.events(name).into_iter().filter(|event| event["of"] == of).nth(count - 1)
    })
}

/// Ends a process by SIGTERM, as systemd does. Returns its output.
///
/// # Panics
/// The process ended with an error, or did not end within [`BOUND`].
pub fn stop(run: Process) -> Output {
    run.signal(Signal::TERM);
    let output = run.end();
    assert_eq!(output.code, Some(0), "{output:?}");
    output
}

/// Copies a program by another process. A process that is being started for another test could inherit our descriptor,
/// open for writing, and running the copy would fail with ETXTBSY.
///
/// # Panics
/// The program cannot be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status().expect("cp starts");
    assert!(copied.success(), "{} is not copied: {copied}", from.display());
}

/// The permission bits of a file.
///
/// # Panics
/// There is no such file.
pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

/// Sets the permission bits of a file.
///
/// # Panics
/// There is no such file, or it belongs to another user.
pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a file of ours");
}

/// The complete lines of `stdout`, each decoded from JSON. A last line without a line break is left out.
///
/// # Panics
/// A complete line is not JSON.
pub fn events(stdout: &str) -> Vec<Value> {
    let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

/// Every entry below a directory, by path: files with their contents, links with their targets, other entries without
/// contents. Omits lock files, since each names the process that held the lock last. Omits files that a running process
/// removes before they are read.
pub fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let Some(metadata) = unless_removed(fs::symlink_metadata(&path)) else { continue };
        let contents = if metadata.is_symlink() {
            let Some(target) = unless_removed(fs::read_link(&path)) else { continue };
            target.into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            let Some(contents) = unless_removed(fs::read(&path)) else { continue };
            contents
        } else {
            // Reading a pipe would wait for a writer.
            Vec::new()
        };
        if metadata.is_dir() {
            found.append(&mut files(&path));
        }
        if path.extension().is_none_or(|extension| extension != "lock") {
            found.insert(path, contents);
        }
    }
    found
}

/// The result of reading an entry; `None` if the entry no longer exists.
fn unless_removed<T>(read: io::Result<T>) -> Option<T> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.expect("an entry that can be read")),
    }
}
