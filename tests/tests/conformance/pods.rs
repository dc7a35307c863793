//! kubelet's manager of pod certificates (KEP-4317): the cases of podcertificatemanager_test.go, and the behaviour that
//! only podcertificatemanager.go shows.

mod scenes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use perennial::Failure;
use perennial_dev::{PodSigner, RefreshHint};
use perennial_kubernetes::pods::PodCertificateState as State;
use perennial_pki::{AlternativeNames, KeyAlgorithm, KeyPair, read_request_der};
use perennial_rotation::volume::FileAccess;
use perennial_rotation::{Directory, ProjectedVolume, Projection, Store as _, VolumeStore};
use perennial_tests::disk::{NOW, pair};
use perennial_tests::simulation::{HOUR, MESH, MINUTE, SECOND, START};

use super::{Row, different, same};
use scenes::*;

const TEST: &str = "podcertificatemanager_test.go";
const MANAGER: &str = "podcertificatemanager.go";
const NOT_FOR_EVER: &str =
    "kubelet gives the certificate up for the life of the pod; policies and signers are mended while pods run";
const VALID_STAYS: &str = "kubelet takes a valid certificate from a pod when its successor is refused";
const WATCHED: &str =
    "kubelet cannot tell a deletion from a cache that is behind, and waits; perennial watches its own object";
const NO_EVENTS: &str = "a library writes no events into its program's cluster; its statuses have the same states";

pub(crate) const ROWS: &[Row] = &[
    same(
        TEST,
        "TestTransitionInitialToWait",
        "a request with pod, service account, node, lifetime and annotations",
        || {
            let mut node = node_with(ignoring(), |signer| {
                signer.unverified_user_annotations = BTreeMap::from([("test.domain/foo".into(), "bar".into())]);
            });
            node.run(MINUTE);
            let (request, pod) = (the_request(&mut node), node.server.pod());
            let spec = &request.spec;
            assert_eq!((&*spec.signer_name, &*request.metadata.namespace), (MESH, &*pod.namespace));
            assert_eq!((&spec.pod_name, &spec.pod_uid), (&pod.name, &pod.uid));
            assert_eq!(
                (&spec.service_account_name, &spec.service_account_uid),
                (&pod.service_account_name, &pod.service_account_uid)
            );
            assert_eq!((&spec.node_name, &spec.node_uid), (&pod.node_name, &pod.node_uid));
            assert_eq!(spec.max_expiration_seconds, Some(86_400));
            assert_eq!(spec.unverified_user_annotations["test.domain/foo"], "bar");
        },
    ),
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
    same(MANAGER, "state not_yet_issued: no request, or one that waits", "the same state", || {
        let mut node = node(ignoring());
        assert_eq!(state(&node), State::NotYetIssued);
        node.run(MINUTE);
        assert_eq!((node.server.pod_requests().len(), state(&node)), (1, State::NotYetIssued));
    }),
    same(MANAGER, "state fresh: until ten minutes after the time to refresh", "the same state", || {
        let mut node = overdue();
        assert_eq!(state(&node), State::Fresh);
        let point = rotation_point(&node);
        node.run(point.after(9 * MINUTE).since(node.server.now().unix));
        assert_eq!(state(&node), State::Fresh);
    }),
    same(MANAGER, "state overdue_for_refresh: from then until notAfter", "the same state", || {
        let mut node = overdue();
        let point = rotation_point(&node);
        node.run(point.after(11 * MINUTE).since(node.server.now().unix));
        assert_eq!(state(&node), State::OverdueForRefresh);
    }),
    same(MANAGER, "state expired: from notAfter on", "the same state", || {
        let mut node = overdue();
        node.run(25 * HOUR);
        assert_eq!(state(&node), State::Expired);
    }),
    same(MANAGER, "state denied", "the same state", || {
        let mut node = node(deciding(denial()));
        node.run(MINUTE);
        assert_eq!(state(&node), State::Denied);
    }),
    same(MANAGER, "state failed", "the same state", || {
        let mut node = node(deciding(failure()));
        node.run(MINUTE);
        assert_eq!(state(&node), State::Failed);
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
        "event CertificateOverdueForRefresh, once",
        "the state, and the error that causes it",
        NO_EVENTS,
        || {
            let mut node = overdue();
            let point = rotation_point(&node);
            node.run(point.after(11 * MINUTE).since(node.server.now().unix));
            assert_eq!(state(&node), State::OverdueForRefresh);
            assert!(last_error(&node).contains("refused"), "{}", last_error(&node));
        },
    ),
    different(MANAGER, "event CertificateExpired, once", "the state, and the error that causes it", NO_EVENTS, || {
        let mut node = overdue();
        node.run(25 * HOUR);
        assert_eq!(state(&node), State::Expired);
        assert!(last_error(&node).contains("refused"), "{}", last_error(&node));
    }),
    different(
        MANAGER,
        "event of a denial or failure",
        "the reason and the message of the signer, in the last error",
        NO_EVENTS,
        || {
            for decision in [denial(), failure()] {
                let mut node = node(deciding(decision));
                node.run(MINUTE);
                assert!(
                    last_error(&node).contains("NotToday") && last_error(&node).contains("ask Ann"),
                    "{}",
                    last_error(&node)
                );
            }
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
        "denied with UnsupportedKeyType: as any denial",
        "the suggested kind of key is tried once, if the profile allows it",
        "the denial says how to mend it",
        || {
            let behaviour = PodSigner { accepted_keys: vec![KeyAlgorithm::Ed25519], ..PodSigner::default() };
            let mut refused = node(behaviour.clone());
            refused.run(MINUTE);
            assert_eq!((state(&refused), refused.submissions), (State::Denied, 1));
            let mut node = node_with(behaviour, |signer| {
                signer.profile.other_key_algorithms = vec![KeyAlgorithm::Ed25519];
            });
            node.run(MINUTE);
            assert_eq!((state(&node), node.submissions), (State::Fresh, 2));
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
    different(
        MANAGER,
        "a new key for each request",
        "a new key for each certificate; a request that is repeated has the same key",
        "the API server finds the request by its name, so that an answer that got lost costs no second certificate",
        || {
            let mut node = node(ignoring());
            // The objects are created, and the answers get lost.
            node.server.faults("{ match: { method: POST }, fault: { cut: beforeHead } }");
            node.run(10 * MINUTE);
            assert!(node.submissions > 1, "{}", last_error(&node));
            let first = public_key(&the_request(&mut node));
            node.server.faults("");
            node.server.set_mesh(PodSigner::default());
            node.run(HOUR);
            let point = rotation_point(&node);
            node.run(point.after(MINUTE).since(node.server.now().unix));
            assert_ne!(public_key(&the_request(&mut node)), first);
        },
    ),
    different(
        MANAGER,
        "generateName: req-",
        "a name that is derived from the key and the request",
        "a restart finds its own request",
        || {
            let mut node = node(ignoring());
            node.run(MINUTE);
            let (first, submissions) = (the_request(&mut node).metadata.name, node.submissions);
            node.crash();
            node.run(MINUTE);
            assert!(node.submissions > submissions);
            assert_eq!(the_request(&mut node).metadata.name, first);
        },
    ),
    different(
        MANAGER,
        "ownerReferences: the pod, as core/v1",
        "the pod, as v1",
        "`core/v1` names no API group, so that the garbage collector does not find the owner",
        || {
            let mut node = node(ignoring());
            node.run(MINUTE);
            let pod = node.server.pod();
            let request = the_request(&mut node);
            let [owner] = &request.metadata.owner_references[..] else { panic!("one owner") };
            assert_eq!((&*owner.api_version, &*owner.kind, &owner.uid), ("v1", "Pod", &pod.uid));
        },
    ),
    same(MANAGER, "generateKeyAndProof", "a CSR without names, which the key has signed", || {
        let mut node = node(ignoring());
        node.run(MINUTE);
        let spec = the_request(&mut node).spec;
        // Fails unless the signature is good.
        let facts = read_request_der(&spec.stub_pkcs10_request).unwrap();
        assert_eq!((&*facts.subject_der, &facts.names), (&[0x30, 0][..], &AlternativeNames::default()));
        assert!(spec.pkix_public_key.is_empty() && spec.proof_of_possession.is_empty());
    }),
    same(MANAGER, "keyType: ECDSAP256, ECDSAP384, ED25519", "the same names, and keys of that kind", || {
        for (name, expected) in [
            ("ECDSAP256", KeyAlgorithm::EcdsaP256),
            ("ECDSAP384", KeyAlgorithm::EcdsaP384),
            ("ED25519", KeyAlgorithm::Ed25519),
        ] {
            let (mut node, facts) = requested_with(name);
            assert_eq!((facts.map(|facts| facts.key_algorithm), state(&node)), (Some(expected), State::Fresh));
            assert_eq!(node.server.pod_requests().len(), 1);
        }
    }),
    different(
        MANAGER,
        "keyType: ECDSAP521, RSA3072, RSA4096",
        "the same names; generated with the feature `aws-lc-rs`, otherwise refused with the reason",
        "ring, the crypto library without that feature, generates no such keys, and every cluster accepts P-256",
        || {
            for (name, algorithm) in [
                ("ECDSAP521", KeyAlgorithm::EcdsaP521),
                ("RSA3072", KeyAlgorithm::Rsa),
                ("RSA4096", KeyAlgorithm::Rsa4096),
            ] {
                let (node, facts) = requested_with(name);
                match KeyPair::generate(algorithm) {
                    Ok(_) => assert_eq!(facts.map(|facts| facts.key_algorithm), Some(algorithm)),
                    Err(why) => assert!(facts.is_none() && last_error(&node).contains(&why.to_string())),
                }
            }
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
    different(
        MANAGER,
        "the service account is read for each request",
        "the caller provides its UID with the pod",
        "a node agent knows its pods; a request costs no other request",
        || {
            let mut node = node(PodSigner::default());
            // A rule, so that the server keeps a journal. No request matches it.
            node.server.faults("{ match: { method: DELETE }, fault: { answer: { status: 500 } } }");
            node.run(MINUTE);
            let calls = node.server.journal();
            assert!(!calls.is_empty() && !calls.iter().any(|call| call.contains("serviceaccounts")), "{calls:?}");
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
    same(MANAGER, "MetricReport", "signer and state of each source of each pod", || {
        let root = tempfile::tempdir().unwrap();
        let (pods, _task) = manager(root.path());
        pods.put(pod(root.path()), START).unwrap();
        let statuses = pods.statuses(START);
        let report: Vec<_> = statuses.iter().map(|status| (&*status.signer_name, status.state.name())).collect();
        assert_eq!(report, [(MESH, "not_yet_issued"), ("example.com/other", "not_yet_issued")]);
    }),
];
