//! The scenes in which the rows about certificates of pods are checked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, State as Activity, Template, UnixTime};
use perennial_dev::{Options, PodDecision, PodSigner};
use perennial_kubernetes::objects::{PodCertificateRequest, key_algorithm};
use perennial_kubernetes::pods::{
    Pod, PodCertificateSource, PodCertificateState as State, PodCertificates, PodSource, PodVolume,
};
use perennial_kubernetes::{PodCertificateSigner, PodIdentity};
use perennial_pki::{RequestFacts, read_request_der};
use perennial_rotation::{Fleet, FleetTask, Identity, Limits, Projection};
use perennial_tests::simulation::{HOUR, MESH, MINUTE, Node, Server};

/// A node that requests a certificate for a pod from a signer with this behaviour.
pub(super) fn node(behaviour: PodSigner) -> Node {
    node_with(behaviour, |_| {})
}

pub(super) fn node_with(behaviour: PodSigner, adjust: impl FnOnce(&mut PodCertificateSigner)) -> Node {
    let mut server = Server::new(Options::default());
    server.set_mesh(behaviour);
    let mut signer = server.pod_signer();
    adjust(&mut signer);
    Node::with_signer(server, signer, Template::default(), None)
}

/// A node whose pod has this `keyType`, and the content of the CSR that it has submitted.
pub(super) fn requested_with(key_type: &str) -> (Node, Option<RequestFacts>) {
    let algorithm = key_algorithm(key_type).unwrap();
    let mut node = node_with(PodSigner::default(), |signer| signer.profile.key_algorithm = algorithm);
    node.run(MINUTE);
    let requests = node.server.pod_requests();
    let facts = requests.first().map(|request| read_request_der(&request.spec.stub_pkcs10_request).unwrap());
    (node, facts)
}

pub(super) fn deciding(decision: PodDecision) -> PodSigner {
    PodSigner { decision, ..PodSigner::default() }
}

/// A signer that leaves each request pending.
pub(super) fn ignoring() -> PodSigner {
    deciding(PodDecision::Ignore)
}

pub(super) fn denial() -> PodDecision {
    PodDecision::Deny("NotToday".into(), "ask Ann".into())
}

pub(super) fn failure() -> PodDecision {
    PodDecision::Fail("NotToday".into(), "ask Ann".into())
}

/// A node with a certificate, whose API server then refuses connections.
pub(super) fn overdue() -> Node {
    let mut node = node(PodSigner::default());
    node.run(MINUTE);
    node.server.faults("{ fault: { connection: refused } }");
    node
}

pub(super) fn state(node: &Node) -> State {
    let now = node.server.now();
    State::of(&node.rotation.snapshot(now), now.unix)
}

pub(super) fn last_error(node: &Node) -> String {
    let snapshot = node.rotation.snapshot(node.server.now());
    snapshot.last_error.map(|error| error.to_string()).unwrap_or_default()
}

pub(super) fn rotation_point(node: &Node) -> UnixTime {
    let Activity::Scheduled { rotate_at } = node.rotation.machine().state() else { panic!("not scheduled") };
    rotate_at
}

/// The only request object on the server.
pub(super) fn the_request(node: &mut Node) -> PodCertificateRequest {
    let mut requests = node.server.pod_requests();
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

pub(super) fn public_key(request: &PodCertificateRequest) -> Vec<u8> {
    read_request_der(&request.spec.stub_pkcs10_request).unwrap().public_key_der
}

pub(super) fn begin_refresh_at(request: &PodCertificateRequest) -> UnixTime {
    request.status.begin_refresh_at.as_ref().unwrap().parse().unwrap()
}

/// The time from beginRefreshAt to the rotation point.
pub(super) fn point_after_hint(behaviour: PodSigner) -> Duration {
    let mut node = node(behaviour);
    node.run(MINUTE);
    let (begin, point) = (begin_refresh_at(&the_request(&mut node)), rotation_point(&node));
    assert!(point >= begin);
    point.since(begin)
}

/// Checks that a first request is refused, and that a later one succeeds by itself once the signer issues.
pub(super) fn is_repaired(decision: PodDecision, failure: Failure) {
    let mut node = node(deciding(decision));
    node.run(MINUTE);
    assert_eq!((node.failure(), node.submissions), (Some(failure), 1));
    node.server.set_mesh(PodSigner::default());
    node.run(HOUR);
    assert_eq!((state(&node), node.submissions), (State::Fresh, 2));
}

/// Checks that the certificate is served until it expires after its replacement was refused.
pub(super) fn is_kept(decision: PodDecision, expected: State) {
    let mut node = node(PodSigner::default());
    node.run(MINUTE);
    let first = node.presents();
    node.server.set_mesh(deciding(decision));
    node.run(23 * HOUR);
    assert!(first.is_some() && node.submissions > 1);
    assert_eq!((node.presents(), state(&node)), (first, expected));
}

/// A manager whose fleet does not run.
pub(super) fn manager(root: &Path) -> (PodCertificates, FleetTask) {
    let (fleet, task) = Fleet::prepare(Limits::default());
    let cluster = Server::new(Options::default()).cluster().clone();
    (PodCertificates::new(fleet, root.join("state"), cluster, Arc::new(Identity::Anonymous)), task)
}

/// A pod with a volume that has certificates of two signers.
pub(super) fn pod(root: &Path) -> Pod {
    let identity = PodIdentity {
        uid: "pod-uid".into(),
        service_account_uid: "account-uid".into(),
        node_uid: "node-uid".into(),
        namespace: "shop".into(),
        name: "web-0".into(),
        service_account_name: "web".into(),
        node_name: "worker-1".into(),
    };
    let source = |signer: &str, path: &str| {
        PodSource::Certificate(PodCertificateSource::new(signer, Projection::Bundle { path: path.into() }))
    };
    let sources = BTreeMap::from([(0, source(MESH, "a.pem")), (1, source("example.com/other", "b.pem"))]);
    Pod { identity, volumes: vec![PodVolume { sources, ..PodVolume::new("mesh", root.join("volume")) }] }
}
