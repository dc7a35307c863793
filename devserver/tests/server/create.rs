//! Creation of requests on the embedded server: rights, stored fields, and refusals in the words of a real API server.

use crate::support::*;
use perennial::Template;
use perennial_dev::{Answer, ApiRequest, Method, Options, User};
use serde_json::json;
use zeroize::Zeroizing;

#[test]
fn server_sets_user_and_groups_of_a_request() {
    let mut server = Server::new(Options::default());
    let mut object = node_csr("a", "one");
    object["spec"]["username"] = "system:admin".into();
    object["spec"]["groups"] = json!(["system:masters"]);
    object["spec"]["extra"] = json!({ "x": ["y"] });
    object["status"] = json!({ "conditions": [{ "type": "Approved", "status": "True" }], "certificate": "AAAA" });
    object["metadata"]["resourceVersion"] = "17".into();
    object["metadata"]["uid"] = "mine".into();

    let (status, created) = server.create(&Role::Bootstrap, &object);

    assert_eq!(status, 201, "{created}");
    assert_eq!(created["spec"]["username"], "system:bootstrap:abcdef");
    let groups = ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"];
    assert_eq!(created["spec"]["groups"], json!(groups));
    assert_eq!(created["spec"].get("extra"), None);
    assert_eq!(created["status"], json!({}), "nobody comes with an approval");
    assert_eq!(created["metadata"]["resourceVersion"], "2");
    assert_eq!(created["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert_eq!(created["metadata"]["creationTimestamp"], "2027-01-15T08:00:00Z");
}

#[test]
fn a_generated_name_is_the_prefix_and_five_characters() {
    let mut server = Server::new(Options::default());
    let mut object = node_csr("", "one");
    object["metadata"] = json!({ "generateName": "csr-" });
    let (_, created) = server.create(&Role::Bootstrap, &object);
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.len() == 9 && name.starts_with("csr-"), "{name}");

    object["metadata"] = json!({ "generateName": "n".repeat(100) });
    let (_, created) = server.create(&Role::Bootstrap, &object);
    assert_eq!(created["metadata"]["name"].as_str().unwrap().len(), 63);
}

#[test]
fn name_that_is_no_path_segment_is_refused() {
    let mut server = Server::new(Options::default());
    for bad in [".", "..", "a/b", "/", "a%2fb"] {
        let answer = server.create(&Role::Bootstrap, &node_csr(bad, "one"));
        assert_eq!((answer.0, &answer.1["details"]["causes"][0]["field"]), (422, &json!("metadata.name")), "{bad}");
    }
    assert_eq!(server.create(&Role::Bootstrap, &node_csr("a..b", "one")).0, 201);
}

#[test]
fn create_with_the_name_of_an_existing_request_gets_409() {
    let mut server = Server::new(Options::default());
    let object = node_csr("a", "one");
    assert_eq!(server.create(&Role::Bootstrap, &object).0, 201);
    let second = server.create(&Role::Bootstrap, &object);
    assert_eq!((second.0, &second.1["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(message(&second), r#"certificatesigningrequests.certificates.k8s.io "a" already exists"#);
    assert_eq!(
        second.1["details"],
        json!({ "name": "a", "group": "certificates.k8s.io", "kind": "certificatesigningrequests" })
    );
}

#[test]
fn all_validation_errors_are_reported_at_once() {
    let mut server = Server::new(Options { allow_short: false, ..Options::default() });
    let mut object = csr("a", "example.com", &["client auth", "foo", "client auth"], "no request at all");
    object["spec"]["expirationSeconds"] = 599.into();
    let (status, error) = server.create(&Role::Bootstrap, &object);

    assert_eq!((status, &error["reason"]), (422, &json!("Invalid")));
    let causes: Vec<(&str, &str)> = error["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| (cause["field"].as_str().unwrap(), cause["reason"].as_str().unwrap()))
        .collect();
    let expected = [
        ("spec.request", "FieldValueInvalid"),
        ("spec.usages[1]", "FieldValueNotSupported"),
        ("spec.usages[2]", "FieldValueDuplicate"),
        ("spec.signerName", "FieldValueInvalid"),
        ("spec.expirationSeconds", "FieldValueInvalid"),
    ];
    assert_eq!(causes, expected);
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("CertificateSigningRequest.certificates.k8s.io \"a\" is invalid: [spec.request: "),
        "{message}"
    );
    assert!(message.contains("may not specify a duration less than 600 seconds (10 minutes)"), "{message}");
}

#[test]
fn object_with_one_invalid_field_gets_one_cause_that_names_it() {
    let mut server = Server::new(Options::default());
    let pem = request(&Template::node("one"), &key());
    let usages = ["client auth"];
    for (object, field) in [
        (csr("a", CLIENT, &[], &pem), "spec.usages"),
        (csr("a", "", &usages, &pem), "spec.signerName"),
        (csr("a", "kubernetes.io/legacy-unknown", &usages, &pem), "spec.signerName"),
        (csr("a", "nodomain/x", &usages, &pem), "spec.signerName"),
        (csr("a", "Example.com/x", &usages, &pem), "spec.signerName"),
        (csr("a", "example.com/x/y", &usages, &pem), "spec.signerName"),
        (csr("a", "example.com/-x", &usages, &pem), "spec.signerName"),
        (csr("a", CLIENT, &usages, ""), "spec.request"),
        (csr("", CLIENT, &usages, &pem), "metadata.name"),
    ] {
        let (status, error) = server.create(&Role::Bootstrap, &object);
        assert_eq!((status, &error["details"]["causes"][0]["field"]), (422, &json!(field)), "{error}");
        assert_eq!(error["details"]["causes"].as_array().unwrap().len(), 1, "{error}");
    }
}

#[test]
fn csr_with_an_invalid_signature_is_refused() {
    let mut server = Server::new(Options::default());
    let pem = request(&Template::node("one"), &key());
    // Another letter in the common name invalidates the signature.
    let (before, body) = pem.split_once('\n').unwrap();
    let base64: String = body.lines().take_while(|line| !line.starts_with('-')).collect();
    let mut der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64).unwrap();
    let at = der.windows(3).position(|three| three == b"one").unwrap();
    der[at] = b'a';
    let forged = format!(
        "{before}\n{}\n-----END CERTIFICATE REQUEST-----\n",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der)
    );
    let object = csr("a", KUBELET_CLIENT, &CLIENT_USAGES, &forged);
    let (status, error) = server.create(&Role::Bootstrap, &object);
    assert_eq!((status, &error["details"]["causes"][0]["field"]), (422, &json!("spec.request")), "{error}");
}

#[test]
fn short_lifetimes_are_allowed_by_default() {
    let mut object = node_csr("a", "one");
    object["spec"]["expirationSeconds"] = 30.into();
    assert_eq!(Server::new(Options::default()).create(&Role::Bootstrap, &object).0, 201);
    let strict = Options { allow_short: false, ..Options::default() };
    assert_eq!(Server::new(strict).create(&Role::Bootstrap, &object).0, 422);
    object["spec"]["expirationSeconds"] = 0.into();
    assert_eq!(Server::new(Options::default()).create(&Role::Bootstrap, &object).0, 422);
}

#[test]
fn client_request_for_system_masters_is_refused() {
    let mut server = Server::new(Options::default());
    let pem = request(&Template::new("evil").with_organizations(["system:masters"]), &key());
    let answer = server.create(&Role::Admin, &csr("a", CLIENT, &["client auth"], &pem));
    assert_eq!(answer.0, 403);
    assert_eq!(
        message(&answer),
        "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: use of \
         kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    );
}

#[test]
fn node_may_request_certificate_for_itself_only() {
    let mut server = Server::new(Options::default());
    assert_eq!(server.create(&Role::Node("one"), &node_csr("a", "one")).0, 201);
    let answer = server.create(&Role::Node("one"), &node_csr("b", "two"));
    assert_eq!(answer.0, 403);
    assert!(message(&answer).ends_with("can only create a node CSR with CN=system:node:one"), "{answer:?}");
    // The restriction concerns users with the name of a node only.
    assert_eq!(server.create(&Role::Bootstrap, &node_csr("c", "two")).0, 201);
}

#[test]
fn request_without_credential_may_read_health_only() {
    let mut server = Server::new(Options::default());
    for path in ["/version", "/apis", COLLECTION, "/no/such/path"] {
        let answer = server.get(&Role::Nobody, path);
        assert_eq!((answer.0, message(&answer)), (401, "Unauthorized"), "{path}");
    }
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(server.get(&Role::Nobody, path).0, 200, "{path}");
    }
}

#[test]
fn incomplete_or_longer_bearer_token_gets_401() {
    let mut server = Server::new(Options::default());
    for (header, status) in [
        ("Bearer abcdef.0123456789abcdef", 200),
        ("bearer  abcdef.0123456789abcdef ", 200),
        ("Bearer abcdef.0123456789abcde", 401),
        ("Bearer abcdef.0123456789abcdef0", 401),
        ("Bearer ", 401),
        ("Basic abcdef.0123456789abcdef", 401),
        ("abcdef.0123456789abcdef", 401),
    ] {
        let mut request = ApiRequest::new(Method::GET, COLLECTION);
        request.authorization = Some(Zeroizing::new(header.into()));
        assert_eq!(server.send(&Role::Nobody, request).0, status, "{header}");
    }
}

#[test]
fn expired_client_certificate_gets_401_on_open_connection() {
    let mut server = Server::new(Options::default());
    let admin = server
        .api
        .authority()
        .client_credential("root", &["system:masters"], &mut perennial_dev::Random::from_seed([1; 32]), NOW, DAY)
        .unwrap();
    let user = Role::Other(User::from_certificate(&admin.chain().der()[0]).unwrap());
    assert_eq!(server.list(&user, "").0, 200);
    server.now = after(86_401);
    assert_eq!(server.list(&user, "").0, 401);
    server.now = NOW.before(DAY);
    assert_eq!(server.list(&user, "").0, 401);
}

#[test]
fn forbidden_requests_get_the_message_of_a_real_api_server() {
    let mut server = Server::new(Options::default());
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let object = server.object("a");
    let outsider = Role::Other(User::new("joe", ["dev"]));
    let who = |user: &str, verb: &str, resource: &str| {
        format!(
            "User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"certificates.k8s.io\" at the \
             cluster scope"
        )
    };
    const RESOURCE: &str = "certificatesigningrequests";

    let answer = server.create(&outsider, &node_csr("b", "one"));
    let expected = format!("{RESOURCE}.certificates.k8s.io is forbidden: {}", who("joe", "create", RESOURCE));
    assert_eq!((answer.0, message(&answer)), (403, expected.as_str()));

    let answer = server.delete(&Role::Node("one"), "a");
    let expected =
        format!("{RESOURCE}.certificates.k8s.io \"a\" is forbidden: {}", who("system:node:one", "delete", RESOURCE));
    assert_eq!((answer.0, message(&answer)), (403, expected.as_str()));

    let answer = server.put(&Role::Bootstrap, "a/approval", &with_condition(object, "Approved"));
    let subresource = format!("{RESOURCE}/approval");
    let expected = format!(
        "{RESOURCE}.certificates.k8s.io \"a\" is forbidden: {}",
        who("system:bootstrap:abcdef", "update", &subresource)
    );
    assert_eq!((answer.0, message(&answer)), (403, expected.as_str()));

    let answer = server.get(&outsider, "/metrics");
    assert_eq!((answer.0, message(&answer)), (403, "forbidden: User \"joe\" cannot get path \"/metrics\""));
}

#[test]
fn unknown_paths_get_404_with_a_status_object() {
    let mut server = Server::new(Options::default());
    let old = COLLECTION.replace("v1", "v1beta1");
    for path in [old.as_str(), "/apis/apps/v1/deployments", "/api/v1/configmaps", "/metrics", "/openapi/v2"] {
        let (status, answer) = server.get(&Role::Admin, path);
        assert_eq!((status, &answer["kind"], &answer["reason"]), (404, &json!("Status"), &json!("NotFound")), "{path}");
    }
    // Old kubelets POST to v1beta1.
    assert_eq!(server.send(&Role::Bootstrap, with_body(Method::POST, &old, &node_csr("a", "one"))).0, 404);
    let answer = server.get(&Role::Admin, &format!("{COLLECTION}/a"));
    assert_eq!(message(&answer), r#"certificatesigningrequests.certificates.k8s.io "a" not found"#);
}

#[test]
fn unreadable_bodies_are_refused() {
    let mut server = Server::new(Options::default());
    let mut request = with_body(Method::POST, COLLECTION, &node_csr("a", "one"));
    request.content_type = "application/yaml".into();
    assert_eq!(server.send(&Role::Admin, request.clone()).0, 415);
    request.content_type = "application/json; charset=utf-8".into();
    request.accept = "application/vnd.kubernetes.protobuf".into();
    assert_eq!(server.send(&Role::Admin, request.clone()).0, 406);
    request.accept = "application/vnd.kubernetes.protobuf,application/json".into();
    request.body.truncate(20);
    assert_eq!(server.send(&Role::Admin, request.clone()).0, 400);
    request.body = vec![b'['; 100_000];
    assert_eq!(server.send(&Role::Admin, request.clone()).0, 413);
    request.body.truncate(60_000);
    assert_eq!(server.send(&Role::Admin, request).0, 400);
    let mut object = node_csr("a", "one");
    object["apiVersion"] = "certificates.k8s.io/v1beta1".into();
    assert_eq!(server.create(&Role::Admin, &object).0, 400);
    assert_eq!(server.api.requests().count(), 0);
}

#[test]
fn request_beyond_capacity_gets_429_with_retry_after() {
    let mut server = Server::new(Options { capacity: 2, ..Options::default() });
    for name in ["a", "b"] {
        assert_eq!(server.create(&Role::Bootstrap, &node_csr(name, "one")).0, 201);
    }
    let Answer::Response(response) =
        server.answer(&Role::Bootstrap, with_body(Method::POST, COLLECTION, &node_csr("c", "one")))
    else {
        panic!("a watch");
    };
    assert_eq!((response.status, response.retry_after), (429, Some(60)));
    assert_eq!(server.delete(&Role::Admin, "a").0, 200);
    assert_eq!(server.create(&Role::Bootstrap, &node_csr("c", "one")).0, 201);
}
