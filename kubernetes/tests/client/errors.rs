//! The failure for the machine and the message for the operator when a submission fails.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use perennial::Failure;
use perennial_kubernetes::client::{Call, ExchangeError, Issuance, Limits, Request, client_go_healthy};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Roots;
use perennial_rotation::{Identity, SignError, Token};

fn mentions(error: &SignError, parts: &[&str]) {
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
fn tls_refusal_marks_credential_as_refused_only_with_client_certificate() {
    let mut scene = Scene::new();
    let (others, known) = (Ca::new("another CA"), Ca::new("the known CA"));
    let demanding = server_config(&scene.ca, Some(&known), "api.example");
    let refused = |scene: &Scene| {
        let mut world = scene.world(|_| panic!("no request may arrive"));
        world.config = Arc::clone(&demanding);
        world.run(&mut scene.issuance()).unwrap_err()
    };

    scene.identity = Identity::Certificate(others.credential());
    let error = refused(&scene);
    assert_eq!((error.failure, error.credential_refused), (Failure::Unauthorized, true));
    mentions(&error, &["TLS alert", "refused the client certificate"]);

    scene.identity = Identity::Token(Token::new("abcdef.0123456789abcdef").unwrap());
    let error = refused(&scene);
    assert_eq!((error.failure, error.credential_refused), (Failure::Unauthorized, false));
    mentions(&error, &["certificate_required", "requires a client certificate", "presented a bearer token"]);

    scene.identity = Identity::Certificate(known.credential());
    let mut world = scene.world(scene.well());
    world.config = demanding;
    world.run(&mut scene.issuance()).unwrap();
}

/// From the field, a user with a certificate and a token: <https://github.com/hjacobs/pykube/pull/44>
#[test]
fn client_sends_both_certificate_and_token() {
    let mut scene = Scene::new();
    let known = Ca::new("the known CA");
    let token = Token::new("abcdef.0123456789abcdef").unwrap();
    scene.identity = Identity::CertificateAndToken(known.credential(), token.clone());
    // This server refuses clients without a certificate.
    let demanding = server_config(&scene.ca, Some(&known), "api.example");
    let mut world = scene.world(scene.well());
    world.config = Arc::clone(&demanding);
    world.run(&mut scene.issuance()).unwrap();
    assert!(
        world.requests.iter().all(|request| request.head.contains("authorization: Bearer abcdef.0123456789abcdef\r\n"))
    );

    let error = scene.error(|_| Reply::status(401, "Unauthorized", "who?"));
    assert!(error.credential_refused);
    mentions(&error, &["a client certificate and a bearer token"]);
    scene.identity = Identity::CertificateAndToken(Ca::new("another CA").credential(), token);
    let mut world = scene.world(|_| panic!("no request may arrive"));
    world.config = demanding;
    assert!(world.run(&mut scene.issuance()).unwrap_err().credential_refused);
}

#[test]
fn tls_alert_is_reported_in_place_of_write_error() {
    let mut scene = Scene::new();
    scene.identity = Identity::Certificate(Ca::new("another CA").credential());
    let mut world = scene.world(|_| panic!("no request may arrive"));
    world.config = server_config(&scene.ca, Some(&scene.ca), "api.example");
    world.broken_transmit = 2;
    assert!(world.run(&mut scene.issuance()).unwrap_err().credential_refused);
}

#[test]
fn write_error_is_reported_if_no_tls_alert_follows() {
    let scene = Scene::new();
    let call = || Call::new(Request::get("/version"), scene.cluster(), Identity::Anonymous, Limits::default());
    for end in [End::Keep, End::Cut] {
        let mut world = scene.world(|_| Reply::silence().then(end));
        world.broken_transmit = 2;
        assert_eq!(world.run(&mut call()).unwrap_err(), ExchangeError::Broken("broken pipe".to_owned()));
        assert!(world.elapsed() <= Duration::from_secs(1));
    }
}

#[test]
fn client_authenticates_over_tls_1_2() {
    let mut scene = Scene::new();
    let known = Ca::new("the known CA");
    let config = server_config_for(&[&rustls::version::TLS12], &scene.ca, Some(&known), "api.example");
    scene.identity = Identity::Certificate(known.credential());
    let mut world = scene.world(scene.well());
    world.config = Arc::clone(&config);
    world.run(&mut scene.issuance()).unwrap();

    scene.identity = Identity::Certificate(Ca::new("another CA").credential());
    let mut world = scene.world(|_| panic!("no request may arrive"));
    world.config = config;
    assert!(world.run(&mut scene.issuance()).unwrap_err().credential_refused);
}

#[test]
fn http_401_marks_credential_as_refused() {
    let mut scene = Scene::new();
    scene.identity = Identity::Certificate(scene.ca.credential());
    assert!(scene.error(|_| Reply::status(401, "Unauthorized", "who?")).credential_refused);
}

#[test]
fn unknown_issuer_error_names_configured_ca() {
    let scene = Scene::new();
    let other = Ca::new("the wrong CA");
    let mut world = scene.world(|_| panic!("nothing may be sent"));
    world.config = server_config(&other, None, "api.example");
    let error = world.run(&mut scene.issuance()).unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable);
    mentions(&error, &["not trusted", "certificate-authority", "CN=the test CA", "https://api.example:6443"]);
}

/// The key of a server, and the parameters of its certificate. The client's CA bundle may contain this certificate
/// itself in the place of a CA.
struct OwnCertificate {
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
}

impl OwnCertificate {
    fn new(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Self {
        let mut params = rcgen::CertificateParams::new(["api.example".to_owned()]).unwrap();
        let at = |seconds| time::OffsetDateTime::from_unix_timestamp(EPOCH + seconds).unwrap();
        (params.not_before, params.not_after) = (at(-60), at(86_400));
        change(&mut params);
        Self { params, key: rcgen::KeyPair::generate().unwrap() }
    }

    /// Makes an HTTP request over TLS 1.3, then one over TLS 1.2. The server's certificate is signed by `issuer`, or
    /// self-signed if `issuer` is `None`. The client's CA bundle is `trusted`, or the server's certificate if `trusted`
    /// is `None`. Returns the first error.
    fn outcome(&self, scene: &Scene, issuer: Option<&Self>, trusted: Option<&str>) -> Result<(), String> {
        let pem = match issuer {
            Some(issuer) => {
                let issuer = rcgen::Issuer::from_params(&issuer.params, &issuer.key);
                self.params.signed_by(&self.key, &issuer).unwrap().pem()
            }
            None => self.params.self_signed(&self.key).unwrap().pem(),
        };
        let roots = Roots::from_pem(trusted.unwrap_or(&pem).as_bytes()).unwrap();
        for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
            let mut world = scene.world(|_| Reply::json(200, b"{}".to_vec()));
            world.config = server_config_with(versions, None, &pem, &self.key);
            let cluster = Cluster::from_url("https://api.example:6443").unwrap().with_roots(roots.clone());
            let mut call =
                Call::new(Request::get("/version"), Arc::new(cluster), Identity::Anonymous, Limits::default());
            world.run(&mut call).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// From the field, a server's own certificate in the place of its CA: <https://github.com/kube-rs/kube/issues/1767>,
/// <https://github.com/kube-rs/kube/issues/110>, <https://github.com/kube-rs/kube/issues/1562>
#[test]
fn server_certificate_in_ca_bundle_is_trusted() {
    use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
    let scene = Scene::new();
    let is_ca = |params: &mut rcgen::CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let works = |own: OwnCertificate, issuer: Option<&OwnCertificate>| own.outcome(&scene, issuer, None);
    assert_eq!(works(OwnCertificate::new(is_ca), None), Ok(()), "CA:TRUE");
    assert_eq!(works(OwnCertificate::new(|_| {}), None), Ok(()), "no basic constraints");
    assert_eq!(works(OwnCertificate::new(|params| params.is_ca = IsCa::ExplicitNoCa), None), Ok(()), "CA:FALSE");
    assert_eq!(works(OwnCertificate::new(|_| {}), Some(&OwnCertificate::new(is_ca))), Ok(()), "a leaf");
    let serves = |params: &mut rcgen::CertificateParams| {
        is_ca(params);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    assert_eq!(works(OwnCertificate::new(serves), None), Ok(()), "server auth");

    let past = time::OffsetDateTime::from_unix_timestamp(EPOCH - 1).unwrap();
    let future = time::OffsetDateTime::from_unix_timestamp(EPOCH + 60).unwrap();
    for own in [
        OwnCertificate::new(|params| {
            is_ca(params);
            params.not_after = past;
        }),
        OwnCertificate::new(|params| {
            is_ca(params);
            params.not_before = future;
        }),
        OwnCertificate::new(|params| {
            is_ca(params);
            params.subject_alt_names = vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())];
        }),
        OwnCertificate::new(|params| {
            is_ca(params);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }),
    ] {
        let why = own.outcome(&scene, None, None).unwrap_err();
        assert!(why.starts_with("the server's certificate is not trusted: "), "{why}");
    }
    // A certificate of the same name with another key is not trusted.
    let trusted = OwnCertificate::new(is_ca);
    let trusted = trusted.params.self_signed(&trusted.key).unwrap().pem();
    let why = OwnCertificate::new(is_ca).outcome(&scene, None, Some(&trusted)).unwrap_err();
    assert!(why.contains("not trusted"), "{why}");
}

fn issuance_at(scene: &Scene, cluster: Cluster) -> Issuance {
    Issuance::new(scene.desired_csr.clone(), Arc::new(cluster), scene.identity.clone(), Limits::default(), 7)
}

#[test]
fn server_certificate_of_other_name_needs_tls_server_name() {
    let scene = Scene::new();
    let cluster = || Cluster::from_url("https://10.0.0.1").unwrap().with_roots(scene.ca.roots());
    let mut world = scene.world(scene.well());
    let error = world.run(&mut issuance_at(&scene, cluster())).unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable);
    mentions(&error, &["10.0.0.1", "api.example"]);

    let cluster = cluster().with_tls_server_name("api.example").unwrap();
    world.run(&mut issuance_at(&scene, cluster)).unwrap();
}

#[test]
fn cluster_without_ca_fails_before_connecting_unless_insecure() {
    let scene = Scene::new();
    let cluster = || Cluster::from_url("https://api.example").unwrap();
    let mut world = scene.world(scene.well());
    let error = world.run(&mut issuance_at(&scene, cluster())).unwrap_err();
    assert_eq!((error.failure, error.health.map(client_go_healthy)), (Failure::Local, None));
    mentions(&error, &["certificate-authority"]);
    assert!(world.steps.is_empty());

    world.run(&mut issuance_at(&scene, cluster().with_insecure_skip_tls_verify())).unwrap();
}

#[test]
fn plain_http_server_is_reported_as_not_speaking_tls() {
    let scene = Scene::new();
    let mut world = scene.world(|_| panic!("not TLS"));
    world.not_tls = Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let error = world.run(&mut scene.issuance()).unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable);
    mentions(&error, &["does not speak TLS"]);
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
