//! `perennial verify`: checks whether kubelet and perennial could start from a certificate directory.

mod bundles;
mod kubelet;
mod list;
mod own;

use std::path::Path;

use perennial::UnixTime;
use perennial_pki::Chain;
use perennial_rotation::{Directory, clock};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli;
use crate::cli::{PREFIX, SERVING_PREFIX};
use crate::failure::Failure;
use crate::remedies::remedy;
use crate::report::{columns, json_line, print, with};
use bundles::BundleFinding;

/// Runs `perennial verify`. Prints the verdicts of kubelet and of perennial on each certificate.
///
/// # Errors
/// [`Failure::Failed`] if kubelet or perennial could not start, or could not put the next certificate in place, or if
/// kubelet's verdict is in doubt. [`Failure::Usage`] if the directory cannot be read.
pub(crate) fn verify(options: &cli::Verify) -> Result<(), Failure> {
    if let Some(path) = &options.certificates {
        return list::verify(path, options);
    }
    // Required without a list.
    let directory = options.cert_dir.as_deref().unwrap_or_else(|| Path::new(""));
    let now = clock::now().unix;
    let mut found = Vec::new();
    for role in [Role::Client, Role::Serving] {
        let store = Directory::open_existing(directory, role.prefix()).map_err(Failure::usage)?;
        // The serving certificate is optional: without files, it is not checked.
        if role == Role::Client || store.is_used().map_err(Failure::usage)? {
            found.push(Finding::of(directory, &store, role, now)?);
        }
    }
    report("directory", directory, &found, &bundles::of_options(&options.trust_bundle)?, options.json)
}

/// Prints the findings. `what` names the directory or list that was checked, `at` is its path.
///
/// # Errors
/// [`Failure::Failed`] with the first fault or doubt.
fn report(
    what: &'static str,
    at: &Path,
    found: &[Finding],
    bundles: &[BundleFinding],
    json: bool,
) -> Result<(), Failure> {
    let fault = found.iter().find_map(Finding::first_fault);
    let fault = fault.or_else(|| bundles.iter().find_map(BundleFinding::first_fault));
    print(&if json { to_json(what, at, found, bundles, fault.is_none()) } else { to_text(what, at, found, bundles) });
    fault.map_or(Ok(()), |fault| Err(Failure::Failed(format!("{}: {fault}", at.display()))))
}

/// The certificate that is checked: the node's client or serving certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The client certificate: without a valid one a start fails.
    Client,
    /// The serving certificate. A start does not need it: it can be requested with the client certificate.
    Serving,
}

impl Role {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Client => PREFIX,
            Self::Serving => SERVING_PREFIX,
        }
    }

    /// The fault that a start with this pair, or without a pair, would have; `None` if the start would succeed.
    fn fault(self, pair: Option<&Pair>, now: UnixTime) -> Option<Fault> {
        let advice = "provide a bootstrap kubeconfig with a valid token";
        let Some(Pair { file, chain }) = pair else {
            return self.keeps_from_starting("there is no certificate".into(), advice);
        };
        let validity = chain.certificate().validity;
        if validity.expired(now) {
            self.keeps_from_starting(format!("{file} expired at {}", validity.not_after()), advice)
        } else if now < validity.not_before() {
            let why = format!("{file} is not valid before {}", validity.not_before());
            self.keeps_from_starting(why, "correct the clock if it is wrong, else wait until then")
        } else {
            None
        }
    }

    fn keeps_from_starting(self, why: String, remedy: &str) -> Option<Fault> {
        (self == Self::Client).then(|| Fault::start(why, remedy.into()))
    }
}

/// The verdicts of kubelet and of perennial on the files of one certificate.
struct Finding {
    /// The prefix of the files, or the name in a certificate list.
    name: String,
    /// kubelet's verdict; `None` for a certificate of a list.
    kubelet: Option<Opinion>,
    perennial: Opinion,
    /// Problems that do not prevent a start, with remedies.
    notes: Vec<String>,
}

/// The verdict of kubelet or of perennial on the files of one certificate.
#[derive(Default)]
struct Opinion {
    /// The pair that kubelet or perennial would start with.
    pair: Option<Pair>,
    faults: Vec<Fault>,
    /// The reason why perennial does not know whether kubelet could load the pair.
    doubt: Option<Fault>,
}

impl Opinion {
    /// True if there is no fault, false if there is one; `None` if perennial does not know whether there is one.
    fn good(&self) -> Option<bool> {
        match (self.faults.is_empty(), &self.doubt) {
            (false, _) => Some(false),
            (true, None) => Some(true),
            (true, Some(_)) => None,
        }
    }

    /// The faults and the doubt: the reasons why [`good`](Self::good) is not `Some(true)`.
    fn not_good(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().chain(&self.doubt)
    }
}

/// A pair that a start would use: the name of its file, and its chain.
struct Pair {
    file: String,
    chain: Chain,
}

/// The reason why a start or the next rotation would fail, and the remedy.
#[derive(Serialize)]
struct Fault {
    why: String,
    remedy: String,
}

impl Fault {
    fn start(why: String, remedy: String) -> Self {
        Self { why: format!("could not start: {why}"), remedy }
    }
}

impl Finding {
    /// The finding on a certificate of a list.
    const fn of_list(name: String, perennial: Opinion) -> Self {
        Self { name, kubelet: None, perennial, notes: Vec::new() }
    }

    fn of(directory: &Path, store: &Directory, role: Role, now: UnixTime) -> Result<Self, Failure> {
        let own = Self::own(role.prefix().into(), store, role.prefix(), role, now)?;
        Ok(Self { kubelet: Some(kubelet::check(directory, role, now)), ..own })
    }

    /// Checks the files with this prefix for perennial alone.
    fn own(name: String, store: &Directory, prefix: &str, role: Role, now: UnixTime) -> Result<Self, Failure> {
        let (perennial, others) = own::check(store, prefix, role, now)?;
        let another = perennial.pair.is_some();
        let note = |problem| format!("{problem}; {}", remedy(&problem, another));
        let notes = others.into_iter().map(note).collect();
        Ok(Self { name, kubelet: None, perennial, notes })
    }

    fn opinions(&self) -> impl Iterator<Item = (&'static str, &Opinion)> {
        self.kubelet.iter().map(|kubelet| ("kubelet", kubelet)).chain([("perennial", &self.perennial)])
    }

    /// The first fault or doubt, for stderr; `None` if both kubelet and perennial could start.
    fn first_fault(&self) -> Option<String> {
        let first = |(who, opinion): (&str, &Opinion)| {
            opinion.not_good().next().map(|Fault { why, remedy }| format!("{} ({who}): {why}; {remedy}", self.name))
        };
        self.opinions().find_map(first)
    }
}

fn to_text(what: &'static str, at: &Path, found: &[Finding], bundles: &[BundleFinding]) -> String {
    let mut lines = vec![(what, at.display().to_string())];
    for finding in found {
        lines.push(("certificate", finding.name.clone()));
        for (who, opinion) in finding.opinions() {
            if opinion.good() == Some(true) {
                let with = opinion.pair.as_ref().map_or_else(
                    || {
                        let identity = match finding.kubelet {
                            Some(_) => "the client certificate",
                            None => "the identity in the list",
                        };
                        format!("and would request this certificate with {identity}")
                    },
                    |Pair { file, chain }| {
                        format!("with {file}, valid until {}", chain.certificate().validity.not_after())
                    },
                );
                lines.push((who, format!("could start, {with}")));
            }
            for Fault { why, remedy } in opinion.not_good() {
                lines.extend([(who, why.clone()), ("  to do", remedy.clone())]);
            }
        }
        lines.extend(finding.notes.iter().map(|note| ("note", note.clone())));
    }
    lines.extend(bundles.iter().flat_map(BundleFinding::lines));
    columns(&lines)
}

fn to_json(what: &str, at: &Path, found: &[Finding], bundles: &[BundleFinding], good: bool) -> String {
    let opinion = |opinion: &Opinion| {
        let Opinion { pair, faults, doubt } = opinion;
        json!({
            "good": opinion.good(),
            "file": pair.as_ref().map(|pair| &pair.file),
            "serial": pair.as_ref().map(|pair| pair.chain.serial()),
            "not_after": pair.as_ref().map(|pair| pair.chain.certificate().validity.not_after().to_string()),
            "faults": faults,
            "doubt": doubt,
        })
    };
    let certificates = found.iter().map(|finding| {
        let opinions: Map<_, _> = finding.opinions().map(|(who, found)| (who.to_owned(), opinion(found))).collect();
        (finding.name.clone(), with(json!({ "notes": finding.notes }), Value::Object(opinions)))
    });
    let certificates: Map<String, Value> = certificates.collect();
    let bundles: Vec<Value> = bundles.iter().map(BundleFinding::to_json).collect();
    let at = at.display().to_string();
    json_line(&json!({ "good": good, what: at, "certificates": certificates, "trust_bundles": bundles }))
}
