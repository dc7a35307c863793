//! Runs the command `perennial-dev`.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::path::Path;
use std::process::Command;

use perennial_tests::command::{Output, Process};

pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_perennial-dev"))
}

/// Starts the command, which logs everything.
pub fn start(directory: &Path, arguments: &[&str]) -> Process {
    let mut command = command();
    command.args(arguments).env("PERENNIAL_LOG", "trace");
    Process::spawn(directory, command)
}

/// Runs the command to its end.
pub fn perennial_dev(directory: &Path, arguments: &[&str]) -> Output {
    start(directory, arguments).end()
}
