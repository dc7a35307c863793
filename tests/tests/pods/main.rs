//! `PodCertificates`: the certificates of a node's pods, with signers in the process and a fleet in virtual time.

mod changed;
mod cluster;
mod mesh;
mod refused;
mod removed;
mod runtimes;
mod turns;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial::{Now, State};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::pods::{
    Pod, PodCertificateSource, PodCertificateState, PodCertificates, PodError, PodSource, PodVolume,
};
use perennial_kubernetes::{BundleSelection, PodIdentity};
use perennial_rotation::{FileCredential, Fleet, Identity, KeyAlgorithm, Limits, Projection, clock};

use mesh::{Answer, Asked, DAY, HOUR, Life, Mesh};

const SIGNER: &str = "example.com/mesh";
const OTHER: &str = "example.com/other";

/// The directories of a node: private state, and the volumes of pods.
struct Node {
    root: tempfile::TempDir,
    mesh: Arc<Mesh>,
}

impl Node {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), mesh: Mesh::new() }
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn volume(&self, uid: &str) -> PathBuf {
        self.root.path().join("volumes").join(uid)
    }

    fn start(&self) -> Life {
        self.start_with(Limits::default())
    }

    fn start_with(&self, limits: Limits) -> Life {
        Life::new(&self.state(), &self.mesh, limits, clock::now())
    }

    /// Starts an agent at this time, after an earlier one.
    fn start_at(&self, now: Now) -> Life {
        Life::new(&self.state(), &self.mesh, Limits::default(), now)
    }

    /// A pod with one volume that has these sources.
    fn pod<const N: usize>(&self, uid: &str, sources: [PodSource; N]) -> Pod {
        let identity = PodIdentity {
            namespace: "shop".into(),
            name: format!("web-{uid}"),
            uid: uid.into(),
            service_account_name: "web".into(),
            service_account_uid: "sa-1".into(),
            node_name: "node-1".into(),
            node_uid: "n-1".into(),
        };
        let sources = sources.into_iter().enumerate().collect();
        let volume = PodVolume { mode: 0o640, sources, ..PodVolume::new("mesh", self.volume(uid)) };
        Pod { identity, volumes: vec![volume] }
    }
}

fn certificate(signer: &str, projection: Projection) -> PodSource {
    PodSource::Certificate(PodCertificateSource::new(signer, projection))
}

fn bundle(path: &str) -> PodSource {
    certificate(SIGNER, Projection::Bundle { path: path.into() })
}

fn two_files(signer: &str) -> PodSource {
    let (key, certificate_chain) = ("tls/key.pem".into(), "tls/chain.pem".into());
    certificate(signer, Projection::Files { key, certificate_chain })
}

fn cas() -> PodSource {
    PodSource::TrustBundle { selection: BundleSelection::of_signer(SIGNER), path: "ca.pem".into() }
}

/// The first source of the pod, to change.
fn source(pod: &mut Pod) -> &mut PodCertificateSource {
    match pod.volumes[0].sources.get_mut(&0) {
        Some(PodSource::Certificate(source)) => source,
        other => panic!("{other:?}"),
    }
}

fn states(life: &Life) -> Vec<PodCertificateState> {
    life.pods.statuses(life.now()).into_iter().map(|status| status.state).collect()
}

/// The common name of the certificate that a container finds in a bundle.
fn served(path: &Path) -> String {
    let found = FileCredential::open(path, path).unwrap().credential();
    found.chain().certificate().common_name().to_owned()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn two_certificates_and_cas_share_a_volume() {
    let node = Node::new();
    let mut life = node.start();
    let selection = BundleSelection::of_signer(SIGNER);
    life.pods.put(node.pod("a", [bundle("credential.pem"), two_files(OTHER), cas()]), life.now()).unwrap();
    assert_eq!(states(&life), [PodCertificateState::NotYetIssued; 2]);
    assert_eq!(life.pods.missing_trust_bundles("a"), std::slice::from_ref(&selection));
    life.step();
    life.pods.set_trust_bundle(&selection, &node.mesh.roots(), life.now()).unwrap();
    let volume = node.volume("a");
    assert_eq!(served(&volume.join("credential.pem")), "web-a");
    let pair = FileCredential::open(volume.join("tls/chain.pem"), volume.join("tls/key.pem")).unwrap();
    let uris: Vec<_> = pair.credential().chain().certificate().names.uris().map(str::to_owned).collect();
    assert_eq!(uris, ["spiffe://mesh/ns/shop/pod/web-a"]);
    assert_eq!(fs::read_to_string(volume.join("ca.pem")).unwrap(), node.mesh.roots().pem());
    assert!(life.pods.missing_trust_bundles("a").is_empty());
    let found = life.pods.statuses(life.now());
    let keys: Vec<_> = found.iter().map(|status| (&*status.volume, status.source, &*status.signer_name)).collect();
    assert_eq!(keys, [("mesh", 0, SIGNER), ("mesh", 1, OTHER)]);
    for status in &found {
        assert_eq!((status.state.name(), &*status.pod, &*status.pod_uid), ("fresh", "shop/web-a", "a"));
        assert!(status.last_error.is_none() && status.unpublished.is_none());
        let State::Scheduled { rotate_at } = status.activity else { panic!("{:?}", status.activity) };
        assert_eq!(status.rotation_point, Some(rotate_at));
    }
    // Other sources of the pod, such as tokens, can share the volume.
    assert_eq!(life.pods.volume("a", "mesh").unwrap().path(), volume);
    assert_eq!(life.pods.handle("a", "mesh", 1).unwrap().name(), "shop/web-a/mesh/1");
    assert!(life.pods.handle("a", "mesh", 2).is_none() && life.pods.handle("b", "mesh", 0).is_none());
}

#[test]
fn pod_that_is_put_again_changes_nothing() {
    let node = Node::new();
    let mut life = node.start();
    let pod = node.pod("a", [bundle("credential.pem"), two_files(OTHER)]);
    life.pods.put(pod.clone(), life.now()).unwrap();
    life.step();
    assert_eq!(node.mesh.asked().len(), 2);
    let data = fs::read_link(node.volume("a").join("..data")).unwrap();
    for _ in 0..3 {
        life.pods.put(pod.clone(), life.now()).unwrap();
        life.run(HOUR);
    }
    assert_eq!(node.mesh.asked(), []);
    assert_eq!(fs::read_link(node.volume("a").join("..data")).unwrap(), data);
    // Unless the volume has lost a file.
    fs::remove_file(node.volume("a").join("credential.pem")).unwrap();
    life.pods.put(pod, life.now()).unwrap();
    assert_eq!(served(&node.volume("a").join("credential.pem")), "web-a");
}

#[test]
fn certificates_are_rotated_in_their_volume() {
    let node = Node::new();
    let mut life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    life.step();
    let path = node.volume("a").join("credential.pem");
    let first = fs::read_to_string(&path).unwrap();
    life.run(DAY);
    let second = fs::read_to_string(&path).unwrap();
    assert_ne!(first, second);
    assert_eq!((node.mesh.asked().len(), states(&life)), (2, vec![PodCertificateState::Fresh]));
}

#[test]
fn restart_serves_valid_certificates_without_a_request() {
    let node = Node::new();
    let pods = ["a", "b"].map(|uid| node.pod(uid, [bundle("credential.pem"), two_files(OTHER)]));
    let mut life = node.start();
    pods.iter().for_each(|pod| life.pods.put(pod.clone(), life.now()).unwrap());
    life.step();
    let serials: Vec<_> = life.pods.statuses(life.now()).iter().map(|status| status.rotation_point).collect();
    assert_eq!(node.mesh.asked().len(), 4);
    drop(life);
    // After a reboot, the volumes are new.
    fs::remove_dir_all(node.root.path().join("volumes")).unwrap();
    let mut life = node.start();
    pods.iter().for_each(|pod| life.pods.put(pod.clone(), life.now()).unwrap());
    life.run(HOUR);
    assert_eq!(node.mesh.asked(), []);
    assert_eq!(states(&life), [PodCertificateState::Fresh; 4]);
    let again: Vec<_> = life.pods.statuses(life.now()).iter().map(|status| status.rotation_point).collect();
    assert_eq!(again, serials, "the same rotation points");
    assert_eq!(served(&node.volume("b").join("credential.pem")), "web-b");
}

#[test]
fn request_in_flight_is_resumed_by_restart() {
    let node = Node::new();
    node.mesh.answer(SIGNER, Answer::Silent);
    let pod = node.pod("a", [bundle("credential.pem")]);
    let mut life = node.start();
    life.pods.put(pod.clone(), life.now()).unwrap();
    life.step();
    let [first] = &node.mesh.asked()[..] else { panic!("one request") };
    drop(life);
    node.mesh.answer(SIGNER, Answer::Issue);
    let mut life = node.start();
    life.pods.put(pod, life.now()).unwrap();
    life.run(HOUR);
    assert_eq!(node.mesh.asked(), std::slice::from_ref(first), "the same name, and so the same key");
    assert_eq!(states(&life), [PodCertificateState::Fresh]);
}

#[test]
fn herd_after_restart_or_suspend_is_bounded_by_limits() {
    let node = Node::new();
    let pods: Vec<Pod> = (0..30).map(|pod| node.pod(&format!("p{pod}"), [bundle("credential.pem")])).collect();
    let limits = || Limits { in_flight: 4.try_into().unwrap(), ..Limits::default() };
    let mut life = node.start_with(limits());
    pods.iter().for_each(|pod| life.pods.put(pod.clone(), life.now()).unwrap());
    life.step();
    assert_eq!((node.mesh.asked().len(), states(&life)), (30, vec![PodCertificateState::Fresh; 30]));
    node.mesh.answer(SIGNER, Answer::Silent);
    life.suspend(2 * DAY);
    life.step();
    assert_eq!(node.mesh.asked().len(), 4);
    assert_eq!(states(&life), [PodCertificateState::Expired; 30]);
    drop(life);
    let mut life = node.start_with(limits());
    pods.iter().for_each(|pod| life.pods.put(pod.clone(), life.now()).unwrap());
    life.suspend(2 * DAY);
    life.step();
    assert_eq!(node.mesh.asked().len(), 4);
}

#[test]
fn changed_cas_are_written_to_all_volumes() {
    let node = Node::new();
    let life = node.start();
    let selection = BundleSelection::of_signer(SIGNER);
    life.pods.set_trust_bundle(&selection, &node.mesh.roots(), life.now()).unwrap();
    for uid in ["a", "b"] {
        life.pods.put(node.pod(uid, [bundle("credential.pem"), cas()]), life.now()).unwrap();
        assert_eq!(fs::read_to_string(node.volume(uid).join("ca.pem")).unwrap(), node.mesh.roots().pem());
    }
    let new = Mesh::new().roots();
    life.pods.set_trust_bundle(&selection, &new, life.now()).unwrap();
    life.pods.set_trust_bundle(&BundleSelection::Name("another".into()), &node.mesh.roots(), life.now()).unwrap();
    for uid in ["a", "b"] {
        assert_eq!(fs::read_to_string(node.volume(uid).join("ca.pem")).unwrap(), new.pem());
        fs::remove_dir_all(node.volume(uid)).unwrap();
    }
    life.pods.restore(life.now()).unwrap();
    assert_eq!(fs::read_to_string(node.volume("b").join("ca.pem")).unwrap(), new.pem());
}

#[test]
fn volume_that_cannot_be_written_is_reported_and_stops_no_other_pod() {
    let node = Node::new();
    let mut life = node.start();
    fs::create_dir_all(node.root.path().join("volumes")).unwrap();
    fs::write(node.volume("a"), "a file in the place of the volume").unwrap();
    for uid in ["a", "b"] {
        life.pods.put(node.pod(uid, [bundle("credential.pem")]), life.now()).unwrap();
    }
    life.step();
    let [a, b] = &life.pods.statuses(life.now())[..] else { panic!("two pods") };
    assert!(a.unpublished.as_ref().is_some_and(|why| why.error.contains("cannot create")), "{a:?}");
    assert!(a.last_error.as_ref().is_some_and(|why| why.contains("cannot create")), "{a:?}");
    assert!(b.unpublished.is_none() && b.last_error.is_none(), "{b:?}");
    assert!(matches!(life.pods.restore(life.now()), Err(PodError::Volume { pod, .. }) if pod == "shop/web-a"));
    fs::remove_file(node.volume("a")).unwrap();
    // The rotation repeats the write by itself.
    life.run(HOUR);
    assert!(life.pods.statuses(life.now())[0].unpublished.is_none());
    assert_eq!(served(&node.volume("a").join("credential.pem")), "web-a");
    assert_eq!(node.mesh.asked().len(), 2);
}

#[test]
fn pods_that_contradict_rules_are_refused_and_change_nothing() {
    let node = Node::new();
    let life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    let volume = |change: &dyn Fn(&mut PodVolume)| {
        let mut pod = node.pod("b", [bundle("credential.pem"), cas()]);
        change(&mut pod.volumes[0]);
        pod
    };
    let with_uid = |uid: &str| {
        let mut pod = node.pod("b", [bundle("credential.pem")]);
        pod.identity.uid = uid.into();
        pod
    };
    let long = "x".repeat(129);
    let mut forged = node.pod("b", []);
    forged.identity.name.push_str("\nforged");
    let table = [
        (forged, "its name or namespace contains a control character"),
        (with_uid(""), "a UID consists of"),
        (with_uid(".."), "a UID consists of"),
        (with_uid("a/b"), "a UID consists of"),
        (with_uid("../state"), "a UID consists of"),
        (with_uid(&long), "a UID consists of"),
        (volume(&|volume| volume.name = "../other".into()), "the name of a volume consists of"),
        (volume(&|volume| volume.name = String::new()), "the name of a volume consists of"),
        (volume(&|volume| volume.path = "volumes/b".into()), "is not absolute, or contains `..`"),
        (volume(&|volume| volume.path = "/volumes/../etc".into()), "is not absolute, or contains `..`"),
        (volume(&|volume| volume.path = node.volume("a")), "is that of a volume of pod shop/web-a"),
        (volume(&|volume| volume.path = "/volumes/b\nforged".into()), "its path contains a control character"),
        (volume(&|volume| volume.owner = Some(u32::MAX)), "4294967295 is the ID of no user"),
        (volume(&|volume| volume.group = Some(u32::MAX)), "4294967295 is the ID of no user"),
        (node.pod("b", [bundle("a\nforged")]), "must not contain a control character"),
        (volume(&|volume| volume.mode = 0o666), "mode 0666 is not allowed"),
        (volume(&|volume| volume.mode = 0o4755), "mode 4755 is not allowed"),
        (node.pod("b", [bundle("../credential.pem")]), "must not contain `..`"),
        (node.pod("b", [bundle("/etc/credential.pem")]), "must be relative"),
        (node.pod("b", [bundle("..data")]), "must not begin with `..`"),
        (node.pod("b", [bundle("ca.pem"), cas()]), "two files of the volume have this path"),
        (
            node.pod("b", [bundle("tls"), two_files(SIGNER)]),
            "is a file and, for another file of the volume, a directory",
        ),
        (node.pod("b", [certificate("mesh", Projection::Bundle { path: "a".into() })]), "has a domain"),
    ];
    for (pod, why) in table {
        let error = life.pods.put(pod, life.now()).unwrap_err();
        assert!(matches!(error, PodError::Invalid { .. }) && error.to_string().contains(why), "{why}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert_eq!(names(&node.state()), ["a"], "{why}");
    }
    let mut twice = node.pod("b", [bundle("credential.pem")]);
    twice.volumes.push(twice.volumes[0].clone());
    let error = life.pods.put(twice, life.now()).unwrap_err().to_string();
    assert!(error.contains("another volume of the pod has the same name or path"), "{error}");
    assert_eq!(life.pods.statuses(life.now()).len(), 1);
    // A bad change of a pod leaves the pod as it was.
    life.pods.put(node.pod("a", [bundle("../x")]), life.now()).unwrap_err();
    assert!(life.pods.handle("a", "mesh", 0).is_some_and(|handle| !handle.has_ended()));
}

#[test]
fn sources_that_api_would_refuse_are_refused_before_a_request() {
    let node = Node::new();
    let (fleet, _task) = Fleet::prepare(Limits::default());
    let cluster = Arc::new(Cluster::from_url("https://api.example").unwrap());
    let pods = PodCertificates::new(fleet, node.state(), cluster, Arc::new(Identity::Anonymous));
    let now = node.start().now();
    for change in [
        (|source| source.signer_name = "mesh".into()) as fn(&mut PodCertificateSource),
        |source| source.max_expiration = Some(HOUR / 2),
        |source| drop(source.user_annotations.insert("no-domain".into(), "x".into())),
    ] {
        let mut pod = node.pod("a", [bundle("credential.pem")]);
        change(source(&mut pod));
        let error = pods.put(pod, now).unwrap_err();
        assert!(matches!(error, PodError::Invalid { .. }), "{error}");
        assert!(error.to_string().starts_with("pod shop/web-a: volume mesh, source 0: "), "{error}");
    }
    pods.put(node.pod("a", [bundle("credential.pem")]), now).unwrap();
    assert_eq!(pods.statuses(now)[0].state, PodCertificateState::NotYetIssued);
}

#[test]
fn second_agent_with_the_same_state_is_refused() {
    let node = Node::new();
    let life = node.start();
    let pod = node.pod("a", [bundle("credential.pem")]);
    life.pods.put(pod.clone(), life.now()).unwrap();
    let other = node.start();
    let error = other.pods.put(pod, other.now()).unwrap_err();
    assert!(matches!(error, PodError::State { .. }) && error.to_string().contains("holds this lock"), "{error}");
}

#[test]
fn requests_carry_key_type_and_annotations_of_source() {
    let node = Node::new();
    let mut life = node.start();
    let mut pod = node.pod("a", [bundle("credential.pem")]);
    let annotations = BTreeMap::from([("example.com/san".to_owned(), "shop".to_owned())]);
    *source(&mut pod) = PodCertificateSource {
        key_type: KeyAlgorithm::Ed25519,
        max_expiration: Some(HOUR),
        user_annotations: annotations.clone(),
        ..source(&mut pod).clone()
    };
    life.pods.put(pod, life.now()).unwrap();
    life.step();
    let [Asked { key_type, annotations: asked, .. }] = &node.mesh.asked()[..] else { panic!("one request") };
    assert_eq!((*key_type, asked), (KeyAlgorithm::Ed25519, &annotations));
    let status = &life.pods.statuses(life.now())[0];
    assert!(status.not_after.unwrap() <= life.now().after(HOUR));
}
