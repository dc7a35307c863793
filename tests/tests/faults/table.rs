//! Parses `table.md`, the table of faults.

use perennial::Failure;
use perennial_dev::faults::Plan;

const COLLECTION: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A row of `table.md`: a fault, and how the first submission under it must end.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) plan: Plan,
    pub(crate) outcome: Outcome,
    /// The value of client-go's `ServerHealthy` after the submission; `None` if the fault does not change the value.
    pub(crate) healthy: Option<bool>,
    /// The requests that the first submission under the fault sent, abbreviated as `table.md` explains.
    pub(crate) requests: &'static str,
    /// True if the node must request a serving certificate, since the fault concerns names that a client certificate
    /// does not have.
    pub(crate) serving: bool,
}

/// The outcome of the first submission that meets a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The certificate is issued despite the fault.
    Issued,
    /// The submission ends with this failure. A later submission, without the fault, succeeds.
    Failed(Failure),
}

pub(crate) fn kinds() -> Vec<Kind> {
    let rows = include_str!("table.md").lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, rule, outcome, healthy, requests] = cells[..] else { panic!("five cells are wanted: {row}") };
        let plan = format!("rules: [{{ {} }}]", rule.replace("COLLECTION", COLLECTION));
        let plan = Plan::parse(&plan).unwrap_or_else(|error| panic!("{name}: {error}"));
        let healthy = match healthy {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        };
        let (outcome, serving) = (self::outcome(outcome), rule.contains("withoutNames"));
        Kind { name, plan, outcome, healthy, requests, serving }
    })
    .collect()
}

fn outcome(word: &str) -> Outcome {
    use Failure::*;
    let classes = [
        Denied,
        SignerFailed,
        Rejected,
        BadCertificate,
        Unsatisfying,
        Unauthorized,
        Forbidden,
        Throttled,
        Unreachable,
        TimedOut,
        Deleted,
    ];
    match classes.into_iter().find(|class| format!("{class:?}") == word) {
        Some(class) => Outcome::Failed(class),
        None => {
            assert_eq!(word, "issued", "no class of failure");
            Outcome::Issued
        }
    }
}
