//! Submissions of requests for the certificates of pods: how they run, and how the signer's answer is judged.

use std::time::Duration;

use crate::support::*;
use perennial::{Failure, RenewalHint, Template, UnixTime};
use perennial_kubernetes::objects::{CertificateSigningRequest, PodCertificateRequest};
use perennial_pki::{KeyAlgorithm, KeyPair, certificate_request};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn submission_creates_object_as_kubelet_and_watches_it() {
    let scene = PodScene::new();
    let mut world = scene.world(scene.well());
    let issued = world.run(&mut scene.issuance()).unwrap();
    assert_eq!(issued.chain.public_key_der(), scene.key.public_key_der());
    assert_eq!(issued.renewal, Some(RenewalHint::after(UnixTime::from_secs(EPOCH + 1800))));
    assert_eq!(world.lines(), [format!("POST {PODS}"), format!("GET {PODS}?watch")]);

    let posted: serde_json::Value = serde_json::from_slice(&world.requests[0].body).unwrap();
    assert_eq!(posted["apiVersion"], "certificates.k8s.io/v1beta1");
    assert_eq!(posted["kind"], "PodCertificateRequest");
    let metadata = serde_json::json!({
        "name": scene.desired.name,
        "namespace": "shop",
        "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "pod-uid" }],
    });
    assert_eq!(posted["metadata"], metadata);
    let mut spec = posted["spec"].clone();
    assert!(spec.as_object_mut().unwrap().remove("stubPKCS10Request").is_some());
    let expected = serde_json::json!({
        "signerName": "example.com/mesh",
        "podName": "web-0",
        "podUID": "pod-uid",
        "serviceAccountName": "web",
        "serviceAccountUID": "account-uid",
        "nodeName": "node-1",
        "nodeUID": "node-uid",
        "maxExpirationSeconds": 7200,
        "unverifiedUserAnnotations": { "example.com/role": "web" },
    });
    assert_eq!(spec, expected);

    // Kubernetes' node authorizer allows a node no watch without its name.
    let selector = format!("fieldSelector=metadata.name%3D{}%2Cspec.nodeName%3Dnode-1&", scene.desired.name);
    assert!(world.requests[1].line.contains(&selector), "{}", world.requests[1].line);
}

/// A restart signs the CSR anew, and finds the object that the request before the restart has created.
#[test]
fn restart_continues_with_object_of_same_key() {
    let scene = PodScene::new();
    let restarted = desired(&scene.key);
    assert_eq!(restarted.name, scene.desired.name);
    assert_ne!(restarted.spec.stub_pkcs10_request, scene.desired.spec.stub_pkcs10_request, "ECDSA is random");
    let issued = scene.issued();
    let scene = PodScene { desired: restarted, ..scene };
    let (outcome, lines) = scene.run(|request| match request.is_post() {
        true => Reply::status(409, "AlreadyExists", "it is there"),
        false => Reply::list("120", std::slice::from_ref(&issued)),
    });
    outcome.unwrap();
    assert_eq!(lines, [format!("POST {PODS}"), format!("GET {PODS}")], "a list: a node may not get a new object");
    let other = desired(&KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
    assert_ne!(other.name, scene.desired.name);
}

#[test]
fn object_of_same_name_with_other_content_is_refused() {
    type Change = fn(&mut PodCertificateRequest);
    let cases: [(&str, Change); 12] = [
        ("another signer", |object| object.spec.signer_name.push('x')),
        ("another pod", |object| object.spec.pod_name.push('x')),
        ("another pod", |object| object.spec.pod_uid.push('x')),
        ("another service account", |object| object.spec.service_account_name.push('x')),
        ("another service account", |object| object.spec.service_account_uid.push('x')),
        ("another node", |object| object.spec.node_name.push('x')),
        ("another node", |object| object.spec.node_uid.push('x')),
        ("another lifetime", |object| object.spec.max_expiration_seconds = Some(3600)),
        ("other annotations", |object| object.spec.unverified_user_annotations.clear()),
        ("another key", |object| {
            let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
            object.spec.stub_pkcs10_request = certificate_request(&Template::default(), &key).unwrap().der;
        }),
        ("an unreadable CSR", |object| object.spec.stub_pkcs10_request.clear()),
        ("an unreadable CSR", |object| object.spec.stub_pkcs10_request.push(0)),
    ];
    for (difference, change) in cases {
        let scene = PodScene::new();
        let mut foreign = scene.issued();
        change(&mut foreign);
        let (outcome, _) = scene.run(|request| match request.is_post() {
            true => Reply::status(409, "AlreadyExists", "it is there"),
            false => Reply::list("120", std::slice::from_ref(&foreign)),
        });
        let error = outcome.unwrap_err();
        assert_eq!(error.failure, Failure::Rejected, "{difference}: {error}");
        assert!(error.message.contains("an object of this name exists and requests "), "{error}");
        assert!(error.message.contains(difference), "{difference}: {error}");
    }
}

/// Fields that the server completes are no difference.
#[test]
fn object_with_defaults_of_server_is_ours() {
    let mut scene = PodScene::new();
    scene.desired.spec.max_expiration_seconds = None;
    let mut object = scene.issued();
    object.spec.max_expiration_seconds = Some(86_400);
    scene.run(|_| Reply::object(201, &object)).0.unwrap();
}

#[test]
fn denied_and_failed_requests_end_with_reason() {
    let scene = PodScene::new();
    for (type_, failure, verdict) in [
        ("Denied", Failure::Denied, "the signer denied it: NoGrant: ask the owner"),
        ("Failed", Failure::SignerFailed, "the signer failed to issue it: NoGrant: ask the owner"),
    ] {
        let refused = scene.refused(type_, "NoGrant", "ask \n the owner");
        let (outcome, _) = scene.run(|request| match request.is_post() {
            true => Reply::object(201, &scene.pending()),
            false => Reply::stream().event("MODIFIED", &refused),
        });
        let error = outcome.unwrap_err();
        assert_eq!((error.failure, error.accepted_key), (failure, None), "{error}");
        let begin = format!("PodCertificateRequest shop/{} at https://api.example:6443: ", scene.desired.name);
        assert_eq!(error.message, format!("{begin}{verdict}"));
    }
}

#[test]
fn denial_of_key_type_names_suggested_key() {
    let scene = PodScene::new();
    for (reason, message, accepted) in [
        ("UnsupportedKeyType", "use ECDSAP384", Some(KeyAlgorithm::EcdsaP384)),
        ("UnsupportedKeyType", "ECDSAP256 is not supported, use ED25519.", Some(KeyAlgorithm::Ed25519)),
        ("UnsupportedKeyType", "supported: \"ECDSAP384\", \"ED25519\"", Some(KeyAlgorithm::EcdsaP384)),
        ("UnsupportedKeyType", "ECDSAP256 is not supported", None),
        ("UnsupportedKeyType", "use MLDSA65, or XECDSAP384", None),
        ("UnsupportedKeyType", "", None),
        ("OtherReason", "use ECDSAP384", None),
    ] {
        let refused = scene.refused("Denied", reason, message);
        let error = scene.run(|_| Reply::object(201, &refused)).0.unwrap_err();
        assert_eq!((error.failure, error.accepted_key), (Failure::Denied, accepted), "{message}: {error}");
    }
}

#[test]
fn contradictory_or_unusable_answer_is_refused() {
    type Change = fn(&mut PodCertificateRequest);
    let cases: [(&str, Change); 18] = [
        ("it is both Issued and Denied", |object| object.status.conditions.push(condition("Denied", "x", "y"))),
        ("it is both Failed and Issued", |object| object.status.conditions.insert(0, condition("Failed", "x", "y"))),
        ("it is both Issued and Issued", |object| object.status.conditions.push(condition("Issued", "x", "y"))),
        ("the condition Issued has the status `False`", |object| object.status.conditions[0].status = "False".into()),
        ("the condition Issued has the status ``", |object| object.status.conditions[0].status.clear()),
        ("it is not Issued, and has a certificate", |object| object.status.conditions.clear()),
        ("it is not Issued, and has a certificate", |object| object.status.conditions[0].type_ = "Ready".into()),
        ("it is Denied, and has a certificate", |object| object.status.conditions[0].type_ = "Denied".into()),
        ("it is Failed, and has a certificate or the times", |object| {
            object.status.conditions[0].type_ = "Failed".into();
            object.status.certificate_chain.clear();
        }),
        ("no certificate", |object| object.status.certificate_chain.clear()),
        ("X509 CRL", |object| {
            object.status.certificate_chain.push_str("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
        }),
        ("the input is cut short", |object| {
            object.status.certificate_chain.push_str("-----BEGIN CERTIFICATE-----\nAAAA\n")
        }),
        ("notBefore is ``", |object| object.status.not_before = None),
        ("notBefore is `2026-11-22T23:58:59Z`, and that of the certificate is 2026-11-22T23:59:00Z", |object| {
            object.status.not_before = Some(rfc3339(-61))
        }),
        ("notAfter is `soon`", |object| object.status.not_after = Some("soon".into())),
        ("notAfter is `2026-11-23T", |object| object.status.not_after = Some(rfc3339(3541))),
        ("notAfter is ``", |object| object.status.not_after = None),
        ("lives 3600 s, longer than the 3599 s", |object| object.spec.max_expiration_seconds = Some(3599)),
    ];
    for (part, change) in cases {
        let mut scene = PodScene::new();
        if part.starts_with("lives") {
            scene.desired.spec.max_expiration_seconds = Some(3599);
        }
        let error = scene.answered(change).unwrap_err();
        assert_eq!(error.failure, Failure::BadCertificate, "{part}: {error}");
        assert!(error.message.contains(part), "`{error}` lacks `{part}`");
    }
}

#[test]
fn status_with_fractions_or_other_zone_is_accepted() {
    let scene = PodScene::new();
    let issued = scene.answered(|object| {
        let shifted = UnixTime::from_secs(EPOCH - 60 + 7200).to_string().replace('Z', "+02:00");
        object.status.not_before = Some(shifted);
        object.status.not_after = Some(rfc3339(3540).replace('Z', ".9Z"));
    });
    issued.unwrap();
}

/// The hint is passed on as it is: the rotation disregards and reports one that lies.
#[test]
fn hint_never_costs_the_certificate() {
    let scene = PodScene::new();
    for (hint, expected) in [
        (Some(rfc3339(-86_400)), Some(EPOCH - 86_400)),
        (Some(rfc3339(86_400)), Some(EPOCH + 86_400)),
        (Some("soon".to_owned()), None),
        (None, None),
    ] {
        let issued = scene.answered(|object| object.status.begin_refresh_at = hint.clone()).unwrap();
        let expected = expected.map(|seconds| RenewalHint::after(UnixTime::from_secs(seconds)));
        assert_eq!(issued.renewal, expected, "{hint:?}");
    }
}

#[test]
fn unknown_condition_decides_nothing() {
    let scene = PodScene::new();
    let mut noted = scene.pending();
    noted.status.conditions = vec![condition("Noted", "x", "y")];
    let issued = scene.issued();
    let (outcome, _) = scene.run(|request| match request.is_post() {
        true => Reply::object(201, &noted),
        false => Reply::stream().event("MODIFIED", &noted).event("MODIFIED", &issued),
    });
    outcome.unwrap();
}

#[test]
fn certificate_that_expired_unseen_is_outdated() {
    let scene = PodScene::new();
    let mut world = scene.world(|request| match request.is_post() {
        true => Reply::status(409, "AlreadyExists", "it is there"),
        false => Reply::list("120", &[scene.issued()]),
    });
    world.now.unix = UnixTime::from_secs(EPOCH + 3540 + 301);
    let error = world.run(&mut scene.issuance()).unwrap_err();
    assert_eq!(error.failure, Failure::Outdated, "{error}");
}

#[test]
fn deleted_or_replaced_object_ends_submission() {
    let scene = PodScene::new();
    let mut replaced = scene.issued();
    replaced.metadata.uid = "uid-2".into();
    for (type_, object, part) in
        [("DELETED", scene.pending(), "it was deleted"), ("MODIFIED", replaced, "it was replaced by another")]
    {
        let (outcome, _) = scene.run(|request| match request.is_post() {
            true => Reply::object(201, &scene.pending()),
            false => Reply::stream().event(type_, &object),
        });
        let error = outcome.unwrap_err();
        assert_eq!(error.failure, Failure::Deleted, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
    let (outcome, _) = scene.run(|request| match request.is_post() {
        true => Reply::status(409, "AlreadyExists", "it is there"),
        false => Reply::list("120", &[] as &[PodCertificateRequest]),
    });
    assert_eq!(outcome.unwrap_err().failure, Failure::Deleted);
}

/// As with a role that lacks the verb list: from then on, the object is read by its name.
#[test]
fn refused_list_leads_to_read_by_name() {
    let scene = PodScene::new();
    let (mut lists, mut reads) = (0, 0);
    let (outcome, _) = scene.run(|request| {
        if request.is_post() {
            return Reply::status(409, "AlreadyExists", "it is there");
        }
        if request.is_watch() {
            return Reply::status(403, "Forbidden", "cannot watch");
        }
        if request.is_list() {
            lists += 1;
            return Reply::status(403, "Forbidden", "cannot list");
        }
        reads += 1;
        assert_eq!(request.line, format!("GET {PODS}/{}", scene.desired.name));
        Reply::object(200, &if reads < 3 { scene.pending() } else { scene.issued() })
    });
    outcome.unwrap();
    assert_eq!((lists, reads), (1, 3));
}

#[test]
fn errors_name_resource_and_what_it_needs() {
    let scene = PodScene::new();
    let group = |version: &str| {
        let versions = serde_json::json!([{ "groupVersion": "x", "version": version }]);
        Reply::json(200, serde_json::json!({ "kind": "APIGroup", "versions": versions }).to_string())
    };
    let unknown = Reply::raw("HTTP/1.1 404 X\r\nContent-Length: 19\r\n\r\n404 page not found\n");
    let forbidden = |text: &str| Reply::status(403, "Forbidden", text);
    for (post, get, failure, part) in [
        (
            &unknown,
            group("v1"),
            Failure::Rejected,
            "only as v1, and perennial needs v1beta1, which Kubernetes has from 1.36",
        ),
        (&unknown, group("v1"), Failure::Rejected, "the feature gate PodCertificateRequest and --runtime-config="),
        (&unknown, group("v1beta1"), Failure::Unreachable, "or it has no podcertificaterequests, which Kubernetes has"),
        (
            &unknown,
            Reply::status(404, "NotFound", "no"),
            Failure::Rejected,
            "does not serve certificates.k8s.io/v1beta1",
        ),
        (&unknown, unknown.clone(), Failure::Rejected, "API server, of 1.36 or newer"),
        (
            &forbidden("User 'x' cannot create resource"),
            unknown.clone(),
            Failure::Forbidden,
            "create, list and watch podcertificaterequests: the client certificate of a node is",
        ),
        (
            &forbidden("podcertificaterequests 'a' is forbidden: pod is not on this node"),
            unknown.clone(),
            Failure::Forbidden,
            "a node may request certificates only for pods that are bound to it",
        ),
        (
            &Reply::status(
                422,
                "Invalid",
                "spec.pkixPublicKey: Invalid value: must be a valid PKIX-serialized public key",
            ),
            unknown.clone(),
            Failure::Rejected,
            "this server is older than Kubernetes 1.36",
        ),
        (&Reply::json(201, "[]"), unknown.clone(), Failure::Unreachable, "JSON, but not a PodCertificateRequest"),
    ] {
        let (outcome, _) = scene.run(|request| if request.is_post() { post.clone() } else { get.clone() });
        let error = outcome.unwrap_err();
        assert_eq!(error.failure, failure, "{error}");
        assert!(error.message.contains(part), "`{error}` lacks `{part}`");
        let begin = format!("cannot create PodCertificateRequest shop/{} at ", scene.desired.name);
        assert!(error.message.starts_with(&begin), "{error}");
        assert!(!error.message.contains("CSR"), "{error}");
    }
    let csr = CertificateSigningRequest::default();
    let (outcome, _) = scene.run(|_| Reply::object(201, &csr));
    assert_eq!(outcome.unwrap_err().failure, Failure::Rejected, "an object of another kind is not ours");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn submission_for_pod_runs_alike_however_bytes_are_split(
        sizes in vec(1..700_usize, 1..40),
        damage in proptest::option::of((any::<usize>(), any::<u8>())),
    ) {
        let scene = PodScene::new();
        let script = || {
            let mut well = scene.well();
            let mut watches = 0;
            move |request: &ReceivedRequest| {
                let mut reply = well(request);
                watches += i32::from(request.is_watch());
                // Only the first watch is damaged, so that the submission ends.
                if let (true, 1, Some((at, byte))) = (request.is_watch(), watches, damage) {
                    reply = reply.damaged(at, byte).finish(Duration::from_secs(1));
                }
                reply
            }
        };
        let whole = scene.world(script()).summary(scene.issuance());
        let mut sizes = sizes.iter().cycle();
        let split = scene.world(script()).portions(move |_| *sizes.next().unwrap());
        prop_assert_eq!(split.summary(scene.issuance()), whole);
    }
}
