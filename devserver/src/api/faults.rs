//! Faults on command: a [`Plan`] lists which requests fail, and how.
//!
//! The API keeps the plan and counts the requests that match its rules. Sessions apply the faults, since some faults
//! change the bytes of an answer or delay them, and the API handles neither bytes nor delays. The default plan is
//! empty.

mod delivery;
mod fault;
mod objects;
mod plan;
mod tls;

use std::collections::VecDeque;

use perennial::UnixTime;

use super::Api;
use super::message::ApiRequest;

pub use fault::{
    CannedAnswer, CannedBody, CertificateFault, ConnectionFault, CutPoint, EventFault, Fault, ObjectFault, Oversized,
};
pub use plan::{Match, Plan, PlanError, Rule};

pub(crate) use delivery::{Delivery, GARBAGE, canned, oversized, raw_reply};
pub(crate) use objects::{EventFaultState, spoil_answer};
pub(crate) use tls::faulty_tls;

/// Largest number of entries in [`Faults::journal`]. A further entry replaces the oldest one.
const JOURNAL: usize = 1024;

/// The rules of the current plan, with counters for each rule, and a journal of the latest requests.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<ActiveRule>,
    since: UnixTime,
    /// The entries that [`Api::journal`] returns, at most [`JOURNAL`], the oldest first.
    journal: VecDeque<String>,
}

#[derive(Debug)]
struct ActiveRule {
    rule: Rule,
    /// Number of requests or connections that matched the rule.
    matched: u32,
    /// Number of requests or connections that got the fault of the rule.
    applied: u32,
}

impl Api {
    /// Applies the faults of `plan` from now on, in place of the previous plan; an empty plan ends all faults. A
    /// connection or watch that has already got a fault keeps this fault.
    pub fn set_faults(&mut self, plan: Plan, now: UnixTime) {
        let rules = plan.rules.into_iter().map(|rule| ActiveRule { rule, matched: 0, applied: 0 }).collect();
        self.faults = Faults { rules, since: now, journal: VecDeque::new() };
    }

    /// The last 1024 entries since the plan was set, the oldest first. An entry is the method and target of a request,
    /// such as `GET /version`, or `CONNECT` for a connection to which the plan gave a fault. Without rules, nothing is
    /// recorded.
    pub fn journal(&self) -> impl Iterator<Item = &str> {
        self.faults.journal.iter().map(String::as_str)
    }

    /// The fault for a new connection; `None` if no rule of the plan applies. Adds the connection to the count of each
    /// rule that matches, and records a connection with a fault in the journal.
    pub(crate) fn fault_of_connection(&mut self, now: UnixTime) -> Option<ConnectionFault> {
        let fault = self.faults.find(now, |rule| matches!(rule.fault, Fault::Connection(_)))?;
        self.faults.note("CONNECT".into());
        match fault {
            Fault::Connection(fault) => Some(fault),
            _ => None,
        }
    }

    /// The fault for this request; `None` if no rule of the plan applies. Adds the request to the count of each rule
    /// that matches, and records the request in the journal.
    pub(crate) fn fault_of_request(&mut self, request: &ApiRequest, now: UnixTime) -> Option<Fault> {
        if self.faults.rules.is_empty() {
            return None;
        }
        self.faults.note(format!("{} {}", request.method.as_str(), request.target));
        let user = self.tokens.authenticate(request, now).map(|user| user.username);
        self.faults.find(now, |rule| {
            !matches!(rule.fault, Fault::Connection(_)) && is_about(&rule.matches, request, user.as_deref())
        })
    }
}

impl Faults {
    fn note(&mut self, line: String) {
        if self.journal.len() >= JOURNAL {
            self.journal.pop_front();
        }
        self.journal.push_back(line);
    }

    /// Adds a request or connection to the count of each rule that `matches` accepts, if the time is within the rule's
    /// `after` and `until`. Returns the fault of the first counted rule whose `nth` and `times` allow a fault now;
    /// `None` if there is no such rule.
    fn find(&mut self, now: UnixTime, matches: impl Fn(&Rule) -> bool) -> Option<Fault> {
        let age = now.since(self.since);
        let mut found = None;
        for active in self.rules.iter_mut().filter(|active| matches(&active.rule)) {
            let Match { nth, after, until, .. } = &active.rule.matches;
            if after.is_some_and(|after| age < after) || until.is_some_and(|until| age >= until) {
                continue;
            }
            // Counted even after a match of an earlier rule: `nth` counts requests, not faults.
            active.matched = active.matched.saturating_add(1);
            let begun = active.matched >= nth.unwrap_or(1);
            let left = active.rule.times.is_none_or(|times| active.applied < times);
            if found.is_none() && begun && left {
                active.applied = active.applied.saturating_add(1);
                found = Some(active.rule.fault.clone());
            }
        }
        found
    }
}

fn is_about(wanted: &Match, request: &ApiRequest, user: Option<&str>) -> bool {
    let path = request.path();
    let below = path.rsplit('/').next();
    wanted.method.as_deref().is_none_or(|wanted| wanted == request.method.as_str())
        && wanted.path.as_deref().is_none_or(|wanted| match wanted.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path == wanted,
        })
        && wanted.subresource.as_deref().is_none_or(|wanted| below == Some(wanted))
        && wanted.user.as_deref().is_none_or(|wanted| user == Some(wanted))
}
