//! The life of a certificate of a pod: issue, refresh, refusals, restarts and its end.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use perennial::Failure;
use perennial_dev::{PodSigner, RefreshHint};
use perennial_kubernetes::pods::PodCertificateState as State;
use perennial_rotation::volume::FileAccess;
use perennial_rotation::{Directory, ProjectedVolume, Projection, Store as _, VolumeStore};
use perennial_tests::disk::{NOW, pair};
use perennial_tests::simulation::{HOUR, MINUTE, SECOND, START};

use super::scenes::*;
use super::{MANAGER, TEST};
use crate::{Row, different, same};

const NOT_FOR_EVER: &str =
    "kubelet gives the certificate up for the life of the pod; policies and signers are mended while pods run";
const VALID_STAYS: &str = "kubelet takes a valid certificate from a pod when its successor is refused";
const WATCHED: &str =
    "kubelet cannot tell a deletion from a cache that is behind, and waits; perennial watches its own object";

pub(crate) const ROWS: &[Row] = &[
    different(TEST, "TestPCRDeletedWhileWaiting", "another request within minutes of the deletion", WATCHED, || {
        let mut node = node(ignoring());
        node.run(MINUTE);
        node.server.delete_pod_requests();
        node.run(5 * MINUTE);
        assert_eq!(node.server.pod_requests().len(), 1);
        assert_eq!(state(&node), State::NotYetIssued);
    }),
    same(TEST, "TestFullFlow", "issued, served, and replaced after beginRefreshAt and five minutes", || {
        let mut node = node(PodSigner::default());
        node.run(MINUTE);
        let first = node.presents().expect("a certificate");
        let begin = begin_refresh_at(&the_request(&mut node));
        node.run(begin.after(6 * MINUTE).since(node.server.now().unix));
        assert!(node.presents().is_some_and(|second| second != first));
    }),
    same(
        MANAGER,
        "refresh: at beginRefreshAt, up to five minutes later",
        "the same, by a draw from the certificate",
        || {
            let points: BTreeSet<Duration> = (0..8).map(|_| point_after_hint(PodSigner::default())).collect();
            assert!(points.iter().all(|after| *after <= 5 * MINUTE) && points.len() > 1, "{points:?}");
        },
    ),
    different(
        MANAGER,
        "refresh: found by a pass over all pods each one to two minutes",
        "a request at the rotation point itself",
        "each certificate has its own deadline, and a node at rest does nothing",
        || {
            let mut node = node(PodSigner::default());
            node.run(MINUTE);
            let (point, submissions) = (rotation_point(&node), node.submissions);
            node.run(point.since(node.server.now().unix) - SECOND);
            assert_eq!(node.submissions, submissions);
            node.run(2 * SECOND);
            assert_eq!(node.submissions, submissions + 1);
        },
    ),
    different(
        MANAGER,
        "refresh: a beginRefreshAt that has passed",
        "the hint is disregarded and reported, and the policy's window decides",
        "kubelet requests a certificate at each pass; no signer may cost more requests than the policy allows",
        || {
            let mut node = node(PodSigner { refresh: RefreshHint::Before(HOUR), ..PodSigner::default() });
            node.run(MINUTE);
            let after = rotation_point(&node).since(START);
            assert!((16 * HOUR..=22 * HOUR).contains(&after), "{after:?}");
            node.run(12 * HOUR);
            assert_eq!(node.submissions, 1);
        },
    ),
    different(
        MANAGER,
        "denied: for the life of the pod",
        "requested again after the backoff of a refusal",
        NOT_FOR_EVER,
        || {
            is_repaired(denial(), Failure::Denied);
        },
    ),
    different(
        MANAGER,
        "failed: for the life of the pod",
        "requested again after the backoff of a refusal",
        NOT_FOR_EVER,
        || {
            is_repaired(failure(), Failure::SignerFailed);
        },
    ),
    different(
        MANAGER,
        "denied refresh: the bundle is not served any more",
        "the valid certificate is served on",
        VALID_STAYS,
        || {
            is_kept(denial(), State::Denied);
        },
    ),
    different(
        MANAGER,
        "failed refresh: the bundle is not served any more",
        "the valid certificate is served on",
        VALID_STAYS,
        || {
            is_kept(failure(), State::Failed);
        },
    ),
    different(
        MANAGER,
        "missing object: assumed deleted 10 to 15 minutes after its creation",
        "the deletion is a failure at once, and another request follows",
        WATCHED,
        || {
            let mut node = node(ignoring());
            node.run(MINUTE);
            node.server.delete_pod_requests();
            node.run(SECOND);
            assert_eq!(node.failure(), Some(Failure::Deleted));
        },
    ),
    different(
        MANAGER,
        "missing object during a refresh: the same, and the certificate is served on",
        "the deletion is a failure at once; the certificate is served on",
        WATCHED,
        || {
            let mut node = node(PodSigner::default());
            node.run(MINUTE);
            let first = node.presents();
            node.server.set_mesh(ignoring());
            let point = rotation_point(&node);
            node.run(point.after(MINUTE).since(node.server.now().unix));
            assert_eq!(node.submissions, 2);
            node.server.delete_pod_requests();
            node.run(5 * MINUTE);
            assert!(node.submissions > 2);
            assert_eq!((node.presents(), state(&node)), (first, State::Fresh));
        },
    ),
    same(MANAGER, "credentialBundlePath: the PKCS#8 key, then the chain from the leaf on", "the same order", || {
        let root = tempfile::tempdir().unwrap();
        let volume = Arc::new(ProjectedVolume::new(root.path().join("volume"), None));
        let private = Directory::at(root.path().join("state"), "pod").unwrap();
        let access = FileAccess { owner: None, group: None, mode: 0o600 };
        let projection = Projection::Bundle { path: "bundle.pem".into() };
        let store = VolumeStore::new(private, volume, projection, access).unwrap();
        let credential = Arc::new(pair("pod", 1));
        store.write(&credential, true, NOW).unwrap();
        let text = fs::read_to_string(root.path().join("volume/bundle.pem")).unwrap();
        assert_eq!(text, format!("{}{}", *credential.key().to_pem(), credential.chain().pem()));
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    }),
    different(
        MANAGER,
        "restart: each certificate is requested again",
        "a valid certificate is served at once, without a request",
        "a restart of an agent costs the signer nothing, and a signer that is down costs no pod its certificate",
        || {
            let mut node = node(PodSigner::default());
            node.run(MINUTE);
            let (first, point, submissions) = (node.presents(), rotation_point(&node), node.submissions);
            node.crash();
            node.run(HOUR);
            assert_eq!((node.presents(), rotation_point(&node), node.submissions), (first, point, submissions));
        },
    ),
    different(
        MANAGER,
        "restart: requests in flight are forgotten",
        "the request in flight is resumed under its name",
        "a request that waits for a signer is not made twice",
        || {
            let mut node = node(ignoring());
            node.run(MINUTE);
            let first = the_request(&mut node).metadata;
            node.crash();
            node.server.set_mesh(PodSigner::default());
            node.run(MINUTE);
            let request = the_request(&mut node).metadata;
            assert_eq!((state(&node), &request.name, &request.uid), (State::Fresh, &first.name, &first.uid));
        },
    ),
    same(MANAGER, "ForgetPod", "the certificates of the pod are forgotten, with their keys", || {
        let root = tempfile::tempdir().unwrap();
        let (pods, _task) = manager(root.path());
        pods.put(pod(root.path()), START).unwrap();
        assert!(root.path().join("state/pod-uid").exists());
        pods.remove("pod-uid", START).unwrap();
        assert!(pods.statuses(START).is_empty());
        assert_eq!(fs::read_dir(root.path().join("state")).unwrap().count(), 0);
    }),
];
