//! The `perennial` command: keeps a Kubernetes node's client certificate rotated.

#![forbid(unsafe_code)]

mod cli;
mod demo;
mod embedded;
mod failure;
mod files;
mod journal;
mod kubeconfigs;
mod metrics;
mod observers;
mod remedies;
mod replay;
mod report;
mod rotation;
mod run;
mod signals;
mod signer;
mod sizes;
mod spans;
mod state_dir;
mod status;
mod verify;
mod whoami;

use std::alloc::System;
use std::env::VarError;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use zeroizing_alloc::ZeroAlloc;

use cli::{Cli, Command, LogFormat};
use failure::Failure;

/// Wipes whatever is freed: crypto, TLS, base64 and YAML libraries free copies of private keys and tokens as they are.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let Cli { command, log_format } = Cli::parse();
    // What a demo shows and a status says stands on stdout; a service has only its log.
    let level = match command {
        Command::Demo(_) | Command::Status(_) | Command::Verify(_) | Command::Replay(_) => "warn",
        Command::Run(_) | Command::Signer(_) => "info",
    };
    let done = start_logging(level, log_format).and_then(|()| match command {
        Command::Demo(options) => demo::demo(&options),
        Command::Run(options) => run::run(&options),
        Command::Status(options) => status::status(&options),
        Command::Verify(options) => verify::verify(&options),
        Command::Replay(options) => replay::replay(&options),
        Command::Signer(options) => signer::signer(&options),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match log_format {
                LogFormat::Json if tracing::dispatcher::has_been_set() => tracing::error!("{failure}"),
                // Without a reader the exit code has to say it alone.
                _ => drop(writeln!(io::stderr(), "perennial: {failure}")),
            }
            failure.exit_code()
        }
    }
}

fn start_logging(level: &str, format: LogFormat) -> Result<(), Failure> {
    const VARIABLE: &str = "PERENNIAL_LOG";
    let filter = match std::env::var(VARIABLE) {
        Ok(filter) if filter.is_empty() => EnvFilter::new(level),
        Ok(filter) => EnvFilter::try_new(filter).map_err(|error| Failure::Usage(format!("{VARIABLE}: {error}")))?,
        Err(VarError::NotPresent) => EnvFilter::new(level),
        Err(VarError::NotUnicode(_)) => return Err(Failure::Usage(format!("{VARIABLE}: this is not UTF-8"))),
    };
    let stderr = io::stderr().is_terminal();
    // To complain about a broken stderr on stderr is to panic: a certificate must outlive the reader of its log.
    let log = tracing_subscriber::fmt().log_internal_errors(false);
    let log = log.with_env_filter(filter).with_writer(io::stderr).with_ansi(stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
    }
    Ok(())
}
