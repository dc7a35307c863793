//! The `perennial-dev` command: shows rotation at work, and serves an API for development.

#![forbid(unsafe_code)]

mod cli;
mod demo;
mod failure;
mod report;
mod signals;
mod signer;
mod state_dir;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use perennial::Escaped;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    match start_logging(&command).and_then(|()| run_command(&command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            let lines: Vec<String> = text.lines().map(|line| Escaped(line).to_string()).collect();
            // Without a reader the exit code has to say it alone.
            let _ = writeln!(io::stderr(), "perennial-dev: {}", lines.join("\n"));
            failure.exit_code()
        }
    }
}

fn run_command(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Demo(options) => demo::demo(options),
        Command::Signer(options) => signer::signer(options),
    }
}

fn start_logging(command: &Command) -> Result<(), Failure> {
    const VARIABLE: &str = "PERENNIAL_LOG";
    // The demo reports on stdout; the signer's log is part of its report.
    let level = match command {
        Command::Demo(_) => "warn",
        Command::Signer(_) => "info",
    };
    let filter = std::env::var(VARIABLE).ok().filter(|filter| !filter.is_empty());
    let filter: Targets =
        filter.as_deref().unwrap_or(level).parse().map_err(|error| Failure::Usage(format!("{VARIABLE}: {error}")))?;
    // An error about a broken stderr, written to stderr, would be a panic.
    let subscriber = tracing_subscriber::fmt().log_internal_errors(false).with_max_level(LevelFilter::TRACE);
    subscriber.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).finish().with(filter).init();
    Ok(())
}
