//! The `perennial` command: keeps a Kubernetes node's client certificate rotated.

#![forbid(unsafe_code)]

mod bundle_file;
mod certificates;
mod check;
mod cli;
mod control;
mod descriptors;
mod failure;
mod files;
mod fleet;
mod folder;
mod hook_debt;
mod journal;
mod kubeconfigs;
mod latest;
mod lines;
mod metrics;
mod observers;
mod patience;
mod proxies;
mod pulse;
mod queue;
mod reactor;
mod remedies;
mod replay;
mod report;
mod rotation;
mod run;
mod signals;
mod sizes;
mod spans;
mod status;
mod threads;
mod timing;
mod trust;
mod verify;
mod whoami;

use std::alloc::System;
use std::env::VarError;
use std::io::{self, IsTerminal as _, Write as _};
use std::panic;
use std::process::ExitCode;

use perennial::Escaped;
use perennial_rotation::clock;
use serde_json::json;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::prelude::*;
use zeroizing_alloc::ZeroAlloc;

use cli::{Cli, Command, LogFormat};
use failure::Failure;
use lines::{Lines, OUTPUT, RESULT};

/// Wipes all freed memory: crypto, TLS, base64 and YAML libraries do not wipe the copies of private keys and tokens
/// that they free.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Escapes an error's text for a terminal. Keeps line breaks, because syntax errors quote lines of a file.
fn shown(text: &str) -> String {
    text.lines().map(|line| Escaped(line).to_string()).collect::<Vec<_>>().join("\n")
}

fn main() -> ExitCode {
    let Cli { command, log_format } = Cli::of_process();
    let (log, done) = match queue_log(&command, log_format) {
        Ok(log) => {
            (log.clone(), start_logging(&command, log_format, log.clone()).and_then(|()| run_command(&command, log)))
        }
        Err(failure) => (None, Err(failure)),
    };
    let mut code = match &done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let line = format!("perennial: {}\n", shown(&failure.to_string()));
            match (log_format, &log) {
                // The subscriber is not set yet if PERENNIAL_LOG itself is wrong.
                (LogFormat::Json, _) if tracing::dispatcher::has_been_set() => tracing::error!("{failure}"),
                (_, Some(log)) => log.push(line.into_bytes()),
                // If stderr has no reader, only the exit code reports the failure.
                (_, None) => drop(io::stderr().write_all(line.as_bytes())),
            }
            failure.exit_code()
        }
    };
    // With --once and without --json, the log is the result of the command, which must not be cut.
    let is_result = matches!(&command, Command::Run(options) if options.once && !options.json);
    let complete = log.is_none_or(|log| log.finish_within(if is_result { RESULT } else { OUTPUT }));
    if is_result && !complete && done.is_ok() {
        code = ExitCode::FAILURE;
    }
    code
}

fn run_command(command: &Command, log: Option<Lines>) -> Result<(), Failure> {
    signals::survive_file_size_limit()?;
    match command {
        Command::Run(options) => run::run(options, log),
        Command::Status(options) => status::status(options),
        Command::Verify(options) => verify::verify(options),
        Command::Check(options) => check::check(options),
        Command::Replay(options) => replay::replay(options),
        Command::Rotate(options) => control::rotate(options),
    }
}

/// Creates the queue of log lines for `run`: no thread of `run` may wait for a slow reader of stderr. `None` for the
/// other commands, which write to stderr directly.
fn queue_log(command: &Command, format: LogFormat) -> Result<Option<Lines>, Failure> {
    if !matches!(command, Command::Run(_)) {
        return Ok(None);
    }
    let notice = match format {
        LogFormat::Text => |count| format!("{}  WARN perennial: {}\n", clock::now().unix, missing(count)),
        LogFormat::Json => |count| {
            let at = clock::now().unix.to_string();
            let line = json!({ "timestamp": at, "level": "WARN", "message": missing(count), "target": "perennial" });
            format!("{line}\n")
        },
    };
    let lines = Lines::to(&io::stderr(), "the log on stderr", notice)?;
    // The standard panic hook writes to stderr directly, and would block on a slow reader.
    panic::set_hook(Box::new(|panic| {
        if !reactor::is_refusal(panic) {
            tracing::error!("internal error: {panic}; please report this as a bug");
        }
    }));
    Ok(Some(lines))
}

fn missing(count: u64) -> String {
    format!("log incomplete: dropped {count} lines here, because the reader of stderr was too slow")
}

fn start_logging(command: &Command, format: LogFormat, log: Option<Lines>) -> Result<(), Failure> {
    const VARIABLE: &str = "PERENNIAL_LOG";
    // Status, verify, check and replay print their result on stdout; run reports only in its log.
    let level = match command {
        Command::Status(_) | Command::Verify(_) | Command::Check(_) | Command::Replay(_) | Command::Rotate(_) => "warn",
        Command::Run(_) => "info",
    };
    let filter = match std::env::var(VARIABLE) {
        Ok(filter) if filter.is_empty() => log_filter(level),
        Ok(filter) => log_filter(&filter),
        Err(VarError::NotPresent) => log_filter(level),
        Err(VarError::NotUnicode(_)) => Err("this is not UTF-8".to_owned()),
    };
    let filter = filter.map_err(|error| Failure::Usage(format!("{VARIABLE}: {error}")))?;
    let stderr = io::stderr().is_terminal();
    // tracing-subscriber reports write errors with eprintln!, which panics if stderr is broken: rotation would end.
    let subscriber = tracing_subscriber::fmt().log_internal_errors(false);
    let subscriber = subscriber.with_max_level(LevelFilter::TRACE).with_ansi(stderr);
    let subscriber = subscriber.with_writer(match log {
        Some(lines) => BoxMakeWriter::new(move || lines.clone()),
        None => BoxMakeWriter::new(io::stderr),
    });
    match format {
        LogFormat::Text => subscriber.finish().with(filter).init(),
        LogFormat::Json => {
            let subscriber = subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false);
            subscriber.finish().with(filter).init();
        }
    }
    Ok(())
}

/// Parses `PERENNIAL_LOG`: levels and `target=level` pairs, separated by commas.
fn log_filter(text: &str) -> Result<Targets, String> {
    let directives: Vec<_> = text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    // `Targets` would take EnvFilter's `[span]` as part of a target's name and match nothing.
    if directives.iter().any(|directive| directive.contains('[')) {
        return Err("cannot filter by span or field, only by target and level".to_owned());
    }
    directives.join(",").parse().map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn log_filter_accepts_levels_and_targets() {
        let filter = log_filter("warn, perennial_rotation=trace,,rustls=off,").unwrap();
        for (target, level, enabled) in [
            ("perennial", Level::WARN, true),
            ("perennial", Level::INFO, false),
            ("perennial_rotation::rotator", Level::TRACE, true),
            ("rustls::client", Level::ERROR, false),
        ] {
            assert_eq!(filter.would_enable(target, &level), enabled, "{target} {level}");
        }
    }

    #[test]
    fn log_filter_with_unknown_level_or_syntax_is_refused() {
        for wrong in ["perennial=loud", "perennial[span]=info", "a=b=c"] {
            assert!(log_filter(wrong).is_err(), "{wrong}");
        }
    }
}
