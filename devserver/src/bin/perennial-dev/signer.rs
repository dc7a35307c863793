//! `perennial-dev signer`: the embedded API server alone, for development.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use perennial::printable;
use perennial_dev::faults::Plan;
use perennial_dev::{
    Answer, ApiRequest, Approval, ClusterSetup, Method, Next, Options, Random, ServingApproval, TestCluster, User,
    Watcher,
};
use perennial_kubernetes::objects::{
    CLIENT_SIGNER, CSR_PATH, CertificateSigningRequest, Condition, KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER,
};
use perennial_kubernetes::text;
use perennial_pki::{Chain, read_request};
use perennial_rotation::clock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use smol::channel;
use smol::future::or;

use crate::cli;
use crate::report::{human_duration, print_line, time_of_day};
use crate::state_dir::{ADMIN, BOOTSTRAP, StateDir};
use crate::{Failure, on_signals};

pub(crate) fn signer(options: &cli::Signer) -> Result<(), Failure> {
    let faults = options.faults.as_deref().map(read_faults).transpose()?;
    raise_descriptor_limit();
    // Before any file is written: the address may be in use.
    let listener = TcpListener::bind(options.listen)
        .map_err(|error| Failure::usage(format!("cannot listen on {}: {error}", options.listen)))?;
    let state = StateDir::open(&options.dir)?;
    let mut random = Random::from_os()?;
    let authority = state.authority(&mut random, clock::now().unix)?;
    let server_authority = options.server_ca.as_deref().map(StateDir::open).transpose()?;
    let server_authority = server_authority.map(|own| own.authority(&mut random, clock::now().unix)).transpose()?;
    let token = state.token(&mut random)?;
    let behaviour = Options {
        approval: options.approve,
        approve_serving: match &options.allow_serving_name {
            // More than a cluster does, which approves no serving certificates by itself.
            names if names.iter().any(|name| name == "*") => ServingApproval::Any,
            names => ServingApproval::Own(names.clone()),
        },
        other_signers: options.other_signers,
        signing_duration: options.signing_duration,
        backdate: options.backdate,
        ..Options::default()
    };
    let mut server = TestCluster::start_with(ClusterSetup {
        listener: Some(listener),
        options: behaviour,
        authority: Some(authority),
        server_authority,
        token: Some(token),
    })?;
    if let Some(plan) = faults {
        server.set_faults(plan);
    }
    write_kubeconfigs(&state, &server)?;

    let (signalled, signals) = channel::unbounded();
    on_signals(&[SIGHUP, SIGINT, SIGTERM], move |signal| {
        // The receiver is gone once the command is stopping.
        let _ = signalled.try_send(signal);
    })?;
    print_line(&introduction(options, server.url()));
    let mut log = Log::default();
    let mut watcher = watch(&server, None)?;
    loop {
        let (next, version) = server.server().with_api(|api, now| (api.next_event(&mut watcher, now), api.version()));
        match next {
            Next::Event(line) => log.event(&line, &server),
            // The next watch begins with all requests again; `Log` prints no step twice.
            Next::End => watcher = watch(&server, Some(watcher))?,
            Next::Pending => {
                let changed = async {
                    server.server().changed(version).await;
                    None
                };
                let signal = async { signals.recv().await.ok() };
                match smol::block_on(or(signal, changed)) {
                    None => {}
                    Some(SIGHUP) => match reload(options, &state, &mut server) {
                        Ok(what) => print_line(&what),
                        // Unusable files leave the running server unchanged.
                        Err(Failure { reason, .. }) => print_line(&format!("reload failed, nothing changed: {reason}")),
                    },
                    Some(_) => break,
                }
            }
        }
    }
    print_line("stopped");
    server.shutdown().map_err(|error| Failure::failed(format!("the API server: {error}")))
}

/// Reads the CA and the plan of faults again, and writes the kubeconfigs. Returns a sentence about the result.
fn reload(options: &cli::Signer, state: &StateDir, server: &mut TestCluster) -> Result<String, Failure> {
    let faults = options.faults.as_deref().map(read_faults).transpose()?;
    let mut random = Random::from_os()?;
    let rotated = server.rotate_authority(state.authority(&mut random, clock::now().unix)?)?;
    if let Some(plan) = faults {
        server.set_faults(plan);
    }
    let what = if rotated {
        "reloaded: another CA signs from now on; certificates of the previous CA are accepted until this server ends"
    } else {
        "reloaded: the CA is unchanged"
    };
    Ok(match write_kubeconfigs(state, server) {
        Ok(()) => what.to_owned(),
        Err(Failure { reason, .. }) => format!("{what}; a kubeconfig was not written: {reason}"),
    })
}

fn write_kubeconfigs(state: &StateDir, server: &TestCluster) -> Result<(), Failure> {
    state.write(ADMIN, server.admin_kubeconfig().as_bytes())?;
    state.write(BOOTSTRAP, server.bootstrap_kubeconfig().as_bytes())
}

/// Opens a watch of all requests, which begins with the stored ones. Drops the ended watch `ended` first, since a watch
/// counts toward the limit of open watches until it is dropped.
fn watch(server: &TestCluster, ended: Option<Watcher>) -> Result<Watcher, Failure> {
    let mut request = ApiRequest::new(Method::GET, format!("{CSR_PATH}?watch=true"));
    request.peer = Some(Arc::new(User::new("perennial", ["system:masters"])));
    let answer = server.server().with_api(|api, now| {
        // With the API locked, so that no other client takes the place of the ended watch.
        drop(ended);
        api.handle(&request, now)
    });
    let Answer::Watch(watcher) = answer else {
        return Err(Failure::failed("the server refused to watch its requests: too many watches are open"));
    };
    Ok(watcher)
}

/// Raises the soft limit of file descriptors to the hard limit. Each client needs a descriptor, and the usual soft
/// limit is lower than [`Options::clients`]: clients without a descriptor wait to be accepted.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Best effort: with fewer descriptors the server takes fewer clients.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn read_faults(path: &Path) -> Result<Plan, Failure> {
    let failure = |why: &dyn std::fmt::Display| Failure::usage(format!("faults {}: {why}", path.display()));
    let text = fs::read(path).map_err(|error| failure(&error))?;
    let text = text::decode(&text).map_err(|error| failure(&error))?;
    Plan::parse(&text).map_err(|error| failure(&error))
}

fn introduction(options: &cli::Signer, server: &str) -> String {
    let directory = std::path::absolute(&options.dir).unwrap_or_else(|_| options.dir.clone());
    let file = |name: &str| directory.join(name).display().to_string();
    let (admin, bootstrap) = (file(ADMIN), file(BOOTSTRAP));
    let approval = match options.approve {
        Approval::Auto => {
            "approves nodes' client certificates, and serving ones for the node's own name (more: --allow-serving-name)"
        }
        Approval::Manual => "waits for you to approve requests",
    };
    let others = if options.other_signers {
        "and for every signer outside kubernetes.io/"
    } else {
        "and for no other signer (others, such as example.com/mesh: --other-signers)"
    };
    let faults = if options.faults.is_some() { "\nIt injects the faults of --faults." } else { "" };
    let caution = if options.listen.ip().is_loopback() {
        ""
    } else {
        "\n\nWarning: other machines can reach it, and it must not be trusted."
    };
    format!(
        "Embedded API server at {server}, for development only: not a cluster, not a CA to trust.
It issues certificates for at most {} and {approval}.
It signs for {KUBELET_CLIENT_SIGNER}, {KUBELET_SERVING_SIGNER}, {CLIENT_SIGNER}
{others}.
CA and bootstrap token are in {}.{faults}{caution}

As an administrator:
  kubectl --kubeconfig {admin} get csr
  kubectl --kubeconfig {admin} certificate approve NAME

As a node:
  perennial run --node-name worker-1 --cert-dir ./worker-1/pki --kubeconfig ./worker-1/kubeconfig \\
                --bootstrap-kubeconfig {bootstrap}
",
        human_duration(options.signing_duration),
        directory.display(),
    )
}

/// Prints one line for each step of a request, such as pending, approved or issued.
#[derive(Default)]
struct Log {
    /// The last step printed for each request.
    seen: BTreeMap<String, &'static str>,
}

impl Log {
    fn event(&mut self, line: &[u8], server: &TestCluster) {
        let Ok(mut event) = serde_json::from_slice::<Value>(line) else { return };
        // A bookmark has no spec, and is not a request.
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
            "pending" if server.server().with_api(|api, _| api.waits_for_a_person(&object)) => {
                "; waiting for `kubectl certificate approve`"
            }
            _ => "",
        };
        let (time, name) = (time_of_day(clock::now().unix), printable(&name));
        print_line(&format!("{time}  {step:<8}  {name}  {detail}{hint}"));
    }
}

/// The step that a request has reached, such as `issued`, with details for people.
fn step(object: &CertificateSigningRequest) -> (&'static str, String) {
    let condition = |kind| object.status.conditions.iter().find(|condition| condition.type_ == kind);
    let message = |condition: &Condition| printable(&condition.message);
    if let Ok(chain) = Chain::from_pem(&object.status.certificate) {
        let until = chain.certificate().validity.not_after();
        return ("issued", format!("serial {}, valid until {until}", chain.serial()));
    }
    for (kind, step) in [("Failed", "failed"), ("Denied", "denied"), ("Approved", "approved")] {
        if let Some(condition) = condition(kind) {
            return (step, message(condition));
        }
    }
    let requester = printable(&object.spec.username);
    let wanted = read_request(&object.spec.request).map(|request| printable(&request.common_name));
    let wanted = wanted.unwrap_or_else(|error| error.to_string());
    ("pending", format!("{requester} requests {wanted} from signer {}", printable(&object.spec.signer_name)))
}
