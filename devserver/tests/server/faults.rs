//! Fault plans: the requests that a rule matches, errors in plans, and the bytes that clients receive.

use std::time::Duration;

use crate::support::wire::Wire;
use crate::support::{COLLECTION, TOKEN, after, node_csr};
use perennial_dev::faults::{Fault, Plan};
use perennial_dev::{Break, Options, User};
use serde_json::{Value, json};

fn plan(rules: &str) -> Plan {
    Plan::parse(&format!("rules: [{rules}]")).unwrap()
}

/// A server whose fault plan has these rules, and a client.
fn wire(rules: &str) -> Wire {
    let mut wire = Wire::new(Options::default(), usize::MAX);
    wire.api.set_faults(plan(rules), after(0));
    wire
}

fn get(wire: &mut Wire, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    wire.exchange(head.as_bytes())
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

const TEAPOT: &str = "fault: { answer: { status: 418 } }";

#[test]
fn rule_applies_to_matching_requests_only() {
    let about = [
        ("method: GET", "/version", "418"),
        ("method: POST", "/version", "200"),
        ("path: /version", "/version?timeout=1s", "418"),
        ("path: /vers", "/version", "200"),
        ("path: /ver*", "/version", "418"),
        ("subresource: approval", "/x/approval", "418"),
        ("subresource: approval", "/version", "200"),
        ("user: 'system:bootstrap:abcdef'", "/version", "418"),
        ("user: admin", "/version", "200"),
    ];
    for (matches, path, expected) in about {
        let mut wire = wire(&format!("{{ match: {{ {matches} }}, {TEAPOT} }}"));
        assert_eq!(status(&get(&mut wire, path)), expected, "{matches} {path}");
    }
}

#[test]
fn nth_2_and_times_2_select_second_and_third_request() {
    let mut wire = wire(&format!("{{ match: {{ nth: 2 }}, times: 2, {TEAPOT} }}"));
    let answers: Vec<String> = (0..5).map(|_| get(&mut wire, "/version")).collect();
    let codes: Vec<&str> = answers.iter().map(|answer| status(answer)).collect();
    assert_eq!(codes, ["200", "418", "418", "200", "200"]);
}

#[test]
fn rule_with_after_and_until_applies_only_in_between() {
    let mut wire = wire(&format!("{{ match: {{ after: 10s, until: 1m }}, {TEAPOT} }}"));
    let mut codes = Vec::new();
    for millis in [9_999, 10_000, 59_999, 60_000] {
        wire.millis = millis;
        codes.push(status(&get(&mut wire, "/version")).to_owned());
    }
    assert_eq!(codes, ["200", "418", "418", "200"]);
}

#[test]
fn first_matching_rule_applies_until_an_empty_plan_is_set() {
    let mut wire = wire(&format!("{{ times: 1, fault: {{ answer: {{ status: 503 }} }} }}, {{ {TEAPOT} }}"));
    assert_eq!(status(&get(&mut wire, "/version")), "503");
    assert_eq!(status(&get(&mut wire, "/version")), "418");
    let journal: Vec<&str> = wire.api.journal().collect();
    assert_eq!(journal, ["GET /version", "GET /version"]);
    wire.api.set_faults(Plan::default(), after(0));
    assert_eq!(status(&get(&mut wire, "/version")), "200");
}

#[test]
fn error_in_a_fault_plan_is_reported_with_line_column_and_field() {
    let wrong = [
        ("rules:\n- fault: silense\n", 2, "fault: unknown variant `silense`"),
        ("rules:\n- match: { methd: GET }\n  fault: silence\n", 2, "methd"),
        ("rules:\n- fault: { answer: { status: 70000 } }\n", 2, "status"),
        ("rules:\n- match:\n    method: GET\n", 2, "fault"),
        ("rules:\n- match:\n    after: soon\n  fault: silence\n", 3, "after: \"soon\""),
        ("rules:\n- match: { nth: 0 }\n  fault: silence\n", 2, "match.nth"),
        ("rules:\n- match: { path: / }\n  fault: { connection: reset }\n", 2, "match"),
        ("{\"rules\": [\n {\"fault\": {\"delay\": \"5 parsecs\"}}\n]}", 2, "delay: \"5 parsecs\""),
        ("rules:\n- fault: { answer: { status: 100 } }\n", 2, "fault.answer.status"),
        ("rules:\n- fault: { contentType: \"a\\r\\nb: c\" }\n", 2, "fault.contentType"),
        ("rules: [", 1, ""),
        ("rule: []", 1, "rule"),
    ];
    for (text, line, names) in wrong {
        let error = Plan::parse(text).unwrap_err();
        assert!(error.line == line && error.column > 0 && error.reason.contains(names), "{text}: {error}");
    }
}

#[test]
fn fault_plan_in_json_parses_as_in_yaml() {
    let json = r#"{"rules": [{"match": {"method": "GET"}, "times": 3, "fault": {"delay": "250ms"}}]}"#;
    let yaml = "rules:\n- match:\n    method: GET\n  times: 3\n  fault:\n    delay: 250ms\n";
    let plan = Plan::parse(json).unwrap();
    assert_eq!(plan, Plan::parse(yaml).unwrap());
    assert_eq!(plan.rules[0].fault, Fault::Delay(Duration::from_millis(250)));
}

#[test]
fn delayed_answer_is_sent_once_the_delay_is_over() {
    let mut wire = wire("{ fault: { delay: 200s } }");
    assert_eq!(get(&mut wire, "/version"), "");
    assert_eq!(wire.session.deadline().as_millis(), 200_000);
    wire.millis = 199_999;
    wire.pump();
    assert_eq!(wire.read(), "");
    wire.millis = 200_000;
    wire.pump();
    assert_eq!(status(&wire.read()), "200");
    assert!(!wire.session.is_closed());
}

#[test]
fn connection_without_answer_closes_at_the_session_deadline() {
    let mut wire = wire("{ fault: silence }");
    assert_eq!(get(&mut wire, "/version"), "");
    assert!(!wire.session.is_closed());
    wire.millis = wire.session.deadline().as_millis();
    wire.drive();
    assert!(wire.session.is_closed());
}

#[test]
fn cut_answer_is_a_prefix_of_the_whole_answer() {
    let whole = get(&mut Wire::new(Options::default(), usize::MAX), "/version");
    let head = whole.find("\r\n\r\n").unwrap() + 4;
    let cuts = [
        ("beforeHead", 0),
        ("inHead", head / 2),
        ("afterHead", head),
        ("inChunk", head + 1),
        ("inBody", head + (whole.len() - head) / 2),
        ("afterBody", whole.len()),
    ];
    for (at, length) in cuts {
        for (how, breaks) in [("cut", None), ("reset", Some(Break::Midway))] {
            let mut wire = wire(&format!("{{ fault: {{ {how}: {at} }} }}"));
            assert_eq!(get(&mut wire, "/version"), whole[..length], "{at}");
            assert!(wire.session.is_closed(), "{at}");
            assert_eq!(wire.session.breaks(), breaks, "{at}");
            // No close_notify, which would mark an orderly end.
            assert!(wire.client.wants_read(), "{at}");
        }
    }
}

#[test]
fn trickled_answer_is_complete_and_slow() {
    let whole = get(&mut Wire::new(Options::default(), usize::MAX), "/version");
    let mut wire = wire("{ fault: { trickle: 1s } }");
    let mut got = get(&mut wire, "/version");
    while got.len() < whole.len() {
        let before = got.len();
        wire.millis = wire.session.deadline().as_millis();
        wire.pump();
        got += &wire.read();
        assert_eq!(got.len(), before + 1);
    }
    assert_eq!(got, whole);
    assert!(wire.millis >= 1000 * (whole.len() as u64 - 2), "{}", wire.millis);
}

#[test]
fn session_reports_connection_faults_to_its_driver() {
    for (fault, kind) in [("refused", Break::Refused), ("reset", Break::Reset)] {
        let mut wire = wire(&format!("{{ fault: {{ connection: {fault} }} }}"));
        assert_eq!(wire.session.breaks(), None);
        wire.drive();
        assert_eq!(wire.session.breaks(), Some(kind));
    }
}

#[test]
fn fault_in_an_answer_leaves_the_stored_object_unchanged() {
    let mut wire = wire("{ fault: { object: denied } }");
    let body = node_csr("mine", "worker-1").to_string();
    let length = body.len();
    let answer = wire.exchange(
        format!(
            "POST {COLLECTION} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .as_bytes(),
    );
    assert!(status(&answer) == "201" && answer.contains("\"Denied\""), "{answer}");
    let stored = wire.api.requests().next().unwrap();
    assert!(stored.status.conditions.iter().all(|condition| condition.type_ == "Approved"), "{stored:?}");
    assert!(!stored.status.certificate.is_empty());
}

#[test]
fn injected_bookmark_has_the_kind_of_the_watched_resource() {
    for (path, kind) in
        [("/apis/certificates.k8s.io/v1beta1/clustertrustbundles", "ClusterTrustBundle"), ("/api/v1/pods", "Pod")]
    {
        let mut wire = wire("{ fault: { events: onlyBookmarks } }");
        wire.api.add_token("root", User::new("admin", ["system:masters"]));
        wire.api.put_pod("shop", "web", "seller", "one", after(0)).unwrap();
        let ca = wire.api.authority().certificate_pem().to_owned();
        wire.api.put_trust_bundle("a", "", &ca, after(0)).unwrap();
        let head = format!("GET {path}?watch=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer root\r\n\r\n");
        let answer = wire.exchange(head.as_bytes());
        let line = answer.lines().find(|line| line.starts_with("{\"type\"")).unwrap();
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("BOOKMARK"), &json!(kind)));
    }
}
