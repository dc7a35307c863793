//! Sessions with the embedded server: TLS and HTTP in memory, with the bytes split at any place.

use std::time::Duration;

use crate::support::text::*;
use crate::support::wire::{Wire, client};
use crate::support::*;
use perennial::Instant;
use perennial_dev::{Authority, Options, Session};
use serde_json::{Value, json};

#[test]
fn any_split_of_bytes_gives_the_same_answers() {
    for piece in [1, 2, 7, 1000, usize::MAX] {
        let mut wire = Wire::new(Options::default(), piece);
        let text = wire.exchange(post(&node_csr("a", "one")).as_bytes());
        let (status, _, body, rest) = response(&text);
        assert_eq!((status, rest), (201, ""), "{piece}");
        let created: Value = serde_json::from_str(body).unwrap();
        let version = created["metadata"]["resourceVersion"].as_str().unwrap();

        let target = format!("{COLLECTION}?watch=true&resourceVersion={version}&timeoutSeconds=5");
        let text = wire.exchange(get(&target).as_bytes());
        let (status, head, body, _) = response(&text);
        assert!(status == 200 && head.contains("transfer-encoding: chunked"), "{head}");
        let (events, ended) = lines(body);
        assert!(events.len() == 2 && !ended && wire.session.is_watching());
        assert!(events[1]["object"]["status"]["certificate"].is_string());

        wire.millis = 5000;
        wire.pump();
        assert_eq!(wire.read(), "0\r\n\r\n", "the watch ends, the connection does not");
        let text = wire.exchange(get(COLLECTION).as_bytes());
        assert_eq!(response(&text).0, 200);
        assert!(!wire.session.is_closed());
    }
}

#[test]
fn response_head_of_a_watch_is_sent_before_any_event() {
    let mut wire = Wire::new(Options::default(), usize::MAX);
    let text = wire.exchange(get(&format!("{COLLECTION}?watch=true")).as_bytes());
    assert_eq!(response(&text).0, 200);
    assert_eq!(wire.session.deadline(), Instant::from_millis(1_800_000), "half an hour by default");
}

#[test]
fn watch_sends_changes_made_by_other_clients() {
    let mut wire = Wire::new(manual(), usize::MAX);
    wire.exchange(get(&format!("{COLLECTION}?watch=true")).as_bytes());
    // Sends a request of another client, over a session of its own.
    let mut other = Session::new(&wire.tls, Instant::default()).unwrap();
    std::mem::swap(&mut wire.session, &mut other);
    let second = client(wire.api.authority(), None);
    let first = std::mem::replace(&mut wire.client, second);
    assert_eq!(response(&wire.exchange(post(&node_csr("a", "one")).as_bytes())).0, 201);
    wire.session = other;
    wire.client = first;
    wire.pump();
    let text = wire.read();
    let (events, ended) = lines(&text);
    assert_eq!((events.len(), ended, &events[0]["type"]), (1, false, &json!("ADDED")));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut wire = Wire::new(manual(), 5);
    let all = [post(&node_csr("a", "one")), get(&format!("{COLLECTION}/a")), get(&format!("{COLLECTION}/b"))].concat();
    let text = wire.exchange(all.as_bytes());
    let (first, _, _, rest) = response(&text);
    let (second, _, _, rest) = response(rest);
    let (third, _, _, rest) = response(rest);
    assert_eq!((first, second, third, rest), (201, 200, 404, ""));
}

#[test]
fn chunked_body_is_read_after_100_continue() {
    let mut wire = Wire::new(manual(), usize::MAX);
    let head = format!(
        "POST {COLLECTION} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
    );
    assert_eq!(wire.exchange(head.as_bytes()), "HTTP/1.1 100 Continue\r\n\r\n");
    let body = node_csr("a", "one").to_string();
    let (start, end) = body.split_at(100);
    let chunks = format!("{:x}\r\n{start}\r\n{:x};x=y\r\n{end}\r\n0\r\n\r\n", start.len(), end.len());
    assert_eq!(response(&wire.exchange(chunks.as_bytes())).0, 201);
}

#[test]
fn invalid_framing_is_refused_and_closes_the_connection() {
    let long = "x".repeat(70_000);
    let head = |method: &str, fields: &str| {
        format!("{method} {COLLECTION} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n{fields}\r\n")
    };
    for (bytes, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        (head("GET", &format!("x: {long}\r\n")), 431),
        (head("POST", ""), 411),
        (head("POST", "content-length: 131073\r\n"), 413),
        (head("POST", "content-length: 5\r\ntransfer-encoding: chunked\r\n"), 400),
        (head("POST", "transfer-encoding: gzip, chunked\r\n"), 400),
        (head("POST", "content-length: 5\r\ncontent-length: 6\r\n"), 400),
        (head("POST", "transfer-encoding: chunked\r\n") + "zz\r\n", 400),
        (head("HEAD", "content-length: 5\r\n"), 400),
        (head("GET", "").replace("HTTP/1.1", "HTTP/1.0"), 505),
    ] {
        let mut wire = Wire::new(manual(), 10_000);
        let text = wire.exchange(bytes.as_bytes());
        let (found, head, body, rest) = response(&text);
        assert_eq!((found, rest), (status, ""), "{bytes:.200}");
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(serde_json::from_str::<Value>(body).unwrap()["kind"], "Status");
        assert!(wire.session.is_closed() && !wire.session.wants_read());
    }
}

#[test]
fn chunked_body_over_the_limit_gets_413_before_its_end() {
    let mut wire = Wire::new(manual(), usize::MAX);
    let head = format!(
        "POST {COLLECTION} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let mut text = wire.exchange(head.as_bytes());
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..3 {
        if wire.session.is_closed() {
            break;
        }
        text += &wire.exchange(chunk.as_bytes());
    }
    assert_eq!(response(&text).0, 413);
    assert!(wire.session.is_closed());
}

#[test]
fn head_request_gets_no_body_and_connection_close_is_honoured() {
    let mut wire = Wire::new(manual(), usize::MAX);
    let text = wire.exchange(get(COLLECTION).replace("GET", "HEAD").as_bytes());
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    let text = wire.exchange(get(&format!("{COLLECTION}?watch=1")).replace("GET", "HEAD").as_bytes());
    assert!(text.ends_with("\r\n\r\n") && !wire.session.is_watching());
    let last = get(COLLECTION).replace("host:", "connection: close\r\nhost:");
    assert_eq!(response(&wire.exchange(last.as_bytes())).0, 200);
    assert!(wire.session.is_closed());
}

#[test]
fn client_certificate_authenticates_without_a_token() {
    let mut wire = Wire::with_client(manual(), usize::MAX, |authority, random| {
        authority.client_credential("system:node:one", &["system:nodes"], random, NOW, DAY).ok()
    });
    let anonymous = post(&node_csr("a", "one")).replace("authorization", "x-authorization");
    let text = wire.exchange(anonymous.as_bytes());
    let (status, _, body, _) = response(&text);
    let created: Value = serde_json::from_str(body).unwrap();
    assert_eq!((status, &created["spec"]["username"]), (201, &json!("system:node:one")));
    assert!(created["spec"]["extra"]["authentication.kubernetes.io/credential-id"][0].is_string());
}

#[test]
fn an_expired_client_certificate_ends_the_handshake_with_an_alert() {
    let mut wire = Wire::with_client(manual(), usize::MAX, |authority, random| {
        authority.client_credential("x", &[], random, NOW.before(DAY), Duration::from_secs(3600)).ok()
    });
    wire.exchange(get(COLLECTION).as_bytes());
    assert_eq!(wire.error, Some(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired)));
    assert!(wire.session.is_closed());
}

#[test]
fn client_certificate_of_another_ca_ends_the_handshake() {
    let mut wire = Wire::with_client(manual(), usize::MAX, |_, random| {
        let other = Authority::generate(random, NOW, DAY).ok()?;
        other.client_credential("x", &["system:masters"], random, NOW, DAY).ok()
    });
    wire.exchange(get(COLLECTION).as_bytes());
    assert!(matches!(wire.error, Some(rustls::Error::AlertReceived(_))), "{:?}", wire.error);
    assert!(wire.session.is_closed());
}

#[test]
fn plaintext_gets_a_tls_alert() {
    let mut wire = Wire::new(manual(), usize::MAX);
    wire.session.receive(get("/").as_bytes());
    wire.drive();
    let mut out = Vec::new();
    wire.session.transmit(&mut out, Instant::default());
    assert!(out.first() == Some(&21) && wire.session.is_closed(), "{out:?}");
}

#[test]
fn silent_client_times_out_and_idle_watch_does_not() {
    let mut wire = Wire::new(manual(), usize::MAX);
    wire.exchange(get(COLLECTION).as_bytes());
    assert_eq!(wire.session.deadline(), Instant::from_millis(120_000));
    wire.millis = 119_999;
    wire.drive();
    assert!(!wire.session.is_closed());
    wire.exchange(get(&format!("{COLLECTION}?watch=true&timeoutSeconds=1000")).as_bytes());
    wire.millis = 600_000;
    wire.drive();
    assert!(!wire.session.is_closed() && wire.session.is_watching());
    wire.millis = 1_200_000;
    wire.pump();
    assert!(!wire.session.is_watching());
    wire.millis += 120_000;
    wire.drive();
    assert!(wire.session.is_closed());
}

#[test]
fn client_that_closes_its_side_ends_its_watch() {
    let mut wire = Wire::new(manual(), usize::MAX);
    wire.exchange(get(&format!("{COLLECTION}?watch=true")).as_bytes());
    wire.session.receive_eof();
    wire.drive();
    let mut out = Vec::new();
    wire.session.transmit(&mut out, Instant::default());
    wire.drive();
    assert!(wire.session.is_closed() && !wire.session.is_watching());
}

#[test]
fn field_names_in_warnings_cannot_inject_headers() {
    let mut wire = Wire::new(manual(), usize::MAX);
    let mut object = node_csr("a", "one");
    object["spec"]["x\"\r\nset-cookie: é"] = 1.into();
    object["plain"] = 1.into();
    let text = wire.exchange(post(&object).as_bytes());
    let (status, head, body, rest) = response(&text);
    assert_eq!((status, rest), (201, ""), "{text}");
    let warnings: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    assert_eq!(warnings.len(), 2, "{head}");
    assert!(warnings.contains(&r#"299 - "unknown field \"plain\"""#), "{warnings:?}");
    assert!(!head.contains("\nset-cookie") && head.is_ascii() && !body.contains("set-cookie"));
}
