//! The cluster, as one node meets it: API server, approver, signer, and the cleaner of old request objects.
//!
//! Nodes share neither a queue nor a limit, so the answers to one node depend on no other node. That is why a
//! simulation can run its nodes one after another.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Fingerprint, Instant, Template, UnixTime, Validity, mix};

use crate::report::Tally;
use crate::scenario::{BEGIN, Outage, OutageKind, Scenario};
use crate::surroundings::{Object, Seen, Submitted};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The date and time at an instant of the simulation.
pub(crate) fn unix(at: Instant) -> UnixTime {
    BEGIN.after(at.since(Instant::default()))
}

/// When the cluster answers, and how: the part of a scenario that is the same for all nodes.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// In order of time.
    outages: Vec<(Instant, Instant, OutageKind)>,
    approver_delay: Duration,
    signer_latency: Duration,
    lifetime: Duration,
    backdate: Duration,
    seed: u64,
    /// The share of denied requests, in units of 2⁻⁶⁴; `None` if all are denied.
    denied: Option<u64>,
    /// The number of requests, beside the POST, by which a client learns of the decision.
    requests_to_watch: u8,
}

impl Schedule {
    pub(crate) fn new(scenario: &Scenario, requests_to_watch: u8) -> Self {
        let at = |elapsed| Instant::default().after(elapsed);
        let bounds = |outage: &Outage| (at(outage.from), at(outage.from + outage.lasts), outage.kind);
        let mut outages: Vec<_> = scenario.outages.iter().map(bounds).collect();
        outages.sort_unstable_by_key(|(from, ..)| *from);
        Self {
            outages,
            approver_delay: scenario.approver_delay,
            signer_latency: scenario.signer_latency,
            lifetime: scenario.lifetime,
            backdate: scenario.backdate,
            seed: scenario.seed,
            // A float beyond 2⁶⁴ saturates, and one below zero becomes zero.
            denied: (scenario.denied < 1.0).then_some((scenario.denied * 2_f64.powi(64)) as u64),
            requests_to_watch,
        }
    }

    /// The answer to every request at this time; `None`: the API server works.
    fn refusal(&self, now: Instant) -> Option<Submitted> {
        let mut current = self.outages.iter().filter(|(from, until, _)| *from <= now && now < *until);
        current.find_map(|(.., kind)| match kind {
            OutageKind::Refused => Some(Submitted::Unreachable),
            OutageKind::Unavailable { retry_after } => Some(Submitted::Throttled(*retry_after)),
            OutageKind::Undecided => None,
        })
    }

    /// The earliest time from `at` on that lies in no outage; with `is_api_enough`, in none of the API server.
    fn after_outages(&self, at: Instant, is_api_enough: bool) -> Instant {
        let counts = |kind: OutageKind| !(is_api_enough && kind == OutageKind::Undecided);
        // In order of time, so that one pass also finds the end of outages that overlap.
        self.outages.iter().fold(
            at,
            |at, (from, until, kind)| {
                if *from <= at && at < *until && counts(*kind) { *until } else { at }
            },
        )
    }

    /// The first run of the cleaner at or after `at`. The cleaner runs each hour, unless the API server is down then.
    fn swept_at(&self, at: Instant) -> Instant {
        let hour = u64::try_from(HOUR.as_millis()).unwrap_or(u64::MAX);
        let on_the_hour = |at: Instant| Instant::from_millis(at.as_millis().div_ceil(hour).saturating_mul(hour));
        let mut sweep = on_the_hour(at);
        loop {
            let up = self.after_outages(sweep, true);
            if up == sweep {
                return sweep;
            }
            sweep = on_the_hour(up);
        }
    }

    /// Decides a request that is created now. `draw` chooses whether the approver denies the request.
    fn decide(&self, created: Instant, draw: u64) -> Fate {
        let is_denied = self.denied.is_none_or(|share| draw < share);
        let approved = self.after_outages(created.after(self.approver_delay), false);
        let decided = if is_denied { approved } else { self.after_outages(approved.after(self.signer_latency), false) };
        // kube-controller-manager's cleaner: pending requests a day after their creation, others an hour after the
        // decision (pkg/controller/certificates/cleaner/cleaner.go).
        let pending_until = self.swept_at(created.after(DAY));
        if pending_until <= approved {
            return Fate { end: Ended::Deleted, decided: pending_until, seen: pending_until, gone: pending_until };
        }
        let end = if is_denied { Ended::Denied } else { Ended::Issued };
        // The cleaner also removes a request whose certificate has expired.
        let kept = if is_denied { HOUR } else { HOUR.min(self.lifetime) };
        let seen = self.after_outages(decided, true);
        // A client that watches sees the decision before the cleaner's next run.
        let gone = self.swept_at(decided.after(kept).max(seen.after(Duration::from_millis(1))));
        Fate { end, decided, seen, gone }
    }
}

/// How a request object ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Issued,
    Denied,
    Deleted,
}

/// The future of a request object. Known at the creation, since a scenario has no surprises.
#[derive(Clone, Copy, Debug)]
struct Fate {
    end: Ended,
    decided: Instant,
    /// When a client sees the decision.
    seen: Instant,
    /// When the cleaner deletes the object.
    gone: Instant,
}

/// The last request object of a node.
#[derive(Debug)]
struct Request {
    object: Object,
    /// The number of the key, from which the object's name is derived; `None`: the name is random.
    key: Option<u64>,
    fate: Fate,
    certificate: Option<Arc<Certificate>>,
}

/// The cluster as one node meets it, and the tally of the whole fleet.
#[derive(Debug)]
pub(crate) struct Site {
    schedule: Schedule,
    pub(crate) tally: Tally,
    pub(crate) now: Instant,
    pub(crate) template: Arc<Template>,
    /// The number of certificates that the node has had, from which fingerprints are computed.
    serial: u64,
    /// The number of objects that the node has created.
    objects: u64,
    node: u64,
    request: Option<Request>,
    /// True while the node waits for the decision on `request`.
    is_waiting: bool,
    /// True if the node has seen the decision on `request` since it began to wait.
    has_seen: Cell<bool>,
}

impl Site {
    pub(crate) fn new(schedule: Schedule, tally: Tally) -> Self {
        Self {
            schedule,
            tally,
            now: Instant::default(),
            template: Arc::new(Template::default()),
            serial: 0,
            objects: 0,
            node: 0,
            request: None,
            is_waiting: false,
            has_seen: Cell::new(false),
        }
    }

    /// Begins with the next node, which starts at `now`.
    pub(crate) fn begin(&mut self, node: u32, template: Arc<Template>, now: Instant) {
        (self.serial, self.objects, self.request, self.is_waiting) = (0, 0, None, false);
        (self.node, self.template, self.now) = (node.into(), template, now);
    }

    /// Makes a certificate for the node, with the next serial number.
    pub(crate) fn mint(&mut self, validity: Validity) -> Arc<Certificate> {
        self.serial += 1;
        Arc::new(Certificate::for_template(self.template.clone(), validity, fingerprint(self.serial)))
    }

    /// Submits a request with the key of this number; `None`: with a key that was never used.
    pub(crate) fn submit(&mut self, key: Option<u64>) -> Submitted {
        self.settle();
        self.tally.submitted(self.now);
        if let Some(refusal) = self.schedule.refusal(self.now) {
            match refusal {
                Submitted::Throttled(_) => self.tally.totals.throttled += 1,
                Submitted::Unreachable | Submitted::Accepted(_) => self.tally.totals.unreachable += 1,
            }
            return refusal;
        }
        self.is_waiting = true;
        let same = |request: &&Request| key.is_some() && request.key == key && self.now < request.fate.gone;
        if let Some(request) = self.request.as_ref().filter(same) {
            // The API server answers 409, and the client reads the object, and watches it if it is undecided.
            let watches = self.schedule.requests_to_watch;
            self.tally.requested(self.now, 1 + if self.now < request.fate.seen { watches } else { 0 });
            return Submitted::Accepted(request.object);
        }
        Submitted::Accepted(self.create(key))
    }

    fn create(&mut self, key: Option<u64>) -> Object {
        self.objects += 1;
        let object = Object(self.objects);
        let fate = self.schedule.decide(self.now, mix(self.schedule.seed, self.node, self.objects));
        self.tally.requested(self.now, self.schedule.requests_to_watch);
        self.tally.created(self.now, fate.gone);
        let certificate = (fate.end == Ended::Issued).then(|| {
            let decided = unix(fate.decided);
            let (begins, ends) = (decided.before(self.schedule.backdate), decided.after(self.schedule.lifetime));
            Validity::new(begins, ends).ok().map(|validity| self.mint(validity))
        });
        self.request = Some(Request { object, key, fate, certificate: certificate.flatten() });
        object
    }

    /// When the node sees the decision on its request; `None`: the node waits for none.
    pub(crate) fn answers_at(&self) -> Option<Instant> {
        self.request.as_ref().filter(|_| self.is_waiting).map(|request| request.fate.seen)
    }

    /// The state of the object as the node sees it now.
    pub(crate) fn watch(&self, object: Object) -> Seen {
        let request = self.request.as_ref().filter(|request| request.object == object && self.now < request.fate.gone);
        let Some(request) = request else { return self.has_seen(Seen::Deleted) };
        match &request.certificate {
            _ if self.now < request.fate.seen => Seen::Nothing,
            Some(certificate) => self.has_seen(Seen::Issued(certificate.clone())),
            None => self.has_seen(Seen::Denied),
        }
    }

    fn has_seen(&self, seen: Seen) -> Seen {
        self.has_seen.set(true);
        seen
    }

    /// Ends the wait for a decision, and counts how it ended: with the decision that the node has seen, or without one,
    /// since another request, a timeout or a restart came first.
    pub(crate) fn settle(&mut self) {
        let (was_waiting, has_seen) = (std::mem::take(&mut self.is_waiting), self.has_seen.take());
        let Some(request) = self.request.as_ref().filter(|_| was_waiting) else { return };
        let totals = &mut self.tally.totals;
        match request.fate.end {
            _ if !has_seen => totals.abandoned += 1,
            Ended::Issued => totals.issued += 1,
            Ended::Denied => totals.denied += 1,
            Ended::Deleted => totals.deleted += 1,
        }
    }

    /// Ends the simulation of the node.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.is_waiting) {
            self.tally.totals.open += 1;
        }
    }
}

/// A fingerprint for the certificate with this serial number. Its first bytes are scrambled, so that consecutive serial
/// numbers give unlike fingerprints.
fn fingerprint(serial: u64) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&serial.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[24..].copy_from_slice(&serial.to_be_bytes());
    Fingerprint(bytes)
}
