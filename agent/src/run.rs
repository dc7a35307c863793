//! `perennial run`: keeps certificates of an API server's signers rotated, until a signal or, with `--once`, until they
//! are in place.

mod absence;
mod acceptance;
mod addresses;
mod bundles;
mod cert_reporter;
mod client;
mod context;
mod external_cert;
mod hook;
mod list;
mod node;
pub(crate) mod node_name;
mod node_object;
mod prepared;
mod running;
mod service;
mod serving;
mod settings;
mod wake;

use std::time::Duration;

use serde_json::json;

use crate::certificates::List;
use crate::cli;
use crate::control::Control;
use crate::descriptors;
use crate::failure::Failure;
use crate::hook_debt::Hook;
use crate::lines::{Lines, OUTPUT, RESULT};
use crate::observers::Observers;
use crate::reactor;
use crate::report::Report;
use acceptance::Checks;
use context::Context;
use hook::Hooks;
use list::Listed;
pub(crate) use list::{Resolved, Servers, check_connection};
use prepared::Prepared;
use running::{Ended, Running};
use service::Systemd;
use wake::{Early, Wakes};

/// Longest time that the process waits at its end for runs of hooks before it kills them.
const HOOK_LIMIT: Duration = Duration::from_secs(5);

/// Runs `perennial run`. The last event of the report is `stopped` or the error.
///
/// # Errors
/// The error that ended the run or, with `--once`, that the report could not be written.
pub(crate) fn run(options: &cli::Run, log: Option<Lines>) -> Result<(), Failure> {
    let report = Report::of_service(options.json)?;
    let done = run_rotations(options, &report, log);
    match &done {
        Ok(()) => report.event("stopped", json!({}), "stopped"),
        Err(failure) => report.failed(failure),
    }
    let complete = report.finish_within(if options.once { RESULT } else { OUTPUT });
    match done {
        // With --once, the report on stdout is the result of the command.
        Ok(()) if options.once && !complete => {
            Err(Failure::Failed("the certificate is in place, but the report could not be written to stdout".into()))
        }
        done => done,
    }
}

/// Reads the configuration, starts the rotations, and runs until the end.
fn run_rotations(options: &cli::Run, report: &Report, log: Option<Lines>) -> Result<(), Failure> {
    let early = Early::record()?;
    descriptors::raise_limit();
    let service = &options.service;
    let hook = service.on_rotated.as_deref().map(|command| Hook::of_flag(command, service.on_rotated_timeout));
    let hooks = Hooks::new(hook, options.once);
    // Reads and checks all input before anything is started or written: exit code 2 leaves every file as it was.
    let input = Input::read(options)?;
    let bundles = bundles::read(&options.trust_bundle)?;
    if options.runtime == cli::Runtime::Smol {
        reactor::start()?;
    }
    let outputs = log.map(|log| ("stderr", log)).into_iter();
    let outputs = outputs.chain(report.lines().map(|lines| ("stdout", lines.clone()))).collect();
    // Members of a list may get hooks at a reload.
    let has_hooks = hooks.common().is_some() || options.certificates.is_some();
    let observers = Observers::start(options, outputs, has_hooks.then(|| hooks.debts()));
    let wakes = Wakes::new(early)?;
    let control = options.service.control.as_deref().map(|path| Control::start(path, wakes.waker())).transpose()?;
    if let Input::Node(prepared) = &input {
        prepared.claim()?;
    }
    let service = Systemd::new(&observers.watchers.pulse)?;
    let context = Context { options, report, observers, hooks, service, wakes, checks: Checks::default(), control };
    let (ended, context) = match input {
        Input::Node(prepared) => {
            let mut running = Running::start(context, *prepared, bundles)?;
            let ended = running.until_ended();
            // After an error as well: the rotations stop in order, and their last news is reported.
            running.context.service.stopping();
            running.stop();
            (ended, running.context)
        }
        Input::List(list) => {
            let mut listed = Listed::start(context, list)?;
            let ended = listed.until_ended();
            listed.context.service.stopping();
            listed.stop();
            (ended, listed.context)
        }
    };
    let Context { hooks, observers, .. } = &context;
    let done = match ended? {
        Ended::InPlace => hooks.finish(),
        Ended::Stopped => {
            hooks.finish_within(HOOK_LIMIT);
            Ok(())
        }
    };
    observers.finish_within(OUTPUT);
    done
}

/// The certificates to keep, read and checked.
enum Input {
    /// Certificates that the flags describe.
    Node(Box<Prepared>),
    /// Certificates of a list.
    List(List),
}

impl Input {
    /// Reads the flags and the files that they name. Changes no file, and takes no lock.
    fn read(options: &cli::Run) -> Result<Self, Failure> {
        match &options.certificates {
            Some(path) => list::read(path, options.node_name.as_deref()).map(Self::List),
            None => Prepared::read(options).map(|prepared| Self::Node(Box::new(prepared))),
        }
    }
}
