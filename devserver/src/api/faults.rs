//! Faults on command: a [`Plan`] lists which requests fail, and how.
//!
//! The API keeps the plan and counts requests. A session applies the faults, since faults concern bytes and time as
//! well as objects. The default plan is empty.

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

/// Largest number of requests in [`Faults::journal`]; older ones are dropped.
const JOURNAL: usize = 1024;

/// The plan in force, with counters for each rule, and a record of the latest requests.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<ActiveRule>,
    since: UnixTime,
    /// Latest requests since the plan was set, at most [`JOURNAL`]: method and target of each, the latest last.
    journal: VecDeque<String>,
}

#[derive(Debug)]
struct ActiveRule {
    rule: Rule,
    /// Number of requests or connections that matched the rule.
    matched: u32,
    /// Number of requests or connections that the fault was applied to.
    applied: u32,
}

impl Api {
    /// Applies the faults of `plan` from now on, in place of the previous plan; an empty plan ends all faults.
    /// Connections and watches keep a fault that was applied to them.
    pub fn set_faults(&mut self, plan: Plan, now: UnixTime) {
        let rules = plan.rules.into_iter().map(|rule| ActiveRule { rule, matched: 0, applied: 0 }).collect();
        self.faults = Faults { rules, since: now, journal: VecDeque::new() };
    }

    /// The last 1024 requests since the plan was set, the latest last: method and target of each, and `CONNECT` for
    /// each connection that the plan gave a fault. Without rules, requests are not recorded.
    pub fn journal(&self) -> impl Iterator<Item = &str> {
        self.faults.journal.iter().map(String::as_str)
    }

    /// The fault for a new connection; `None` if no rule of the plan applies. Counts the connection for each rule that
    /// matches, and records a connection with a fault.
    pub(crate) fn fault_of_connection(&mut self, now: UnixTime) -> Option<ConnectionFault> {
        let fault = self.faults.find(now, |rule| matches!(rule.fault, Fault::Connection(_)))?;
        self.faults.note("CONNECT".into());
        match fault {
            Fault::Connection(fault) => Some(fault),
            _ => None,
        }
    }

    /// The fault for this request; `None` if no rule of the plan applies. Counts the request for each rule that
    /// matches, and records the request.
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

    /// Counts a request or connection for each rule that `matches` accepts, within the rule's `after` and `until`.
    /// Returns the fault of the first of these rules that `nth` and `times` allow; `None` if there is no such rule.
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
