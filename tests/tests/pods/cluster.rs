//! Pods with certificates of an API server: PodCertificateRequests over sockets, authenticated by the node's certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use perennial::Template;
use perennial_dev::{PodDecision, PodSigner, TestCluster};
use perennial_kubernetes::pods::{Pod, PodCertificateState as State, PodCertificates};
use perennial_kubernetes::{BundleSelection, PodIdentity};
use perennial_rotation::{FileCredential, Fleet, KeyAlgorithm, Limits, Roots, Rotator, clock};

use super::{Node, OTHER, SIGNER, bundle, cas, source, two_files};

const PATIENCE: Duration = Duration::from_secs(60);
const NODE: &str = "worker-1";

/// A node agent: its fleet, the certificates of its pods, and the node's own certificate as their identity.
struct Agent {
    fleet: Fleet,
    pods: PodCertificates,
}

impl Agent {
    fn start(cluster: &TestCluster, state: PathBuf) -> Self {
        let fleet = perennial_std::fleet(Limits::default()).unwrap();
        let node = Rotator::new().name("node").template(Template::node(NODE)).signer(cluster.node_signer());
        let node = fleet.add(node).unwrap();
        let pods = PodCertificates::new(fleet.clone(), state, cluster.cluster().clone(), Arc::new(node));
        Self { fleet, pods }
    }

    fn put(&self, pod: &Pod) {
        self.pods.put(pod.clone(), clock::now().unix).unwrap();
    }

    /// Waits until the certificate of this source is in this state, and written if there is one.
    fn await_state(&self, pod: &Pod, source: usize, wanted: State) {
        let handle = self.pods.handle(&pod.identity.uid, "mesh", source).unwrap();
        let is_so = handle
            .wait_for(|snapshot| State::of(snapshot, clock::now().unix) == wanted && !snapshot.unwritten)
            .within(PATIENCE);
        assert!(is_so.is_some(), "{:?}", handle.snapshot());
    }

    fn end(self) {
        self.fleet.shutdown().within(PATIENCE);
        assert!(self.fleet.has_ended());
    }
}

fn pod(node: &Node, identity: PodIdentity) -> Pod {
    let mut pod = node.pod(&identity.uid, [bundle("credential.pem"), two_files(OTHER), cas()]);
    source(&mut pod).key_type = KeyAlgorithm::Ed25519;
    pod.identity = identity;
    pod
}

fn uris(certificate: &Path, key: &Path) -> Vec<String> {
    let found = FileCredential::open(certificate, key).unwrap().credential();
    found.chain().certificate().names.uris().map(str::to_owned).collect()
}

#[test]
fn pods_get_certificates_from_api_server_and_keep_them_through_restart() {
    let cluster = TestCluster::start().unwrap();
    cluster.set_pod_signer(SIGNER, PodSigner::default());
    cluster.set_pod_signer(OTHER, PodSigner::default());
    let node = Node::new();
    let agent = Agent::start(&cluster, node.state());
    let pods = ["web", "api"].map(|name| pod(&node, cluster.put_pod("shop", name, name, NODE).unwrap()));
    pods.iter().for_each(|pod| agent.put(pod));
    let ca = cluster.rotate_pod_signer(SIGNER).unwrap();
    let roots = Roots::from_pem(ca.as_bytes()).unwrap();
    agent.pods.set_trust_bundle(&BundleSelection::of_signer(SIGNER), &roots, clock::now().unix).unwrap();
    for pod in &pods {
        let volume = &pod.volumes[0].path;
        for source in [0, 1] {
            agent.await_state(pod, source, State::Fresh);
        }
        let expected = [format!("spiffe://cluster.local/ns/shop/sa/{}", pod.identity.name)];
        assert_eq!(uris(&volume.join("credential.pem"), &volume.join("credential.pem")), expected);
        assert_eq!(uris(&volume.join("tls/chain.pem"), &volume.join("tls/key.pem")), expected);
        assert_eq!(fs::read_to_string(volume.join("ca.pem")).unwrap(), roots.pem());
    }
    let before = fs::read_to_string(pods[0].volumes[0].path.join("credential.pem")).unwrap();
    let points: Vec<_> = agent.pods.statuses(clock::now().unix).iter().map(|status| status.rotation_point).collect();
    agent.end();
    // The signers answer no more: nothing is needed of them. The volume is a new one.
    for signer in [SIGNER, OTHER] {
        cluster.set_pod_signer(signer, PodSigner { decision: PodDecision::Ignore, ..PodSigner::default() });
    }
    fs::remove_dir_all(&pods[0].volumes[0].path).unwrap();
    let agent = Agent::start(&cluster, node.state());
    pods.iter().for_each(|pod| agent.put(pod));
    let statuses = agent.pods.statuses(clock::now().unix);
    assert!(statuses.iter().all(|status| status.state == State::Fresh), "{statuses:?}");
    let again: Vec<_> = statuses.iter().map(|status| status.rotation_point).collect();
    assert_eq!(again, points, "the hint of the signer is remembered");
    assert_eq!(fs::read_to_string(pods[0].volumes[0].path.join("credential.pem")).unwrap(), before);
    agent.end();
}

#[test]
fn key_that_signer_does_not_support_is_denied_until_pod_has_another() {
    let cluster = TestCluster::start().unwrap();
    let ed25519 = PodSigner { accepted_keys: vec![KeyAlgorithm::Ed25519], ..PodSigner::default() };
    cluster.set_pod_signer(SIGNER, ed25519);
    let node = Node::new();
    let agent = Agent::start(&cluster, node.state());
    let identity = cluster.put_pod("shop", "web", "web", NODE).unwrap();
    let mut pod = Pod { identity: identity.clone(), ..node.pod(&identity.uid, [bundle("credential.pem")]) };
    agent.put(&pod);
    agent.await_state(&pod, 0, State::Denied);
    let status = agent.pods.statuses(clock::now().unix).remove(0);
    assert!(status.last_error.as_ref().is_some_and(|why| why.contains("UnsupportedKeyType")), "{status:?}");
    source(&mut pod).key_type = KeyAlgorithm::Ed25519;
    agent.put(&pod);
    agent.await_state(&pod, 0, State::Fresh);
    let path = pod.volumes[0].path.join("credential.pem");
    let served = FileCredential::open(&path, &path).unwrap().credential();
    assert_eq!(served.key().algorithm(), KeyAlgorithm::Ed25519);
    agent.end();
}

#[test]
fn pod_of_another_node_gets_no_certificate_and_stops_no_other() {
    let cluster = TestCluster::start().unwrap();
    cluster.set_pod_signer(SIGNER, PodSigner::default());
    cluster.set_pod_signer(OTHER, PodSigner { decision: PodDecision::Ignore, ..PodSigner::default() });
    let node = Node::new();
    let agent = Agent::start(&cluster, node.state());
    let [own, foreign] = [NODE, "worker-2"].map(|at| {
        let identity = cluster.put_pod("shop", &format!("web-on-{at}"), "web", at).unwrap();
        Pod { identity: identity.clone(), ..node.pod(&identity.uid, [bundle("credential.pem")]) }
    });
    agent.put(&foreign);
    agent.put(&own);
    agent.await_state(&own, 0, State::Fresh);
    let handle = agent.pods.handle(&foreign.identity.uid, "mesh", 0).unwrap();
    let refused = handle.wait_for(|snapshot| snapshot.last_error.is_some()).within(PATIENCE).unwrap();
    assert!(refused.credential.is_none(), "{refused:?}");
    agent.pods.remove(&foreign.identity.uid, clock::now().unix).unwrap();
    agent.await_state(&own, 0, State::Fresh);
    assert_eq!(super::names(&node.state()), std::slice::from_ref(&own.identity.uid));
    agent.end();
}
