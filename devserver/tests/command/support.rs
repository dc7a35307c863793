//! Helpers that run the command `perennial-dev`.

use std::path::Path;
use std::process::Command;

use perennial_tests::command::{Output, Process};

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_perennial-dev"))
}

/// Starts `perennial-dev` in `directory`, with its most verbose log.
pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Process {
    let mut command = command();
    command.args(arguments).env("PERENNIAL_LOG", "trace");
    Process::spawn(directory, command)
}

/// Runs `perennial-dev` in `directory` to its end.
pub(crate) fn perennial_dev(directory: &Path, arguments: &[&str]) -> Output {
    start(directory, arguments).end()
}
