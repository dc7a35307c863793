//! The command that is run after each new certificate.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Runs a command of the operator's. It may take its time: rotation does not wait for it.
pub(super) struct Hook {
    command: Option<String>,
    running: Vec<JoinHandle<()>>,
}

impl Hook {
    pub(super) const fn new(command: Option<String>) -> Self {
        Self { command, running: Vec::new() }
    }

    /// Runs it, beside everything else. How it ends is logged.
    pub(super) fn run(&mut self, of: &str, file: &Path, serial: &str) {
        let Some(text) = &self.command else { return };
        let mut command = Command::new("sh");
        command.args(["-c", text]).env("PERENNIAL_CERTIFICATE", of).env("PERENNIAL_FILE", file);
        command.env("PERENNIAL_SERIAL", serial).stdin(Stdio::null());
        // What we say on stdout is for programs: what the command says is for people.
        command.stdout(io::stderr().as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from));
        let of = of.to_owned();
        let run = move || match command.status() {
            Ok(status) if status.success() => tracing::debug!("{of}: --on-rotated is done"),
            Ok(status) => tracing::warn!("{of}: --on-rotated failed: {status}"),
            Err(error) => tracing::warn!("{of}: --on-rotated could not be run: {error}"),
        };
        self.running.retain(|thread| !thread.is_finished());
        match thread::Builder::new().name("on-rotated".into()).spawn(run) {
            Ok(thread) => self.running.push(thread),
            Err(error) => tracing::warn!("--on-rotated could not be run: {error}"),
        }
    }

    /// Waits for what still runs, up to `most`: whoever ends us may end what is ours with us.
    pub(super) fn finish_within(&mut self, most: Duration) {
        let end = Instant::now() + most;
        while self.running.iter().any(|thread| !thread.is_finished()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for what still runs.
    pub(super) fn finish(&mut self) {
        for thread in self.running.drain(..) {
            // A panic has been told on stderr already.
            let _ = thread.join();
        }
    }
}
