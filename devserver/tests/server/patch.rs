//! Patches of requests, as `kubectl` and controllers send them.

use crate::support::*;
use perennial_dev::{ApiRequest, Method};
use serde_json::{Value, json};

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";

fn patch(server: &mut Server, media_type: &str, path: &str, patch: &Value) -> (u16, Value) {
    let mut request = with_body(Method::PATCH, &format!("{COLLECTION}/{path}"), patch);
    request.content_type = media_type.into();
    server.send(&Role::Admin, request)
}

fn approved() -> Value {
    json!({ "status": { "conditions": [{ "type": "Approved", "status": "True", "reason": "Test" }] } })
}

#[test]
fn patch_merges_labels_and_annotations_and_null_removes_them() {
    for media_type in [MERGE, STRATEGIC] {
        let (mut server, created) = pending();
        let (status, patched) =
            patch(&mut server, media_type, "a", &json!({ "metadata": { "labels": { "x": "1", "y": "2" } } }));
        assert_eq!((status, &patched["metadata"]["labels"]), (200, &json!({ "x": "1", "y": "2" })), "{patched}");
        let change = json!({ "metadata": { "labels": { "x": null, "z": "3" }, "annotations": { "n": "w" } } });
        let (_, patched) = patch(&mut server, media_type, "a", &change);
        assert_eq!(patched["metadata"]["labels"], json!({ "y": "2", "z": "3" }));
        assert_eq!(patched["metadata"]["annotations"], json!({ "n": "w" }));
        assert_eq!(patched["spec"], created["spec"]);
        assert_eq!(patched["metadata"]["uid"], created["metadata"]["uid"]);
        assert_eq!(server.object("a"), patched);
    }
}

#[test]
fn json_patch_operations_apply_in_order_or_not_at_all() {
    let (mut server, created) = pending();
    let operations = json!([
        { "op": "add", "path": "/metadata/labels", "value": { "a/b": "1" } },
        { "op": "test", "path": "/metadata/labels/a~1b", "value": "1" },
        { "op": "copy", "from": "/metadata/labels/a~1b", "path": "/metadata/labels/c" },
        { "op": "remove", "path": "/metadata/labels/a~1b" },
    ]);
    let (status, patched) = patch(&mut server, OPERATIONS, "a", &operations);
    assert_eq!((status, &patched["metadata"]["labels"]), (200, &json!({ "c": "1" })), "{patched}");

    for (operations, status) in [
        (
            json!([{ "op": "remove", "path": "/metadata/labels/c" }, { "op": "test", "path": "/kind", "value": "x" }]),
            422,
        ),
        (json!([{ "op": "remove", "path": "/metadata/labels/absent" }]), 422),
        (json!([{ "op": "replace", "path": "/spec", "value": 1 }]), 422),
        (json!([{ "op": "conjure", "path": "/spec" }]), 400),
        (json!({ "metadata": {} }), 400),
    ] {
        let answer = patch(&mut server, OPERATIONS, "a", &operations);
        assert_eq!((answer.0, &answer.1["kind"]), (status, &json!("Status")), "{operations}: {answer:?}");
    }
    assert_eq!(server.object("a"), patched);
    assert_ne!(patched["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
}

#[test]
fn patch_that_makes_object_too_large_or_deep_gets_413() {
    let (mut server, created) = pending();
    let doubling: Vec<Value> =
        (0..40).map(|n| json!({ "op": "copy", "from": "", "path": format!("/spec/extra{n}") })).collect();
    assert_eq!(patch(&mut server, OPERATIONS, "a", &doubling.into()).0, 413);
    let deepening: Vec<Value> = (0..2000)
        .map(|n| json!({ "op": "move", "from": format!("/{n}"), "path": format!("/{}/x/x/x", n + 1) }))
        .flat_map(|step| {
            let path = step["path"].as_str().unwrap().replace("/x/x/x", "");
            [json!({ "op": "add", "path": path, "value": { "x": { "x": {} } } }), step]
        })
        .collect();
    let mut operations = vec![json!({ "op": "add", "path": "/0", "value": {} })];
    operations.extend(deepening);
    assert_eq!(patch(&mut server, OPERATIONS, "a", &operations.into()).0, 413);
    assert_eq!(server.object("a"), created);
}

#[test]
fn patch_approves_through_the_approval_subresource_only() {
    for media_type in [MERGE, STRATEGIC] {
        let (mut server, _) = pending();
        assert_eq!(patch(&mut server, media_type, "a", &approved()).1["status"], json!({}), "not here");
        assert_eq!(patch(&mut server, media_type, "a/status", &approved()).0, 422, "nor here");
        let (status, patched) = patch(&mut server, media_type, "a/approval", &approved());
        assert_eq!(
            (status, &patched["status"]["conditions"][0]["lastUpdateTime"]),
            (200, &json!("2027-01-15T08:00:00Z"))
        );
        assert!(server.chain("a").is_some());
        let removed = patch(&mut server, media_type, "a/approval", &json!({ "status": { "conditions": null } }));
        assert_eq!(removed.0, 422);
        let failed =
            json!([{ "op": "add", "path": "/status/conditions/-", "value": { "type": "Failed", "status": "True" } }]);
        let (status, failed) = patch(&mut server, OPERATIONS, "a/status", &failed);
        assert_eq!((status, &failed["status"]["conditions"][1]["type"]), (200, &json!("Failed")), "{failed}");
    }
}

#[test]
fn strategic_patch_replaces_all_conditions_as_in_kubernetes() {
    let (mut server, _) = pending();
    patch(&mut server, STRATEGIC, "a/approval", &approved());
    let denied = json!({ "status": { "conditions": [{ "type": "Denied", "status": "True" }] } });
    let answer = patch(&mut server, STRATEGIC, "a/approval", &denied);
    assert!(message(&answer).contains("updates may not remove a condition of type \"Approved\""), "{answer:?}");
}

#[test]
fn patch_with_wrong_version_uid_name_or_kind_is_refused() {
    let (mut server, created) = pending();
    let labelled = |metadata: Value| {
        let mut patch = json!({ "metadata": metadata });
        patch["metadata"]["labels"] = json!({ "x": "y" });
        patch
    };
    for (metadata, status) in [
        (json!({ "resourceVersion": "1" }), 409),
        (json!({ "uid": "00000000-0000-4000-8000-000000000000" }), 409),
        (json!({ "name": "b" }), 400),
        (json!({ "resourceVersion": created["metadata"]["resourceVersion"] }), 200),
        (json!({ "resourceVersion": null }), 200),
    ] {
        let answer = patch(&mut server, MERGE, "a", &labelled(metadata.clone()));
        assert_eq!(answer.0, status, "{metadata}: {answer:?}");
    }
    assert_eq!(patch(&mut server, MERGE, "b", &labelled(json!({}))).0, 404);
    let kind = patch(&mut server, MERGE, "a", &json!({ "kind": "Pod" }));
    assert_eq!(kind.0, 400, "{kind:?}");
}

#[test]
fn an_empty_patch_changes_nothing() {
    let (mut server, created) = pending();
    for (media_type, nothing) in [(MERGE, json!({})), (STRATEGIC, json!({})), (OPERATIONS, json!([]))] {
        assert_eq!(patch(&mut server, media_type, "a", &nothing), (200, created.clone()));
    }
}

#[test]
fn unsupported_patch_types_and_directives_are_refused() {
    let (mut server, created) = pending();
    for media_type in ["application/apply-patch+yaml", "application/json", ""] {
        let answer = patch(&mut server, media_type, "a", &json!({}));
        assert_eq!((answer.0, &answer.1["reason"]), (415, &json!("UnsupportedMediaType")));
        assert!(message(&answer).contains(STRATEGIC), "{answer:?}");
    }
    for metadata in [json!({ "$patch": "replace" }), json!({ "labels": { "$retainKeys": [] } })] {
        let answer = patch(&mut server, STRATEGIC, "a", &json!({ "metadata": metadata }));
        assert_eq!(answer.0, 400);
        assert!(message(&answer).contains('$'), "{answer:?}");
    }
    for body in ["", "{", "[]", "\"x\""] {
        let mut request = ApiRequest::new(Method::PATCH, format!("{COLLECTION}/a"));
        request.content_type = MERGE.into();
        request.body = body.into();
        assert_eq!(server.send(&Role::Admin, request).0, 400, "{body}");
    }
    assert_eq!(server.object("a"), created);
}

#[test]
fn patch_by_user_without_rights_is_refused() {
    let (mut server, _) = pending();
    for user in [Role::Bootstrap, Role::Node("one"), Role::Nobody] {
        for path in ["a", "a/approval", "a/status"] {
            let mut request = with_body(Method::PATCH, &format!("{COLLECTION}/{path}"), &approved());
            request.content_type = MERGE.into();
            assert!(matches!(server.send(&user, request).0, 401 | 403), "{path}");
        }
    }
}
