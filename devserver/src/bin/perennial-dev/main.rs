//! The `perennial-dev` command: demonstrates and simulates rotation, and serves an API for development.

#![forbid(unsafe_code)]

mod cli;
mod demo;
mod fleet_options;
mod forecast;
mod report;
mod signer;
mod simulate;
mod state_dir;

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::Parser as _;
use perennial::Escaped;
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    match start_logging(&command).and_then(|()| run_command(&command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, reason }) => {
            let lines: Vec<String> = reason.lines().map(|line| Escaped(line).to_string()).collect();
            // Stderr may be closed: the exit code reports the failure then.
            let _ = writeln!(io::stderr(), "perennial-dev: {}", lines.join("\n"));
            ExitCode::from(code)
        }
    }
}

fn run_command(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Demo(options) => demo::demo(options),
        Command::Signer(options) => signer::signer(options),
        Command::Simulate(options) => simulate::simulate(options),
        Command::Forecast(options) => forecast::forecast(options),
    }
}

fn start_logging(command: &Command) -> Result<(), Failure> {
    const VARIABLE: &str = "PERENNIAL_LOG";
    // The other commands report on stdout; the signer's log is part of its report.
    let level = match command {
        Command::Demo(_) | Command::Simulate(_) | Command::Forecast(_) => "warn",
        Command::Signer(_) => "info",
    };
    let filter = std::env::var(VARIABLE).ok().filter(|filter| !filter.is_empty());
    let filter = filter.as_deref().unwrap_or(level).parse::<Targets>();
    let filter = filter.map_err(|error| Failure::usage(format!("{VARIABLE}: {error}")))?;
    // `tracing_subscriber` prints its own errors with `eprintln!`, which panics if stderr is broken.
    let subscriber = tracing_subscriber::fmt().log_internal_errors(false).with_max_level(LevelFilter::TRACE);
    subscriber.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).finish().with(filter).init();
    Ok(())
}

/// Failure of a command, with its exit code.
struct Failure {
    code: u8,
    reason: String,
}

impl Failure {
    /// Failure because of wrong arguments or input, or of a file that cannot be read or written (exit code 2).
    fn usage(reason: impl Display) -> Self {
        Self { code: 2, reason: reason.to_string() }
    }

    /// Failure while a command with valid arguments and input runs (exit code 1).
    fn failed(reason: impl Display) -> Self {
        Self { code: 1, reason: reason.to_string() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::failed(error)
    }
}

/// Starts a thread that calls `then` with each signal of `which` that arrives. A second SIGINT ends the process at
/// once.
fn on_signals(which: &[i32], then: impl FnMut(i32) + Send + 'static) -> Result<(), Failure> {
    let unable = |error| Failure::failed(format!("cannot set up signal handling: {error}; raise ulimit -n and -u"));
    let mut signals = Signals::new(which).map_err(unable)?;
    let interrupted = Arc::default();
    // In this order: the first SIGINT finds the flag unset, so that only a second one ends the process.
    flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, Arc::clone(&interrupted)).map_err(unable)?;
    flag::register(SIGINT, interrupted).map_err(unable)?;
    let thread = thread::Builder::new().name("signals".into());
    thread.spawn(move || signals.forever().for_each(then)).map_err(unable)?;
    Ok(())
}
