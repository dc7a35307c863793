//! Dry runs, validation of fields and metadata, and the OpenAPI schema.

use crate::support::*;
use perennial_dev::{Answer, ApiRequest, Method, Options, Response};
use serde_json::{Value, json};

fn at(method: Method, target: &str, body: &Value) -> ApiRequest {
    let mut request = with_body(method.clone(), &format!("{COLLECTION}{target}"), body);
    if method == Method::PATCH {
        request.content_type = "application/merge-patch+json".into();
    }
    request
}

fn respond(server: &mut Server, request: ApiRequest) -> (Response, Value) {
    let Answer::Response(response) = server.answer(&Role::Admin, request) else { panic!("a watch") };
    let body = serde_json::from_slice(&response.body).unwrap();
    (response, body)
}

#[test]
fn dry_run_gets_the_usual_answer_and_stores_nothing() {
    let mut server = Server::new(Options::default());
    let (status, created) = server.send(&Role::Bootstrap, at(Method::POST, "?dryRun=All", &node_csr("a", "one")));
    assert_eq!(status, 201);
    assert!(created["metadata"]["uid"].is_string(), "{created}");
    assert_eq!(created["metadata"].get("resourceVersion"), None);
    assert_eq!(server.send(&Role::Admin, at(Method::POST, "?dryRun=All", &csr("a", "x", &[], ""))).0, 422);
    assert_eq!(server.api.version(), 1);

    let (_, object) = server.create(&Role::Bootstrap, &node_csr("a", "one"));
    assert_eq!(server.send(&Role::Admin, at(Method::POST, "?dryRun=All", &node_csr("a", "one"))).0, 409);
    let before = server.object("a");
    let label = json!({ "metadata": { "labels": { "x": "y" } } });
    let (status, patched) = server.send(&Role::Admin, at(Method::PATCH, "/a?dryRun=All", &label));
    assert_eq!((status, &patched["metadata"]["labels"]["x"]), (200, &json!("y")));
    assert_eq!(patched["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    let denied = with_condition(before.clone(), "Denied");
    assert_eq!(server.send(&Role::Admin, at(Method::PUT, "/a/approval?dryRun=All", &denied)).0, 422);
    let failed = with_condition(before.clone(), "Failed");
    assert_eq!(server.send(&Role::Admin, at(Method::PUT, "/a/status?dryRun=All", &failed)).0, 200);
    let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"] });
    for target in ["/a", ""] {
        assert_eq!(server.send(&Role::Admin, at(Method::DELETE, target, &options)).0, 200);
        let query = ApiRequest::new(Method::DELETE, format!("{COLLECTION}{target}?dryRun=All"));
        assert_eq!(server.send(&Role::Admin, query).0, 200);
    }
    assert_eq!(server.object("a"), before);
    assert_eq!(object["metadata"]["uid"], before["metadata"]["uid"]);
}

#[test]
fn dry_run_of_approval_approves_nothing() {
    let mut server = Server::new(manual());
    let (_, created) = server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let approved = with_condition(created.clone(), "Approved");
    let (status, answer) = server.send(&Role::Admin, at(Method::PUT, "/a/approval?dryRun=All", &approved));
    assert_eq!((status, &answer["status"]["conditions"][0]["type"]), (200, &json!("Approved")));
    assert_eq!(server.object("a"), created);
    assert!(server.chain("a").is_none());
}

#[test]
fn unknown_values_of_dry_run_and_field_validation_are_refused() {
    let mut server = Server::new(manual());
    for (target, kind) in [("?dryRun=Some", "CreateOptions"), ("?fieldValidation=Lax", "CreateOptions")] {
        let answer = server.send(&Role::Admin, at(Method::POST, target, &node_csr("a", "one")));
        assert_eq!((answer.0, &answer.1["details"]["kind"]), (422, &json!(kind)), "{answer:?}");
        assert!(message(&answer).contains("Unsupported value"), "{answer:?}");
    }
    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let options = json!({ "dryRun": ["Some"] });
    assert_eq!(server.send(&Role::Admin, at(Method::DELETE, "/a", &options)).0, 422);
    server.object("a");
}

#[test]
fn unknown_field_is_refused_warned_about_or_ignored_as_requested() {
    let mut server = Server::new(manual());
    let mut object = node_csr("a", "one");
    object["spec"]["foo"] = 1.into();
    let answer = server.send(&Role::Admin, at(Method::POST, "?fieldValidation=Strict", &object));
    assert_eq!(answer.0, 400);
    assert_eq!(
        message(&answer),
        "CertificateSigningRequest in version \"v1\" cannot be handled as a CertificateSigningRequest: strict \
         decoding error: unknown field \"spec.foo\""
    );
    for (query, warnings) in [("", vec!["unknown field \"spec.foo\""]), ("?fieldValidation=Ignore", vec![])] {
        let (response, created) = respond(&mut server, at(Method::POST, query, &object));
        assert_eq!((response.status, response.warnings), (201, warnings.iter().map(|text| text.to_string()).collect()));
        assert_eq!(created["spec"].get("foo"), None);
        server.delete(&Role::Admin, "a");
    }

    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let patch = json!({ "metadata": { "lables": {} } });
    let answer = server.send(&Role::Admin, at(Method::PATCH, "/a?fieldValidation=Strict", &patch));
    assert_eq!(answer.0, 422);
    assert!(message(&answer).contains("strict decoding error: unknown field \"metadata.lables\""), "{answer:?}");
    let (response, _) = respond(&mut server, at(Method::PATCH, "/a", &patch));
    assert_eq!(response.warnings, ["unknown field \"metadata.lables\""]);
}

#[test]
fn malformed_labels_and_annotations_are_refused() {
    let mut server = Server::new(manual());
    let mut object = node_csr("a", "one");
    object["metadata"]["labels"] = json!({ "a b": "x", "good": "not good" });
    object["metadata"]["annotations"] = json!({ "also bad": "any thing", "Upper.example/Key": "x" });
    object["spec"]["usages"] = json!([]);
    let (status, answer) = server.create(&Role::Admin, &object);
    let fields: Vec<&str> =
        answer["details"]["causes"].as_array().unwrap().iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    assert_eq!(
        (status, fields),
        (422, vec!["metadata.labels", "metadata.labels", "metadata.annotations", "spec.usages"])
    );

    server.create(&Role::Bootstrap, &node_csr("a", "one"));
    let patch = json!({ "metadata": { "labels": { "x": "a/b" } } });
    let answer = server.send(&Role::Admin, at(Method::PATCH, "/a", &patch));
    assert_eq!(answer.0, 422);
    assert!(message(&answer).contains("a valid label must be an empty string or consist of"), "{answer:?}");
}

#[test]
fn all_references_in_the_openapi_schema_resolve() {
    let mut server = Server::new(manual());
    let (_, index) = server.get(&Role::Bootstrap, "/openapi/v3");
    for (path, kinds) in [
        ("apis/certificates.k8s.io/v1", vec!["certificates.v1.CertificateSigningRequest"]),
        (
            "apis/certificates.k8s.io/v1beta1",
            vec!["certificates.v1beta1.ClusterTrustBundle", "certificates.v1beta1.PodCertificateRequest"],
        ),
        ("api/v1", vec!["core.v1.Node", "core.v1.Pod", "core.v1.ServiceAccount"]),
    ] {
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap();
        let (status, document) = server.get(&Role::Bootstrap, url);
        assert_eq!(status, 200, "{url}");
        let mut references = Vec::new();
        collect(&document["paths"], &mut references);
        for kind in kinds {
            let reference = format!("#/components/schemas/io.k8s.api.{kind}");
            assert!(references.contains(&reference), "{path}: {reference}");
        }
        collect(&document["components"], &mut references);
        for reference in references {
            assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
        }
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str).map(String::from));
            fields.values().for_each(|field| collect(field, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}
