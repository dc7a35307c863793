//! `perennial-dev simulate`: a fleet of nodes in virtual time.

mod figures;
mod page;
mod plot;
mod progress;
pub(crate) mod summary;

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial::Policy;
use perennial_simulation::{Program, Scenario, Start, simulate as run_scenario};

use crate::Failure;
use crate::fleet_options::{ProgramName, Simulate};
use crate::report::print_line;

pub(crate) use progress::Progress;
use summary::Run;

pub(crate) fn simulate(options: &Simulate) -> Result<(), Failure> {
    let outages = options.outage.iter().map(|outage| ("--outage", outage.from));
    let restarts = options.restart_all.iter().map(|at| ("--restart-all", *at));
    if let Some((flag, at)) = outages.chain(restarts).find(|(_, at)| *at >= options.span) {
        let [at, span] = [at, options.span].map(summary::time);
        return Err(Failure::usage(format!(
            "{flag}: {at} lies after the end of the simulation, {span}; lengthen --span"
        )));
    }
    try_outputs(options)?;
    let programs: &[ProgramName] = if options.compare { &ProgramName::ALL } else { &[options.policy] };
    let runs: Vec<Run> = programs.iter().map(|program| run(options, *program)).collect();
    if let Some(path) = &options.csv {
        write(path, &summary::csv(options.span, &runs))?;
    }
    if options.html.is_some() || options.svg.is_some() {
        let charts = figures::figures(options, &runs);
        if let Some(path) = &options.html {
            write(path, &page::page(options, &runs, &charts))?;
        }
        if let Some(directory) = &options.svg {
            for chart in &charts {
                write(&directory.join(chart.name).with_extension("svg"), &chart.file())?;
            }
        }
    }
    if options.json {
        print_line(&summary::json(options, &runs).to_string());
        return Ok(());
    }
    print_line(&format!("{}\n\n{}", summary::describe(options), summary::table(&runs)));
    for run in &runs {
        let seconds = run.took.as_secs_f64();
        let rate = summary::grouped(run.rotations_per_second() as u64);
        print_line(&format!("simulated {} in {seconds:.2} s: {rate} rotations a second", run.program));
    }
    Ok(())
}

fn run(options: &Simulate, name: ProgramName) -> Run {
    let scenario = Scenario {
        program: program(name, options.lifetime),
        start: options.installed_within.map_or(Start::Spread, Start::Within),
        approver_delay: options.approver_delay,
        signer_latency: options.signer_latency,
        denied: options.denied,
        outages: options.outage.clone(),
        restarts: options.restart_all.clone(),
        seed: options.seed,
        ..Scenario::new(options.nodes, options.lifetime, options.span)
    };
    let mut progress = Progress::new(format!("simulating {name}"), options.nodes);
    let begin = Instant::now();
    let report = run_scenario(&scenario, |done| progress.show(done));
    Run { program: name, report, took: begin.elapsed() }
}

/// The program of this name, with the policy that `perennial run` has by default for this lifetime.
pub(crate) fn program(name: ProgramName, lifetime: Duration) -> Program {
    match name {
        ProgramName::Default => Program::Perennial(Arc::new(Policy::for_lifetime(lifetime))),
        ProgramName::Kubelet => Program::Perennial(Arc::new(Policy::kubelet())),
        ProgramName::ClientGo => Program::ClientGo,
    }
}

/// Fails if an output could not be written after the simulation, which may take long. Creates the directory of `--svg`,
/// and changes no file.
fn try_outputs(options: &Simulate) -> Result<(), Failure> {
    for path in options.csv.iter().chain(&options.html) {
        let tried = match fs::metadata(path) {
            Ok(found) if found.is_file() || found.is_dir() => OpenOptions::new().append(true).open(path).map(drop),
            // The reader of a pipe would see an end.
            Ok(_) => Ok(()),
            Err(_) => {
                let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
                tempfile::tempfile_in(directory.unwrap_or_else(|| Path::new("."))).map(drop)
            }
        };
        tried.map_err(|error| cannot_write(path, &error))?;
    }
    if let Some(directory) = &options.svg {
        let unable = |error| Failure::usage(format!("cannot create {}: {error}", directory.display()));
        fs::create_dir_all(directory).map_err(unable)?;
        tempfile::tempfile_in(directory).map_err(|error| cannot_write(directory, &error))?;
    }
    Ok(())
}

fn write(path: &Path, contents: &str) -> Result<(), Failure> {
    fs::write(path, contents).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot write {}: {error}", path.display()))
}
