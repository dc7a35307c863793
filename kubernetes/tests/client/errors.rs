//! The failure for the machine and the message for the operator when a submission fails.

use std::time::Duration;

use crate::support::*;
use perennial::Failure;
use perennial_kubernetes::client::{Call, ExchangeError, Limits, Request, client_go_healthy};
use perennial_rotation::{Identity, SignError, Token};

pub(super) fn mentions(error: &SignError, parts: &[&str]) {
    for part in parts {
        assert!(error.message.contains(part), "\"{error}\" does not mention \"{part}\"");
    }
    assert!(!error.message.contains('\n'), "{error}");
}

#[test]
fn status_code_determines_failure_and_health() {
    let scene = Scene::new();
    for (code, reason, failure, healthy) in [
        (400, "BadRequest", Failure::Rejected, false),
        (401, "Unauthorized", Failure::Unauthorized, true),
        (403, "Forbidden", Failure::Forbidden, true),
        (404, "NotFound", Failure::Rejected, true),
        (413, "RequestEntityTooLarge", Failure::Rejected, false),
        (415, "UnsupportedMediaType", Failure::Rejected, false),
        (422, "Invalid", Failure::Rejected, false),
        (429, "TooManyRequests", Failure::Throttled, false),
        (500, "InternalError", Failure::Unreachable, false),
        (503, "ServiceUnavailable", Failure::Unreachable, false),
        (504, "Timeout", Failure::Unreachable, false),
    ] {
        let mut world = scene.world(|_| Reply::status(code, reason, "because of the test"));
        let error = world.run(&mut scene.issuance()).unwrap_err();
        assert_eq!((error.failure, error.health.map(client_go_healthy)), (failure, Some(healthy)), "{code}");
        mentions(
            &error,
            &["https://api.example:6443", &scene.desired_csr.name, &code.to_string(), reason, "because of the test"],
        );
        assert_eq!((world.requests.len(), error.retry_after, error.credential_refused), (1, None, false), "{code}");
    }
}

#[test]
fn html_answer_fails_submission_and_is_quoted_shortened() {
    let scene = Scene::new();
    for (code, failure, healthy) in [
        (200, Failure::Unreachable, false),
        (302, Failure::Unreachable, false),
        (401, Failure::Unauthorized, true),
        (403, Failure::Forbidden, false),
        (404, Failure::Rejected, false),
        (502, Failure::Unreachable, false),
    ] {
        let page = format!("<html>\r\n\x1b[31mlogin\u{7}   please{}</html>", " x".repeat(5000));
        let head = format!("HTTP/1.1 {code} X\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", page.len());
        let error = scene.error(|_| Reply::raw(format!("{head}{page}")));
        assert_eq!((error.failure, error.health.map(client_go_healthy)), (failure, Some(healthy)), "{code}: {error}");
        assert!(error.message.len() < 900 && !error.message.chars().any(char::is_control), "{error}");
        mentions(&error, &[&code.to_string(), "text/html", r"\u{1b}[31mlogin\u{7} please"]);
        assert_eq!(error.message.contains("check that the URL is that of a Kubernetes API server"), code == 404);
    }
}

/// The answer of Go's HTTP server to a path without a handler.
fn no_such_page() -> Reply {
    let text = "404 page not found\n";
    let head = "HTTP/1.1 404 X\r\nContent-Type: text/plain; charset=utf-8\r\n";
    Reply::raw(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()))
}

#[test]
fn error_for_404_to_create_depends_on_served_api_versions() {
    let scene = Scene::new();
    let group = |versions: &[&str]| {
        let versions: Vec<_> = versions.iter().map(|version| serde_json::json!({ "version": version })).collect();
        let group = serde_json::json!({ "kind": "APIGroup", "apiVersion": "v1", "versions": versions });
        Reply::json(200, group.to_string())
    };
    for (answer, advice) in [
        (
            group(&["v1beta1"]),
            "it serves certificates.k8s.io only as v1beta1, and perennial needs v1, which Kubernetes has from 1.19 on",
        ),
        (group(&["v1", "v1beta1"]), "yet it lists certificates.k8s.io/v1"),
        (group(&[]), "check that the URL is that of a Kubernetes API server, of 1.19 or newer"),
        (no_such_page(), "check that the URL is that of a Kubernetes API server, of 1.19 or newer"),
        (Reply::json(200, "{}"), "check that the URL is that of a Kubernetes API server, of 1.19 or newer"),
        (
            Reply::status(403, "Forbidden", "no"),
            "does not serve certificates.k8s.io/v1, which Kubernetes has from 1.19 on",
        ),
        (Reply::silence().then(End::Close), "check that the URL is that of a Kubernetes API server, of 1.19 or newer"),
    ] {
        let mut world = scene.world(|request| if request.is_post() { no_such_page() } else { answer.clone() });
        let error = world.run(&mut scene.issuance()).unwrap_err();
        // One of several API servers may still be starting, so that a retry may succeed.
        let expected = if advice.starts_with("yet") { Failure::Unreachable } else { Failure::Rejected };
        assert_eq!(error.failure, expected);
        mentions(&error, &["404 with text/plain; charset=utf-8: 404 page not found", advice]);
        assert_eq!(world.lines()[..2], [format!("POST {CSRS}"), "GET /apis/certificates.k8s.io".to_owned()]);
    }
}

#[test]
fn forbidden_error_names_cluster_role() {
    let scene = Scene::new();
    let error = scene.error(|_| Reply::status(403, "Forbidden", "User \\\"x\\\" cannot create resource"));
    mentions(&error, &["system:node-bootstrapper", "kubectl", "User \"x\" cannot create resource"]);
}

#[test]
fn forbidden_error_of_admission_has_whole_reason_and_no_cluster_role() {
    let scene = Scene::new();
    let policy = "p".repeat(253);
    for reason in [
        "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed".to_owned(),
        format!("ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: no such names here"),
    ] {
        let message = format!("certificatesigningrequests.certificates.k8s.io \\\"csr-1\\\" is forbidden: {reason}");
        let error = scene.error(|_| Reply::status(403, "Forbidden", &message));
        assert_eq!(error.failure, Failure::Forbidden);
        mentions(&error, &[&reason, "change the names, usages or signer of the request"]);
        assert!(!error.to_string().contains("ClusterRole"), "{error}");
    }
}

#[test]
fn error_carries_retry_after_of_header_or_body() {
    let scene = Scene::new();
    let header = Reply::raw("HTTP/1.1 503 X\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(scene.error(|_| header.clone()).retry_after, Some(Duration::from_secs(120)));
    let body = r#"{"kind":"Status","code":429,"message":"slow","details":{"retryAfterSeconds":7}}"#;
    let error = scene.error(|_| Reply::json(429, body));
    assert_eq!((error.failure, error.retry_after), (Failure::Throttled, Some(Duration::from_secs(7))));
}

#[test]
fn unreachable_server_fails_after_one_attempt() {
    let scene = Scene::new();
    let mut world = scene.world(|_| panic!("there is no connection"));
    world.reachable = Box::new(|_| false);
    let error = world.run(&mut scene.issuance()).unwrap_err();
    assert_eq!((error.failure, error.health.map(client_go_healthy)), (Failure::Unreachable, Some(false)));
    mentions(&error, &["connection refused", "https://api.example:6443"]);
}

#[test]
fn http_401_marks_credential_as_refused() {
    let mut scene = Scene::new();
    scene.identity = Identity::Certificate(scene.ca.credential());
    assert!(scene.error(|_| Reply::status(401, "Unauthorized", "who?")).credential_refused);
}

#[test]
fn issued_text_that_is_no_certificate_is_refused() {
    let scene = Scene::new();
    let mut object = scene.issued();
    object.status.certificate = b"not a certificate".to_vec();
    let error = scene.error(|_| Reply::object(201, &object));
    assert_eq!(error.failure, Failure::BadCertificate, "{error}");
    mentions(&error, &[&scene.desired_csr.name]);
}

#[test]
fn token_is_sent_with_each_request_and_never_shown() {
    const SECRET: &str = "abcdef.0123456789abcdef";
    let mut scene = Scene::new();
    scene.identity = Identity::Token(Token::new(&format!(" {SECRET}\n")).unwrap());
    let mut world = scene.world(scene.well());
    let mut issuance = scene.issuance();
    world.run(&mut issuance).unwrap();
    assert_eq!(world.requests.len(), 2);
    for request in &world.requests {
        assert!(request.head.contains(&format!("\r\nauthorization: Bearer {SECRET}\r\n")), "{}", request.head);
    }
    let error = scene.error(|_| Reply::status(401, "Unauthorized", "no"));
    assert!(error.credential_refused);
    for shown in [format!("{:?}", scene.identity), format!("{issuance:?}"), format!("{error:?}"), error.to_string()] {
        assert!(!shown.contains(SECRET) && !shown.contains("0123456789"), "{shown}");
    }
}

#[test]
fn call_returns_answer_of_any_status() {
    let scene = Scene::new();
    let call = |request| Call::new(request, scene.cluster(), Identity::Anonymous, Limits::default());
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

    let mut world = scene.world(|request| Reply::json(201, request.body.clone()));
    let answer = world.run(&mut call(Request::post(path, b"{\"kind\":\"SelfSubjectReview\"}".to_vec()))).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (201, b"{\"kind\":\"SelfSubjectReview\"}".as_slice()));
    assert_eq!(answer.content_type, "application/json");
    assert_eq!(world.steps.last().unwrap(), "disconnect");

    let answer = scene.world(|_| Reply::status(418, "", "")).run(&mut call(Request::get("/version"))).unwrap();
    assert_eq!(answer.status, 418);

    let error = scene.world(|_| Reply::silence()).run(&mut call(Request::get("/version"))).unwrap_err();
    assert_eq!(error, ExchangeError::TimedOut("an answer"));
}
