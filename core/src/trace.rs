//! Events, actions and states as one line of text each, for logs, transcripts and bug reports.

use core::fmt::{self, Display, Formatter};

use crate::action::{Action, Actions, Key};
use crate::certificate::Certificate;
use crate::escaped::Escaped;
use crate::event::{Event, Failure};
use crate::machine::RotationMachine;
use crate::policy::Policy;
use crate::renewal::{HintFault, RenewalHint};
use crate::state::{Reason, State};
use crate::template::Template;
use crate::time::{Instant, Now};

/// One step of a machine on one line: the clocks, the event, the actions, and the state afterwards.
///
/// ```text
/// 0.000s 2026-01-01T00:00:00Z | Tick -> SubmitCsr #1 new key CN=node, SetTimer 900.000s | requesting #1 …
/// ```
#[derive(Debug)]
pub struct TraceLine<'a> {
    /// The event that was handled.
    pub event: &'a Event,
    /// The clocks at the event.
    pub now: Now,
    /// The actions that followed.
    pub actions: &'a Actions,
    /// The machine after the event.
    pub machine: &'a RotationMachine,
}

impl Display for TraceLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { event, now, actions, machine } = self;
        write!(f, "{now} | {event} -> {actions} | {machine}")
    }
}

impl Display for Instant {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.as_millis() / 1000, self.as_millis() % 1000)
    }
}

impl Display for Now {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.instant, self.unix)
    }
}

impl Display for Template {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "CN={}", Escaped(self.common_name()))?;
        self.organizations().try_for_each(|name| write!(f, ",O={}", Escaped(name)))?;
        self.dns_names().try_for_each(|name| write!(f, ",DNS={}", Escaped(name)))?;
        self.ip_addresses().try_for_each(|address| write!(f, ",IP={address}"))?;
        self.uris().try_for_each(|uri| write!(f, ",URI={}", Escaped(uri)))?;
        self.organizational_units().try_for_each(|unit| write!(f, ",OU={}", Escaped(unit)))?;
        match self.serial_number() {
            "" => Ok(()),
            number => write!(f, ",serialNumber={}", Escaped(number)),
        }
    }
}

impl Display for Certificate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} CN={} until {}", self.fingerprint, Escaped(self.common_name()), self.validity.not_after())?;
        f.write_str(if self.provisional { " (provisional)" } else { "" })
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tick => f.write_str("Tick"),
            Self::TurnGranted => f.write_str("TurnGranted"),
            Self::TemplateChanged(Some(template)) => write!(f, "TemplateChanged {template}"),
            Self::TemplateChanged(None) => f.write_str("TemplateChanged none"),
            Self::SignerChanged(status) => write!(f, "SignerChanged {}", status.name()),
            Self::PolicyChanged(policy) => write!(f, "PolicyChanged {policy}"),
            Self::CsrIssued { id, certificate } => write!(f, "CsrIssued {id} {certificate}"),
            Self::RenewalHinted { fingerprint, hint } => write!(f, "RenewalHinted {fingerprint} {hint}"),
            Self::CsrFailed { id, failure, retry_after: None } => write!(f, "CsrFailed {id} {}", failure.name()),
            Self::CsrFailed { id, failure, retry_after: Some(span) } => {
                write!(f, "CsrFailed {id} {} retry after {span:?}", failure.name())
            }
            Self::CertWritten { id } => write!(f, "CertWritten {id}"),
            Self::WriteFailed { id } => write!(f, "WriteFailed {id}"),
            Self::CertReplaced(Some(certificate)) => write!(f, "CertReplaced {certificate}"),
            Self::CertReplaced(None) => f.write_str("CertReplaced none"),
            Self::CertRefused { fingerprint } => write!(f, "CertRefused {fingerprint}"),
            Self::RotateNow => f.write_str("RotateNow"),
            Self::ServerDated { unix } => write!(f, "ServerDated {unix}"),
        }
    }
}

impl Display for RenewalHint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self { from, until } if until > from => write!(f, "between {from} and {until}"),
            Self { from, .. } => write!(f, "after {from}"),
        }
    }
}

impl Display for HintFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// Shows window, budget, spacing and timeout, by which an operator distinguishes policies.
impl Display for Policy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { window, request_timeout, spacing, budget, .. } = self;
        let (from, to, size, refill) = (window.from(), window.to(), budget.size(), budget.refill());
        write!(f, "window {from}-{to} permille, budget {size} every {refill:?}, ")?;
        write!(f, "spacing {spacing:?}, timeout {request_timeout:?}")
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::CancelRequest { id } => write!(f, "CancelRequest {id}"),
            Self::WriteCert { id, certificate, serve } => {
                write!(f, "WriteCert {id} {certificate}{}", if *serve { "" } else { ", not served yet" })
            }
            Self::SubmitCsr { id, template, key } => write!(f, "SubmitCsr {id} {key} {template}"),
            Self::SetTimer(Some(at)) => write!(f, "SetTimer {at}"),
            Self::SetTimer(None) => f.write_str("SetTimer none"),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new key",
            Self::Pending => "pending key",
        })
    }
}

impl Display for Actions {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        self.clone().enumerate().try_for_each(|(i, action)| {
            f.write_str(if i == 0 { "" } else { ", " })?;
            action.fmt(f)
        })
    }
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEnabled => f.write_str("rotation is not enabled: no signer"),
            Self::NoTemplate => f.write_str("nothing to request: no template"),
            Self::NoIdentity { reason } => write!(f, "no identity to authenticate with yet ({reason})"),
            Self::Scheduled { rotate_at } => write!(f, "next rotation at {rotate_at}"),
            Self::Requesting { id, reason, until } => write!(f, "requesting {id} ({reason}), until {until}"),
            Self::BackingOff { reason, until, failures, last } => {
                write!(f, "backing off ({reason}) after failure {failures} ({}), until {until}", last.name())
            }
            Self::Waiting { reason, until } => write!(f, "waiting ({reason}), until {until}"),
            Self::Queued { reason } => write!(f, "queued ({reason})"),
        }
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// Shows the state, and whether a certificate is not known to be durable.
impl Display for RotationMachine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.state().fmt(f)?;
        f.write_str(if self.is_unwritten() { ", unwritten" } else { "" })
    }
}
