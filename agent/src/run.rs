//! `perennial run`: the main job, on a cluster.

mod acceptance;
mod addresses;
mod cert_reporter;
mod client;
mod external_cert;
mod hook;
mod node;
mod node_name;
mod node_object;
mod outside;
mod prepared;
mod running;
mod service;
mod serving;
mod settings;
mod wake;

use std::time::Duration;

use serde_json::json;

use crate::cli;
use crate::failure::Failure;
use crate::lines::{Lines, OUTPUT, RESULT};
use crate::observers::Observers;
use crate::reactor;
use crate::report::Report;
use hook::Hook;
use outside::Outside;
use prepared::Prepared;
use running::{Ended, Running};
use service::Service;
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

/// From the start to the end.
fn keep(options: &cli::Run, report: &mut Report, log: Option<Lines>) -> Result<(), Failure> {
    let service = &options.service;
    let hook = Hook::new(service.on_rotated.clone(), service.on_rotated_timeout, options.once);
    // Everything that can be wrong with the input is found before anything is started or written.
    let prepared = Prepared::read(options)?;
    if options.runtime == cli::Runtime::Smol {
        reactor::start()?;
    }
    let outputs = log.map(|log| ("stderr", log)).into_iter();
    let outputs = outputs.chain(report.lines().map(|lines| ("stdout", lines.clone()))).collect();
    let observers = Observers::start(options, outputs, hook.debts());
    let wakes = Wakes::new()?;
    prepared.claim()?;
    let service = Service::new(&observers.pulse)?;
    let outside = Outside { options, report, observers, hook, service, wakes };
    let mut running = Running::start(outside, prepared)?;
    let ended = running.until_ended();
    running.outside.service.stopping();
    running.stop();
    let Outside { hook, observers, .. } = &running.outside;
    let done = match ended? {
        Ended::InPlace => hook.finish(),
        Ended::Stopped => {
            hook.finish_within(PATIENCE);
            Ok(())
        }
    };
    observers.finish_within(OUTPUT);
    done
}
