//! The JSON of a machine's values in a journal. This module lists the fields of each type of the core once; serde
//! derives the reader and the writer from this list. Times are in milliseconds, the resolution of the machine.

use std::error::Error;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::ops::Not;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use perennial::{
    Backoff, Budget, Certificate, Checkpoint, Event, Failure, Fingerprint, Instant, Now, PendingKey, Policy, Reason,
    RenewalHint, RequestId, RequestPacing, ServerClock, SignerStatus, Slot, Template, UnixTime, Unwritten, Validity,
    Window,
};
use serde::{Deserialize, Serialize};

use super::form::{self, Form, form};
use crate::rare_names::RareNames;

form!(Instant as u64, |at| at.as_millis(), |millis| Ok(Self::from_millis(millis)));
form!(UnixTime as i64, |at| at.as_millis(), |millis| Ok(Self::from_millis(millis)));
form!(Now as (u64, i64), |now| (now.instant.form(), now.unix.form()), |(instant, unix)| {
    Ok(Self { instant: Instant::read(instant)?, unix: UnixTime::read(unix)? })
});
form!(RequestId as u64, |id| id.get(), |id| Ok(Self::new(NonZeroU64::try_from(id)?)));
form!((RequestId, Instant) as (u64, u64), |(id, at)| (id.form(), at.form()), |(id, at)| {
    Ok((RequestId::read(id)?, Instant::read(at)?))
});
form!(Failure as String, |of| of.name().to_owned(), |name| named(&Self::ALL, Self::name, &name));
form!(Reason as String, |of| of.name().to_owned(), |name| named(&Self::ALL, Self::name, &name));
form!(SignerStatus as String, |of| of.name().to_owned(), |name| named(&Self::ALL, Self::name, &name));
form!(Fingerprint as String, |of| format!("{of:x}"), |hex| {
    let bytes = HEXLOWER.decode(hex.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    Ok(Self(bytes.ok_or("a fingerprint is not 64 hexadecimal digits")?))
});
form!(Validity as (i64, i64), |of| (of.not_before().form(), of.not_after().form()), |(from, to)| {
    Ok(Self::new(UnixTime::read(from)?, UnixTime::read(to)?)?)
});
form!(ServerClock as (i64, u8), |clock| (clock.origin().form(), clock.agreeing()), |(origin, agreeing)| {
    Ok(Self::new(UnixTime::read(origin)?, agreeing))
});
form!(RenewalHint as (i64, i64), |hint| (hint.from.form(), hint.until.form()), |(from, until)| {
    Ok(Self { from: UnixTime::read(from)?, until: UnixTime::read(until)? })
});
form!(Window as (u16, u16), |of| (of.from(), of.to()), |(from, to)| Ok(Self::new(from, to)?));
form!(Budget as (u32, Duration), |of| (of.size(), of.refill()), |(size, refill)| Ok(Self::new(size, refill)?));
// The last field: whether the backoff keeps a beat.
form!(
    Backoff as (Duration, Duration, (u16, u16), bool),
    |of| (of.first(), of.cap(), of.spread().form(), of.keeps_beat()),
    |(first, cap, spread, keeps_beat)| {
        let backoff = Self::new(first, cap, Window::read(spread)?)?;
        Ok(if keeps_beat { backoff.with_beat() } else { backoff })
    }
);
form!(
    Template as Names,
    |of| Names {
        common_name: of.common_name().to_owned(),
        organizations: of.organizations().map(Into::into).collect(),
        dns_names: of.dns_names().map(Into::into).collect(),
        ip_addresses: of.ip_addresses().collect(),
        rare_names: RareNames::of(of),
    },
    |names| {
        let template = Self::new(names.common_name).with_organizations(names.organizations);
        let template = template.with_dns_names(names.dns_names).with_ip_addresses(names.ip_addresses);
        Ok(names.rare_names.added_to(template))
    }
);
form!(
    Certificate as CertificateText,
    |of| {
        let Names { common_name, organizations, dns_names, ip_addresses, rare_names } = of.names.form();
        CertificateText {
            validity: of.validity.form(),
            fingerprint: of.fingerprint.form(),
            common_name,
            organizations,
            dns_names,
            ip_addresses,
            rare_names,
            provisional: of.provisional,
        }
    },
    |text| {
        let CertificateText { common_name, organizations, dns_names, ip_addresses, rare_names, .. } = text;
        let names = Names { common_name, organizations, dns_names, ip_addresses, rare_names };
        Ok(Self {
            validity: Validity::read(text.validity)?,
            fingerprint: Fingerprint::read(text.fingerprint)?,
            names: Arc::new(Template::read(names)?),
            provisional: text.provisional,
        })
    }
);
form!(Policy as PolicyText, |of| PolicyText(of.clone()), |text| Ok(text.0));
form!(Unwritten as UnwrittenText, |of| UnwrittenText(*of), |text| Ok(text.0));

/// Finds the value with this stable name in `all`.
fn named<T: Copy>(all: &[T], name_of: fn(T) -> &'static str, name: &str) -> Result<T, Box<dyn Error>> {
    let known = all.iter().copied().find(|known| name_of(*known) == name);
    Ok(known.ok_or_else(|| format!("the name `{name}` is unknown"))?)
}

/// The JSON of a [`Template`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Names {
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "RareNames::is_empty")]
    rare_names: RareNames,
}

/// The JSON of a [`Certificate`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CertificateText {
    validity: (i64, i64),
    fingerprint: String,
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "RareNames::is_empty")]
    rare_names: RareNames,
    provisional: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PolicyText(#[serde(with = "PolicyFields")] Policy);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Policy", rename_all = "camelCase", deny_unknown_fields)]
struct PolicyFields {
    #[serde(with = "form")]
    window: Window,
    request_timeout: Duration,
    spacing: Duration,
    #[serde(with = "form")]
    budget: Budget,
    #[serde(with = "form")]
    transient: Backoff,
    #[serde(with = "form")]
    refused: Backoff,
    #[serde(with = "form")]
    write: Backoff,
    max_sleep: Duration,
    new_key_per_attempt: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Event", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub(super) enum EventFields {
    Tick,
    TurnGranted,
    TemplateChanged(#[serde(with = "form")] Option<Arc<Template>>),
    SignerChanged(#[serde(with = "form")] SignerStatus),
    PolicyChanged(#[serde(with = "form")] Arc<Policy>),
    CsrIssued {
        #[serde(with = "form")]
        id: RequestId,
        #[serde(with = "form")]
        certificate: Arc<Certificate>,
    },
    RenewalHinted {
        #[serde(with = "form")]
        fingerprint: Fingerprint,
        #[serde(with = "form")]
        hint: RenewalHint,
    },
    CsrFailed {
        #[serde(with = "form")]
        id: RequestId,
        #[serde(with = "form")]
        failure: Failure,
        retry_after: Option<Duration>,
    },
    CertWritten {
        #[serde(with = "form")]
        id: RequestId,
    },
    WriteFailed {
        #[serde(with = "form")]
        id: RequestId,
    },
    CertReplaced(#[serde(with = "form")] Option<Arc<Certificate>>),
    CertRefused {
        #[serde(with = "form")]
        fingerprint: Fingerprint,
    },
    RotateNow,
    ServerDated {
        #[serde(with = "form")]
        unix: UnixTime,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Checkpoint", rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CheckpointFields {
    #[serde(with = "form")]
    policy: Arc<Policy>,
    seed: u64,
    #[serde(with = "form")]
    signer: SignerStatus,
    #[serde(with = "form")]
    template: Option<Arc<Template>>,
    #[serde(with = "form")]
    certificate: Option<Arc<Certificate>>,
    #[serde(with = "form")]
    waiting: Option<Arc<Certificate>>,
    // Computed anew by the reader, unless a hint has set it. Absent without a hint, as in the journals of versions
    // without hints.
    #[serde(default, with = "form", skip_serializing_if = "is_epoch")]
    rotate_at: UnixTime,
    #[serde(default, skip_serializing_if = "Not::not")]
    hinted: bool,
    refused: bool,
    rotate_now: bool,
    #[serde(with = "form")]
    due: Option<Reason>,
    // Absent unless true, as in the journals of versions without shared signers.
    #[serde(default, skip_serializing_if = "Not::not")]
    queued: bool,
    #[serde(with = "form")]
    unwritten: Option<Unwritten>,
    #[serde(with = "form")]
    next_id: RequestId,
    #[serde(with = "form")]
    in_flight: Option<(RequestId, Instant)>,
    #[serde(with = "PendingKeyFields")]
    pending_key: PendingKey,
    #[serde(with = "PacingFields")]
    pacing: RequestPacing,
    #[serde(with = "form")]
    server_clock: ServerClock,
    #[serde(with = "form")]
    deadline: Option<Instant>,
}

fn is_epoch(at: &UnixTime) -> bool {
    *at == UnixTime::default()
}

#[derive(Serialize, Deserialize)]
pub(super) struct UnwrittenText(#[serde(with = "UnwrittenFields")] Unwritten);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Unwritten", rename_all = "camelCase", deny_unknown_fields)]
struct UnwrittenFields {
    #[serde(with = "form")]
    id: RequestId,
    #[serde(with = "SlotName")]
    slot: Slot,
    #[serde(with = "form")]
    again_at: Instant,
    failures: u32,
    in_flight: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Slot", rename_all = "camelCase")]
enum SlotName {
    Served,
    Waiting,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PendingKey", rename_all = "camelCase")]
enum PendingKeyFields {
    None,
    Usable(#[serde(with = "form")] Arc<Template>),
    Spent(#[serde(with = "form")] Arc<Template>),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "RequestPacing", rename_all = "camelCase", deny_unknown_fields)]
struct PacingFields {
    failures: u32,
    #[serde(with = "form")]
    last_failure: Option<Failure>,
    #[serde(with = "form")]
    retry_at: Instant,
    #[serde(with = "form")]
    spaced_at: Instant,
    #[serde(with = "form")]
    budget_whole_at: Instant,
}
