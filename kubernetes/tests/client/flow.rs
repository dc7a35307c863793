//! The HTTP requests of a submission, their order, and the outcome for each state of the request object.

use std::cell::RefCell;
use std::time::Duration;

use crate::support::*;
use perennial::{Failure, Now, Template};
use perennial_kubernetes::client::{Issuance, client_go_healthy};
use perennial_kubernetes::objects::CertificateSigningRequest;
use perennial_pki::{KeyAlgorithm, KeyPair, certificate_request};
use perennial_rotation::{Conversation, IoEvent, IoRequest, Progress, SignError, SignerConversation as _};

#[test]
fn issuance_takes_two_http_requests_on_one_connection() {
    let scene = Scene::new();
    let mut world = scene.world(scene.well());
    let issued = world.run(&mut scene.issuance()).unwrap();
    assert_eq!(issued.requests, 2);
    assert_eq!(issued.chain.public_key_der(), scene.public_key_der);
    assert_eq!(world.lines(), [format!("POST {CSRS}"), format!("GET {CSRS}?watch")]);
    assert!(world.requests.iter().all(|request| request.connection == 1));
    assert_eq!(world.steps.first().unwrap(), "connect api.example 6443");
    assert_eq!(world.steps.last().unwrap(), "disconnect");
}

#[test]
fn create_sends_name_csr_signer_lifetime_and_usages() {
    let scene = Scene::new();
    let mut world = scene.world(scene.well());
    world.run(&mut scene.issuance()).unwrap();
    let object: CertificateSigningRequest = serde_json::from_slice(&world.requests[0].body).unwrap();
    assert_eq!(object.kind, "CertificateSigningRequest");
    assert_eq!(object.metadata.name, scene.desired_csr.name);
    assert_eq!(object.spec.request, scene.desired_csr.request.pem.as_bytes());
    assert_eq!((object.spec.signer_name.as_str(), object.spec.expiration_seconds), (SIGNER, Some(3600)));
    assert_eq!(object.spec.usages, scene.desired_csr.usages);
    let watch = &world.requests[1].line;
    assert!(
        watch.contains(&format!("fieldSelector=metadata.name%3D{}&resourceVersion=100&", scene.desired_csr.name)),
        "{watch}"
    );
    assert!(world.requests[1].head.contains("\r\nhost: api.example:6443\r\n"), "{}", world.requests[1].head);
}

#[test]
fn request_object_of_earlier_submission_is_resumed() {
    let scene = Scene::new();
    let (outcome, lines) = scene.run(|request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::status(409, "AlreadyExists", "it is there"),
        (_, false) => Reply::object(200, &scene.object(&[])),
        (_, true) => Reply::stream().event("MODIFIED", scene.issued()),
    });
    assert_eq!(outcome.unwrap().requests, 3);
    let object = format!("GET {CSRS}/{}", scene.desired_csr.name);
    assert_eq!(lines, [format!("POST {CSRS}"), object, format!("GET {CSRS}?watch")]);
}

#[test]
fn existing_request_with_certificate_is_not_watched() {
    let scene = Scene::new();
    let (outcome, lines) = scene.run(|request| match request.is_post() {
        true => Reply::status(409, "AlreadyExists", "it is there"),
        false => Reply::object(200, &scene.issued()),
    });
    outcome.unwrap();
    assert_eq!(lines.len(), 2);
}

#[test]
fn expired_certificate_is_outdated_only_if_request_existed_before() {
    let mut expired = Scene::new();
    expired.desired_csr.skew = Duration::ZERO;
    expired.certificate = expired.ca.sign(&expired.public_key_der, &[], true, 30);
    let found = expired.error(|request| match request.is_post() {
        true => Reply::status(409, "AlreadyExists", "it is there"),
        false => Reply::object(200, &expired.issued()),
    });
    assert_eq!((found.failure, found.health.map(client_go_healthy)), (Failure::Outdated, Some(true)), "{found}");
    assert!(found.message.contains("expired"), "{found}");
    // The certificate of an object that this submission has created is for the rotation to judge.
    assert!(expired.run(|_| Reply::object(201, &expired.issued())).0.is_ok());
}

/// Submits a request while the server already has `object` under the name of that request. Returns the failure of the
/// submission, if it fails.
fn taken_by(scene: &Scene, object: &CertificateSigningRequest) -> Result<(), Failure> {
    let (outcome, _) = scene.run(|request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::status(409, "AlreadyExists", "it is there"),
        (_, false) => Reply::object(200, object),
        (_, true) => Reply::stream().event("MODIFIED", scene.issued()),
    });
    outcome.map(|_| ()).map_err(|error| error.failure)
}

#[test]
fn existing_request_of_same_key_is_resumed_despite_other_signature() {
    let scene = Scene::new();
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let (first, second) = (desired_csr(&key, &Template::node("a")), desired_csr(&key, &Template::node("a")));
    assert_eq!(first.name, second.name);
    let mut object = scene.object(&[]);
    object.spec.request = first.request.pem.into_bytes();
    let certificate = scene.ca.sign(key.public_key_der(), &[], true, 3600);
    let scene = Scene { desired_csr: second, certificate, ..scene };
    object.metadata.name.clone_from(&scene.desired_csr.name);
    assert_eq!(taken_by(&scene, &object), Ok(()));
}

#[test]
fn existing_request_with_other_spec_is_rejected() {
    let scene = Scene::new();
    let other_key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let with_request = |template: &Template, key: &KeyPair| {
        let mut object = scene.object(&[]);
        object.spec.request = certificate_request(template, key).unwrap().pem.into_bytes();
        object
    };
    let mut signer = scene.object(&[]);
    signer.spec.signer_name = "kubernetes.io/kubelet-serving".to_owned();
    let mut usages = scene.object(&[]);
    usages.spec.usages.pop();
    let mut garbage = scene.object(&[]);
    garbage.spec.request = b"garbage".to_vec();
    let another_key = with_request(&Template::node("a"), &other_key);
    for object in [signer, usages, garbage, another_key] {
        assert_eq!(taken_by(&scene, &object), Err(Failure::Rejected));
    }
}

#[test]
fn existing_request_with_other_subject_is_rejected() {
    let scene = Scene::new();
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let scene = Scene { desired_csr: desired_csr(&key, &Template::node("a")), ..scene };
    for template in [Template::node("b"), Template::new("system:node:a")] {
        let mut object = scene.object(&[]);
        object.spec.request = certificate_request(&template, &key).unwrap().pem.into_bytes();
        assert_eq!(taken_by(&scene, &object), Err(Failure::Rejected));
    }
}

#[test]
fn existing_denied_or_failed_request_fails_again() {
    let scene = Scene::new();
    assert_eq!(taken_by(&scene, &scene.object(&["Denied"])), Err(Failure::Denied));
    assert_eq!(taken_by(&scene, &scene.object(&["Approved", "Failed"])), Err(Failure::SignerFailed));
}

/// Submits a request and answers its watch with `stream`. Returns the error of the submission.
fn watching(scene: &Scene, stream: &Reply) -> SignError {
    scene.error(|request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, true) => stream.clone(),
        (_, false) => panic!("no read is needed after the watch"),
    })
}

#[test]
fn denial_during_watch_ends_submission_and_is_quoted() {
    let scene = Scene::new();
    let denied = watching(&scene, &Reply::stream().event("MODIFIED", scene.object(&["Denied"])));
    assert_eq!((denied.failure, denied.health.map(client_go_healthy)), (Failure::Denied, Some(true)));
    for part in [&scene.desired_csr.name, "https://api.example:6443", "TestReason", "a test said so"] {
        assert!(denied.message.contains(part), "{denied} does not mention {part}");
    }
    let failed = watching(&scene, &Reply::stream().event("MODIFIED", scene.object(&["Approved", "Failed"])));
    assert_eq!(failed.failure, Failure::SignerFailed);
}

#[test]
fn submission_fails_as_deleted_if_watched_object_is_deleted_or_replaced() {
    let scene = Scene::new();
    let deleted = watching(&scene, &Reply::stream().event("DELETED", scene.object(&[])));
    assert_eq!(deleted.failure, Failure::Deleted);
    let mut replaced = scene.issued();
    replaced.metadata.uid = "uid-2".to_owned();
    let replaced = watching(&scene, &Reply::stream().event("MODIFIED", &replaced));
    assert_eq!(replaced.failure, Failure::Deleted);
}

#[test]
fn certificate_without_approval_is_ignored() {
    let scene = Scene::new();
    let mut unapproved = scene.issued();
    unapproved.status.conditions.clear();
    let stream = Reply::stream().event("MODIFIED", &unapproved).event("MODIFIED", scene.object(&["Denied"]));
    assert_eq!(watching(&scene, &stream).failure, Failure::Denied);
}

#[test]
fn watch_ignores_bookmarks_and_other_objects() {
    let scene = Scene::new();
    let mut stranger = scene.object(&["Denied"]);
    stranger.metadata.name = "another-request".to_owned();
    let bookmark = serde_json::json!({ "metadata": { "resourceVersion": "110" } });
    let stream = Reply::stream()
        .event("BOOKMARK", &bookmark)
        .event("MODIFIED", &stranger)
        .event("DELETED", &stranger)
        .event("SOMETHING-NEW", &bookmark)
        .event("MODIFIED", scene.issued());
    let (outcome, _) = scene.run(|request| match request.is_post() {
        true => Reply::object(201, &scene.object(&[])),
        false => stream.clone(),
    });
    assert_eq!(outcome.unwrap().requests, 2);
}

#[test]
fn progress_reports_each_stage_of_submission() {
    let scene = Scene::new();
    let request_name = scene.desired_csr.name.clone();
    let seen = RefCell::new(Vec::new());
    let mut issuance = scene.issuance();
    assert_eq!(issuance.progress(), Progress::Connecting);
    let mut world = scene.world(scene.well());
    world.run(&mut Spied(&mut issuance, &seen)).unwrap();
    let mut seen = seen.into_inner();
    seen.dedup();
    assert_eq!(
        seen,
        [
            Progress::Connecting,
            Progress::Submitting,
            Progress::WaitingForApproval { request_name: request_name.clone() },
            Progress::WaitingForIssuance { request_name },
            Progress::Finished,
        ]
    );
}

struct Spied<'a>(&'a mut Issuance, &'a RefCell<Vec<Progress>>);

impl Conversation for Spied<'_> {
    type Outcome = <Issuance as Conversation>::Outcome;

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        self.0.handle(input, now);
        self.1.borrow_mut().push(self.0.progress());
    }

    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome> {
        let step = self.0.poll(now);
        self.1.borrow_mut().push(self.0.progress());
        step
    }
}

/// A submission that records each change of its progress.
struct Watched {
    issuance: Issuance,
    seen: Vec<Progress>,
}

impl Conversation for Watched {
    type Outcome = <Issuance as Conversation>::Outcome;

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        self.issuance.handle(input, now);
    }

    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome> {
        let step = self.issuance.poll(now);
        let progress = self.issuance.progress();
        if self.seen.last() != Some(&progress) {
            self.seen.push(progress);
        }
        step
    }
}

#[test]
fn progress_stays_retrying_until_next_answer() {
    let scene = Scene::new();
    let pending = scene.object(&[]);
    let mut world = scene.world(|request| match request.is_post() {
        true => Reply::object(201, &pending),
        false => Reply::silence().then(End::Cut),
    });
    world.reachable = Box::new(|nth| nth == 1);
    let mut watched = Watched { issuance: scene.issuance(), seen: Vec::new() };
    world.run(&mut watched).unwrap_err();
    let waits = watched.seen.iter().filter(|progress| matches!(progress, Progress::WaitingForApproval { .. })).count();
    assert_eq!(waits, 1, "{:?}", watched.seen);
    let retries: Vec<&String> = watched
        .seen
        .iter()
        .filter_map(|progress| if let Progress::Retrying { why, .. } = progress { Some(why) } else { None })
        .collect();
    assert!(retries.len() > 3, "{:?}", watched.seen);
    for why in retries {
        assert!(why.starts_with(&format!("CSR {} at https://api.example:6443: ", scene.desired_csr.name)), "{why}");
    }
}
