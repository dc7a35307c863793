//! `perennial run`: the main job, on a cluster.

mod node_name;
mod watch;

use perennial::Template;
use perennial_kubernetes::rotation::Signer;
use perennial_pki::Chain;
use perennial_std::{Directory, clock};
use serde_json::json;

use crate::cli;
use crate::failure::Failure;
use crate::kubeconfigs;
use crate::report::{self, Report};
use crate::rotation::{PREFIX, Plan};
use crate::signals;
use watch::Watch;

pub(crate) fn run(options: &cli::Run) -> Result<(), Failure> {
    let mut report = Report::of_service(options.json);
    let done = keep(options, &mut report);
    match &done {
        Ok(()) => report.event("stopped", json!({}), "stopped"),
        Err(failure) => report.failed(failure),
    }
    done
}

/// Everything that can be wrong with the input is found before anything is started or written.
fn keep(options: &cli::Run, report: &mut Report) -> Result<(), Failure> {
    let node = node_name::resolve(options.node_name.as_deref())?;
    // A kubeconfig that names the pair in use can be read only when that is in order.
    let (kept, held) = held(options)?;
    let bootstrap = options.bootstrap_kubeconfig.as_deref();
    let access = kubeconfigs::read(&options.kubeconfig, bootstrap, held.is_none())?;
    let store = match kept {
        Some(store) => store,
        None => Directory::open(&options.cert_dir, PREFIX).map_err(Failure::usage)?,
    };
    let current = std::path::absolute(store.current()).map_err(Failure::usage)?;
    if access.write {
        kubeconfigs::make_room(&options.kubeconfig, &current)?;
    }

    let plan = Plan {
        policy: options.policy.numbers(),
        template: Template::node(&node),
        signer: Signer::kubelet_client(access.cluster.clone(), Some(access.bootstrap.clone())),
        store,
    };
    let fields = json!({
        "runtime": options.runtime.name(),
        "node": node,
        "server": access.cluster.to_string(),
        "certificate": held.as_ref().map(report::certificate),
    });
    let sentence = format!("keeps the client certificate of node {node} rotated, with {}", access.cluster);
    report.event("started", fields, &sentence);

    let running = plan.start(options.runtime)?;
    let handle = running.handle().clone();
    let stopping = signals::on_stop(move || handle.shutdown())?;
    let handle = running.handle();
    let mut watch = Watch::new(handle, report, held.is_some());
    let kept = watch.until_stopped(options, &access, &current, &stopping);
    running.stop();
    kept
}

/// The directory, if it exists, put right, and the valid certificate in it, if there is one.
fn held(options: &cli::Run) -> Result<(Option<Directory>, Option<Chain>), Failure> {
    if !options.cert_dir.exists() {
        return Ok((None, None));
    }
    let store = Directory::open(&options.cert_dir, PREFIX).map_err(Failure::usage)?;
    let now = clock::now().unix;
    let loaded = store.recover(now).map_err(Failure::usage)?;
    loaded.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
    let chain = loaded.credential.map(|(credential, _)| credential.chain().clone());
    Ok((Some(store), chain.filter(|chain| !chain.certificate().validity.expired(now))))
}
