//! Unexpected answers, legal and illegal: how a submission ends, and the error message that it returns.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use perennial::{Failure, UnixTime};
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_rotation::{Identity, SignerConversation as _, Token};

const SECRET: &str = "abcdef.0123456789abcdef";

/// A reply with the header lines `lines` and this body.
fn with_lines(status: u16, lines: &str, body: &[u8]) -> Reply {
    let head = format!("HTTP/1.1 {status} X\r\n{lines}Content-Length: {}\r\n\r\n", body.len());
    Reply::raw([head.as_bytes(), body].concat())
}

#[test]
fn every_request_forbids_compressed_answer() {
    let scene = Scene::new();
    let mut world = scene.world(scene.well());
    world.run(&mut scene.issuance()).unwrap();
    for request in &world.requests {
        assert!(request.head.contains("\r\naccept-encoding: identity\r\n"), "{}", request.head);
    }
}

/// From the field, a proxy that compresses answers although the request accepts none:
/// <https://github.com/envoyproxy/envoy/issues/2855>
#[test]
fn compressed_answer_fails_submission_naming_its_encoding() {
    let scene = Scene::new();
    let object = serde_json::to_vec(&scene.object(&[])).unwrap();
    let gzip = [b"\x1f\x8b\x08".as_slice(), &object].concat();
    for (coded, requests) in [("POST", 1), ("GET", 2), ("watch", 2)] {
        let mut world = scene.world(|request| {
            let (post, watch) = (request.is_post(), request.is_watch());
            match coded {
                "POST" => with_lines(201, "Content-Encoding: gzip\r\n", &gzip),
                "GET" if post => Reply::status(409, "AlreadyExists", "it is there"),
                "watch" if !watch => Reply::json(201, object.clone()),
                _ => with_lines(200, "Content-Encoding: gzip\r\n", &gzip),
            }
        });
        let error = world.run(&mut scene.issuance()).unwrap_err();
        assert_eq!((error.failure, world.requests.len()), (Failure::Unreachable, requests), "{coded}: {error}");
        assert!(error.message.contains("encoded (gzip)") && error.message.contains("proxy"), "{error}");
        assert!(!error.message.chars().any(|c| c.is_control() || c == '\u{fffd}'), "{error}");
    }
}

#[test]
fn answer_over_size_limit_fails_submission() {
    let scene = Scene::new();
    let object = serde_json::to_vec(&scene.object(&[])).unwrap();
    let mut world = scene.world(|request| {
        if request.is_post() {
            Reply::status(409, "AlreadyExists", "there")
        } else {
            with_lines(200, "", &[b' '; 5 << 20])
        }
    });
    let error = world.run(&mut scene.issuance()).unwrap_err();
    assert_eq!((error.failure, world.requests.len()), (Failure::Unreachable, 2), "{error}");
    assert!(error.message.contains("longer than 4 MiB"), "{error}");
    drop(world);
    let long = format!("X: {}\r\n", "y".repeat(1000)).repeat(80);
    let error = scene.error(|_| with_lines(201, &long, &object));
    assert!(error.message.contains("response head is longer"), "{error}");
}

#[test]
fn response_with_many_or_folded_header_lines_is_accepted() {
    let scene = Scene::new();
    let issued = serde_json::to_vec(&scene.issued()).unwrap();
    let many: String = (0..150).map(|n| format!("X-Envoy-{n}: y\r\n")).collect();
    for lines in [many.as_str(), "X-Folded: a\r\n b\r\n", "Server : gateway\r\n", "Content-Encoding: identity\r\n"] {
        let (outcome, lines_asked) = scene.run(|_| with_lines(201, lines, &issued));
        outcome.unwrap();
        assert_eq!(lines_asked.len(), 1, "{lines}");
    }
}

/// From the field, a redirect in front of the API server: <https://github.com/kubernetes/website/issues/11029>
#[test]
fn redirect_is_not_followed_and_error_names_target() {
    let mut scene = Scene::new();
    scene.identity = Identity::Token(Token::new(SECRET).unwrap());
    for status in [301, 302, 303, 307, 308] {
        let lines = "Location: https://login.example/?from=k8s\r\nContent-Type: text/html\r\n";
        let mut world = scene.world(|_| with_lines(status, lines, b"<a>moved</a>"));
        let error = world.run(&mut scene.issuance()).unwrap_err();
        assert_eq!((error.failure, world.requests.len()), (Failure::Unreachable, 1), "{error}");
        let expected = format!("the server answered {status}");
        for part in [&expected, "a redirect to https://login.example/?from=k8s", "`server`"] {
            assert!(error.message.contains(part), "{error} lacks {part}");
        }
    }
    let error = scene.error(|_| with_lines(302, "", b""));
    assert!(error.message.contains("a redirect that names no target"), "{error}");
}

#[test]
fn error_hides_echoed_token() {
    let mut scene = Scene::new();
    scene.identity = Identity::Token(Token::new(SECRET).unwrap());
    let page = format!("no such token: {SECRET}, {SECRET}!");
    let location = format!("Location: https://x.example/?token={SECRET}\r\nContent-Type: text/{SECRET}\r\n");
    for (status, body) in [(401, page.as_bytes()), (200, page.as_bytes()), (302, b""), (503, page.as_bytes())] {
        let error = scene.error(|_| with_lines(status, &location, body));
        assert!(!error.message.contains(SECRET), "{error}");
        assert!(error.message.contains("[token]"), "{error}");
    }
    let error = scene.error(|_| Reply::status(403, "Forbidden", &format!("User {SECRET} may not")));
    assert!(error.message.contains("User [token] may not"), "{error}");
    let error = scene.error(|_| with_lines(200, &format!("Content-Encoding: {SECRET}\r\n"), b""));
    assert!(error.message.contains("encoded ([token])"), "{error}");
    let mut denied = scene.object(&["Denied"]);
    denied.status.conditions[0].message = format!("User {SECRET} may not");
    let error = scene.error(|request| match request.is_post() {
        true => Reply::object(201, &scene.object(&[])),
        false => Reply::stream().event("MODIFIED", &denied),
    });
    assert!(error.message.contains("User [token] may not"), "{error}");
}

#[test]
fn error_of_refused_create_begins_with_cannot_create() {
    let scene = Scene::new();
    for (code, reason) in [(401, "Unauthorized"), (403, "Forbidden")] {
        let error = scene.error(|_| Reply::status(code, reason, "no"));
        assert!(error.message.starts_with(&format!("cannot create CSR {} at ", scene.desired_csr.name)), "{error}");
    }
    let denied = scene.object(&["Denied"]);
    let error = scene.error(|_| Reply::object(201, &denied));
    assert!(error.message.starts_with(&format!("CSR {} at ", scene.desired_csr.name)), "{error}");
}

#[test]
fn date_header_is_reported_only_if_server_is_verified() {
    let scene = Scene::new();
    let issued = serde_json::to_vec(&scene.issued()).unwrap();
    let line = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let date = Some(UnixTime::from_secs(784_111_777));
    let anyone = Arc::new(Cluster::from_url("https://api.example:6443").unwrap().with_insecure_skip_tls_verify());
    for (cluster, line, expected) in [
        (scene.cluster(), line, date),
        (scene.cluster(), "", None),
        (scene.cluster(), "Date: soon\r\n", None),
        (anyone, line, None),
    ] {
        let mut world = scene.world(|_| with_lines(201, line, &issued));
        let desired_csr = scene.desired_csr.clone();
        let mut issuance = perennial_kubernetes::client::Issuance::new(
            desired_csr,
            cluster,
            Identity::Anonymous,
            Limits::default(),
            7,
        );
        world.run(&mut issuance).unwrap();
        assert_eq!(issuance.health().unwrap().date.map(|date| date.unix), expected, "{line}");
    }
}

#[test]
fn error_names_expired_server_certificate() {
    let scene = Scene::new();
    let mut world = scene.world(|_| panic!("nothing may be sent"));
    world.now.unix = world.now.unix.after(Duration::from_secs(86_400 * 400));
    let mut call = Call::new(Request::get("/version"), scene.cluster(), Identity::Anonymous, Limits::default());
    let error = world.run(&mut call).unwrap_err().to_string();
    assert!(error.contains("not trusted: certificate `"), "{error}");
    assert!(error.contains("expired at ") && !error.contains("certificate-authority"), "{error}");
}

/// The issued certificate has only `client auth` and `digital signature`. The submission must fail if it requested
/// another extended key usage, and succeed if only a key usage differs.
#[test]
fn certificate_without_requested_extended_usage_is_refused() {
    for (usages, lacking) in [
        (&["digital signature", "client auth"][..], None),
        (&["digital signature", "key encipherment", "client auth"], None),
        (&["digital signature"], None),
        (&["client auth", "server auth"], Some("extended key usage lacks `server auth`")),
    ] {
        let mut scene = Scene::new();
        scene.desired_csr.usages = usages.iter().map(|usage| (*usage).to_owned()).collect();
        let (outcome, _) = scene.run(scene.well());
        let found = outcome.map(|issued| issued.chain).map_err(|error| (error.failure, error.message));
        match (found, lacking) {
            (Ok(_), None) => {}
            (Err((Failure::BadCertificate, message)), Some(lacking)) => assert!(message.contains(lacking), "{message}"),
            (found, _) => panic!("{usages:?}: {found:?}"),
        }
    }
}
