//! Rotations of the certificates of pods, from the request to the rotation point.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use perennial::{Failure, Instant, Now, State, Template, UnixTime};
use perennial_kubernetes::objects::PodCertificateRequest;
use perennial_kubernetes::{PodCertificateSigner, PodIdentity};
use perennial_pki::{AlternativeNames, KeyAlgorithm, read_request_der};
use perennial_rotation::{Command, Exchange, Identity, Input, Record, Rotation, Start};

fn signer(ca: &Ca) -> PodCertificateSigner {
    let pod = PodIdentity {
        namespace: "shop".into(),
        name: "web-0".into(),
        uid: "pod-uid".into(),
        service_account_name: "web".into(),
        service_account_uid: "account-uid".into(),
        node_name: "node-1".into(),
        node_uid: "node-uid".into(),
    };
    PodCertificateSigner::new(ca.cluster(), Arc::new(Identity::Anonymous), "example.com/mesh", pod)
}

/// A rotation of the certificate of a pod, and the server that it submits requests to.
struct Agent<'a> {
    rotation: Rotation,
    world: World<'a>,
    /// The record that was saved last: the state that survives a restart.
    record: Option<Record>,
    /// The number of requests that have begun.
    driven: usize,
}

impl<'a> Agent<'a> {
    fn new(signer: PodCertificateSigner, template: Template, pending: Option<Record>, mut world: World<'a>) -> Self {
        let start =
            Start { signer: Some(Arc::new(signer)), template: Some(Arc::new(template)), pending, ..Start::default() };
        // Not the start of the clock of another world.
        world.now = Now { instant: Instant::from_millis(1000), ..world.now };
        Self { rotation: Rotation::new(start, world.now), world, record: None, driven: 0 }
    }

    /// Lets the rotation act at the current time. Returns the exchange of a request that begins, with its ID.
    fn tick(&mut self) -> Option<(perennial::RequestId, Exchange)> {
        let mut begun = None;
        for command in self.rotation.handle(Input::Tick, self.world.now) {
            match command {
                Command::Save { record } => self.record = Some(*record),
                Command::Drive { id, exchange } => begun = Some((id, exchange)),
                Command::Drop { .. } | Command::Key { .. } | Command::Write { .. } => {}
            }
        }
        self.driven += usize::from(begun.is_some());
        begun
    }

    /// Lets the rotation act, and runs a request that begins to its end.
    fn act(&mut self) {
        let Some((id, exchange)) = self.tick() else { return };
        let Exchange::Conversation(mut conversation) = exchange else { panic!("no conversation") };
        let result = self.world.run(&mut *conversation);
        for command in self.rotation.handle(Input::Finished { id, result }, self.world.now) {
            if let Command::Save { record } = command {
                self.record = Some(*record);
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let Now { instant, unix } = self.world.now;
        self.world.now = Now { instant: instant.after(span), unix: unix.after(span) };
    }

    fn last_error(&self) -> String {
        self.rotation.snapshot(self.world.now).last_error.map(|error| error.to_string()).unwrap_or_default()
    }
}

/// The certificate that `ca` issues for the request of this POST: the signer chooses the names. The object has the times
/// of `scene`'s certificate.
fn issue(scene: &PodScene, posted: &ReceivedRequest, names: &[&str]) -> PodCertificateRequest {
    let posted: PodCertificateRequest = serde_json::from_slice(&posted.body).unwrap();
    let facts = read_request_der(&posted.spec.stub_pkcs10_request).unwrap();
    assert_eq!((&*facts.subject_der, &facts.names), (&[0x30, 0][..], &AlternativeNames::default()), "an empty stub");
    let chain = scene.ca.sign(&facts.public_key_der, names, true, 3600);
    let mut issued = PodCertificateRequest { spec: posted.spec, metadata: posted.metadata, ..scene.issued() };
    issued.metadata.uid = "uid-1".into();
    issued.status.certificate_chain = chain;
    issued
}

#[test]
fn certificate_of_pod_has_names_of_signer_and_rotates_by_its_hint() {
    let scene = PodScene::new();
    let world = scene.world(|request| Reply::object(201, &issue(&scene, request, &["web-0.shop.example"])));
    let mut agent = Agent::new(signer(&scene.ca), Template::default(), None, world);
    agent.act();
    let snapshot = agent.rotation.snapshot(agent.world.now);
    let held = snapshot.credential.expect("a certificate");
    assert!(held.chain().certificate().names.dns_names().eq(["web-0.shop.example"]));
    let State::Scheduled { rotate_at } = agent.rotation.machine().state() else { panic!("not scheduled") };
    let begin = UnixTime::from_secs(EPOCH + 1800);
    assert!(rotate_at >= begin && rotate_at <= begin.after(Duration::from_secs(300)), "{rotate_at}");
}

#[test]
fn restart_resumes_request_by_name() {
    let scene = PodScene::new();
    // The object is created, but no answer reaches the node. Then the agent is restarted.
    let mut created = None;
    let world = scene.world(|request| {
        created.get_or_insert_with(|| issue(&scene, request, &["web-0.shop"]));
        Reply::silence().then(End::Cut)
    });
    let mut first = Agent::new(signer(&scene.ca), Template::default(), None, world);
    first.act();
    assert_eq!(first.rotation.machine().last_failure(), Some(Failure::Unreachable));
    let record = first.record.take().expect("a record of the request");
    drop(first);

    let created = created.expect("a request");
    let world = scene.world(|request| match request.is_post() {
        true => {
            let again: PodCertificateRequest = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(again.metadata.name, created.metadata.name);
            assert_ne!(again.spec.stub_pkcs10_request, created.spec.stub_pkcs10_request, "ECDSA is random");
            Reply::status(409, "AlreadyExists", "it is there")
        }
        false => Reply::list("120", std::slice::from_ref(&created)),
    });
    let mut second = Agent::new(signer(&scene.ca), Template::default(), Some(record), world);
    second.pass(Duration::from_secs(60));
    second.act();
    let held = second.rotation.snapshot(second.world.now).credential;
    let held = held.unwrap_or_else(|| panic!("{}", second.last_error()));
    let facts = read_request_der(&created.spec.stub_pkcs10_request).unwrap();
    assert_eq!(held.key().public_key_der(), facts.public_key_der);
}

#[test]
fn denied_key_type_leads_to_request_with_suggested_key() {
    let scene = PodScene::new();
    let mut keys = Vec::new();
    let world = scene.world(|request| {
        let posted: PodCertificateRequest = serde_json::from_slice(&request.body).unwrap();
        keys.push(read_request_der(&posted.spec.stub_pkcs10_request).unwrap().key_algorithm);
        let mut denied = scene.refused("Denied", "UnsupportedKeyType", "use ECDSAP384");
        (denied.spec, denied.metadata) = (posted.spec, posted.metadata);
        Reply::object(201, &denied)
    });
    let mut signer = signer(&scene.ca);
    signer.profile.other_key_algorithms = vec![KeyAlgorithm::EcdsaP384];
    let mut agent = Agent::new(signer, Template::default(), None, world);
    agent.act();
    assert_eq!(agent.rotation.machine().last_failure(), Some(Failure::UnsupportedKey));
    agent.pass(Duration::from_secs(60));
    agent.act();
    assert_eq!(agent.rotation.machine().last_failure(), Some(Failure::Denied));
    drop(agent);
    assert_eq!(keys, [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384]);
}

#[test]
fn request_that_api_would_refuse_is_not_made() {
    type Change = fn(&mut PodCertificateSigner);
    let cases: [(&str, Change); 6] = [
        ("the lifetime of 60 s is not allowed", |signer| signer.profile.lifetime = Some(Duration::from_secs(60))),
        ("3600 s to 86400 s", |signer| {
            signer.signer_name = "kubernetes.io/kube-apiserver-client-pod".into();
            signer.profile.lifetime = Some(Duration::from_secs(86_401));
        }),
        ("the signer name `mesh`", |signer| signer.signer_name = "mesh".into()),
        ("the namespace `a.b`", |signer| signer.pod.namespace = "a.b".into()),
        ("the UID of the node has 0 bytes", |signer| signer.pod.node_uid.clear()),
        ("the annotation `role`", |signer| {
            signer.unverified_user_annotations.insert("role".into(), "web".into());
        }),
    ];
    let scene = PodScene::new();
    for (part, change) in cases {
        let mut signer = signer(&scene.ca);
        change(&mut signer);
        assert!(signer.check().unwrap_err().contains(part), "{part}");
        let mut agent = Agent::new(signer, Template::default(), None, scene.world(|_| panic!("no request")));
        agent.act();
        assert_eq!(agent.driven, 0);
        assert_eq!(agent.rotation.machine().last_failure(), Some(Failure::Rejected));
        assert!(agent.last_error().contains(part), "{}", agent.last_error());
    }
    let named = Template::default().with_dns_names(["web-0.shop"]);
    let mut agent = Agent::new(signer(&scene.ca), named, None, scene.world(|_| panic!("no request")));
    agent.act();
    assert!(agent.last_error().contains("the template has"), "{}", agent.last_error());
}
