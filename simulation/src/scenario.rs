//! The description of a fleet, its cluster and its faults.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Policy, UnixTime, Validity};

/// The date and time at which every simulation begins: 2026-01-01T00:00:00Z.
pub const BEGIN: UnixTime = UnixTime::from_secs(1_767_225_600);

/// A fleet of nodes, the cluster that issues their certificates, and what goes wrong. Times are counted from
/// [`BEGIN`].
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The number of nodes. Ignored with [`Start::With`], which has one node for each certificate.
    pub nodes: u32,
    /// The program that each node runs.
    pub program: Program,
    /// The time from issue to notAfter of every certificate that the signer issues.
    pub lifetime: Duration,
    /// The time by which notBefore precedes the issue.
    pub backdate: Duration,
    /// The time to simulate.
    pub span: Duration,
    /// The certificates with which the nodes start.
    pub start: Start,
    /// The time from a request's creation to its approval or denial.
    pub approver_delay: Duration,
    /// The time from a request's approval to the certificate.
    pub signer_latency: Duration,
    /// The share of requests that the approver denies: 0 denies none, 1 denies all.
    pub denied: f64,
    /// The outages.
    pub outages: Vec<Outage>,
    /// The times at which every node restarts its program. A restart loses what the program had only in memory.
    pub restarts: Vec<Duration>,
    /// Distinguishes fleets: the names of the nodes contain this number, and all jitter follows from the names.
    pub seed: u64,
}

impl Scenario {
    /// A fleet of `nodes` nodes that run perennial with [`Policy::for_lifetime`], in a cluster without faults. Requests
    /// are approved at once and signed two seconds later; the nodes start with certificates of all ages.
    pub fn new(nodes: u32, lifetime: Duration, span: Duration) -> Self {
        Self {
            nodes,
            program: Program::Perennial(Arc::new(Policy::for_lifetime(lifetime))),
            lifetime,
            backdate: Duration::from_secs(5 * 60).min(lifetime / 20),
            span,
            start: Start::Spread,
            approver_delay: Duration::ZERO,
            signer_latency: Duration::from_secs(2),
            denied: 0.0,
            outages: vec![],
            restarts: vec![],
            seed: 0,
        }
    }

    /// The number of nodes of this fleet.
    pub(crate) fn fleet_size(&self) -> u32 {
        match &self.start {
            Start::Spread | Start::Within(_) => self.nodes,
            Start::With(certificates) => u32::try_from(certificates.len()).unwrap_or(u32::MAX),
        }
    }
}

/// The program that each node runs.
#[derive(Clone, Debug)]
pub enum Program {
    /// perennial with this policy: each node is a [`RotationMachine`](perennial::RotationMachine). The policy's
    /// `max_sleep` has no effect, since simulated clocks are steady and need no checks.
    Perennial(Arc<Policy>),
    /// client-go's certificate manager, as the [`Oracle`](crate::Oracle) ports it.
    ClientGo,
}

/// The certificates with which the nodes start.
#[derive(Clone, Debug)]
pub enum Start {
    /// Each node has a certificate. Their ages are spread evenly from 0 to 70 % of the lifetime, so none is due yet.
    Spread,
    /// The nodes are installed without certificates, one after another within this time.
    Within(Duration),
    /// A node for each of these certificates.
    With(Arc<[Validity]>),
}

/// A time in which the API server, or approver and signer, do not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the outage begins.
    pub from: Duration,
    /// How long the outage lasts.
    pub lasts: Duration,
    /// The part of the cluster that fails.
    pub kind: OutageKind,
}

/// The part of the cluster that fails in an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutageKind {
    /// The API server refuses connections.
    Refused,
    /// The API server answers each request with status 503 and this `Retry-After`.
    Unavailable {
        /// The `Retry-After` of each answer.
        retry_after: Duration,
    },
    /// The API server works, but approver and signer do not: requests stay undecided until the end of the outage.
    Undecided,
}
