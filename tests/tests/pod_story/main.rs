//! A node whose pods have certificates, from their first requests on: rotations by hint, a denial that is repaired, a
//! restart of the agent, a new CA. All the time a pod serves, and another one calls it.

mod agent;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use perennial::Failure;
use perennial_dev::{PodDecision, PodSigner, RefreshHint, TestCluster};
use perennial_kubernetes::objects::PodCertificateRequest;
use perennial_kubernetes::pods::{Pod, PodCertificateSource, PodCertificateState as State, PodSource, PodVolume};
use perennial_kubernetes::{BundleSelection, TrustBundles};
use perennial_pki::{Chain, Credential, KeyAlgorithm, read_request_der};
use perennial_rotation::{Identity, Projection, RootsSource, clock};
use perennial_tests::loopback::{BOUND, policy};
use perennial_tests::simulation::{MESH, pod_requests};
use perennial_tests::tls::fingerprint;
use tempfile::TempDir;

use agent::{Agent, NODE, follow};
use traffic::{Traffic, client, roots_in, serve};

/// A signer that accepts one kind of keys.
const VAULT: &str = "example.com/vault";
/// The ClusterTrustBundle with the CAs of the signer [`MESH`].
const ROOTS: &str = "example.com:mesh:roots";
const HOUR: Duration = Duration::from_secs(3600);
/// The lifetime of the first certificates. By the window of the policy, they would be due after 21 s.
const LIFETIME: Duration = Duration::from_secs(30);
/// The time at which their signer wants them to be rotated. It is spread over another 2.5 s.
const HINT: RefreshHint = RefreshHint::After(Duration::from_secs(8));

/// Waits until `is_so` returns true.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + BOUND.unwrap();
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not in time");
        thread::sleep(Duration::from_millis(10));
    }
}

fn certificate(signer: &str, key_type: KeyAlgorithm, projection: Projection) -> PodSource {
    PodSource::Certificate(PodCertificateSource { key_type, ..PodCertificateSource::new(signer, projection) })
}

fn bundle(path: &str) -> Projection {
    Projection::Bundle { path: path.into() }
}

fn cas() -> PodSource {
    PodSource::TrustBundle { selection: BundleSelection::of_signer(MESH), path: "ca.pem".into() }
}

/// Creates a pod in the cluster. Returns the pod with a volume below `root` that has these sources.
fn pod<const N: usize>(cluster: &TestCluster, root: &Path, name: &str, sources: [PodSource; N]) -> Pod {
    let identity = cluster.put_pod("shop", name, name, NODE).unwrap();
    let sources: BTreeMap<_, _> = sources.into_iter().enumerate().collect();
    let volume = PodVolume { sources, ..PodVolume::new("tls", root.join("volumes").join(name)) };
    Pod { identity, volumes: vec![volume] }
}

fn requests(cluster: &TestCluster) -> Vec<PodCertificateRequest> {
    cluster.server().with_api(pod_requests)
}

fn names(cluster: &TestCluster) -> BTreeSet<String> {
    requests(cluster).into_iter().map(|request| request.metadata.name).collect()
}

fn number_of_cas(roots: &dyn RootsSource) -> usize {
    roots.roots().map_or(0, |roots| roots.subjects().count())
}

fn key_of(request: &PodCertificateRequest) -> (KeyAlgorithm, Vec<u8>) {
    let facts = read_request_der(&request.spec.stub_pkcs10_request).unwrap();
    (facts.key_algorithm, facts.public_key_der)
}

/// A signer of the mesh whose certificates live for an hour.
fn long_lived() -> PodSigner {
    PodSigner { lifetime: HOUR, dns_names: vec!["{pod}.{namespace}.svc".into()], ..PodSigner::default() }
}

/// The pods of the story. A scene changes one thing, and waits until all have followed.
struct Story {
    cluster: TestCluster,
    root: TempDir,
    agent: Agent,
    web: Pod,
    billing: Pod,
    audit: Pod,
}

impl Story {
    /// Three pods get certificates of the mesh. Another signer denies one for its kind of key.
    fn begin(denied: KeyAlgorithm, accepted: KeyAlgorithm) -> Self {
        let (cluster, root) = (TestCluster::start().unwrap(), tempfile::tempdir().unwrap());
        cluster.rotate_pod_signer(MESH).unwrap();
        cluster.set_pod_signer(MESH, PodSigner { lifetime: LIFETIME, refresh: HINT, ..long_lived() });
        cluster.set_pod_signer(VAULT, PodSigner { accepted_keys: vec![accepted], ..PodSigner::default() });
        let two_files = Projection::Files { key: "key.pem".into(), certificate_chain: "chain.pem".into() };
        let web = [certificate(MESH, KeyAlgorithm::EcdsaP256, bundle("credential.pem")), cas()];
        let billing = [certificate(MESH, KeyAlgorithm::EcdsaP384, two_files), cas()];
        let audit = [
            certificate(MESH, KeyAlgorithm::Ed25519, bundle("mesh.pem")),
            certificate(VAULT, denied, bundle("vault.pem")),
        ];
        let agent = Agent::start(&cluster, &root.path().join("state"));
        let web = pod(&cluster, root.path(), "web-0", web);
        let billing = pod(&cluster, root.path(), "billing-0", billing);
        let audit = pod(&cluster, root.path(), "audit-0", audit);
        let story = Self { cluster, root, agent, web, billing, audit };
        story.put_all();
        story.of_mesh().iter().for_each(|pod| drop(story.agent.issued(pod, 0, 1)));
        // The successors of the short-lived certificates live longer.
        story.cluster.set_pod_signer(MESH, long_lived());
        story
    }

    /// The pods, whose first source is a certificate of the mesh.
    fn of_mesh(&self) -> [&Pod; 3] {
        [&self.web, &self.billing, &self.audit]
    }

    fn put_all(&self) {
        self.of_mesh().into_iter().for_each(|pod| self.agent.put(pod));
    }

    fn file(&self, pod: &Pod, path: &str) -> PathBuf {
        pod.volumes[0].path.join(path)
    }

    fn current(&self, pod: &Pod, source: usize) -> Arc<Credential> {
        self.agent.handle(pod, source).credential().expect("a certificate")
    }

    /// The current certificates of the mesh.
    fn current_of_mesh(&self) -> [Arc<Credential>; 3] {
        self.of_mesh().map(|pod| self.current(pod, 0))
    }

    /// Waits until server and client use the newest certificates.
    fn await_use(&self, traffic: &Traffic) {
        let current = [&self.web, &self.billing].map(|pod| fingerprint(&self.current(pod, 0)));
        until("the use of the new certificates", || traffic.seen().last() == current.each_ref().map(Some));
    }

    /// The pod's key type changes to one that the signer accepts, and the certificate is issued at once.
    fn repair_denial(&mut self, accepted: KeyAlgorithm) {
        let denied = self.agent.await_snapshot(&self.audit, 1, |now| now.last_failure.is_some());
        assert_eq!(denied.last_failure, Some(Failure::Denied));
        assert!(denied.last_error.as_ref().is_some_and(|why| why.contains("is not supported")), "{denied:?}");
        assert_eq!(self.agent.state(&self.audit, 1), State::Denied);
        let begun = Instant::now();
        match self.audit.volumes[0].sources.get_mut(&1) {
            Some(PodSource::Certificate(source)) => source.key_type = accepted,
            other => panic!("{other:?}"),
        }
        self.agent.put(&self.audit);
        let issued = self.agent.issued(&self.audit, 1, 1);
        assert!(begun.elapsed() < policy().refused.first() / 2, "it waited for the backoff of the refusal");
        assert_eq!(issued.key().algorithm(), accepted);
        assert_eq!(self.agent.state(&self.audit, 1), State::Fresh);
        let asked: Vec<_> = requests(&self.cluster).into_iter().filter(|one| one.spec.signer_name == VAULT).collect();
        assert_eq!(asked.len(), 2);
    }

    /// The certificates are rotated when their signer has said, long before the window of the policy.
    fn rotate_by_hint(&self, first: &[Arc<Credential>; 3], traffic: &Traffic) {
        for (pod, first) in self.of_mesh().into_iter().zip(first) {
            let second = self.agent.issued(pod, 0, 2);
            assert_ne!(second.key().public_key_der(), first.key().public_key_der(), "a new key");
            let [first, second] = [first, &second].map(|one| one.chain().certificate().validity.not_before());
            assert!(second.since(first) < LIFETIME * 6 / 10, "{:?}", second.since(first));
        }
        self.await_use(traffic);
    }

    /// The agent is restarted while a request waits for the signer.
    fn restart_agent(mut self) -> Self {
        self.cluster.set_pod_signer(MESH, PodSigner { decision: PodDecision::Ignore, ..long_lived() });
        self.agent.handle(&self.audit, 0).rotate_now();
        let pending = || requests(&self.cluster).into_iter().find(|request| request.status.conditions.is_empty());
        until("a request that waits", || pending().is_some());
        let (waiting, before) = (pending().unwrap(), names(&self.cluster));
        let current = self.current_of_mesh();
        let vault = self.current(&self.audit, 1);

        self.agent.stop();
        self.agent = Agent::start(&self.cluster, &self.root.path().join("state"));
        self.put_all();
        let uids = self.of_mesh().map(|pod| pod.identity.uid.clone());
        self.agent.pods.retain(uids, clock::now().unix).unwrap();
        assert_eq!(self.agent.states(), [State::Fresh; 4], "without any request");
        let again = self.current_of_mesh();
        let serials = |all: &[Arc<Credential>; 3]| all.each_ref().map(|one| one.chain().serial().to_owned());
        assert_eq!(serials(&again), serials(&current));
        assert_eq!(self.current(&self.audit, 1).chain().serial(), vault.chain().serial());

        self.cluster.set_pod_signer(MESH, long_lived());
        let resumed = self.agent.issued(&self.audit, 0, 1);
        assert_eq!(resumed.key().public_key_der(), key_of(&waiting).1, "the key from before the restart");
        assert_eq!(names(&self.cluster), before, "no other request");
        let others = [(&self.web, 0), (&self.billing, 0), (&self.audit, 1)];
        assert!(others.iter().all(|(pod, source)| self.agent.handle(pod, *source).snapshot().issued == 0));
        self
    }

    /// The signer gets another CA: both are trusted first, then all certificates change, then the old CA is withdrawn.
    fn replace_ca(&self, verifiers: [&dyn RootsSource; 2], traffic: &Traffic) {
        let is_trusted = |count| verifiers.iter().all(|roots| number_of_cas(*roots) == count);
        assert!(is_trusted(1));
        let new = self.cluster.rotate_pod_signer(MESH).unwrap();
        until("trust in both CAs", || is_trusted(2));
        for pod in self.of_mesh() {
            let handle = self.agent.handle(pod, 0);
            let before = handle.snapshot().issued;
            handle.rotate_now();
            self.agent.issued(pod, 0, before + 1);
        }
        self.await_use(traffic);
        self.cluster.put_trust_bundle(ROOTS, MESH, &new).unwrap();
        until("trust in the new CA alone", || is_trusted(1));
        let calls = traffic.seen().calls;
        until("calls with the new CA alone", || traffic.seen().calls > calls + 20);
        let file = fs::read_to_string(self.file(&self.billing, "ca.pem")).unwrap();
        assert_eq!(Chain::from_pem(file.as_bytes()).unwrap().pem(), Chain::from_pem(new.as_bytes()).unwrap().pem());
    }

    /// A pod goes: its keys and its requests go with it.
    fn remove_audit(&self) {
        let uid = &self.audit.identity.uid;
        self.cluster.delete_pod("shop", "audit-0");
        self.agent.pods.remove(uid, clock::now().unix).unwrap();
        assert_eq!(self.agent.states(), [State::Fresh; 2]);
        assert!(!self.root.path().join("state/pods").join(uid).exists());
        assert!(!self.file(&self.audit, "mesh.pem").exists());
        assert!(requests(&self.cluster).iter().all(|request| request.spec.pod_uid != *uid));
    }
}

#[test]
fn axum_pod_serves_through_hint_denial_restart_and_new_ca() {
    let begun = Instant::now();
    // Each certificate has a key of another kind, if the crypto library can generate so many kinds.
    let fourth = KeyAlgorithm::EcdsaP521;
    let accepted = if fourth.can_be_generated() { fourth } else { KeyAlgorithm::EcdsaP384 };
    let mut story = Story::begin(KeyAlgorithm::EcdsaP256, accepted);
    let first = story.current_of_mesh();

    // The server trusts a file, and the client follows the bundles of the cluster itself.
    let published = TrustBundles::new(BundleSelection::of_signer(MESH));
    let identity = Arc::new(Identity::Certificate(story.cluster.admin().clone()));
    let _following = follow(&story.cluster, &published, identity);
    until("published CAs", || published.roots().is_ok() && story.file(&story.web, "ca.pem").exists());
    let file = roots_in(&story.file(&story.web, "ca.pem"));
    let address = serve(&story.file(&story.web, "credential.pem"), file.clone());
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| story.file(&story.billing, name));
    let traffic = Traffic::start(address, "web-0.shop.svc", client(&chain, &key, published.clone()));

    story.repair_denial(accepted);
    story.rotate_by_hint(&first, &traffic);
    let story = story.restart_agent();
    story.replace_ca([&file, &published], &traffic);
    let algorithms = [(&story.web, 0), (&story.billing, 0), (&story.audit, 0), (&story.audit, 1)];
    let algorithms = algorithms.map(|(pod, source)| story.current(pod, source).key().algorithm());
    assert_eq!(algorithms, [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519, accepted]);
    story.remove_audit();

    let seen = traffic.stop();
    assert!(seen.failures.is_empty(), "{} of {} calls failed: {:?}", seen.failures.len(), seen.calls, seen.failures);
    // The first certificate, that of the hint, and that of the new CA. On a machine that is slow for seconds, another one
    // may follow the hint.
    let rotations = seen.certificates.each_ref().map(|seen| seen.len() - 1);
    assert!(rotations.iter().all(|rotations| *rotations >= 2), "{rotations:?}");
    story.agent.stop();
    let seconds = begun.elapsed().as_secs();
    println!(
        "pods: 3 keys: 4 signers: 2 rotations seen: {} calls: {} failed: 0 in_s: {seconds}",
        rotations.iter().sum::<usize>(),
        seen.calls
    );
}
