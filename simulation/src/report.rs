//! The result of a simulation.

use std::time::Duration;

use perennial::{Instant, Validity};

use crate::cluster::unix;
use crate::series::{PerMinute, PerSecond};

/// The number of entries in [`Report::ages`]: one for each percent of the lifetime, up to twice the lifetime.
pub const AGES: usize = 201;

/// Numbers about a whole simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The number of nodes.
    pub nodes: u32,
    /// Certificates that replaced an earlier one, expired or not.
    pub rotations: u64,
    /// First certificates of nodes.
    pub first_certificates: u64,
    /// Submissions: each is one POST.
    pub submissions: u64,
    /// Submissions that failed because the API server refused the connection.
    pub unreachable: u64,
    /// Submissions that the API server answered with `Retry-After`.
    pub throttled: u64,
    /// Submissions that ended with a certificate.
    pub issued: u64,
    /// Submissions that the approver denied.
    pub denied: u64,
    /// Submissions whose request object was deleted before a decision.
    pub deleted: u64,
    /// Submissions that the node gave up before a decision: because of its timeout, another submission or a restart.
    pub abandoned: u64,
    /// Submissions that are undecided at the end, and that the node still waits for.
    pub open: u64,
    /// Request objects that were created.
    pub objects: u64,
    /// Certificates that expired before the node had the next one.
    pub expiries: u64,
    /// Nodes that were without a valid certificate at some time.
    pub nodes_without: u32,
    /// The time without a valid certificate, of all nodes together.
    pub without: Duration,
    /// The longest time for which a node was without a valid certificate.
    pub longest_without: Duration,
}

/// The result of a simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Numbers about the whole simulation.
    pub totals: Totals,
    /// Submissions: POSTs to the API server, in each second.
    pub submissions: PerSecond,
    /// HTTP requests to the API server, in each second: submissions, and the lists and watches that wait for decisions.
    pub requests: PerSecond,
    /// Request objects in etcd, in each minute.
    pub objects: PerMinute,
    /// Nodes without a valid certificate, in each minute.
    pub without: PerMinute,
    /// The number of rotations at each age of the replaced certificate: entry `n` counts ages from `n` to `n + 1`
    /// percent of the lifetime, counted from notBefore. The last entry counts all greater ages.
    pub ages: Vec<u64>,
    /// The end of each replaced certificate's life. Empty after [`simulate`](crate::simulate):
    /// [`simulate_with_lives`](crate::simulate_with_lives) records lives.
    pub lives: Vec<Life>,
}

/// The end of a certificate's life: when the certificate was replaced, and when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When the node had the successor, since the start of the simulation.
    pub replaced: Duration,
    /// When the certificate expires, since the start of the simulation.
    pub expires: Duration,
}

/// A report that is being made.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) totals: Totals,
    submissions: PerSecond,
    requests: PerSecond,
    objects: PerMinute,
    without: PerMinute,
    ages: Vec<u64>,
    lives: Option<Vec<Life>>,
    end: Instant,
}

impl Tally {
    pub(crate) fn new(nodes: u32, span: Duration, records_lives: bool) -> Self {
        Self {
            totals: Totals { nodes, ..Totals::default() },
            submissions: PerSecond::new(span),
            requests: PerSecond::new(span),
            objects: PerMinute::new(span),
            without: PerMinute::new(span),
            ages: vec![0; AGES],
            lives: records_lives.then(Vec::new),
            end: Instant::default().after(span),
        }
    }

    pub(crate) fn submitted(&mut self, now: Instant) {
        self.totals.submissions += 1;
        self.submissions.add(now, 1);
        self.requested(now, 1);
    }

    /// Counts HTTP requests that the client makes now.
    pub(crate) fn requested(&mut self, now: Instant, requests: u8) {
        self.requests.add(now, requests);
    }

    pub(crate) fn created(&mut self, now: Instant, gone: Instant) {
        self.totals.objects += 1;
        self.objects.add(now, gone);
    }

    pub(crate) fn report(self) -> Report {
        let Self { totals, submissions, requests, objects, without, ages, lives, end: _ } = self;
        Report { totals, submissions, requests, objects, without, ages, lives: lives.unwrap_or_default() }
    }

    fn was_without(&mut self, from: Instant, until: Instant) {
        let span = until.since(from);
        self.totals.without += span;
        self.totals.longest_without = self.totals.longest_without.max(span);
        self.without.add(from, until);
    }
}

/// The certificate that a node holds, for the numbers about expiries and ages.
#[derive(Debug)]
pub(crate) struct Holding {
    validity: Option<Validity>,
    /// When the node started.
    started: Instant,
    was_without: bool,
}

impl Holding {
    pub(crate) const fn new(validity: Option<Validity>, started: Instant) -> Self {
        Self { validity, started, was_without: false }
    }

    /// The node has a new certificate from `now` on.
    pub(crate) fn replace(&mut self, new: Validity, now: Instant, tally: &mut Tally) {
        match self.validity {
            None => tally.totals.first_certificates += 1,
            Some(old) => {
                tally.totals.rotations += 1;
                let age = unix(now).since(old.not_before()).as_millis();
                let percent = 100 * age / old.lifetime().as_millis().max(1);
                tally.ages[usize::try_from(percent).unwrap_or(usize::MAX).min(AGES - 1)] += 1;
                if let Some(lives) = &mut tally.lives {
                    let expires = old.not_after().since(unix(Instant::default()));
                    lives.push(Life { replaced: now.since(Instant::default()), expires });
                }
            }
        }
        self.count_gap(now, tally);
        self.validity = Some(new);
    }

    /// Ends the simulation of the node, at the end of the whole simulation.
    pub(crate) fn end(&mut self, tally: &mut Tally) {
        let end = tally.end;
        self.count_gap(end, tally);
        tally.totals.nodes_without += u32::from(self.was_without);
    }

    /// Counts the time from the end of the certificate, or from the start if there was none, until `now`.
    fn count_gap(&mut self, now: Instant, tally: &mut Tally) {
        let zero = Instant::default();
        let ended = match self.validity {
            None => self.started,
            // Certificates that expired before the node started were no use to it.
            Some(validity) => zero.after(validity.not_after().since(unix(zero))).max(self.started),
        };
        if ended < now {
            tally.totals.expiries += u64::from(self.validity.is_some());
            tally.was_without(ended, now);
            self.was_without = true;
        }
    }
}
