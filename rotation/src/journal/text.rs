//! The values of a machine in the JSON of a journal. Times are milliseconds, which is the resolution of the machine.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use perennial::{
    Actions, Backoff, Budget, Certificate, Checkpoint, Event, Failure, Fingerprint, Instant, PendingKey, Policy,
    RequestId, RequestPacing, ServerClock, SignerStatus, Slot, Template, UnixTime, Unwritten, Validity, Window,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::disk_name;

/// The problem with a value in a journal, as a clause for [`ReplayError::Value`](super::ReplayError::Value).
pub(super) type Bad = &'static str;

/// Each action as its `Display` text, as in logs.
pub(super) fn words(actions: &Actions) -> Vec<String> {
    actions.clone().map(|action| action.to_string()).collect()
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum EventText {
    Tick,
    TemplateChanged(Option<TemplateText>),
    SignerChanged {
        configured: bool,
        /// There is a signer, and no identity to authenticate with yet.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        not_ready: bool,
    },
    PolicyChanged(PolicyText),
    CsrIssued {
        id: NonZeroU64,
        certificate: CertificateText,
    },
    CsrFailed {
        id: NonZeroU64,
        failure: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
    CertWritten {
        id: NonZeroU64,
    },
    WriteFailed {
        id: NonZeroU64,
    },
    CertReplaced(Option<CertificateText>),
    CertRefused {
        fingerprint: String,
    },
    RotateNow,
    ServerDated {
        unix: i64,
    },
    /// An event without a form of its own in this format version, as text. It cannot be replayed.
    Other(String),
}

impl EventText {
    pub(super) fn of(event: &Event) -> Self {
        match event {
            Event::Tick => Self::Tick,
            Event::TemplateChanged(template) => Self::TemplateChanged(template.as_deref().map(TemplateText::of)),
            Event::SignerChanged(status) => {
                let (configured, not_ready) = flags(*status);
                Self::SignerChanged { configured, not_ready }
            }
            Event::PolicyChanged(policy) => Self::PolicyChanged(PolicyText::of(policy)),
            Event::CsrIssued { id, certificate } => {
                Self::CsrIssued { id: number(*id), certificate: CertificateText::of(certificate) }
            }
            Event::CsrFailed { id, failure, retry_after } => Self::CsrFailed {
                id: number(*id),
                failure: disk_name::failure(*failure),
                retry_after: retry_after.map(span),
            },
            Event::CertWritten { id } => Self::CertWritten { id: number(*id) },
            Event::WriteFailed { id } => Self::WriteFailed { id: number(*id) },
            Event::CertReplaced(found) => Self::CertReplaced(found.as_deref().map(CertificateText::of)),
            Event::CertRefused { fingerprint } => Self::CertRefused { fingerprint: format!("{fingerprint:x}") },
            Event::RotateNow => Self::RotateNow,
            Event::ServerDated { unix } => Self::ServerDated { unix: unix.as_millis() },
            other => Self::Other(other.to_string()),
        }
    }

    pub(super) fn event(self) -> Result<Event, Bad> {
        Ok(match self {
            Self::Tick => Event::Tick,
            Self::TemplateChanged(template) => Event::TemplateChanged(template.map(TemplateText::template)),
            Self::SignerChanged { configured, not_ready } => Event::SignerChanged(signer(configured, not_ready)),
            Self::PolicyChanged(policy) => Event::PolicyChanged(Arc::new(policy.policy()?)),
            Self::CsrIssued { id, certificate } => {
                Event::CsrIssued { id: RequestId::new(id), certificate: certificate.certificate()? }
            }
            Self::CsrFailed { id, failure, retry_after } => Event::CsrFailed {
                id: RequestId::new(id),
                failure: failure_named(&failure)?,
                retry_after: retry_after.map(Duration::from_millis),
            },
            Self::CertWritten { id } => Event::CertWritten { id: RequestId::new(id) },
            Self::WriteFailed { id } => Event::WriteFailed { id: RequestId::new(id) },
            Self::CertReplaced(found) => Event::CertReplaced(found.map(CertificateText::certificate).transpose()?),
            Self::CertRefused { fingerprint } => Event::CertRefused { fingerprint: unhex(&fingerprint)? },
            Self::RotateNow => Event::RotateNow,
            Self::ServerDated { unix } => Event::ServerDated { unix: UnixTime::from_millis(unix) },
            Self::Other(_) => return Err("the event is of a newer perennial"),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TemplateText {
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
}

impl TemplateText {
    fn of(template: &Template) -> Self {
        Self {
            common_name: template.common_name().to_owned(),
            organizations: template.organizations().to_vec(),
            dns_names: template.dns_names().to_vec(),
            ip_addresses: template.ip_addresses().to_vec(),
        }
    }

    fn template(self) -> Arc<Template> {
        let template = Template::new(self.common_name).with_organizations(self.organizations);
        Arc::new(template.with_dns_names(self.dns_names).with_ip_addresses(self.ip_addresses))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CertificateText {
    fingerprint: String,
    not_before: i64,
    not_after: i64,
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    provisional: bool,
}

impl CertificateText {
    fn of(certificate: &Certificate) -> Self {
        Self {
            fingerprint: format!("{:x}", certificate.fingerprint),
            not_before: certificate.validity.not_before().as_millis(),
            not_after: certificate.validity.not_after().as_millis(),
            common_name: certificate.common_name.clone(),
            organizations: certificate.organizations.clone(),
            dns_names: certificate.dns_names.clone(),
            ip_addresses: certificate.ip_addresses.clone(),
            provisional: certificate.provisional,
        }
    }

    fn certificate(self) -> Result<Arc<Certificate>, Bad> {
        let validity = Validity::new(UnixTime::from_millis(self.not_before), UnixTime::from_millis(self.not_after));
        Ok(Arc::new(Certificate {
            validity: validity.map_err(|_| "a certificate ends before it begins")?,
            fingerprint: unhex(&self.fingerprint)?,
            common_name: self.common_name,
            organizations: self.organizations,
            dns_names: self.dns_names,
            ip_addresses: self.ip_addresses,
            provisional: self.provisional,
            // Journals omit the chain: the machine's decisions do not depend on it.
            chain: Arc::from([]),
        }))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicyText {
    window: (u16, u16),
    request_timeout: u64,
    spacing: u64,
    budget: (u32, u64),
    transient: BackoffText,
    refused: BackoffText,
    write: BackoffText,
    max_sleep: u64,
    new_key_per_attempt: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BackoffText {
    first: u64,
    cap: u64,
    spread: (u16, u16),
    beat: bool,
}

impl PolicyText {
    fn of(policy: &Policy) -> Self {
        let Policy { window, request_timeout, spacing, budget, transient, refused, write, max_sleep, .. } = *policy;
        let [transient, refused, write] = [transient, refused, write].map(|backoff| BackoffText {
            first: span(backoff.first()),
            cap: span(backoff.cap()),
            spread: (backoff.spread().from(), backoff.spread().to()),
            beat: backoff.keeps_beat(),
        });
        Self {
            window: (window.from(), window.to()),
            request_timeout: span(request_timeout),
            spacing: span(spacing),
            budget: (budget.size(), span(budget.refill())),
            transient,
            refused,
            write,
            max_sleep: span(max_sleep),
            new_key_per_attempt: policy.new_key_per_attempt,
        }
    }

    fn policy(self) -> Result<Policy, Bad> {
        let millis = Duration::from_millis;
        let bad = |_| "the policy makes no sense";
        let window = |(from, to)| Window::new(from, to).map_err(bad);
        let backoff = |text: BackoffText| {
            let backoff = Backoff::new(millis(text.first), millis(text.cap), window(text.spread)?).map_err(bad)?;
            Ok(if text.beat { backoff.with_beat() } else { backoff })
        };
        Ok(Policy {
            window: window(self.window)?,
            request_timeout: millis(self.request_timeout),
            spacing: millis(self.spacing),
            budget: Budget::new(self.budget.0, millis(self.budget.1)).map_err(bad)?,
            transient: backoff(self.transient)?,
            refused: backoff(self.refused)?,
            write: backoff(self.write)?,
            max_sleep: millis(self.max_sleep),
            new_key_per_attempt: self.new_key_per_attempt,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CheckpointText {
    policy: PolicyText,
    seed: u64,
    signer: bool,
    /// There is no identity to authenticate to the signer with yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    signer_not_ready: bool,
    template: Option<TemplateText>,
    certificate: Option<CertificateText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting: Option<CertificateText>,
    refused: bool,
    rotate_now: bool,
    due: Option<String>,
    /// The write that is not confirmed: id, next attempt (instant in milliseconds), failures so far, whether a call is
    /// in flight.
    unwritten: Option<(NonZeroU64, u64, u32, bool)>,
    /// True if `unwritten` is about the waiting certificate, not the served one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unwritten_waits: bool,
    next_id: NonZeroU64,
    live: Option<(NonZeroU64, u64)>,
    asked: Option<TemplateText>,
    reusable: bool,
    failures: u32,
    last_failure: Option<String>,
    retry_at: u64,
    spaced_at: u64,
    budget_whole_at: u64,
    /// Time by the signer's clock at instant zero (Unix time in milliseconds), and the number of readings that agree on
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_clock: Option<(i64, u8)>,
    deadline: Option<u64>,
}

impl CheckpointText {
    pub(super) fn of(of: Checkpoint) -> Self {
        let (signer, signer_not_ready) = flags(of.signer);
        Self {
            policy: PolicyText::of(&of.policy),
            seed: of.seed,
            signer,
            signer_not_ready,
            template: of.template.as_deref().map(TemplateText::of),
            certificate: of.certificate.as_deref().map(CertificateText::of),
            waiting: of.waiting.as_deref().map(CertificateText::of),
            refused: of.refused,
            rotate_now: of.rotate_now,
            due: of.due.map(disk_name::reason),
            unwritten: of.unwritten.map(|Unwritten { id, again_at, failures, in_flight, .. }| {
                (number(id), again_at.as_millis(), failures, in_flight)
            }),
            unwritten_waits: of.unwritten.is_some_and(|write| write.slot == Slot::Waiting),
            next_id: number(of.next_id),
            live: of.in_flight.map(|(id, since)| (number(id), since.as_millis())),
            asked: of.pending_key.template().map(|template| TemplateText::of(template)),
            reusable: matches!(of.pending_key, PendingKey::Usable(_)),
            failures: of.pacing.failures,
            last_failure: of.pacing.last_failure.map(disk_name::failure),
            retry_at: of.pacing.retry_at.as_millis(),
            spaced_at: of.pacing.spaced_at.as_millis(),
            budget_whole_at: of.pacing.budget_whole_at.as_millis(),
            server_clock: (of.server_clock.agreeing > 0)
                .then(|| (of.server_clock.origin.as_millis(), of.server_clock.agreeing)),
            deadline: of.deadline.map(Instant::as_millis),
        }
    }

    pub(super) fn checkpoint(self) -> Result<Checkpoint, Bad> {
        let instant = Instant::from_millis;
        let (origin, agreeing) = self.server_clock.unwrap_or_default();
        let reason = |name: String| disk_name::reason_named(&name).ok_or("the reason is unknown");
        Ok(Checkpoint {
            policy: Arc::new(self.policy.policy()?),
            seed: self.seed,
            signer: signer(self.signer, self.signer_not_ready),
            template: self.template.map(TemplateText::template),
            certificate: self.certificate.map(CertificateText::certificate).transpose()?,
            waiting: self.waiting.map(CertificateText::certificate).transpose()?,
            refused: self.refused,
            rotate_now: self.rotate_now,
            due: self.due.map(reason).transpose()?,
            unwritten: self.unwritten.map(|(id, again_at, failures, in_flight)| Unwritten {
                id: RequestId::new(id),
                slot: if self.unwritten_waits { Slot::Waiting } else { Slot::Served },
                again_at: instant(again_at),
                failures,
                in_flight,
            }),
            next_id: RequestId::new(self.next_id),
            in_flight: self.live.map(|(id, since)| (RequestId::new(id), instant(since))),
            pending_key: match self.asked.map(TemplateText::template) {
                None => PendingKey::None,
                Some(template) if self.reusable => PendingKey::Usable(template),
                Some(template) => PendingKey::Spent(template),
            },
            pacing: RequestPacing {
                failures: self.failures,
                last_failure: self.last_failure.as_deref().map(failure_named).transpose()?,
                retry_at: instant(self.retry_at),
                spaced_at: instant(self.spaced_at),
                budget_whole_at: instant(self.budget_whole_at),
            },
            server_clock: ServerClock { origin: UnixTime::from_millis(origin), agreeing },
            deadline: self.deadline.map(instant),
        })
    }
}

/// The two fields for the status of the signer: configured, which all journals have, and not ready, which old ones
/// lack.
const fn flags(status: SignerStatus) -> (bool, bool) {
    (status.is_configured(), matches!(status, SignerStatus::NotReady))
}

const fn signer(configured: bool, not_ready: bool) -> SignerStatus {
    match (configured, not_ready) {
        (false, _) => SignerStatus::Absent,
        (true, true) => SignerStatus::NotReady,
        (true, false) => SignerStatus::Ready,
    }
}

fn failure_named(name: &str) -> Result<Failure, Bad> {
    disk_name::failure_named(name).ok_or("the failure is unknown")
}

fn unhex(text: &str) -> Result<Fingerprint, Bad> {
    let mut bytes = [0; 32];
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let read = (text.len() == 64).then(|| {
        bytes.iter_mut().zip(text.as_bytes().chunks(2)).try_for_each(|(to, pair)| byte(pair).map(|read| *to = read))
    });
    read.flatten().map(|()| Fingerprint(bytes)).ok_or("a fingerprint is not 64 hexadecimal digits")
}

fn number(id: RequestId) -> NonZeroU64 {
    NonZeroU64::new(id.get()).unwrap_or(NonZeroU64::MIN)
}

fn span(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
