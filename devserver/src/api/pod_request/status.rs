//! Updates of `/status` (`ValidatePodCertificateRequestStatusUpdate`): a signer issues, denies or fails a request, once.

use std::time::Duration;

use perennial::UnixTime;
use perennial_pki::{Chain, read_request_der};

use super::{DEFAULT_LIFETIME, SHORTEST};
use crate::api::validation::{duplicate, invalid, not_supported, required};
use perennial_kubernetes::objects::{Condition, PodCertificateRequest, PodCertificateStatus, StatusCause};

/// Most time between notBefore of a new certificate and the time of the server.
const SKEW: Duration = Duration::from_secs(5 * 60);
/// Least time from notBefore to beginRefreshAt, and from beginRefreshAt to notAfter.
const MARGIN: Duration = Duration::from_secs(10 * 60);
const KINDS: [&str; 3] = ["Issued", "Denied", "Failed"];

/// Checks that the status `new` may replace that of `old`, and adds the errors to `causes`.
pub(super) fn check(
    new: &PodCertificateStatus,
    old: &PodCertificateRequest,
    now: UnixTime,
    causes: &mut Vec<StatusCause>,
) {
    let before = causes.len();
    check_conditions(&new.conditions, causes);
    // The conditions decide which other fields are allowed.
    if causes.len() > before {
        return;
    }
    let decision = new.conditions.first().map_or("", |condition| &condition.type_);
    let unchanged = PodCertificateStatus { conditions: new.conditions.clone(), ..PodCertificateStatus::default() };
    let (is_allowed, why) = match decision {
        _ if !old.status.conditions.is_empty() => {
            (*new == old.status, "immutable after PodCertificateRequest is issued, denied, or failed")
        }
        "Issued" => return check_issued(new, old, now, causes),
        "Denied" | "Failed" => (
            *new == unchanged,
            "non-condition status fields must be empty when denying or failing the PodCertificateRequest",
        ),
        _ => (*new == old.status, "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\""),
    };
    if !is_allowed {
        causes.push(invalid("status", "<value omitted>", why));
    }
}

fn check_conditions(conditions: &[Condition], causes: &mut Vec<StatusCause>) {
    for (index, condition) in conditions.iter().enumerate() {
        let field = |name: &str| format!("status.conditions[{index}].{name}");
        let Condition { type_, status, reason, last_transition_time, .. } = condition;
        if !KINDS.contains(&type_.as_str()) {
            causes.push(not_supported(field("type"), type_, &KINDS));
        } else if index > 0 {
            let why = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            causes.push(invalid(field("type"), &format!("{type_:?}"), why));
        }
        if conditions[..index].iter().any(|earlier| earlier.type_ == *type_) {
            causes.push(duplicate(field("type"), type_));
        }
        if status != "True" {
            causes.push(not_supported(field("status"), status, &["True"]));
        }
        if last_transition_time.is_none() {
            causes.push(required(field("lastTransitionTime"), ""));
        }
        if reason.is_empty() {
            causes.push(required(field("reason"), ""));
        } else if !is_reason(reason) {
            let why = "a condition reason must start with alphabetic character, optionally followed by a string of \
                       alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
            causes.push(invalid(field("reason"), &format!("{reason:?}"), why));
        }
    }
}

/// True for a reason of a condition (`ValidateConditions` in apimachinery).
fn is_reason(reason: &str) -> bool {
    reason.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && reason.ends_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '_')
        && reason.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_,:".contains(&byte))
}

fn check_issued(
    status: &PodCertificateStatus,
    request: &PodCertificateRequest,
    now: UnixTime,
    causes: &mut Vec<StatusCause>,
) {
    const CHAIN: &str = "status.certificateChain";
    const NOT_BEFORE: &str = "status.notBefore";
    const NOT_AFTER: &str = "status.notAfter";
    const BEGIN: &str = "status.beginRefreshAt";
    let mut complain = |field: &str, value: &str, why: &str| causes.push(invalid(field, value, why));
    let chain = match Chain::from_issued(status.certificate_chain.as_bytes()) {
        Ok(chain) => chain,
        Err(error) => return complain(CHAIN, "<value omitted>", &error.to_string()),
    };
    let has_key = read_request_der(&request.spec.stub_pkcs10_request)
        .is_ok_and(|facts| facts.public_key_der == chain.public_key_der());
    if !has_key {
        complain(CHAIN, "<value omitted>", "leaf certificate was not issued to the requested public key");
    }
    let times = [(NOT_BEFORE, &status.not_before), (BEGIN, &status.begin_refresh_at), (NOT_AFTER, &status.not_after)]
        .map(|(field, text)| {
            let time = text.as_deref().and_then(|text| text.parse::<UnixTime>().ok());
            match (text, time) {
                (None, _) => causes.push(required(field, "must be present and consistent with the issued certificate")),
                (Some(text), None) => causes.push(invalid(field, &format!("{text:?}"), "is no time (RFC 3339)")),
                _ => {}
            }
            time
        });
    let [Some(not_before), Some(begin), Some(not_after)] = times else { return };
    let mut complain =
        |field: &str, time: UnixTime, why: &str| causes.push(invalid(field, &format!("\"{time}\""), why));
    let leaf = chain.certificate().validity;
    if not_before != leaf.not_before() {
        complain(NOT_BEFORE, not_before, "must be set to the NotBefore time encoded in the leaf certificate");
    }
    if not_before.since(now) >= SKEW || now.since(not_before) >= SKEW {
        complain(NOT_BEFORE, not_before, "must be set to within 5 minutes of kube-apiserver's current time");
    }
    if not_after != leaf.not_after() {
        complain(NOT_AFTER, not_after, "must be set to the NotAfter time encoded in the leaf certificate");
    }
    if begin < not_before.after(MARGIN) {
        complain(BEGIN, begin, "must be at least 10 minutes after status.notBefore");
    }
    if begin > not_after.before(MARGIN) {
        complain(BEGIN, begin, "must be at least 10 minutes before status.notAfter");
    }
    let lifetime = leaf.not_after().since(leaf.not_before());
    let longest = request.spec.max_expiration_seconds.unwrap_or(DEFAULT_LIFETIME);
    let seconds = |seconds: i32| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let why = match lifetime {
        _ if lifetime < seconds(SHORTEST) => "leaf certificate lifetime must be >= 1 hour".into(),
        _ if lifetime > seconds(longest) => {
            format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({longest})")
        }
        _ => return,
    };
    causes.push(invalid(CHAIN, &format!("{}s", lifetime.as_secs()), &why));
}
