//! Pods, service accounts and Node objects: namespaces, checks, and the rights of nodes.

use crate::support::*;
use perennial_dev::{ApiRequest, Method, Options};
use serde_json::{Value, json};

const SHOP: &str = "/api/v1/namespaces/shop/pods";

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": { "containers": [{ "name": "main", "image": "example.com/main" }] },
    })
}

fn keys(list: &Value) -> Vec<String> {
    let text = |item: &Value, field: &str| item["metadata"][field].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(|item| text(item, "namespace") + "/" + &text(item, "name")).collect()
}

#[test]
fn pod_is_created_pending_with_the_default_service_account() {
    let mut server = Server::new(Options::default());
    let (status, created) = server.send(&Role::Admin, with_body(Method::POST, SHOP, &pod("web")));
    assert_eq!(status, 201, "{created}");
    assert_eq!(created["metadata"]["namespace"], "shop");
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    assert_eq!(created["spec"]["containers"][0]["image"], "example.com/main");
    assert_eq!(created["status"], json!({ "phase": "Pending" }));
    assert_eq!(server.get(&Role::Admin, &format!("{SHOP}/web")).1, created);
    assert_eq!(server.get(&Role::Admin, "/api/v1/namespaces/bank/pods/web").0, 404);
}

#[test]
fn objects_with_one_name_live_in_several_namespaces() {
    let mut server = Server::new(Options::default());
    for (namespace, name) in [("shop", "b"), ("bank", "b"), ("shop", "a")] {
        let target = format!("/api/v1/namespaces/{namespace}/pods");
        assert_eq!(server.send(&Role::Admin, with_body(Method::POST, &target, &pod(name))).0, 201);
    }
    assert_eq!(server.send(&Role::Admin, with_body(Method::POST, SHOP, &pod("a"))).0, 409);
    for (target, shown) in [
        ("/api/v1/pods", vec!["bank/b", "shop/a", "shop/b"]),
        (SHOP, vec!["shop/a", "shop/b"]),
        ("/api/v1/pods?fieldSelector=metadata.name=b", vec!["bank/b", "shop/b"]),
        ("/api/v1/pods?fieldSelector=metadata.namespace=bank", vec!["bank/b"]),
        ("/api/v1/namespaces/none/pods", vec![]),
    ] {
        assert_eq!(keys(&server.get(&Role::Admin, target).1), shown, "{target}");
    }
    let (mut shown, mut token) = (Vec::new(), String::new());
    loop {
        let (_, page) = server.get(&Role::Admin, &format!("/api/v1/pods?limit=1&continue={token}"));
        shown.extend(keys(&page));
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.into(),
            None => break,
        }
    }
    assert_eq!(shown, ["bank/b", "shop/a", "shop/b"]);

    for (method, target, status) in [
        (Method::POST, "/api/v1/pods", 405),
        (Method::DELETE, "/api/v1/pods", 405),
        (Method::GET, "/api/v1/pods/a", 404),
        (Method::GET, "/api/v1/namespaces/shop/nodes", 404),
        (Method::DELETE, SHOP, 200),
    ] {
        assert_eq!(server.send(&Role::Admin, ApiRequest::new(method, target)).0, status, "{target}");
    }
    assert_eq!(keys(&server.get(&Role::Admin, "/api/v1/pods").1), ["bank/b"]);
}

#[test]
fn invalid_pods_and_updates_are_refused() {
    let mut server = Server::new(Options::default());
    let mut elsewhere = pod("web");
    elsewhere["metadata"]["namespace"] = "bank".into();
    let answer = server.send(&Role::Admin, with_body(Method::POST, SHOP, &elsewhere));
    assert_eq!(answer.0, 400);
    assert!(message(&answer).contains("does not match the namespace sent on the request"));
    let empty = json!({ "metadata": { "name": "A" }, "spec": {} });
    let answer = server.send(&Role::Admin, with_body(Method::POST, SHOP, &empty));
    assert_eq!(answer.0, 422);
    assert!(message(&answer).contains("metadata.name") && message(&answer).contains("spec.containers: Required value"));

    let (_, created) = server.send(&Role::Admin, with_body(Method::POST, SHOP, &pod("web")));
    let mut labelled = created.clone();
    labelled["metadata"]["labels"] = json!({ "tier": "one" });
    let target = format!("{SHOP}/web");
    let (status, updated) = server.send(&Role::Admin, with_body(Method::PUT, &target, &labelled));
    assert_eq!((status, &updated["metadata"]["labels"]["tier"]), (200, &json!("one")));
    let mut moved = updated;
    moved["spec"]["nodeName"] = "one".into();
    let answer = server.send(&Role::Admin, with_body(Method::PUT, &target, &moved));
    assert_eq!(answer.0, 422);
    assert!(message(&answer).contains("spec: Forbidden: pod updates may not change"), "{}", message(&answer));
}

#[test]
fn put_pod_returns_the_identity_that_the_objects_have() {
    let mut server = Server::new(Options::default());
    let identity = server.api.put_pod("shop", "web", "seller", "one", NOW).unwrap();
    let uid = |server: &mut Server, target: &str| server.get(&Role::Admin, target).1["metadata"]["uid"].clone();
    assert_eq!(uid(&mut server, &format!("{SHOP}/web")), identity.uid);
    assert_eq!(uid(&mut server, "/api/v1/namespaces/shop/serviceaccounts/seller"), identity.service_account_uid);
    assert_eq!(uid(&mut server, "/api/v1/nodes/one"), identity.node_uid);
    assert_eq!(server.api.put_pod("shop", "web", "seller", "one", NOW), Ok(identity.clone()));
    assert!(server.api.put_pod("shop", "web", "seller", "two", NOW).is_err());
    let other = server.api.put_pod("shop", "db", "seller", "one", NOW).unwrap();
    assert_eq!((&other.service_account_uid, &other.node_uid), (&identity.service_account_uid, &identity.node_uid));

    assert!(server.api.delete_pod("shop", "web") && !server.api.delete_pod("shop", "web"));
    let again = server.api.put_pod("shop", "web", "seller", "two", NOW).unwrap();
    assert!(again.uid != identity.uid && again.node_name == "two");
}

#[test]
fn node_reads_only_the_objects_of_its_pods() {
    let mut server = Server::new(Options::default());
    server.api.put_pod("shop", "web", "seller", "one", NOW).unwrap();
    server.api.put_pod("shop", "db", "keeper", "two", NOW).unwrap();
    for (target, status) in [
        ("/api/v1/nodes/one", 200),
        ("/api/v1/nodes/two", 403),
        ("/api/v1/nodes", 403),
        ("/api/v1/nodes?fieldSelector=metadata.name=one", 200),
        ("/api/v1/pods", 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName=one", 200),
        ("/api/v1/pods?fieldSelector=spec.nodeName!=one", 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName=two", 403),
        ("/api/v1/namespaces/shop/pods/web", 200),
        ("/api/v1/namespaces/shop/pods/db", 403),
        ("/api/v1/namespaces/shop/serviceaccounts/seller", 200),
        ("/api/v1/namespaces/shop/serviceaccounts/keeper", 403),
        ("/api/v1/namespaces/bank/serviceaccounts/seller", 403),
        ("/api/v1/namespaces/shop/serviceaccounts", 403),
    ] {
        let (got, answer) = server.get(&Role::Node("one"), target);
        assert_eq!(got, status, "{target}: {answer}");
    }
    let (status, _) = server.send(&Role::Node("one"), ApiRequest::new(Method::DELETE, format!("{SHOP}/web")));
    assert_eq!(status, 403);
    let refused = server.get(&Role::Bootstrap, &format!("{SHOP}/web"));
    let expected = "pods \"web\" is forbidden: User \"system:bootstrap:abcdef\" cannot get resource \"pods\" in API \
                    group \"\" in the namespace \"shop\"";
    assert_eq!((refused.0, message(&refused)), (403, expected));
}

#[test]
fn tables_of_core_objects_have_the_columns_of_a_cluster() {
    let mut server = Server::new(Options::default());
    server.api.put_pod("shop", "web", "seller", "one", NOW).unwrap();
    server.now = after(90);
    for (target, columns, cells) in [
        (
            "/api/v1/pods",
            vec!["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"],
            json!(["web", "0/1", "Pending", "0", "90s", "<none>", "one", "<none>", "<none>"]),
        ),
        ("/api/v1/serviceaccounts", vec!["Name", "Secrets", "Age"], json!(["seller", "0", "90s"])),
        (
            "/api/v1/nodes",
            vec!["Name", "Status", "Roles", "Age", "Version", "Internal-IP", "External-IP"],
            json!(["one", "Unknown", "<none>", "90s", "", "<none>", "<none>"]),
        ),
    ] {
        let mut request = ApiRequest::new(Method::GET, target);
        request.accept = "application/json;as=Table;v=v1;g=meta.k8s.io".into();
        let (_, table) = server.send(&Role::Admin, request);
        let shown: Vec<&Value> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(shown, columns, "{target}");
        assert_eq!(table["rows"][0]["cells"], cells, "{target}");
    }
}
