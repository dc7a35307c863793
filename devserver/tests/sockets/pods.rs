//! Pods of a `TestCluster`: perennial's client requests their certificates.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use perennial::{State, Template};
use perennial_dev::{PodSigner, RefreshHint, TestCluster};
use perennial_kubernetes::{PodCertificateSigner, PodIdentity};
use perennial_pki::{Chain, KeyAlgorithm, Roots};
use perennial_rotation::{Handle, Rotator, Snapshot};

const BOUND: Duration = Duration::from_secs(60);
const MESH: &str = "example.com/mesh";

/// A node with a certificate.
fn node(cluster: &TestCluster) -> Result<Handle, Box<dyn Error>> {
    let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
    let node = perennial_std::start(rotator)?;
    node.ready().within(BOUND)?;
    Ok(node)
}

fn signer(cluster: &TestCluster, node: &Handle, pod: PodIdentity) -> PodCertificateSigner {
    PodCertificateSigner::new(cluster.cluster().clone(), Arc::new(node.clone()), MESH, pod)
}

#[test]
fn pod_certificate_is_rotated_when_the_signer_wishes() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let node = node(&cluster)?;
    let pod = cluster.put_pod("shop", "web", "seller", "worker-1")?;
    let refresh = RefreshHint::After(Duration::from_secs(20 * 3600));
    cluster.set_pod_signer(MESH, PodSigner { refresh, ..PodSigner::default() });
    let root = cluster.rotate_pod_signer(MESH)?;
    let web = perennial_std::start(Rotator::new().template(Template::default()).signer(signer(&cluster, &node, pod)))?;
    let credential = web.ready().within(BOUND)?;

    let chain = credential.chain();
    assert_eq!(chain.uris().collect::<Vec<_>>(), ["spiffe://cluster.local/ns/shop/sa/seller"]);
    assert_eq!(chain.issuer(), Chain::from_pem(root.as_bytes())?.issuer());
    assert!(Roots::from_pem(root.as_bytes()).is_ok());
    let begin = chain.certificate().validity.not_before().after(Duration::from_secs(20 * 3600));
    let scheduled = |now: &Snapshot| match now.state {
        State::Scheduled { rotate_at } => Some(rotate_at),
        _ => None,
    };
    let state = web.wait_for(|now| scheduled(now).is_some()).within(BOUND).unwrap();
    let rotate_at = scheduled(&state).unwrap();
    assert!(begin <= rotate_at && rotate_at <= begin.after(Duration::from_secs(300)), "{begin} {rotate_at}");
    Ok(())
}

#[test]
fn pod_gets_another_kind_of_key_that_the_signer_suggests() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let node = node(&cluster)?;
    let pod = cluster.put_pod("shop", "web", "seller", "worker-1")?;
    cluster.set_pod_signer(MESH, PodSigner { accepted_keys: vec![KeyAlgorithm::Ed25519], ..PodSigner::default() });
    let mut signer = signer(&cluster, &node, pod);
    signer.profile.other_key_algorithms = vec![KeyAlgorithm::Ed25519];
    let web = perennial_std::start(Rotator::new().template(Template::default()).signer(signer))?;
    assert_eq!(web.ready().within(BOUND)?.key().algorithm(), KeyAlgorithm::Ed25519);
    Ok(())
}

#[test]
fn node_gets_no_certificate_for_a_pod_of_another_node() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let node = node(&cluster)?;
    let pod = cluster.put_pod("shop", "web", "seller", "worker-2")?;
    let web = perennial_std::start(Rotator::new().template(Template::default()).signer(signer(&cluster, &node, pod)))?;
    let state = web.wait_for(|now| now.last_error.is_some()).within(BOUND).unwrap();
    let error = state.last_error.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(error.contains("which is not the requesting node \"worker-1\""), "{error}");
    Ok(())
}
