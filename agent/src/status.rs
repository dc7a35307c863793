//! `perennial status`: the certificates of a directory, their rotation points, pending requests and problems, trust
//! bundles, and the API server.

mod bundles;
mod found;
mod list;
mod pending;

use std::path::Path;

use perennial::{Policy, UnixTime};
use perennial_kubernetes::objects::{KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER};
use perennial_pki::Chain;
use perennial_rotation::{Directory, clock};
use serde::Serialize;
use serde_json::{Value, json};

use crate::bundle_file::BundleView;
use crate::cli;
use crate::cli::{PREFIX, SERVING_PREFIX};
use crate::failure::Failure;
use crate::hook_debt::{self, FLAG_HOOK, LIST_HOOK, Record};
use crate::kubeconfigs::{self, Server};
use crate::remedies::{is_harmless, remedy};
use crate::report::{self, print};
use crate::spans::words;
use found::{Drawn, Found, Verdict, find, shown};
use pending::Pending;

/// Runs `perennial status`. Prints the state of the certificates and, with a kubeconfig, of the API server.
///
/// # Errors
/// [`Failure::Failed`] if a certificate is not good, or a trust bundle is not written. [`Failure::Usage`] if the directory
/// or the policy file cannot be read, or if a kubeconfig cannot be used. A kubeconfig that cannot be used does not prevent
/// the output: the certificates are printed first.
pub(crate) fn status(options: &cli::Status) -> Result<(), Failure> {
    if let Some(path) = &options.certificates {
        return list::status(path, options);
    }
    // Required without a list.
    let cert_dir = options.cert_dir.as_deref().unwrap_or_else(|| Path::new(""));
    let open = |prefix| Directory::open_existing(cert_dir, prefix).map_err(Failure::usage);
    let policy = options.timing.policy()?;
    let now = clock::now().unix;
    let prefix = options.prefix.as_deref().unwrap_or(PREFIX);
    let mut views = vec![CertStatus::of(&open(prefix)?, prefix, None, &policy, now)?];
    let serving = open(SERVING_PREFIX)?;
    if options.prefix.is_none() && serving.is_used().map_err(Failure::usage)? {
        views.push(CertStatus::of(&serving, SERVING_PREFIX, None, &policy, now)?);
    }
    let server = options.kubeconfig.as_deref().map(|kubeconfig| {
        let access = kubeconfigs::read(kubeconfig, options.bootstrap_kubeconfig.as_deref(), options.proxy, false)?;
        access.server.read_cas();
        Ok(access.server)
    });
    let bundles = bundles::of_options(&options.trust_bundle)?;
    // Printed even if the kubeconfig cannot be used, whose error then sets the exit code.
    print(&match options.json {
        true => to_json(&views, &bundles, server.as_ref()),
        false => to_text(cert_dir, &views, &bundles, server.as_ref(), now),
    });
    server.transpose()?;
    match views.iter().find(|view| !view.verdict.good) {
        None => bundles::first_problem(&bundles).map_or(Ok(()), |why| Err(Failure::Failed(why))),
        Some(CertStatus { prefix, verdict, .. }) => {
            let of = if prefix == SERVING_PREFIX { format!("{prefix}: ") } else { String::new() };
            Err(Failure::Failed(format!("{}: {of}{}", cert_dir.display(), verdict.words)))
        }
    }
}

/// Formats the status as one JSON object with the fields of the first certificate. Adds the field `serving` if there is
/// a serving certificate, the field `trust_bundles` if `--trust-bundle` was given, and the field `server`, the API server or
/// its error, if a kubeconfig was given.
fn to_json(views: &[CertStatus], bundles: &[BundleView], server: Option<&Result<Server, Failure>>) -> String {
    let mut views = views.iter().map(CertStatus::to_json);
    let mut fields = views.next().unwrap_or_default();
    if let Some(serving) = views.next() {
        fields["serving"] = serving;
    }
    if !bundles.is_empty() {
        fields["trust_bundles"] = bundles.iter().map(BundleView::to_json).collect();
    }
    match server {
        Some(Ok(server)) => fields["server"] = server.to_json(),
        Some(Err(failure)) => fields["server"] = json!({ "error": failure.to_string() }),
        None => {}
    }
    report::json_line(&fields)
}

fn to_text(
    directory: &Path,
    views: &[CertStatus],
    bundles: &[BundleView],
    server: Option<&Result<Server, Failure>>,
    now: UnixTime,
) -> String {
    let mut blocks: Vec<_> = views.iter().map(|view| report::columns(&view.lines(now))).collect();
    blocks.extend(bundles.iter().map(bundles::to_text));
    blocks.extend(server.map(|server| match server {
        Ok(server) => report::columns(&server.lines()),
        Err(failure) => report::columns(&[("server", format!("not known: {failure}"))]),
    }));
    report::columns(&[("directory", shown(directory))]) + &blocks.join("\n")
}

/// The state of one certificate, from all its files in the directory.
struct CertStatus {
    prefix: String,
    found: Found,
    verdict: Verdict,
    pending: Pending,
    /// Time until which a rotation on demand (SIGUSR1) waits for the submission budget; `None` if the budget allows a
    /// request now.
    on_demand_at: Option<UnixTime>,
    /// Files and chains of earlier pairs.
    previous: Vec<(String, Chain)>,
    /// File and chain of the waiting certificate, which is served from its notBefore on.
    next: Option<(String, Chain)>,
    /// Each problem with its remedy.
    problems: Vec<(String, &'static str)>,
    /// Files for a person to inspect: quarantined files, and dated files that are not in use and contain no pair.
    aside: Vec<String>,
    hook: Option<HookState>,
}

/// The state of `--on-rotated` for the certificate in use, as the hook record (`PREFIX-hook.json`) states it.
#[derive(Serialize)]
struct HookState {
    /// The flag or key that configures the hook.
    #[serde(skip)]
    label: &'static str,
    owed: bool,
    attempts: u32,
    error: Option<String>,
}

impl HookState {
    /// Reads the hook record at this path. `chain` is the chain in use.
    fn read(label: &'static str, record: &Path, chain: Option<&Chain>) -> Option<Self> {
        // Without a certificate no run is owed.
        let in_use = format!("{:x}", chain?.certificate().fingerprint);
        let record = match Record::read(record) {
            Ok(record) => record?,
            Err(error) => {
                return Some(Self { label, owed: false, attempts: 0, error: Some(format!("not known: {error}")) });
            }
        };
        let owed = record.done.as_ref() != Some(&in_use);
        let failed = record.failed_for(&in_use);
        let (attempts, error) = failed.map(|failed| (failed.attempts, failed.error.clone())).unzip();
        Some(Self { label, owed, attempts: attempts.unwrap_or_default(), error })
    }

    fn to_text(&self) -> String {
        let error = self.error.as_deref();
        match (self.owed, self.attempts) {
            (false, _) => error.unwrap_or("has run for this certificate").to_owned(),
            (true, 0) => "owed: has not run for this certificate yet".into(),
            (true, attempts) => {
                format!("owed: {} {}; failed attempts: {attempts}", self.label, error.unwrap_or_default())
            }
        }
    }
}

/// Returns the verdict on a certificate, its last request by the pending record, and the time until which a rotation on
/// demand waits for the submission budget. `in_order` is true if all files are those of the certificate.
fn judge(
    found: &Found,
    in_order: bool,
    record: Result<Option<perennial_rotation::Record>, String>,
    drawn: Drawn<'_>,
    policy: &Policy,
    now: UnixTime,
) -> (Verdict, Pending, Option<UnixTime>) {
    let known = record.as_ref().ok().and_then(Option::as_ref);
    let on_demand_at = known.map(|record| record.pending.on_demand_at(policy)).filter(|at| *at > now);
    let renewal = known.and_then(|record| record.renewal);
    let pending = Pending::of(record, found.chain());
    let mut verdict = found.verdict(policy, drawn, renewal, pending.phrase(now).as_deref(), now);
    // A valid certificate is not enough: a program that reads its files may get another one.
    if verdict.good && !in_order {
        let words = format!("problems found; {}", verdict.words);
        verdict = Verdict { state: "damaged", words, good: false, ..verdict };
    }
    (verdict, pending, on_demand_at)
}

impl CertStatus {
    /// Reads the files of the certificate with this prefix. `signer` is the name of its signer; `None`: that of the last
    /// request or, without a record, kubelet's.
    fn of(
        directory: &Directory,
        prefix: &str,
        signer: Option<&str>,
        policy: &Policy,
        now: UnixTime,
    ) -> Result<Self, Failure> {
        let loaded = directory.load(None, now).map_err(Failure::usage)?;
        let another = loaded.credential.is_some();
        let problems = loaded.problems.iter().map(|problem| (problem.to_string(), remedy(problem, another))).collect();
        let in_order = loaded.in_use && loaded.problems.iter().all(is_harmless);
        let found = find(&loaded);
        let aside: Vec<String> =
            directory.quarantined().map_err(Failure::usage)?.iter().map(|path| shown(path)).collect();
        let previous = directory.previous().map_err(Failure::usage)?;
        let previous = previous.into_iter().map(|(credential, path)| (shown(&path), credential.chain().clone()));
        let record = pending::read(directory);
        let known = record.as_ref().ok().and_then(Option::as_ref);
        // The rotation point depends on the signer. Without a record, kubelet's signer is assumed.
        let kubelets = if prefix == SERVING_PREFIX { KUBELET_SERVING_SIGNER } else { KUBELET_CLIENT_SIGNER };
        let signer_name = signer.or_else(|| Some(&known?.signer_name)).unwrap_or(kubelets).to_owned();
        let (mut verdict, pending, on_demand_at) =
            judge(&found, in_order, record, Drawn { signer_name: &signer_name, name: None }, policy, now);
        let previous = previous.filter(|(file, _)| Some(file.as_str()) != found.file());
        let waiting = loaded.waiting.as_ref().map(|waiting| waiting.chain());
        let (next, previous): (Vec<_>, Vec<_>) = previous.partition(|(_, chain)| Some(chain) == waiting);
        let next = next.into_iter().next();
        // With a waiting certificate, `run` submits no request although this one is due.
        if let (Some((_, chain)), "due") = (&next, verdict.state) {
            let words =
                format!("good, the next certificate is used from {} on", chain.certificate().validity.not_before());
            verdict = Verdict { state: "good", words, good: true, rotate_at: None };
        }
        let label = if signer.is_some() { LIST_HOOK } else { FLAG_HOOK };
        let hook = HookState::read(label, &hook_debt::record_path(directory.path(), prefix), found.chain());
        Ok(Self {
            prefix: prefix.to_owned(),
            found,
            verdict,
            pending,
            on_demand_at,
            previous,
            next,
            problems,
            aside,
            hook,
        })
    }

    fn to_json(&self) -> Value {
        let pair = |(file, chain): &(String, Chain)| {
            let validity = chain.certificate().validity;
            json!({
                "file": file,
                "serial": chain.serial(),
                "not_before": validity.not_before().to_string(),
                "not_after": validity.not_after().to_string(),
            })
        };
        let more = json!({
            "pending": self.pending.to_json(),
            "on_demand_at": self.on_demand_at.map(|at| at.to_string()),
            "previous": self.previous.iter().map(pair).collect::<Vec<_>>(),
            "next": self.next.as_ref().map(pair),
            "problems": self.problems.iter().map(|(problem, _)| problem).collect::<Vec<_>>(),
            "remedies": self.problems.iter().map(|(_, remedy)| remedy).collect::<Vec<_>>(),
            "set_aside": self.aside,
            "hook": self.hook,
        });
        report::with(self.found.to_json(&self.verdict), more)
    }

    fn lines(&self, now: UnixTime) -> Vec<(&'static str, String)> {
        let mut lines = vec![("certificate", self.prefix.clone())];
        lines.extend(self.found.lines());
        lines.extend(self.verdict.rotate_at.map(|at| ("rotation at", at.to_string())));
        lines.extend(self.pending.to_text(now));
        lines.extend(self.on_demand_at.map(|at| {
            (
                "budget",
                format!("used up: a rotation on demand (SIGUSR1) waits until {at}, for {}", words(at.since(now))),
            )
        }));
        lines.extend(self.hook.as_ref().map(|hook| ("hook", hook.to_text())));
        lines.extend(self.next.iter().map(|(file, chain)| {
            let from = chain.certificate().validity.not_before();
            ("next", format!("{file}, serial {}, used from {from}", chain.serial()))
        }));
        lines.extend(self.previous.iter().map(|(file, chain)| {
            let until = chain.certificate().validity.not_after();
            ("previous", format!("{file}, serial {}, valid until {until}", chain.serial()))
        }));
        lines.extend(
            self.problems
                .iter()
                .flat_map(|(problem, remedy)| [("problem", problem.clone()), ("  to do", (*remedy).to_owned())]),
        );
        lines.extend(self.aside.iter().map(|file| ("unused", file.clone())));
        if !self.aside.is_empty() {
            lines.push((
                "  to do",
                "perennial does not use these files: remove them if no other program needs them".into(),
            ));
        }
        lines.extend([("now", now.to_string()), ("state", self.verdict.words.clone())]);
        lines
    }
}
