//! A TLS client and a server that trust the ClusterTrustBundles of a signer, while the signer replaces its CA.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use perennial::{Template, Validity};
use perennial_dev::TestCluster;
use perennial_kubernetes::client::Limits;
use perennial_kubernetes::{BundleSelection, TrustBundles};
use perennial_pki::{
    Chain, Credential, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Terms, Usage, certificate_request, read_request,
    self_signed,
};
use perennial_rotation::tls::{client_config, mutual_server_config};
use perennial_rotation::{
    Cancel, CancelOnDrop, Handle, Identity, Memory, RootsSource as _, Rotator, Store as _, clock,
};
use perennial_tests::loopback::{BOUND, Runtime, on_both};
use perennial_tests::tls::{connect, server, try_answer};

const MESH: &str = "example.com/mesh";
const BUNDLE: &str = "example.com:mesh:roots";

fn validity(hours: u64) -> Validity {
    let begin = clock::now().unix.before(Duration::from_secs(60));
    Validity::new(begin, begin.after(Duration::from_secs(hours * 3600))).unwrap()
}

fn new_ca(name: &str) -> Issuer {
    let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let chain = self_signed(name, &key, &[1], validity(48)).unwrap();
    Issuer::new(Credential::new(chain, key).unwrap()).unwrap()
}

fn pem(ca: &Issuer) -> String {
    ca.credential().chain().pem().to_owned()
}

/// A handle with a credential that `ca` has issued for servers and clients with the name `localhost`.
fn peer(ca: &Issuer) -> Handle {
    let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let template = Template::new("peer").with_dns_names(["localhost"]);
    let request = certificate_request(&template, &key).unwrap();
    let terms = Terms {
        serial: &[2],
        validity: validity(24),
        key_usages: &[KeyUsage::DigitalSignature],
        extended_key_usages: &[Usage::ServerAuth, Usage::ClientAuth],
    };
    let leaf = ca.issue(&read_request(request.pem.as_bytes()).unwrap(), &terms).unwrap();
    let store = Memory::default();
    let credential = Credential::new(Chain::from_pem(leaf.pem().as_bytes()).unwrap(), key).unwrap();
    store.write(&Arc::new(credential), true, clock::now().unix).unwrap();
    // Nothing rotates here.
    let (handle, _) = Rotator::new().store(store).prepare().unwrap();
    handle
}

/// Follows the bundles on this runtime, until the result is dropped.
fn follow(runtime: Runtime, cluster: &TestCluster, bundles: &TrustBundles) -> CancelOnDrop {
    let identity = Arc::new(Identity::Certificate(cluster.admin().clone()));
    let watch = bundles.watch(cluster.cluster().clone(), identity, Limits::default(), 7);
    let cancel = Arc::<Cancel>::default();
    let cancelled = cancel.clone();
    match runtime {
        Runtime::Smol => {
            thread::spawn(move || {
                let (stopped, stop) = smol::channel::bounded::<()>(1);
                cancelled.on_cancel(move || {
                    stopped.close();
                });
                smol::block_on(smol::future::or(
                    async move { match perennial_smol::drive(watch, |_| {}).await {} },
                    async move {
                        let _closed = stop.recv().await;
                    },
                ));
            });
        }
        _ => {
            thread::spawn(move || perennial_std::drive(watch, &cancelled, |_| {}));
        }
    }
    CancelOnDrop(cancel)
}

/// Waits until the source has exactly these CAs.
fn await_roots(bundles: &TrustBundles, expected: &[&str]) {
    let until = Instant::now() + BOUND.unwrap();
    let subjects = || {
        let mut subjects: Vec<String> = bundles.roots().map_or_else(|_| Vec::new(), |roots| roots.subjects().collect());
        subjects.sort();
        subjects
    };
    while subjects() != expected {
        assert!(Instant::now() < until, "{:?} instead of {expected:?}", bundles.state());
        thread::sleep(Duration::from_millis(10));
    }
}

/// True if a client and the server at `address` accept each other.
fn meet(address: SocketAddr, config: &Arc<rustls::ClientConfig>) -> bool {
    try_answer(&mut connect(address, config.clone())).is_ok()
}

#[test]
fn mutual_tls_follows_bundle_through_change_of_ca() {
    on_both(|runtime| {
        let cluster = TestCluster::start().unwrap();
        let (old, new) = (new_ca("old"), new_ca("new"));
        let bundles = TrustBundles::new(BundleSelection::of_signer(MESH));
        let _following = follow(runtime, &cluster, &bundles);
        let [old_server, new_server] = [&old, &new].map(|ca| server(mutual_server_config(&peer(ca), bundles.clone())));
        let [old_client, new_client] = [&old, &new].map(|ca| Arc::new(client_config(&peer(ca), bundles.clone())));
        // The old CA, both, and the new one.
        for (content, subjects, is_old, is_new) in [
            (pem(&old), &["CN=old"][..], true, false),
            (pem(&old) + &pem(&new), &["CN=new", "CN=old"], true, true),
            (pem(&new), &["CN=new"], false, true),
        ] {
            cluster.put_trust_bundle(BUNDLE, MESH, &content).unwrap();
            await_roots(&bundles, subjects);
            assert_eq!(meet(old_server, &old_client), is_old, "{subjects:?}");
            assert_eq!(meet(new_server, &new_client), is_new, "{subjects:?}");
            assert_eq!(meet(old_server, &new_client), is_old && is_new, "{subjects:?}");
            assert_eq!(meet(new_server, &old_client), is_old && is_new, "{subjects:?}");
        }
        assert_eq!(bundles.state().problem, None);
        cluster.shutdown().unwrap();
        // Without a server, the CAs stay.
        let until = Instant::now() + BOUND.unwrap();
        while bundles.state().problem.is_none() {
            assert!(Instant::now() < until, "no problem");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(meet(new_server, &new_client));
    });
}

#[test]
fn bundles_of_several_objects_are_joined() {
    let cluster = TestCluster::start().unwrap();
    let [a, b, other] = ["a", "b", "other"].map(new_ca);
    cluster.put_trust_bundle("example.com:mesh:a", MESH, &pem(&a)).unwrap();
    cluster.put_trust_bundle("example.com:other:a", "example.com/other", &pem(&other)).unwrap();
    cluster.put_trust_bundle("company", "", &pem(&other)).unwrap();
    let bundles = TrustBundles::new(BundleSelection::of_signer(MESH));
    let by_name = TrustBundles::new(BundleSelection::Name("company".to_owned()));
    let _following = [&bundles, &by_name].map(|bundles| follow(Runtime::Std, &cluster, bundles));
    await_roots(&bundles, &["CN=a"]);
    await_roots(&by_name, &["CN=other"]);
    cluster.put_trust_bundle("example.com:mesh:b", MESH, &(pem(&a) + &pem(&b))).unwrap();
    await_roots(&bundles, &["CN=a", "CN=b"]);
    assert_eq!(bundles.state().bundles, 2);
}
