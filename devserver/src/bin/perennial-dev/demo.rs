//! `perennial-dev demo`: a node, an embedded API server, and certificates with a lifetime of seconds.

mod show;

use std::thread;

use perennial::{Escaped, Policy, Template};
use perennial_dev::{ClusterSetup, Options, TestCluster};
use perennial_kubernetes::CsrSigner;
use perennial_rotation::{Directory, Profile, Rotator, clock};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use tempfile::TempDir;

use crate::cli::{self, Runtime};
use crate::report::{human_duration, print_line};
use crate::{Failure, on_signals};

const NODE: &str = "demo-node";
/// The prefix of kubelet's client certificate files.
const PREFIX: &str = "kubelet-client";

pub(crate) fn demo(options: &cli::Demo) -> Result<(), Failure> {
    let report = Report { json: options.json };
    run(options, report).inspect_err(|failure| {
        // Without --json, `main` reports the failure on stderr.
        if options.json {
            report.event("failed", json!({ "reason": failure.reason }), "");
        }
    })
}

/// Prints the events of the demo: in sentences, or with `--json` as one JSON object a line.
#[derive(Clone, Copy)]
struct Report {
    json: bool,
}

impl Report {
    fn event(self, name: &str, mut fields: Value, sentence: &str) {
        if self.json {
            fields["event"] = name.into();
            // Escaping control characters keeps the JSON equal to a program and harmless to a terminal.
            print_line(&format!("{:#}", Escaped(&fields.to_string())));
        } else {
            print_line(sentence);
        }
    }

    /// Prints a line unless `--json` is given.
    fn comment(self, line: &str) {
        if !self.json {
            print_line(line);
        }
    }
}

fn run(options: &cli::Demo, report: Report) -> Result<(), Failure> {
    let temporary;
    let directory = match &options.dir {
        Some(directory) => directory.as_path(),
        None => {
            temporary = TempDir::with_prefix("perennial-demo-").map_err(|error| {
                let place = std::env::temp_dir();
                let advice = "give --dir, or another TMPDIR";
                Failure::usage(format!("cannot create a directory in {}: {error}; {advice}", place.display()))
            })?;
            temporary.path()
        }
    };
    let store = Directory::open(directory, PREFIX).map_err(Failure::usage)?;
    let held = store.load(None, clock::now().unix).map_err(Failure::usage)?;
    if held.credential.is_some() || !held.problems.is_empty() {
        let why = "holds a certificate already; choose another --dir";
        return Err(Failure::usage(format!("{} {why}", directory.display())));
    }

    let behaviour = Options { signing_duration: options.lifetime, ..Options::default() };
    let cluster = TestCluster::start_with(ClusterSetup { options: behaviour, ..ClusterSetup::default() })?;
    // `for_lifetime` gives short lifetimes a short request timeout, which a busy host can exceed. On loopback no
    // request is lost, so that the default timeout does no harm.
    let request_timeout = Policy::default().request_timeout;
    let policy = Policy { request_timeout, ..Policy::for_lifetime(options.lifetime) };
    let signer = cluster.node_signer();
    let profile = Profile { lifetime: Some(options.lifetime), ..signer.profile.clone() };
    let signer = CsrSigner { profile, ..signer };
    let started = clock::now().unix;
    report.event(
        "started",
        json!({
            "runtime": options.runtime.to_string(),
            "rotations": options.rotations,
            "lifetime_seconds": options.lifetime.as_secs_f64(),
            "server": cluster.url(),
            "directory": directory,
        }),
        &format!(
            "API server    {}, embedded, with a CA of its own\n\
             node          {NODE} on {}, certificate lifetime {}, files in {}",
            cluster.url(),
            options.runtime,
            human_duration(options.lifetime),
            directory.display()
        ),
    );
    let rotator = Rotator::new().policy(policy).template(Template::node(NODE)).signer(signer).store(store);
    let (handle, task) = rotator.prepare()?;
    // Before the first step, so that no notice is missed.
    let notices = handle.notices(1000);
    match options.runtime {
        Runtime::Std => perennial_std::spawn(task)?,
        // A program with an executor would spawn the future there.
        Runtime::Smol => {
            thread::Builder::new().name("smol".into()).spawn(|| smol::block_on(perennial_smol::run(task)))?;
        }
    }
    let stopped = handle.clone();
    on_signals(&[SIGINT, SIGTERM], move |_| drop(stopped.shutdown()))?;
    let result = show::rotations(report, &cluster, options, notices, started);
    handle.shutdown().wait();
    cluster.shutdown()?;
    result
}
