//! ClusterTrustBundles: validation, updates, lists and watches.

use std::sync::LazyLock;

use crate::support::*;
use perennial_dev::{Answer, ApiRequest, Authority, Method, Options, Random};
use serde_json::{Value, json};

const BUNDLES: &str = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
const SIGNER: &str = "example.com/mesh";

/// The certificate of one of four CAs, in PEM.
fn ca(index: usize) -> String {
    static CAS: LazyLock<[String; 4]> = LazyLock::new(|| {
        let mut random = Random::from_seed([7; 32]);
        std::array::from_fn(|_| Authority::generate(&mut random, NOW, YEAR).unwrap().certificate_pem().into())
    });
    CAS[index].clone()
}

fn bundle(name: &str, signer: &str, pem: &str) -> Value {
    let mut object = json!({
        "apiVersion": "certificates.k8s.io/v1beta1",
        "kind": "ClusterTrustBundle",
        "metadata": { "name": name },
        "spec": { "trustBundle": pem },
    });
    if !signer.is_empty() {
        object["spec"]["signerName"] = signer.into();
    }
    object
}

fn create(server: &mut Server, object: &Value) -> (u16, Value) {
    server.send(&Role::Admin, with_body(Method::POST, BUNDLES, object))
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[test]
fn bundle_is_created_listed_and_selected() {
    let mut server = Server::new(Options::default());
    let (status, created) = create(&mut server, &bundle("example.com:mesh:roots", SIGNER, &ca(1)));
    assert_eq!((status, &created["kind"]), (201, &json!("ClusterTrustBundle")), "{created}");
    assert_eq!(created["spec"]["trustBundle"], ca(1));
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["creationTimestamp"].is_string());
    assert_eq!(create(&mut server, &bundle("company", "", &ca(2))).0, 201);
    assert_eq!(server.create(&Role::Bootstrap, &node_csr("a", "one")).0, 201, "shares the store, not the list");

    for (query, selected) in [
        ("", vec!["company", "example.com:mesh:roots"]),
        ("fieldSelector=spec.signerName=example.com/mesh", vec!["example.com:mesh:roots"]),
        ("fieldSelector=spec.signerName!=example.com/mesh", vec!["company"]),
        ("fieldSelector=metadata.name=company", vec!["company"]),
        ("resourceVersion=2&resourceVersionMatch=Exact", vec!["example.com:mesh:roots"]),
    ] {
        let (status, list) = server.get(&Role::Node("one"), &format!("{BUNDLES}?{query}"));
        assert_eq!((status, &list["kind"]), (200, &json!("ClusterTrustBundleList")), "{query}: {list}");
        assert_eq!(names(&list), selected, "{query}");
    }
    let (_, page) = server.get(&Role::Admin, &format!("{BUNDLES}?limit=1"));
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = server.get(&Role::Admin, &format!("{BUNDLES}?limit=1&continue={token}"));
    assert_eq!((names(&page), names(&rest)), (vec!["company"], vec!["example.com:mesh:roots"]));
    assert_eq!(names(&server.list(&Role::Admin, "").1), ["a"]);
    let (status, _) = server.get(&Role::Admin, &format!("{BUNDLES}?fieldSelector=spec.trustBundle=x"));
    assert_eq!(status, 400);
}

#[test]
fn invalid_bundles_are_refused_with_every_reason() {
    let mut server = Server::new(Options::default());
    let chain = server.api.authority().client_credential("a", &[], &mut Random::from_seed([9; 32]), NOW, DAY).unwrap();
    let leaf = chain.chain().pem();
    let headers = ca(1).replace("CERTIFICATE-----\nM", "CERTIFICATE-----\nName: value\n\nM");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let unended = ca(1).replace("-----END", "-----ENDE");
    let (own, twice) = (ca(1), ca(1) + &ca(2) + &ca(1));
    for (name, signer, pem, reasons) in [
        ("mesh", SIGNER, own.as_str(), vec!["must be named with prefix example.com:mesh:"]),
        ("example.com:mesh:", SIGNER, &own, vec!["lowercase RFC 1123 subdomain"]),
        ("a:b", "", &own, vec!["must not have \":\" in its name"]),
        ("A", "", &own, vec!["lowercase RFC 1123 subdomain"]),
        ("mesh:a", "mesh", &own, vec!["fully qualified domain"]),
        ("a", "", "", vec!["at least one trust anchor must be provided"]),
        ("a", "", "some text\n", vec!["at least one trust anchor must be provided"]),
        ("a", "", &unended, vec!["at least one trust anchor must be provided"]),
        ("a", "", &(key().to_pem().to_string() + &own), vec!["entry 0 has bad block type: PRIVATE KEY"]),
        ("a", "", &headers, vec!["entry 0 has PEM block headers"]),
        ("a", "", garbage, vec!["entry 0 does not parse as X.509"]),
        ("a", "", &(own.clone() + &leaf), vec!["entry 1 does not have the CA bit set"]),
        ("a", "", &twice, vec!["duplicate trust anchor (indices [0 2])"]),
        ("A", "", garbage, vec!["lowercase RFC 1123 subdomain", "entry 0 does not parse as X.509"]),
    ] {
        let answer = create(&mut server, &bundle(name, signer, pem));
        assert_eq!((answer.0, &answer.1["reason"]), (422, &json!("Invalid")), "{name}: {}", answer.1);
        let expected: Vec<bool> = reasons.iter().map(|reason| message(&answer).contains(reason)).collect();
        assert_eq!(expected, vec![true; reasons.len()], "{}", message(&answer));
        assert_eq!(answer.1["details"]["causes"].as_array().unwrap().len(), reasons.len(), "{}", answer.1);
    }
    assert_eq!(names(&server.get(&Role::Admin, BUNDLES).1), Vec::<&str>::new());
}

#[test]
fn text_between_certificates_of_a_bundle_is_allowed() {
    let mut server = Server::new(Options::default());
    let pem = format!("# two roots\n{}\nand\n\n{}", ca(1), ca(2).replace('\n', "\r\n"));
    assert_eq!(create(&mut server, &bundle("a", "", &pem)).0, 201);
}

#[test]
fn update_changes_certificates_but_not_the_signer() {
    let mut server = Server::new(Options::default());
    let name = "example.com:mesh:roots";
    let target = format!("{BUNDLES}/{name}");
    let (_, created) = create(&mut server, &bundle(name, SIGNER, &ca(1)));
    let mut put = |object: &Value| server.send(&Role::Admin, with_body(Method::PUT, &target, object));

    let (status, updated) = put(&bundle(name, SIGNER, &(ca(1) + &ca(2))));
    assert_eq!((status, updated["spec"]["trustBundle"].as_str()), (200, Some(&*(ca(1) + &ca(2)))));
    assert_eq!(updated["metadata"]["uid"], created["metadata"]["uid"]);
    let moved = put(&bundle(name, "example.com/other", &ca(1)));
    assert_eq!(moved.0, 422);
    assert!(message(&moved).contains("spec.signerName: Invalid value: \"example.com/other\": field is immutable"));
    assert_eq!(put(&bundle(name, SIGNER, "")).0, 422);
    let mut stale = bundle(name, SIGNER, &ca(3));
    stale["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    assert_eq!(put(&stale).0, 409);

    let mut patch = with_body(Method::PATCH, &target, &json!({ "spec": { "trustBundle": ca(3) } }));
    patch.content_type = "application/merge-patch+json".into();
    let (status, patched) = server.send(&Role::Admin, patch);
    assert_eq!((status, patched["spec"]["trustBundle"].as_str()), (200, Some(&*ca(3))));
}

#[test]
fn watch_of_a_signer_shows_only_its_bundles() {
    let mut server = Server::new(Options::default());
    let target =
        format!("{BUNDLES}?watch=true&allowWatchBookmarks=true&fieldSelector=spec.signerName=example.com/mesh");
    let Answer::Watch(mut watcher) = server.answer(&Role::Node("one"), ApiRequest::new(Method::GET, target)) else {
        panic!("no watch")
    };
    create(&mut server, &bundle("company", "", &ca(1)));
    create(&mut server, &bundle("example.com:mesh:a", SIGNER, &ca(1)));
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    server.send(&Role::Admin, ApiRequest::new(Method::DELETE, format!("{BUNDLES}/example.com:mesh:a")));
    let shown = server.drain(&mut watcher).0;
    assert_eq!(shown, ["ADDED example.com:mesh:a", "DELETED example.com:mesh:a"]);
    server.create(&Role::Bootstrap, &node_csr("b", "one"));
    server.now = after(61);
    let line = match server.api.next_event(&mut watcher, server.now) {
        perennial_dev::Next::Event(line) => serde_json::from_slice::<Value>(&line).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!((&line["type"], &line["object"]["kind"]), (&json!("BOOKMARK"), &json!("ClusterTrustBundle")));
}

#[test]
fn only_administrators_write_bundles() {
    let mut server = Server::new(Options::default());
    let object = bundle("a", "", &ca(1));
    for role in [Role::Node("one"), Role::Bootstrap] {
        let (status, _) = server.send(&role, with_body(Method::POST, BUNDLES, &object));
        assert_eq!(status, 403);
    }
    let refused = server.get(&Role::Bootstrap, BUNDLES);
    let expected = "clustertrustbundles.certificates.k8s.io is forbidden: User \"system:bootstrap:abcdef\" cannot list \
                    resource \"clustertrustbundles\" in API group \"certificates.k8s.io\" at the cluster scope";
    assert_eq!((refused.0, message(&refused)), (403, expected));
}

#[test]
fn table_of_bundles_has_the_columns_of_a_cluster() {
    let mut server = Server::new(Options::default());
    create(&mut server, &bundle("company", "", &ca(1)));
    create(&mut server, &bundle("example.com:mesh:a", SIGNER, &ca(1)));
    let mut request = ApiRequest::new(Method::GET, BUNDLES);
    request.accept = "application/json;as=Table;v=v1;g=meta.k8s.io".into();
    let (_, table) = server.send(&Role::Admin, request);
    let columns: Vec<&Value> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(columns, ["Name", "SignerName"]);
    let cells: Vec<&Value> = table["rows"].as_array().unwrap().iter().map(|row| &row["cells"]).collect();
    assert_eq!(cells, [&json!(["company", "<none>"]), &json!(["example.com:mesh:a", SIGNER])]);
}

#[test]
fn releases_before_1_33_serve_no_bundles() {
    let mut server = Server::new(Options { minor: 32, ..Options::default() });
    assert_eq!(server.get(&Role::Admin, BUNDLES).0, 404);
}

#[test]
fn put_trust_bundle_creates_replaces_and_reports_refusals() {
    let mut server = Server::new(Options::default());
    for pem in [ca(0), ca(1)] {
        server.api.put_trust_bundle("example.com:mesh:roots", SIGNER, &pem, NOW).unwrap();
        let (_, stored) = server.get(&Role::Admin, &format!("{BUNDLES}/example.com:mesh:roots"));
        assert_eq!((&stored["spec"]["trustBundle"], &stored["spec"]["signerName"]), (&json!(pem), &json!(SIGNER)));
    }
    let refused = server.api.put_trust_bundle("a", "", "no certificate", NOW).unwrap_err();
    assert!(refused.to_string().contains("at least one trust anchor must be provided"), "{refused}");
    assert_eq!(names(&server.get(&Role::Admin, BUNDLES).1), ["example.com:mesh:roots"]);
}
