//! Messages for the operator about an issued certificate that is rejected, or too short-lived.

use std::time::Duration;

use crate::support::{Ca, EPOCH, Node};
use perennial::{Failure, Instant, Now, Template, UnixTime};
use perennial_kubernetes::CsrSigner;
use perennial_pki::{KeyAlgorithm, KeyPair};
use perennial_rotation::Rotation;

/// Requests a certificate for `template` at the time `EPOCH` plus `after`. The CA issues a certificate with the DNS
/// names `names`, valid for an hour from a minute before `EPOCH`. Returns the failure and the error message: `None` and
/// an empty text if the certificate is accepted.
fn issued(template: Template, names: &[&str], after: Duration) -> (Option<Failure>, String) {
    let (rotation, now) = rotation(template, names, after, 3600);
    let message = rotation.snapshot(now).last_error.map(|message| message.to_string());
    (rotation.machine().last_failure(), message.unwrap_or_default())
}

/// A rotation whose certificate was issued at the time `EPOCH` plus `after`. The certificate is valid for `seconds`
/// from a minute before `EPOCH`. Returns the time of issue as well.
fn rotation(template: Template, names: &[&str], after: Duration, seconds: i64) -> (Rotation, Now) {
    // The signer of kubelet's client certificates would refuse DNS names before the request.
    let adjust = |signer: &mut CsrSigner| signer.signer_name = "example.com/any".into();
    answered(template, after, adjust, |key| Ca::new("the test CA").sign(key, names, true, seconds))
}

/// A rotation whose request was answered with a certificate: `sign` makes the certificate for the public key of the
/// request. `adjust` changes the signer before the request.
fn answered(
    template: Template,
    after: Duration,
    adjust: impl FnOnce(&mut CsrSigner),
    sign: impl FnOnce(&[u8]) -> String,
) -> (Rotation, Now) {
    let now = Now { instant: Instant::from_millis(1000), unix: UnixTime::from_secs(EPOCH).after(after) };
    let mut node = Node::asking(template, now, adjust);
    node.issued(&sign(&node.public_key), None);
    (node.rotation, now)
}

#[test]
fn error_lists_requested_names_that_certificate_lacks() {
    let template = Template::node("a").with_dns_names(["a.example", "b.example"]);
    let (failure, message) = issued(template, &["a.example"], Duration::ZERO);
    assert_eq!(failure, Some(Failure::Unsatisfying));
    assert_eq!(message, "the issued certificate lacks requested names: DNS b.example");
}

#[test]
fn certificate_expired_a_minute_ago_is_rejected_with_expiry_time() {
    let (failure, message) = issued(Template::node("a"), &[], Duration::from_secs(3600));
    assert_eq!(failure, Some(Failure::BadCertificate));
    assert!(message.starts_with("an unusable certificate was issued: it expired at 2026-11-23T"), "{message}");
}

#[test]
fn unusable_certificate_is_rejected_with_error_that_names_request() {
    let other_key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let (ca, other_ca) = (Ca::new("the test CA"), Ca::new("another CA"));
    let roots = ca.roots();
    type Sign<'a> = &'a dyn Fn(&[u8]) -> String;
    let signs: [(Sign<'_>, &str); 5] = [
        (&|key| ca.sign(key, &[], true, 3600), ""),
        (&|_| ca.sign(other_key.public_key_der(), &[], true, 3600), "was issued for another key"),
        (&|key| ca.sign(key, &[], true, 30), "expired at 2026-11-2"),
        (&|key| ca.sign(key, &[], false, 3600), "lacks `client auth`"),
        (&|key| other_ca.sign(key, &[], true, 3600), "does not lead to a trusted CA"),
    ];
    for (sign, why) in signs {
        let adjust = |signer: &mut CsrSigner| {
            signer.profile.skew = Duration::ZERO;
            signer.profile.issuers = Some(roots.clone());
        };
        let (rotation, now) = answered(Template::node("a"), Duration::ZERO, adjust, sign);
        let snapshot = rotation.snapshot(now);
        assert_eq!(snapshot.credential.is_some(), why.is_empty(), "{why}");
        if !why.is_empty() {
            assert_eq!(rotation.machine().last_failure(), Some(Failure::BadCertificate));
            let message = snapshot.last_error.unwrap();
            assert!(message.starts_with("request node-csr-") && message.contains(why), "{message}");
            assert!(message.contains(" at https://api.example:6443: "), "{message}");
        }
    }
}

#[test]
fn error_names_validity_of_issued_certificate_that_is_due_already() {
    let (failure, message) = issued(Template::node("a"), &[], Duration::from_secs(3500));
    assert_eq!(failure, Some(Failure::AlreadyDue));
    assert!(message.contains("already due for rotation: it is valid from 2026-11-2"), "{message}");
}

#[test]
fn certificate_too_short_lived_for_policy_is_reported() {
    let message = |after, seconds| {
        let (rotation, now) = rotation(Template::node("a"), &[], Duration::from_secs(after), seconds);
        assert_eq!(rotation.machine().last_failure(), None);
        rotation.snapshot(now).short_lived.map(|message| message.to_string())
    };
    // The default policy needs 128.572 s from the time of issue, and this CA backdates notBefore by a minute.
    assert_eq!(message(0, 189), None);
    let short = message(0, 120).unwrap();
    assert!(short.contains("lifetime of 60.0 s is too short for this policy, which needs 128.6 s"), "{short}");
    let dated_back = message(60, 248).unwrap();
    assert!(dated_back.contains("lifetime of 128.0 s"), "{dated_back}");
    assert_eq!(message(60, 249), None);
}
