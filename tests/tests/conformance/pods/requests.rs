//! The requests for certificates of pods: their content, their keys and their names.

use std::collections::BTreeMap;

use perennial_dev::PodSigner;
use perennial_kubernetes::pods::PodCertificateState as State;
use perennial_pki::{AlternativeNames, KeyAlgorithm, KeyPair, read_request_der};
use perennial_tests::simulation::{HOUR, MESH, MINUTE};

use super::scenes::*;
use super::{MANAGER, TEST};
use crate::{Row, different, same};

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
];
