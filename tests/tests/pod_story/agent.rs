//! A node agent: it keeps the certificates of the node's pods, with the library alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use perennial::{Template, UnixTime};
use perennial_dev::TestCluster;
use perennial_kubernetes::client::Limits as ClientLimits;
use perennial_kubernetes::pods::{Pod, PodCertificateState, PodCertificates};
use perennial_kubernetes::{BundleSelection, TrustBundles};
use perennial_rotation::{
    Cancel, CancelOnDrop, Directory, Fleet, Handle, IdentitySource, Limits, Rotator, Snapshot, clock,
};
use perennial_tests::loopback::{BOUND, issued, policy};
use perennial_tests::simulation::MESH;

pub(crate) const NODE: &str = "worker-1";

/// A running agent. Its state and the volumes of the pods survive it.
pub(crate) struct Agent {
    fleet: Fleet,
    pub(crate) pods: Arc<PodCertificates>,
    _watch: CancelOnDrop,
    is_stopped: Arc<AtomicBool>,
    writer: JoinHandle<()>,
}

impl Agent {
    /// Starts an agent with its state in this directory. The client certificate of the node is a member of the fleet,
    /// too: it is the identity of all requests.
    pub(crate) fn start(cluster: &TestCluster, state: &Path) -> Self {
        let fleet = perennial_std::fleet(Limits::default()).unwrap();
        let store = Directory::open(state.join("node"), "kubelet-client").unwrap();
        let node = Rotator::new().name("node").policy(policy()).template(Template::node(NODE));
        let node = fleet.add(node.signer(cluster.node_signer()).store(store)).unwrap();
        node.wait_for(|now| now.credential.is_some()).within(BOUND).expect("a certificate of the node");
        let identity: Arc<Handle> = Arc::new(node);
        let pods = PodCertificates::new(fleet.clone(), state.join("pods"), cluster.cluster().clone(), identity.clone());
        let pods = Arc::new(pods.policy(policy()));

        let bundles = TrustBundles::new(BundleSelection::of_signer(MESH));
        let watch = follow(cluster, &bundles, identity);
        let is_stopped = Arc::<AtomicBool>::default();
        let writer = thread::spawn({
            let (pods, bundles, is_stopped) = (pods.clone(), bundles, is_stopped.clone());
            move || write_bundles(&pods, &bundles, &is_stopped)
        });
        Self { fleet, pods, _watch: watch, is_stopped, writer }
    }

    pub(crate) fn put(&self, pod: &Pod) {
        self.pods.put(pod.clone(), clock::now().unix).unwrap();
    }

    pub(crate) fn handle(&self, pod: &Pod, source: usize) -> Handle {
        self.pods.handle(&pod.identity.uid, &pod.volumes[0].name, source).expect("a certificate of the pod")
    }

    /// Waits until the agent has got `count` certificates for this source since its start, and the last one is in the
    /// volume. Returns it.
    pub(crate) fn issued(&self, pod: &Pod, source: usize, count: u64) -> Arc<perennial_pki::Credential> {
        issued(&self.handle(pod, source), count)
    }

    /// Waits until `what` is true of this certificate.
    pub(crate) fn await_snapshot(
        &self,
        pod: &Pod,
        source: usize,
        what: impl Fn(&Snapshot) -> bool + Send,
    ) -> Arc<Snapshot> {
        let handle = self.handle(pod, source);
        let snapshot = handle.wait_for(what).within(BOUND);
        snapshot.unwrap_or_else(|| panic!("not reached: {:?}", handle.snapshot()))
    }

    /// The states of all certificates.
    pub(crate) fn states(&self) -> Vec<PodCertificateState> {
        self.pods.statuses(clock::now().unix).into_iter().map(|status| status.state).collect()
    }

    pub(crate) fn state(&self, pod: &Pod, source: usize) -> PodCertificateState {
        PodCertificateState::of(&self.handle(pod, source).snapshot(), clock::now().unix)
    }

    /// Stops the agent, as an upgrade does. Nothing waits for requests in flight.
    pub(crate) fn stop(self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.writer.join().unwrap();
        self.fleet.shutdown().within(BOUND);
        assert!(self.fleet.has_ended());
    }
}

/// Follows the bundles on a thread, until the result is dropped.
pub(crate) fn follow(cluster: &TestCluster, bundles: &TrustBundles, identity: Arc<dyn IdentitySource>) -> CancelOnDrop {
    let watch = bundles.watch(cluster.cluster().clone(), identity, ClientLimits::default(), 7);
    let cancel = Arc::<Cancel>::default();
    let cancelled = cancel.clone();
    thread::spawn(move || perennial_std::drive(watch, &cancelled, |_| {}));
    CancelOnDrop(cancel)
}

/// Writes the CAs to the volumes whenever they change.
fn write_bundles(pods: &PodCertificates, bundles: &TrustBundles, is_stopped: &AtomicBool) {
    let mut written: Option<UnixTime> = None;
    while !is_stopped.load(Ordering::Relaxed) {
        let state = bundles.state();
        if let Some(roots) = state.roots.filter(|_| state.changed != written) {
            pods.set_trust_bundle(bundles.selection(), &roots, clock::now().unix).unwrap();
            written = state.changed;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
