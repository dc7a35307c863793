//! Pod certificate requests: checks at creation, the node restriction, updates of the status, rights, cleaning.

use crate::support::pod::*;
use crate::support::*;
use perennial::{Template, UnixTime};
use perennial_dev::{Answer, ApiRequest, Method};
use perennial_pki::{KeyAlgorithm, KeyPair};
use serde_json::{Value, json};

#[test]
fn node_creates_a_request_for_its_pod() {
    let (mut server, pod) = unsigned();
    let (status, created) = create(&mut server, &Role::Node("one"), &pod_request(&pod, "a"));
    assert_eq!(status, 201, "{created}");
    assert_eq!((&created["kind"], &created["spec"]["podUID"]), (&json!("PodCertificateRequest"), &json!(pod.uid)));
    assert_eq!(created["spec"]["maxExpirationSeconds"], 86_400, "the default");
    assert_eq!((&created["metadata"]["namespace"], &created["status"]), (&json!("shop"), &json!({})));
    assert_eq!(created["metadata"]["ownerReferences"][0]["uid"], pod.uid);
}

#[test]
fn invalid_requests_are_refused_with_every_reason() {
    let (mut server, pod) = unsigned();
    let weak = KeyPair::from_pem(include_str!("support/rsa-2048.key.pem")).unwrap();
    let mut forged = stub(&key());
    *forged.last_mut().unwrap() ^= 1;
    let long = "x".repeat(129);
    for (field, value, reasons) in [
        ("signerName", json!(""), vec!["spec.signerName: Required value"]),
        ("signerName", json!("mesh"), vec!["spec.signerName: Invalid value: \"mesh\": must be a fully qualified"]),
        ("podName", json!(""), vec!["spec.podName: Invalid value"]),
        ("podName", json!("Web"), vec!["spec.podName: Invalid value: \"Web\": a lowercase RFC 1123 subdomain"]),
        ("serviceAccountName", json!("a_b"), vec!["spec.serviceAccountName: Invalid value"]),
        ("nodeName", json!("-"), vec!["spec.nodeName: Invalid value"]),
        ("podUID", json!(""), vec!["spec.podUID: Invalid value: \"\": must not be empty"]),
        ("serviceAccountUID", json!(""), vec!["spec.serviceAccountUID: Invalid value"]),
        ("nodeUID", json!(long), vec!["must be no more than 128 bytes"]),
        ("maxExpirationSeconds", json!(3599), vec!["must be in the range [3600, 7862400]"]),
        ("maxExpirationSeconds", json!(7_862_401), vec!["must be in the range [3600, 7862400]"]),
        ("pkixPublicKey", json!("AQ=="), vec!["spec.pkixPublicKey: Forbidden"]),
        ("proofOfPossession", json!("AQ=="), vec!["spec.proofOfPossession: Forbidden"]),
        ("stubPKCS10Request", json!(""), vec!["spec.stubPKCS10Request: Required value"]),
        ("stubPKCS10Request", json!("AQID"), vec!["spec.stubPKCS10Request: Invalid value"]),
        ("stubPKCS10Request", json!(base64(&forged)), vec!["spec.stubPKCS10Request: Invalid value"]),
        ("stubPKCS10Request", json!(base64(&stub(&weak))), vec!["2048-bit modulus: RSA keys must have modulus size"]),
        ("unverifiedUserAnnotations", json!({ "a": "b" }), vec!["must be a domain-prefixed key"]),
        ("unverifiedUserAnnotations", json!({ "A b/c": "" }), vec!["spec.unverifiedUserAnnotations: Invalid value"]),
    ] {
        let mut object = pod_request(&pod, "a");
        object["spec"][field] = value;
        let answer = create(&mut server, &Role::Admin, &object);
        assert_eq!((answer.0, &answer.1["reason"]), (422, &json!("Invalid")), "{field}: {}", answer.1);
        assert_eq!(answer.1["details"]["causes"].as_array().unwrap().len(), reasons.len(), "{}", answer.1);
        for reason in reasons {
            assert!(message(&answer).contains(reason), "{reason}: {}", message(&answer));
        }
    }
    let empty = json!({ "metadata": { "name": "A" }, "spec": {} });
    let answer = create(&mut server, &Role::Admin, &empty);
    assert_eq!((answer.0, answer.1["details"]["causes"].as_array().unwrap().len()), (422, 9), "{}", answer.1);
}

#[test]
fn signers_of_kubernetes_issue_for_a_day_at_most() {
    let (mut server, pod) = unsigned();
    for (signer, seconds, status) in [
        ("kubernetes.io/a", 86_400, 201),
        ("kubernetes.io/a", 86_401, 422),
        ("x.kubernetes.io/a", 86_401, 422),
        ("xkubernetes.io/a", 7_862_400, 201),
    ] {
        let mut object = pod_request(&pod, "");
        object["metadata"] = json!({ "generateName": "a-" });
        object["spec"]["signerName"] = signer.into();
        object["spec"]["maxExpirationSeconds"] = seconds.into();
        assert_eq!(create(&mut server, &Role::Admin, &object).0, status, "{signer} {seconds}");
    }
}

#[test]
fn every_kind_of_key_that_can_be_generated_is_accepted() {
    let (mut server, pod) = unsigned();
    let kinds = [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519];
    for (index, kind) in kinds.into_iter().enumerate() {
        let mut object = pod_request(&pod, &format!("a{index}"));
        object["spec"]["stubPKCS10Request"] = base64(&stub(&KeyPair::generate(kind).unwrap())).into();
        assert_eq!(create(&mut server, &Role::Node("one"), &object).0, 201, "{kind}");
    }
    // As in a cluster, the names in the CSR do not matter: signers choose the names.
    let named = certificate_request_der(&Template::new("any name"), &key());
    let mut object = pod_request(&pod, "named");
    object["spec"]["stubPKCS10Request"] = base64(&named).into();
    assert_eq!(create(&mut server, &Role::Node("one"), &object).0, 201);
}

#[test]
fn node_gets_certificates_only_for_pods_that_are_bound_to_it() {
    let (mut server, pod) = unsigned();
    let other = server.api.put_pod("shop", "db", "keeper", "two", NOW).unwrap();
    let unbound = json!({ "metadata": { "name": "free" }, "spec": { "containers": [{ "name": "a" }] } });
    let (_, free) = server.send(&Role::Admin, with_body(Method::POST, "/api/v1/namespaces/shop/pods", &unbound));
    let mirror = json!({
        "metadata": { "name": "mirror", "annotations": { "kubernetes.io/config.mirror": "x" } },
        "spec": { "containers": [{ "name": "a" }], "nodeName": "one", "serviceAccountName": "seller" },
    });
    let (_, mirror) = server.send(&Role::Admin, with_body(Method::POST, "/api/v1/namespaces/shop/pods", &mirror));
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    for (changes, status, reason) in [
        (json!({ "nodeName": "two" }), 403, "which is not the requesting node \"one\""),
        (json!({ "nodeUID": other.node_uid }), 500, "names node UID"),
        (json!({ "podName": "none" }), 500, "pod \"none\" not found"),
        (json!({ "podUID": other.uid }), 500, "names pod UID"),
        (json!({ "podName": "db", "podUID": other.uid }), 403, "pod \"db\" is not running on node \"one\""),
        (json!({ "podName": "free", "podUID": uid(&free) }), 403, "pod \"free\" is not running on node \"one\""),
        (json!({ "podName": "mirror", "podUID": uid(&mirror) }), 403, "is a mirror pod"),
        (json!({ "serviceAccountName": "keeper" }), 403, "that differs from running pod (\"seller\")"),
        (json!({ "serviceAccountUID": "x" }), 500, "names service account UID"),
    ] {
        let mut object = pod_request(&pod, "a");
        for (field, value) in changes.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let answer = create(&mut server, &Role::Node("one"), &object);
        assert_eq!(answer.0, status, "{changes}: {}", answer.1);
        assert!(message(&answer).contains(reason), "{reason}: {}", message(&answer));
        assert_eq!(create(&mut server, &Role::Bootstrap, &object).0, 403);
        let mut admins = object.clone();
        admins["metadata"] = json!({ "generateName": "admin-" });
        assert_eq!(create(&mut server, &Role::Admin, &admins).0, 201, "restricts nodes only");
    }
    let elsewhere =
        with_body(Method::POST, "/apis/certificates.k8s.io/v1beta1/namespaces/bank/podcertificaterequests", &{
            let mut object = pod_request(&pod, "a");
            object["metadata"] = json!({ "name": "a" });
            object
        });
    assert_eq!(server.send(&Role::Node("one"), elsewhere).0, 500, "the pod is in another namespace");
}

#[test]
fn node_reads_only_requests_of_its_pods() {
    let (mut server, pod) = unsigned();
    let other = server.api.put_pod("shop", "db", "keeper", "two", NOW).unwrap();
    create(&mut server, &Role::Node("one"), &pod_request(&pod, "a"));
    create(&mut server, &Role::Node("two"), &pod_request(&other, "b"));
    for (target, status) in [
        (format!("{REQUESTS}/a"), 200),
        (format!("{REQUESTS}/b"), 403),
        (REQUESTS.into(), 403),
        (format!("{REQUESTS}?fieldSelector=metadata.name=a,spec.nodeName=one"), 200),
        (format!("{REQUESTS}?fieldSelector=metadata.name=b,spec.nodeName=two"), 403),
        ("/apis/certificates.k8s.io/v1beta1/podcertificaterequests?fieldSelector=spec.nodeName=one".into(), 200),
        (format!("{REQUESTS}?fieldSelector=spec.podUID=x"), 403),
    ] {
        assert_eq!(server.get(&Role::Node("one"), &target).0, status, "{target}");
    }
    let (_, list) =
        server.get(&Role::Admin, &format!("{REQUESTS}?fieldSelector=spec.podName=db,spec.signerName={SIGNER}"));
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let status = json!({ "metadata": { "resourceVersion": "1" } });
    let patch = with_body(Method::PATCH, &format!("{REQUESTS}/a/status"), &status);
    assert_eq!(server.send(&Role::Node("one"), patch).0, 403);
    assert_eq!(server.send(&Role::Node("one"), ApiRequest::new(Method::DELETE, format!("{REQUESTS}/a"))).0, 403);
}

#[test]
fn spec_of_a_request_never_changes() {
    let (mut server, pod) = unsigned();
    let (_, created) = create(&mut server, &Role::Admin, &pod_request(&pod, "a"));
    let target = format!("{REQUESTS}/a");
    let mut put = |object: &Value| server.send(&Role::Admin, with_body(Method::PUT, &target, object));
    let mut changed = created.clone();
    changed["spec"]["maxExpirationSeconds"] = 7200.into();
    let answer = put(&changed);
    assert_eq!(answer.0, 422);
    assert!(message(&answer).contains("spec: Invalid value: <value omitted>: field is immutable"));
    let mut unversioned = created.clone();
    unversioned["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let answer = put(&unversioned);
    assert!(answer.0 == 422 && message(&answer).contains("metadata.resourceVersion"), "{}", answer.1);
    let mut labelled = created;
    labelled["metadata"]["labels"] = json!({ "x": "y" });
    labelled["status"] = json!({ "conditions": [decision("Denied")] });
    let (status, updated) = put(&labelled);
    assert_eq!((status, &updated["metadata"]["labels"]["x"], &updated["status"]), (200, &json!("y"), &json!({})));
}

#[test]
fn signer_sets_a_consistent_status_once() {
    let issued = |begin: i64| issued_status(NOW, NOW.after(DAY), NOW.as_secs() + begin);
    let with = |field: &'static str, value: Value| {
        move |key: &KeyPair| {
            let mut status = issued(7200)(key);
            status[field] = value.clone();
            status
        }
    };
    type Make<'a> = Box<dyn Fn(&KeyPair) -> Value + 'a>;
    let fixed = |status: Value| -> Make<'_> { Box::new(move |_| status.clone()) };
    let text = |seconds: i64| json!(UnixTime::from_secs(seconds).to_string());
    let day = UnixTime::from_secs(NOW.as_secs() + 86_400);
    let rows: Vec<(Make<'_>, &str)> = vec![
        (Box::new(issued(7200)), ""),
        (Box::new(issued(600)), ""),
        (Box::new(issued(599)), "must be at least 10 minutes after status.notBefore"),
        (Box::new(issued(86_400 - 600)), ""),
        (Box::new(issued(86_400 - 599)), "must be at least 10 minutes before status.notAfter"),
        (Box::new(with("beginRefreshAt", Value::Null)), "status.beginRefreshAt: Required value"),
        (Box::new(with("notBefore", Value::Null)), "status.notBefore: Required value"),
        (Box::new(with("notAfter", Value::Null)), "status.notAfter: Required value"),
        (Box::new(with("notAfter", json!("soon"))), "is no time (RFC 3339)"),
        (Box::new(with("notBefore", text(NOW.as_secs() + 1))), "NotBefore time encoded in the leaf certificate"),
        (Box::new(with("notAfter", text(NOW.as_secs()))), "NotAfter time encoded in the leaf certificate"),
        (Box::new(with("certificateChain", json!(""))), "status.certificateChain: Invalid value"),
        (Box::new(move |_: &KeyPair| issued(7200)(&key())), "not issued to the requested public key"),
        (Box::new(issued_status(after(300), day, NOW.as_secs() + 7200)), "within 5 minutes"),
        (Box::new(issued_status(after(299), day, NOW.as_secs() + 7200)), ""),
        (Box::new(issued_status(NOW, after(3599), NOW.as_secs() + 1800)), "lifetime must be >= 1 hour"),
        (
            Box::new(issued_status(NOW, after(86_401), NOW.as_secs() + 7200)),
            "must be <= spec.maxExpirationSeconds (86400)",
        ),
        (fixed(json!({ "conditions": [decision("Denied")] })), ""),
        (fixed(json!({ "conditions": [decision("Failed")] })), ""),
        (fixed(json!({ "conditions": [decision("Denied"), decision("Failed")] })), "at most one condition"),
        (fixed(json!({ "conditions": [decision("Approved")] })), "Unsupported value: \"Approved\""),
        (fixed(json!({ "conditions": [{ "type": "Denied", "status": "False" }] })), "Unsupported value: \"False\""),
        (
            fixed(json!({ "conditions": [{ "type": "Denied", "status": "True" }] })),
            "lastTransitionTime: Required value",
        ),
        (
            fixed(json!({ "conditions": [decision("Denied")], "notAfter": "x" })),
            "must be empty when denying or failing",
        ),
        (fixed(json!({ "notAfter": "x" })), "immutable unless transitioning to"),
        (fixed(json!({})), ""),
    ];
    for (index, (make, reason)) in rows.into_iter().enumerate() {
        let (mut server, pod) = unsigned();
        let key = key();
        let mut object = pod_request(&pod, "a");
        object["spec"]["stubPKCS10Request"] = base64(&stub(&key)).into();
        let (_, mut created) = create(&mut server, &Role::Admin, &object);
        created["status"] = make(&key);
        created["spec"]["podName"] = "ignored".into();
        let answer = server.send(&Role::Admin, with_body(Method::PUT, &format!("{REQUESTS}/a/status"), &created));
        let expected = if reason.is_empty() { 200 } else { 422 };
        assert_eq!(answer.0, expected, "row {index}: {}", answer.1);
        assert!(message(&answer).contains(reason), "row {index}: {}", message(&answer));
        if reason.is_empty() {
            assert_eq!(answer.1["spec"]["podName"], "web", "row {index}");
        }
    }
}

#[test]
fn decision_about_a_request_is_final() {
    let (mut server, pod) = unsigned();
    let (_, mut object) = create(&mut server, &Role::Admin, &pod_request(&pod, "a"));
    let target = format!("{REQUESTS}/a/status");
    object["status"] = json!({ "conditions": [decision("Denied")] });
    let (status, denied) = server.send(&Role::Admin, with_body(Method::PUT, &target, &object));
    assert_eq!(status, 200, "{denied}");
    for status in [json!({}), json!({ "conditions": [decision("Failed")] })] {
        let mut object = denied.clone();
        object["status"] = status;
        let answer = server.send(&Role::Admin, with_body(Method::PUT, &target, &object));
        assert!(
            answer.0 == 422 && message(&answer).contains("immutable after PodCertificateRequest is"),
            "{}",
            answer.1
        );
    }
    assert_eq!(server.send(&Role::Admin, with_body(Method::PUT, &target, &denied)).0, 200, "no change");
}

#[test]
fn request_is_removed_after_fifteen_minutes_or_with_its_pod() {
    let (mut server, pod) = unsigned();
    let exists = |server: &mut Server| server.get(&Role::Admin, &format!("{REQUESTS}/a")).0 == 200;
    create(&mut server, &Role::Node("one"), &pod_request(&pod, "a"));
    server.api.tick(after(899));
    assert!(exists(&mut server));
    server.api.tick(after(960));
    assert!(!exists(&mut server));

    let mut unowned = pod_request(&pod, "b");
    unowned["metadata"] = json!({ "name": "b" });
    create(&mut server, &Role::Node("one"), &pod_request(&pod, "a"));
    create(&mut server, &Role::Node("one"), &unowned);
    let target = "/api/v1/namespaces/shop/pods/web";
    assert_eq!(server.send(&Role::Admin, ApiRequest::new(Method::DELETE, target)).0, 200);
    assert!(!exists(&mut server));
    assert_eq!(server.get(&Role::Admin, &format!("{REQUESTS}/b")).0, 200);
}

#[test]
fn watch_shows_the_requests_of_one_node() {
    let (mut server, pod) = unsigned();
    let other = server.api.put_pod("shop", "db", "keeper", "two", NOW).unwrap();
    let target = format!("{REQUESTS}?watch=true&fieldSelector=spec.nodeName=one");
    let Answer::Watch(mut watcher) = server.answer(&Role::Node("one"), ApiRequest::new(Method::GET, target)) else {
        panic!("no watch")
    };
    create(&mut server, &Role::Node("two"), &pod_request(&other, "b"));
    create(&mut server, &Role::Node("one"), &pod_request(&pod, "a"));
    assert_eq!(server.drain(&mut watcher).0, ["ADDED a"]);
    let mut table = ApiRequest::new(Method::GET, REQUESTS);
    table.accept = "application/json;as=Table;v=v1;g=meta.k8s.io".into();
    let (_, table) = server.send(&Role::Admin, table);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "web", "seller", "one", SIGNER, "Pending"]));
}
