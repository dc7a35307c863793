//! `perennial-dev signer`: the embedded API server alone, for development.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use perennial::printable;
use perennial_dev::faults::Plan;
use perennial_dev::{Approval, Next, Options, Random, ServingApproval};
use perennial_kubernetes::kubeconfig::{kubeconfig_with_certificate, kubeconfig_with_token};
use perennial_kubernetes::objects::{CertificateSigningRequest, Condition};
use perennial_kubernetes::text;
use perennial_pki::{Chain, read_request};
use perennial_std::clock;
use serde_json::Value;
use signal_hook::consts::SIGHUP;
use smol::channel;
use smol::future::or;

use crate::cli::{self, Approve};
use crate::embedded::{self, Embedded};
use crate::failure::Failure;
use crate::report::{Report, time_of_day, words};
use crate::signals;
use crate::state_dir::{ADMIN, BOOTSTRAP, StateDir};

pub(crate) fn signer(options: &cli::Signer) -> Result<(), Failure> {
    let faults = options.faults.as_deref().map(read_faults).transpose()?;
    embedded::raise_descriptor_limit();
    let listener = embedded::listen(options.listen)?;
    let state = StateDir::open(&options.dir)?;
    let mut random = Random::from_os().map_err(Failure::failed)?;
    let authority = state.authority(&mut random, clock::now().unix)?;
    let own = options.server_ca.as_deref().map(StateDir::open).transpose()?;
    let own = own.map(|own| own.authority(&mut random, clock::now().unix)).transpose()?;
    let token = state.token(&mut random)?;
    let serves = Options {
        approval: match options.approve {
            Approve::Auto => Approval::Auto,
            Approve::Manual => Approval::Manual,
        },
        approve_serving: match &options.allow_serving_name {
            // A cluster leaves all of them to an approver of its administrator's choice.
            names if names.iter().any(|name| name == "*") => ServingApproval::Any,
            names => ServingApproval::Own(names.clone()),
        },
        signing_duration: options.signing_duration,
        backdate: options.backdate,
        ..Options::default()
    };
    let mut server = Embedded::start(listener, serves, authority, own.as_ref(), &token)?;
    if let Some(plan) = faults {
        server.set_faults(plan);
    }
    write_kubeconfigs(&state, &server, &token)?;

    let (wake, woken) = channel::unbounded();
    let wake_again = wake.clone();
    // Nobody listens any more once we are stopping.
    signals::on_stop(move || drop(wake.try_send(Wake::Stop)))?;
    signals::on_each(&[SIGHUP], move || drop(wake_again.try_send(Wake::LookAgain)))?;
    let mut report = Report::new(false);
    report.event("started", Value::Null, &introduction(options, &server.endpoint.server));
    let mut log = Log { report, seen: BTreeMap::new() };
    let mut watcher = server.watch(None)?;
    loop {
        let (next, version) = server.next_event(&mut watcher);
        match next {
            Next::Event(line) => log.event(&line, &server),
            Next::End => watcher = server.watch(Some(watcher))?,
            Next::Pending => {
                let changed = async {
                    server.changed(version).await;
                    None
                };
                let asked = async { woken.recv().await.ok() };
                match smol::block_on(or(asked, changed)) {
                    None => {}
                    Some(Wake::Stop) => break,
                    // What is wrong with the files is said; the server goes on as it was.
                    Some(Wake::LookAgain) => match look_again(options, &state, &mut server, &token) {
                        Ok(what) => log.report.event("reloaded", Value::Null, &what),
                        Err(error) => log.report.event("reloaded", Value::Null, &format!("nothing changes: {error}")),
                    },
                }
            }
        }
    }
    log.report.event("stopped", Value::Null, "stopped");
    server.shutdown()
}

enum Wake {
    Stop,
    LookAgain,
}

/// Takes up another CA, and another plan of faults. What came of it.
fn look_again(options: &cli::Signer, state: &StateDir, server: &mut Embedded, token: &str) -> Result<String, Failure> {
    let faults = options.faults.as_deref().map(read_faults).transpose()?;
    let mut random = Random::from_os().map_err(Failure::failed)?;
    let rotated = server.rotate_authority(state.authority(&mut random, clock::now().unix)?)?;
    if let Some(plan) = faults {
        server.set_faults(plan);
    }
    let what = if rotated {
        "another CA signs from now on; certificates of the one before are good until this server ends"
    } else {
        "looked again; the CA is the same"
    };
    Ok(match write_kubeconfigs(state, server, token) {
        Ok(()) => what.to_owned(),
        Err(error) => format!("{what}; but {error}"),
    })
}

fn write_kubeconfigs(state: &StateDir, server: &Embedded, token: &str) -> Result<(), Failure> {
    state.write(ADMIN, kubeconfig_with_certificate(&server.endpoint, "admin", &server.admin).as_bytes())?;
    state.write(BOOTSTRAP, kubeconfig_with_token(&server.endpoint, "bootstrap", token).as_bytes())
}

fn read_faults(path: &Path) -> Result<Plan, Failure> {
    let failure = |why: &dyn std::fmt::Display| Failure::Usage(format!("faults {}: {why}", path.display()));
    let text = fs::read(path).map_err(|error| failure(&error))?;
    let text = text::decode(&text).map_err(|error| failure(&error))?;
    Plan::parse(&text).map_err(|error| failure(&error))
}

fn introduction(options: &cli::Signer, server: &str) -> String {
    let directory = std::path::absolute(&options.dir).unwrap_or_else(|_| options.dir.clone());
    let file = |name: &str| directory.join(name).display().to_string();
    let (admin, bootstrap) = (file(ADMIN), file(BOOTSTRAP));
    let approval = match options.approve {
        Approve::Auto => {
            "approves nodes' client certificates itself, and serving ones for their own names (--allow-serving-name)"
        }
        Approve::Manual => "leaves approval to you",
    };
    let faults = if options.faults.is_some() { "\nIt goes wrong as it was told to (--faults)." } else { "" };
    let caution = if options.listen.ip().is_loopback() { "" } else { "\n\nIt can be reached from other machines!" };
    format!(
        "Embedded API server at {server}, for development only: not a cluster, not a CA to trust.
It signs for {} at most and {approval}. CA and bootstrap token are kept in {}.{faults}{caution}

As an administrator:
  kubectl --kubeconfig {admin} get csr
  kubectl --kubeconfig {admin} certificate approve NAME

As a node:
  perennial run --node-name worker-1 --cert-dir ./worker-1/pki --kubeconfig ./worker-1/kubeconfig \\
                --bootstrap-kubeconfig {bootstrap}
",
        words(options.signing_duration),
        directory.display(),
    )
}

/// Tells what becomes of requests, one line for each step.
struct Log {
    report: Report,
    /// The last step told of each request.
    seen: BTreeMap<String, &'static str>,
}

impl Log {
    fn event(&mut self, line: &[u8], server: &Embedded) {
        let Ok(mut event) = serde_json::from_slice::<Value>(line) else { return };
        // A bookmark is no object.
        let Ok(object) = serde_json::from_value::<CertificateSigningRequest>(event["object"].take()) else { return };
        let name = object.metadata.name.clone();
        let (step, detail) = match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => step(&object),
            Some("DELETED") => ("deleted", String::new()),
            _ => return,
        };
        if self.seen.insert(name.clone(), step) == Some(step) {
            return;
        }
        if step == "deleted" {
            self.seen.remove(&name);
        }
        let hint = match step {
            "pending" if server.waits_for_a_person(&object) => "; waits for kubectl certificate approve",
            _ => "",
        };
        let (time, name) = (time_of_day(clock::now().unix), printable(&name));
        self.report.event(step, Value::Null, &format!("{time}  {step:<8}  {name}  {detail}{hint}"));
    }
}

/// How far a request has come, and what there is to say about it.
fn step(object: &CertificateSigningRequest) -> (&'static str, String) {
    let condition = |kind| object.status.conditions.iter().find(|condition| condition.type_ == kind);
    let said = |condition: &Condition| printable(&condition.message);
    if let Ok(chain) = Chain::from_pem(&object.status.certificate) {
        let until = chain.certificate().validity.not_after();
        return ("issued", format!("serial {}, valid until {until}", chain.serial()));
    }
    for (kind, step) in [("Failed", "failed"), ("Denied", "denied"), ("Approved", "approved")] {
        if let Some(condition) = condition(kind) {
            return (step, said(condition));
        }
    }
    let asker = printable(&object.spec.username);
    let wanted = read_request(&object.spec.request).map(|request| printable(&request.common_name));
    let wanted = wanted.unwrap_or_else(|error| error.to_string());
    ("pending", format!("{asker} asks for {wanted} from {}", printable(&object.spec.signer_name)))
}
