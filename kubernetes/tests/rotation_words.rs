//! What an operator is told of a certificate that was issued and is not what was asked for.

mod client_support;

use std::sync::Arc;
use std::time::Duration;

use client_support::{Ca, EPOCH, Scene};
use perennial::{Failure, Instant, Now, Policy, Template, UnixTime};
use perennial_kubernetes::client::Issued;
use perennial_kubernetes::cluster::Identity;
use perennial_kubernetes::rotation::{AskAs, Duty, Input, Rotation, Signer, Start};
use perennial_pki::Chain;

/// Asks for this a while after `EPOCH`, and is issued what a CA that knows only `names` signs for an hour from then on.
fn issued(template: Template, names: &[&str], after: Duration) -> (Option<Failure>, String) {
    let unix = UnixTime::from_secs(EPOCH).after(after);
    let now = Now { instant: Instant::from_millis(1000), unix };
    let mut signer = Signer::kubelet_client(Scene::new().cluster(), None);
    signer.ask_as = AskAs::Other(Arc::new(|| Ok(Identity::Anonymous)));
    let start = Start {
        policy: Arc::new(Policy::default()),
        signer: Some(signer),
        template: Some(Arc::new(template)),
        common_name: None,
        credential: None,
        unwritten: false,
        pending: None,
    };
    let mut rotation = Rotation::new(start, now);
    let (mut asked, mut key) = (None, None);
    for duty in rotation.handle(Input::Tick, now) {
        match duty {
            Duty::Save { record } => key = record.key,
            Duty::Drive { id, .. } => asked = Some(id),
            Duty::Drop { .. } | Duty::Write { .. } | Duty::SetTimer(_) => {}
        }
    }
    let pem = Ca::new("the test CA").sign(key.unwrap().public_key_der(), names, true, 3600);
    let chain = Chain::from_pem(pem.as_bytes()).unwrap();
    let result = Ok(Issued { chain, csr_name: String::new(), requests: 2 });
    rotation.handle(Input::Finished { id: asked.unwrap(), result }, now);
    let told = rotation.snapshot(now).last_error.map(|told| told.to_string());
    (rotation.machine().last_failure(), told.unwrap_or_default())
}

#[test]
fn the_names_that_are_missing_are_told() {
    let asked = Template::node("a").with_dns_names(["a.example", "b.example"]);
    let (failure, told) = issued(asked, &["a.example"], Duration::ZERO);
    assert_eq!(failure, Some(Failure::Unsatisfying));
    assert_eq!(told, "the issued certificate lacks names that were asked for: DNS b.example");
}

#[test]
fn a_certificate_that_expired_within_the_skew_allowance_says_when() {
    let (failure, told) = issued(Template::node("a"), &[], Duration::from_secs(3600));
    assert_eq!(failure, Some(Failure::BadCertificate));
    assert!(told.starts_with("an unusable certificate was issued: it expired at 2026-11-23T"), "{told}");
}

#[test]
fn one_that_is_due_already_says_for_how_long_it_is() {
    let (failure, told) = issued(Template::node("a"), &[], Duration::from_secs(3500));
    assert_eq!(failure, Some(Failure::AlreadyDue));
    assert!(told.contains("already due for rotation: it is valid from 2026-11-2"), "{told}");
}
