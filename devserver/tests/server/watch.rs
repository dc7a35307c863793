//! Lists, watches, tables and discovery of the embedded server.

use crate::support::*;
use perennial::Template;
use perennial_dev::{Answer, ApiRequest, Method, Next, Options};
use serde_json::{Value, json};

fn status_of_watch(server: &mut Server, query: &str) -> (u16, Value) {
    server.list(&Role::Admin, &format!("watch=true&{query}"))
}

#[test]
fn watch_sends_all_events_after_its_version() {
    let mut server = Server::new(Options::default());
    let (_, created) = server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let version = created["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watcher = server.watch(&format!("fieldSelector=metadata.name%3Da&resourceVersion={version}"));
    assert_eq!(server.drain(&mut watcher), (vec!["MODIFIED a".into(), "MODIFIED a".into()], false));

    server.create(&Role::Bootstrap, &node_csr("b", "one"));
    assert_eq!(server.drain(&mut watcher), (vec![], false), "another's");
    server.delete(&Role::Admin, "a");
    assert_eq!(server.drain(&mut watcher), (vec!["DELETED a".into()], false));
}

#[test]
fn watch_without_version_begins_with_stored_objects() {
    let mut server = Server::new(manual());
    for name in ["b", "a"] {
        server.create(&Role::Bootstrap, &node_csr(name, "one"));
    }
    for query in ["", "resourceVersion=", "resourceVersion=0"] {
        let mut watcher = server.watch(query);
        assert_eq!(server.drain(&mut watcher), (vec!["ADDED a".into(), "ADDED b".into()], false), "{query}");
    }
    let mut watcher = server.watch("");
    server.delete(&Role::Admin, "a");
    let events = ["ADDED a", "ADDED b", "DELETED a"].map(String::from).to_vec();
    assert_eq!(server.drain(&mut watcher), (events, false), "what was there when it began, then what happened");
}

#[test]
fn initial_events_end_with_a_bookmark_if_requested() {
    let mut server = Server::new(manual());
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0";
    let mut watcher = server.watch(query);
    assert!(matches!(server.api.next_event(&mut watcher, NOW), Next::Event(_)));
    let Next::Event(line) = server.api.next_event(&mut watcher, NOW) else { panic!("no bookmark") };
    let event: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(event["type"], "BOOKMARK");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], "2");
    assert_eq!(event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(server.drain(&mut watcher), (vec![], false));
    assert_eq!(status_of_watch(&mut server, "sendInitialEvents=true").0, 422);
    assert_eq!(server.list(&Role::Admin, "sendInitialEvents=true").0, 422);
}

#[test]
fn object_leaving_the_selection_is_sent_as_deleted() {
    let mut server = Server::new(manual());
    let (_, mut object) = server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let mut watcher = server.watch("labelSelector=tier%3Done&resourceVersion=2");
    for labels in [json!({ "tier": "one" }), json!({ "tier": "one", "x": "y" }), json!({}), json!({ "x": "y" })] {
        object["metadata"]["labels"] = labels;
        object = server.put(&Role::Admin, "a", &object).1;
    }
    let expected = ["ADDED a", "MODIFIED a", "DELETED a"].map(String::from).to_vec();
    assert_eq!(server.drain(&mut watcher), (expected, false));
}

#[test]
fn watch_from_forgotten_or_future_version_gets_error_event() {
    let mut server = Server::new(Options { history: 4, ..manual() });
    for name in ["a", "b", "c", "d", "e", "f"] {
        server.create(&Role::Bootstrap, &node_csr(name, "one"));
    }
    for (version, ends) in [(1, true), (2, true), (3, false), (7, false), (8, true)] {
        let mut watcher = server.watch(&format!("resourceVersion={version}"));
        let (events, ended) = server.drain(&mut watcher);
        assert_eq!((events.contains(&"ERROR 410".into()), ended), (ends, ends), "{version}: {events:?}");
    }
    assert_eq!(status_of_watch(&mut server, "resourceVersion=x").0, 400);
    let ahead = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=8";
    let mut watcher = server.watch(ahead);
    assert_eq!(server.drain(&mut watcher), (vec!["ERROR 504".into()], true));
}

#[test]
fn watch_older_than_restarted_watch_cache_gets_410() {
    let mut server = Server::new(manual());
    let (_, created) = server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let version: u64 = created["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let watch = |server: &mut Server, version: u64| {
        let mut watcher = server.watch(&format!("fieldSelector=metadata.name%3Da&resourceVersion={version}"));
        server.drain(&mut watcher)
    };
    server.api.restart_watch_cache();
    assert_eq!(watch(&mut server, version), (vec![], false), "nothing else was written since");
    server.api.write_elsewhere();
    assert_eq!(watch(&mut server, version), (vec![], false), "the cache began before that write");
    server.api.restart_watch_cache();
    assert_eq!(watch(&mut server, version), (vec!["ERROR 410".into()], true));
    assert_eq!(server.object("a")["metadata"]["resourceVersion"], version.to_string(), "reading it helps no watch");
    let (_, list) = server.list(&Role::Admin, "fieldSelector=metadata.name%3Da");
    assert_eq!(list["metadata"]["resourceVersion"], (version + 1).to_string(), "listing it does");
    assert_eq!(watch(&mut server, version + 1), (vec![], false));
}

#[test]
fn bookmark_version_includes_writes_of_other_resources() {
    let mut server = Server::new(manual());
    let (_, created) = server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let version: u64 = created["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let mut watcher = server.watch(&format!("resourceVersion={version}&allowWatchBookmarks=true"));
    server.api.write_elsewhere();
    assert_eq!(server.drain(&mut watcher), (vec![], false));
    server.now = after(60);
    let Next::Event(line) = server.api.next_event(&mut watcher, server.now) else { panic!("no bookmark") };
    let event: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["resourceVersion"]),
        (&json!("BOOKMARK"), &json!((version + 1).to_string()))
    );
}

#[test]
fn watch_that_falls_behind_the_history_gets_410_and_ends() {
    let mut server = Server::new(Options { history: 4, ..manual() });
    let mut watcher = server.watch("");
    for name in ["a", "b", "c", "d", "e"] {
        server.create(&Role::Bootstrap, &node_csr(name, "one"));
    }
    assert_eq!(server.drain(&mut watcher), (vec!["ERROR 410".into()], true));
    assert_eq!(server.drain(&mut watcher), (vec![], true));
}

#[test]
fn watch_without_matching_events_does_not_fall_behind() {
    let mut server = Server::new(Options { history: 4, ..manual() });
    let mut watcher = server.watch("fieldSelector=metadata.name%3Dother");
    for round in 0..20 {
        server.create(&Role::Bootstrap, &node_csr(&format!("a{round}"), "one"));
        assert_eq!(server.drain(&mut watcher), (vec![], false));
    }
}

#[test]
fn list_contains_selected_objects_and_a_version() {
    let mut server = Server::new(manual());
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let pem = request(&Template::new("x"), &key());
    server.create(&Role::Bootstrap, &csr("b", CLIENT, &["client auth"], &pem));
    for (query, names) in [
        ("", vec!["a", "b"]),
        ("limit=500&resourceVersion=0", vec!["a", "b"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=spec.signerName%3Dkubernetes.io%2Fkube-apiserver-client", vec!["b"]),
        ("fieldSelector=metadata.name%3Dc", vec![]),
    ] {
        let (status, list) = server.list(&Role::Node("one"), query);
        let items = list["items"].as_array().unwrap();
        let found: Vec<&str> = items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!((status, found, &list["metadata"]["resourceVersion"]), (200, names, &json!("3")), "{query}");
        assert_eq!(list["kind"], "CertificateSigningRequestList");
    }
    assert_eq!(server.list(&Role::Admin, "fieldSelector=spec.username%3Dx").0, 400);
}

#[test]
fn table_has_the_columns_of_a_real_api_server() {
    let mut server = Server::new(manual());
    let mut object = node_csr("a", "one");
    object["spec"]["expirationSeconds"] = 7200.into();
    server.create(&Role::Bootstrap, &object);
    server.create(&Role::Bootstrap, &node_csr("b", "one"));
    server.approve("b");
    server.now = after(150);

    let table = |target: String| {
        let mut request = ApiRequest::new(Method::GET, target);
        request.accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json".into();
        request
    };
    let (_, list) = server.send(&Role::Admin, table(COLLECTION.into()));
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let columns: Vec<&str> =
        list["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"]);
    assert_eq!(
        list["rows"][0]["cells"],
        json!(["a", "2m30s", KUBELET_CLIENT, "system:bootstrap:abcdef", "120m", "Pending"])
    );
    assert_eq!(list["rows"][1]["cells"][4], "<none>");
    assert_eq!(list["rows"][1]["cells"][5], "Approved,Issued");
    assert_eq!(list["rows"][0]["object"]["kind"], "PartialObjectMetadata");

    let (_, one) = server.send(&Role::Admin, table(format!("{COLLECTION}/b?includeObject=Object")));
    assert_eq!(one["rows"][0]["object"]["kind"], "CertificateSigningRequest");

    let Answer::Watch(mut watcher) = server.answer(&Role::Admin, table(format!("{COLLECTION}?watch=true"))) else {
        panic!("no watch");
    };
    let Next::Event(line) = server.api.next_event(&mut watcher, server.now) else { panic!("no event") };
    let event: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert_eq!(event["object"]["rows"][0]["cells"][0], "a");
}

#[test]
fn discovery_lists_certificate_signing_requests() {
    let mut server = Server::new(manual());
    let (_, version) = server.get(&Role::Bootstrap, "/version");
    assert!(version["gitVersion"].as_str().unwrap().contains("perennial"));
    let (_, groups) = server.get(&Role::Bootstrap, "/apis");
    assert_eq!(groups["groups"][0]["name"], "certificates.k8s.io");
    let (_, resources) = server.get(&Role::Bootstrap, "/apis/certificates.k8s.io/v1");
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().map(|resource| resource["name"].as_str().unwrap()).collect();
    let base = "certificatesigningrequests";
    assert_eq!(names, [base, &format!("{base}/approval"), &format!("{base}/status")]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["csr"]));
    for (path, shown) in [
        (
            "/apis/certificates.k8s.io/v1beta1",
            "clustertrustbundles podcertificaterequests podcertificaterequests/status",
        ),
        ("/api/v1", "nodes pods serviceaccounts"),
    ] {
        let (_, resources) = server.get(&Role::Bootstrap, path);
        let names = resources["resources"].as_array().unwrap().iter().map(|found| found["name"].as_str().unwrap());
        assert_eq!(names.collect::<Vec<_>>().join(" "), shown);
        let namespaced = resources["resources"].as_array().unwrap().last().unwrap()["namespaced"].clone();
        assert_eq!(namespaced, true, "{path}");
    }

    let mut request = ApiRequest::new(Method::GET, "/apis");
    request.accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json".into();
    let Answer::Response(response) = server.answer(&Role::Admin, request) else { panic!("a watch") };
    assert_eq!(response.content_type, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let list: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(list["items"][0]["versions"][0]["resources"][0]["resource"], base);
    assert_eq!(list["items"][0]["versions"][1]["resources"][1]["scope"], "Namespaced");
}

#[test]
fn self_subject_reviews_return_user_and_rights() {
    let mut server = Server::new(manual());
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let metadata = json!({ "creationTimestamp": null });
    let review = json!({ "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": metadata });
    let (status, answer) = server.send(&Role::Node("one"), with_body(Method::POST, path, &review));
    assert_eq!((status, &answer["status"]["userInfo"]["username"]), (201, &json!("system:node:one")));

    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (verb, allowed) in [("create", true), ("delete", false)] {
        let attributes =
            json!({ "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": verb });
        let review = json!({ "spec": { "resourceAttributes": attributes } });
        let (status, answer) = server.send(&Role::Bootstrap, with_body(Method::POST, path, &review));
        assert_eq!((status, &answer["status"]["allowed"]), (201, &json!(allowed)), "{verb}");
    }
    assert_eq!(server.get(&Role::Admin, path).0, 405);
}
