//! `perennial run`: the main job, on a cluster.

mod acceptance;
mod addresses;
mod carried;
mod external_cert;
mod hook;
mod node;
mod node_name;
mod node_object;
mod prepared;
mod running;
mod service;
mod settings;
mod wake;
mod watch;

use std::time::Duration;

use serde_json::json;

use crate::cli;
use crate::failure::Failure;
use crate::lines::{Lines, OUTPUT, RESULT};
use crate::observers::Observers;
use crate::reactor;
use crate::report::Report;
use carried::Carried;
use hook::Hook;
use prepared::Prepared;
use running::Ended;
use service::Service;
use settings::Settings;
use wake::Wakes;

/// How long the operator's command may take when we are to end.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(options: &cli::Run, log: Option<Lines>) -> Result<(), Failure> {
    let mut report = Report::of_service(options.json)?;
    let done = keep(options, &mut report, log);
    match &done {
        Ok(()) => report.event("stopped", json!({}), "stopped"),
        Err(failure) => report.failed(failure),
    }
    let complete = report.finish_within(if options.once { RESULT } else { OUTPUT });
    match done {
        // The result is what was asked for.
        Ok(()) if options.once && !complete => {
            Err(Failure::Failed("the certificate is in place, but stdout did not take the report".into()))
        }
        done => done,
    }
}

/// From one reading of the configuration to the next, until the end.
fn keep(options: &cli::Run, report: &mut Report, log: Option<Lines>) -> Result<(), Failure> {
    let service = &options.service;
    let hook = Hook::new(service.on_rotated.clone(), service.on_rotated_timeout, options.once);
    // Everything that can be wrong with the input is found before anything is started or written.
    let mut session = Prepared::prepare(options, Settings::read(options)?, None)?;
    if options.runtime == cli::Runtime::Smol {
        reactor::start()?;
    }
    let outputs = log.map(|log| ("stderr", log)).into_iter();
    let outputs = outputs.chain(report.lines().map(|lines| ("stdout", lines.clone()))).collect();
    let mut observers = Observers::start(options, outputs, hook.debts());
    let wakes = Wakes::new()?;
    session.claim()?;
    let mut service = Service::new(&observers.pulse)?;
    let mut carried = Carried::default();
    loop {
        let mut running = session.start(carried, &wakes, &observers, &hook, report)?;
        let ended = running.until_ended(&wakes, &mut observers, report, &hook, &mut service);
        match &ended {
            Ok(Ended::Reloaded(_)) => service.reloading(),
            Ok(Ended::Stopped | Ended::InPlace) | Err(_) => service.stopping(),
        }
        carried = running.stop(report, &hook);
        match ended? {
            Ended::Stopped => {
                hook.finish_within(PATIENCE);
                observers.finish_within(OUTPUT);
                return Ok(());
            }
            Ended::InPlace => {
                let paid = hook.finish();
                observers.finish_within(OUTPUT);
                return paid;
            }
            Ended::Reloaded(next) => {
                session = *next;
                report.event("reloaded", json!({}), "everything was read again");
            }
        }
    }
}
