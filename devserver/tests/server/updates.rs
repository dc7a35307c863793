//! Updates and deletions on the embedded server: rights, fields, and stale versions.

use crate::support::*;
use perennial::Template;
use perennial_dev::{ApiRequest, Method, User};
use serde_json::{Value, json};

/// A server that stores the pending request `b`, and the object of that request. The server does not sign for the
/// signer name in `b`.
fn pending_elsewhere() -> (Server, Value) {
    let (mut server, _) = pending();
    let pem = request(&Template::new("x"), &key());
    let (_, created) = server.create(&Role::Bootstrap, &csr("b", "example.com/mine", &["client auth"], &pem));
    (server, created)
}

fn causes(answer: &(u16, Value)) -> Vec<&str> {
    let causes = answer.1["details"]["causes"].as_array();
    causes.into_iter().flatten().filter_map(|cause| cause["message"].as_str()).collect()
}

#[test]
fn stale_update_conflicts_and_update_without_version_does_not() {
    let (mut server, created) = pending();
    let mut labelled = created.clone();
    labelled["metadata"]["labels"] = json!({ "x": "y" });
    assert_eq!(server.put(&Role::Admin, "a", &labelled).0, 200);

    let answer = server.put(&Role::Admin, "a/approval", &with_condition(created.clone(), "Approved"));
    assert_eq!((answer.0, &answer.1["reason"]), (409, &json!("Conflict")));
    assert_eq!(
        message(&answer),
        "Operation cannot be fulfilled on certificatesigningrequests.certificates.k8s.io \"a\": the object has been \
         modified; please apply your changes to the latest version and try again"
    );

    let mut unconditional = with_condition(created, "Approved");
    unconditional["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(server.put(&Role::Admin, "a/approval", &unconditional).0, 200);
    assert!(server.chain("a").is_some());
}

#[test]
fn update_with_uid_of_another_object_conflicts() {
    let (mut server, mut created) = pending();
    created["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
    let answer = server.put(&Role::Admin, "a/approval", &with_condition(created.clone(), "Approved"));
    assert_eq!(answer.0, 409);
    assert!(message(&answer).contains("UID in precondition"), "{answer:?}");
    created["metadata"]["name"] = "b".into();
    assert_eq!(server.put(&Role::Admin, "a/approval", &created).0, 400);
    assert_eq!(server.put(&Role::Admin, "b/approval", &created).0, 404);
}

#[test]
fn update_changes_labels_and_annotations_only() {
    let (mut server, created) = pending();
    let mut update = with_condition(created.clone(), "Approved");
    update["metadata"]["labels"] = json!({ "x": "y" });
    update["metadata"]["annotations"] = json!({ "p": "q" });
    update["spec"]["signerName"] = "example.com/other".into();
    update["spec"]["request"] = "AAAA".into();
    update["status"]["certificate"] = "AAAA".into();
    let (status, updated) = server.put(&Role::Admin, "a", &update);
    assert_eq!(status, 200, "{updated}");
    assert_eq!(updated["metadata"]["labels"], json!({ "x": "y" }));
    assert_eq!(updated["metadata"]["annotations"], json!({ "p": "q" }));
    assert_eq!((&updated["spec"], &updated["status"]), (&created["spec"], &created["status"]));
}

#[test]
fn update_without_change_keeps_the_version() {
    let (mut server, created) = pending();
    let (_, updated) = server.put(&Role::Admin, "a", &created);
    assert_eq!(updated, created);
    assert_eq!(server.api.version(), 2);
}

#[test]
fn approval_update_takes_conditions_only_and_sets_their_times() {
    let (mut server, created) = pending_elsewhere();
    let mut update = with_condition(created.clone(), "Approved");
    update["metadata"]["labels"] = json!({ "x": "y" });
    update["status"]["certificate"] = "AAAA".into();
    let (status, updated) = server.put(&Role::Admin, "b/approval", &update);
    assert_eq!(status, 200, "{updated}");
    assert_eq!(updated["metadata"].get("labels"), None);
    assert_eq!(updated["status"].get("certificate"), None);
    let condition = &updated["status"]["conditions"][0];
    assert_eq!(condition["lastUpdateTime"], "2027-01-15T08:00:00Z");
    assert_eq!(condition["lastTransitionTime"], "2027-01-15T08:00:00Z");
}

#[test]
fn approval_cannot_be_removed_or_combined_with_denial() {
    let (mut server, created) = pending_elsewhere();
    let both = with_condition(with_condition(created.clone(), "Approved"), "Denied");
    let answer = server.put(&Role::Admin, "b/approval", &both);
    assert!(causes(&answer)[0].ends_with("Approved and Denied conditions are mutually exclusive"), "{answer:?}");

    let twice = with_condition(with_condition(created.clone(), "Approved"), "Approved");
    assert_eq!(causes(&server.put(&Role::Admin, "b/approval", &twice)), ["Duplicate value: \"Approved\""]);

    let mut untrue = with_condition(created.clone(), "Approved");
    untrue["status"]["conditions"][0]["status"] = "False".into();
    let answer = server.put(&Role::Admin, "b/approval", &untrue);
    assert_eq!(causes(&answer), ["Unsupported value: \"False\": supported values: \"True\""]);

    assert_eq!(server.approve("b").0, 200);
    let mut undone = server.object("b");
    undone["status"]["conditions"] = json!([]);
    let answer = server.put(&Role::Admin, "b/approval", &undone);
    assert_eq!(causes(&answer), ["Forbidden: updates may not remove a condition of type \"Approved\""]);
}

#[test]
fn status_update_takes_certificate_and_failure_but_no_decision() {
    let (mut server, created) = pending_elsewhere();
    let answer = server.put(&Role::Admin, "b/status", &with_condition(created, "Approved"));
    assert_eq!(causes(&answer), ["Forbidden: updates may not add a condition of type \"Approved\""]);
    server.approve("b");

    let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let mut update = server.object("b");
    update["status"]["certificate"] = encode("not a certificate").into();
    assert_eq!(server.put(&Role::Admin, "b/status", &update).0, 422);

    update["status"]["certificate"] = encode(&server.api.authority().to_pem()).into();
    assert_eq!(server.put(&Role::Admin, "b/status", &update).0, 422, "a key is no certificate");

    update["status"]["certificate"] = encode(server.api.authority().certificate_pem()).into();
    let (status, signed) = server.put(&Role::Admin, "b/status", &update);
    assert_eq!(status, 200, "{signed}");
    assert!(server.chain("b").is_some());

    let mut again = signed;
    again["status"]["certificate"] = encode("x").into();
    let answer = server.put(&Role::Admin, "b/status", &again);
    assert_eq!(causes(&answer), ["Forbidden: updates may not modify existing certificate content"]);
    let failed = with_condition(server.object("b"), "Failed");
    assert_eq!(server.put(&Role::Admin, "b/status", &failed).0, 200);
}

#[test]
fn users_without_rights_cannot_approve_or_sign() {
    let (mut server, created) = pending_elsewhere();
    // An approval needs two rights: to update `approval`, and to approve for the signer. This server gives each of them
    // to administrators only.
    for user in [Role::Bootstrap, Role::Node("one"), Role::Other(User::new("joe", ["dev"]))] {
        for path in ["b", "b/approval", "b/status"] {
            assert_eq!(server.put(&user, path, &with_condition(created.clone(), "Approved")).0, 403);
        }
    }
}

#[test]
fn deletion_checks_preconditions_and_returns_the_uid() {
    let (mut server, created) = pending();
    let delete = |uid: &str| {
        let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": uid } });
        with_body(Method::DELETE, &format!("{COLLECTION}/a"), &options)
    };
    assert_eq!(server.send(&Role::Admin, delete("other")).0, 409);
    let uid = created["metadata"]["uid"].as_str().unwrap();
    let (status, deleted) = server.send(&Role::Admin, delete(uid));
    assert_eq!((status, &deleted["status"]), (200, &json!("Success")));
    assert_eq!(deleted["details"]["uid"], uid);
    assert_eq!(server.delete(&Role::Admin, "a").0, 404);
}

#[test]
fn deletion_of_a_collection_deletes_selected_objects_only() {
    let (mut server, _) = pending_elsewhere();
    let target = format!("{COLLECTION}?fieldSelector=spec.signerName%3Dexample.com%2Fmine");
    let request = ApiRequest::new(Method::DELETE, target);
    assert_eq!(server.send(&Role::Admin, request).0, 200);
    assert_eq!(server.api.requests().map(|object| object.metadata.name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn known_subresources_can_be_read() {
    let (mut server, created) = pending();
    for path in ["a", "a/approval", "a/status"] {
        assert_eq!(server.get(&Role::Admin, &format!("{COLLECTION}/{path}")), (200, created.clone()));
    }
    assert_eq!(server.get(&Role::Admin, &format!("{COLLECTION}/a/scale")).0, 404);
    let patch = with_body(Method::PATCH, &format!("{COLLECTION}/a"), &json!({}));
    assert_eq!(server.send(&Role::Admin, patch).0, 415);
    let post = with_body(Method::POST, &format!("{COLLECTION}/a"), &created);
    assert_eq!(server.send(&Role::Admin, post).0, 405);
}
