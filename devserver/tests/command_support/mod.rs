//! Runs the command `perennial-dev`.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Waits until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "no {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_perennial-dev"))
}

/// A running command, its output in files. Killed on drop.
pub struct Process {
    child: Child,
    output: TempDir,
}

#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        let output = TempDir::new().unwrap();
        let file = |name| Stdio::from(File::create(output.path().join(name)).unwrap());
        let mut command = command();
        command.current_dir(directory).args(arguments).stdin(Stdio::null()).env("PERENNIAL_LOG", "trace");
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Self { child, output }
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.output.path().join("stdout")).unwrap()
    }

    /// Waits for the first event of this name.
    pub fn event(&self, name: &str) -> Value {
        until(name, || events(&self.stdout()).into_iter().find(|event| event["event"] == name))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    pub fn end(mut self) -> Output {
        let status = until("end of the process", || self.child.try_wait().unwrap());
        let stderr = fs::read_to_string(self.output.path().join("stderr")).unwrap();
        Output { code: status.code(), stdout: self.stdout(), stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the command to its end.
pub fn perennial_dev(directory: &Path, arguments: &[&str]) -> Output {
    Process::start(directory, arguments).end()
}

pub fn events(stdout: &str) -> Vec<Value> {
    // The last line may be half written.
    let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

/// Every file below, with its contents; links with their targets.
pub fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.append(&mut files(&path));
        }
        let contents = match path.read_link() {
            Ok(target) => target.into_os_string().into_encoded_bytes(),
            Err(_) => fs::read(&path).unwrap_or_default(),
        };
        // A lock's file says which process held it last.
        if path.extension().is_none_or(|extension| extension != "lock") {
            found.insert(path, contents);
        }
    }
    found
}
