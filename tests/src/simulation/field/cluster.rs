//! A simulated cluster: request objects, the decision on each, and their deletion.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Template};
use perennial_simulation::{Object, Seen, Submitted};

use super::{Elapsed, utc};
use crate::mint;

/// The time by which the signer backdates notBefore.
pub(super) const BACKDATE: Duration = Duration::from_secs(300);

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The conduct of approver and signer towards requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Approve and sign each request.
    Signs {
        /// The time from creation to signature.
        after: Duration,
        /// True if the signer omits some of the requested names, as [`mint::trimmed`] does.
        trims: bool,
    },
    /// Approve and sign a request only if its template is the one that the node wants at the time of the approval.
    /// Approvers of serving certificates compare the request with the node in this way.
    Compares {
        /// The time from creation to signature.
        after: Duration,
    },
    /// Leave each request undecided.
    Ignores,
    /// Deny each request at once.
    Denies,
    /// The signer fails each request at once.
    Fails,
}

impl Conduct {
    /// The conduct of a healthy cluster, which signs two seconds after the creation.
    pub const WELL: Self = Self::signs_after(Duration::from_secs(2));

    /// The conduct of a healthy cluster, which signs this long after the creation.
    pub const fn signs_after(after: Duration) -> Self {
        Self::Signs { after, trims: false }
    }

    const fn delay(self) -> Option<Duration> {
        match self {
            Self::Signs { after, .. } | Self::Compares { after } => Some(after),
            Self::Ignores => None,
            Self::Denies | Self::Fails => Some(Duration::ZERO),
        }
    }
}

/// The API's behaviour towards every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Serves every request.
    Up,
    /// Refuses connections.
    Down,
    /// Answers each request with status 429 and this `Retry-After`.
    Throttles(Duration),
}

#[derive(Clone, Debug)]
struct Request {
    name: Option<u64>,
    template: Arc<Template>,
    made: Elapsed,
    decided: Option<(Elapsed, Seen)>,
}

/// A simulated cluster: the API, approver and signer, and the deletion of old request objects.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The conduct of approver and signer from now on.
    pub conduct: Conduct,
    /// How the API answers from now on.
    pub api: Api,
    pub(super) authority_ends: Elapsed,
    /// The template that the node wants now. [`Conduct::Compares`] approves only requests for this template.
    pub(super) wanted: Option<Arc<Template>>,
    pub(super) submissions: Vec<Elapsed>,
    pub(super) made: usize,
    pub(super) most: usize,
    lifetime: Duration,
    now: Elapsed,
    next_sweep: Elapsed,
    requests: BTreeMap<Object, Request>,
    undecided: Vec<Object>,
    serial: u64,
}

impl Cluster {
    pub(super) fn new(lifetime: Duration, wanted: Option<Arc<Template>>) -> Self {
        Self {
            wanted,
            conduct: Conduct::WELL,
            api: Api::Up,
            authority_ends: 10_000 * DAY,
            submissions: vec![],
            made: 0,
            most: 0,
            lifetime,
            now: Elapsed::ZERO,
            next_sweep: HOUR,
            requests: BTreeMap::new(),
            undecided: vec![],
            serial: 1_000,
        }
    }

    /// Submits a request: creates a request object, or returns the existing one if `name` is that of an existing one.
    pub fn submit(&mut self, name: Option<u64>, template: &Arc<Template>) -> Submitted {
        self.submissions.push(self.now);
        match self.api {
            Api::Down => return Submitted::Unreachable,
            Api::Throttles(retry_after) => return Submitted::Throttled(retry_after),
            Api::Up => {}
        }
        let known = name.and_then(|name| self.requests.iter().find(|(_, request)| request.name == Some(name)));
        if let Some((object, _)) = known {
            return Submitted::Accepted(*object);
        }
        self.made += 1;
        let object = Object(self.made as u64);
        let request = Request { name, template: template.clone(), made: self.now, decided: None };
        self.requests.insert(object, request);
        self.undecided.push(object);
        self.most = self.most.max(self.requests.len());
        self.decide();
        Submitted::Accepted(object)
    }

    /// The state of a request object as a client sees it now.
    pub fn watch(&self, object: Object) -> Seen {
        match (self.api, self.requests.get(&object)) {
            (Api::Down | Api::Throttles(_), _) => Seen::Nothing,
            (Api::Up, None) => Seen::Deleted,
            (Api::Up, Some(request)) => request.decided.as_ref().map_or(Seen::Nothing, |(_, seen)| seen.clone()),
        }
    }

    /// Decides the requests that are due now, and deletes old request objects once an hour.
    pub(super) fn run(&mut self, now: Elapsed) {
        self.now = now;
        self.decide();
        if now >= self.next_sweep {
            self.sweep();
            self.next_sweep = now + HOUR;
        }
    }

    /// When the next decision or clean-up is due.
    pub(super) fn next(&self) -> Option<Elapsed> {
        let decisions = self.undecided.iter().filter_map(|object| self.decides_at(&self.requests[object]));
        decisions.chain([self.next_sweep]).min()
    }

    fn decides_at(&self, request: &Request) -> Option<Elapsed> {
        let signs = matches!(self.conduct, Conduct::Signs { .. } | Conduct::Compares { .. });
        let stale = matches!(self.conduct, Conduct::Compares { .. }) && Some(&request.template) != self.wanted.as_ref();
        // A signer whose authority has expired signs nothing and adds no condition.
        let silent = stale || (signs && self.now >= self.authority_ends);
        self.conduct.delay().filter(|_| !silent).map(|delay| (request.made + delay).max(self.now))
    }

    fn decide(&mut self) {
        for object in std::mem::take(&mut self.undecided) {
            let request = &self.requests[&object];
            if self.decides_at(request) != Some(self.now) {
                self.undecided.push(object);
                continue;
            }
            let template = request.template.clone();
            let seen = match self.conduct {
                Conduct::Denies => Seen::Denied,
                Conduct::Fails => Seen::Failed,
                Conduct::Signs { trims, .. } => Seen::Issued(Arc::new(self.sign(&template, trims))),
                Conduct::Compares { .. } | Conduct::Ignores => Seen::Issued(Arc::new(self.sign(&template, false))),
            };
            self.requests.entry(object).and_modify(|request| request.decided = Some((self.now, seen)));
        }
    }

    /// Signs as a cluster's signer does: the certificate is backdated, and valid no longer than the CA.
    fn sign(&mut self, template: &Template, trims: bool) -> Certificate {
        self.serial += 1;
        let begins = utc(self.now).before(BACKDATE);
        let ends = utc(self.now.saturating_add(self.lifetime).min(self.authority_ends));
        let certificate = mint::certificate(template, self.serial, begins, ends.since(begins));
        if trims { mint::trimmed(certificate) } else { certificate }
    }

    /// Deletes request objects an hour after their decision, and undecided ones a day after their creation.
    fn sweep(&mut self) {
        let now = self.now;
        self.requests.retain(|_, request| match &request.decided {
            Some((decided, _)) => *decided + HOUR >= now,
            None => request.made + DAY >= now,
        });
        self.undecided.retain(|object| self.requests.contains_key(object));
    }
}
