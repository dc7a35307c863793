//! Many, slow or stuck clients: their cost to the server is bounded, and answers name the limit that a client reaches.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::support::text::*;
use crate::support::wire::Wire;
use crate::support::*;
use perennial::{Instant, Template};
use perennial_dev::faults::Plan;
use perennial_dev::{Answer, ApiRequest, Method, Options, Session, User};
use serde_json::{Value, json};

/// A request object of a little more than `filler` bytes.
fn large(name: &str, filler: usize) -> Value {
    let mut object = csr(name, CLIENT, &["client auth"], &request(&Template::new("x"), &key()));
    object["metadata"]["annotations"] = json!({ "filler": "x".repeat(filler) });
    object
}

/// Hands the API a request by an administrator, another client, while the connection of `wire` is open.
fn aside(wire: &mut Wire, method: Method, target: &str, object: &Value) {
    let mut request = with_body(method, target, object);
    request.peer = Some(Arc::new(User::new("x", ["system:masters"])));
    let Answer::Response(response) = wire.api.handle(&request, NOW) else { panic!("no response") };
    assert!(response.status < 300, "{}", String::from_utf8_lossy(&response.body));
    wire.drive();
}

/// Sends a request over `wire` and lets the server answer. The client does not read the answer.
fn send_without_reading(wire: &mut Wire, text: &str) {
    wire.exchange(b"");
    wire.client.writer().write_all(text.as_bytes()).unwrap();
    let mut to_server = Vec::new();
    wire.client.write_tls(&mut to_server).unwrap();
    wire.session.receive(&to_server);
    wire.drive();
}

fn transmitted(wire: &mut Wire) -> Vec<u8> {
    let mut out = Vec::new();
    let now = wire.now().instant;
    wire.session.transmit(&mut out, now);
    out
}

#[test]
fn list_is_written_only_as_fast_as_client_reads() {
    let mut wire = Wire::new(manual(), usize::MAX);
    for index in 0..100 {
        aside(&mut wire, Method::POST, COLLECTION, &large(&format!("n{index:02}"), 20_000));
    }
    send_without_reading(&mut wire, &get(COLLECTION));
    let mut pieces = 0;
    loop {
        let out = transmitted(&mut wire);
        if out.is_empty() {
            break;
        }
        assert!(out.len() < 50_000, "{}", out.len());
        pieces += 1;
        wire.take(&out);
        wire.drive();
    }
    assert!(pieces > 40, "{pieces} pieces of two megabytes");
    let text = wire.read();
    let list: Value = serde_json::from_str(&chunks(response(&text).2).0).unwrap();
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    assert!(names.len() == 100 && names.is_sorted() && names[99] == "n99", "{names:?}");
}

#[test]
fn list_read_late_shows_objects_as_of_its_request() {
    let mut wire = Wire::new(manual(), usize::MAX);
    for name in ["a", "b", "c", "d"] {
        aside(&mut wire, Method::POST, COLLECTION, &large(name, 20_000));
    }
    send_without_reading(&mut wire, &get(COLLECTION));
    aside(&mut wire, Method::DELETE, &format!("{COLLECTION}/d"), &json!({}));
    wire.pump();
    let text = wire.read();
    let list: Value = serde_json::from_str(&chunks(response(&text).2).0).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 4);
}

#[test]
fn slow_reader_is_disconnected_once_list_version_is_forgotten() {
    let mut wire = Wire::new(Options { history: 2, ..manual() }, usize::MAX);
    for name in ["a", "b", "c", "d"] {
        aside(&mut wire, Method::POST, COLLECTION, &large(name, 20_000));
    }
    send_without_reading(&mut wire, &get(COLLECTION));
    for name in ["a", "b", "c"] {
        aside(&mut wire, Method::DELETE, &format!("{COLLECTION}/{name}"), &json!({}));
    }
    wire.pump();
    let text = wire.read();
    assert!(text.contains("transfer-encoding: chunked") && !text.ends_with("\r\n0\r\n\r\n"), "the end is missing");
    assert!(wire.session.is_closed());
}

#[test]
fn buffered_list_stays_complete_after_its_version_is_forgotten() {
    let mut wire = Wire::new(Options { history: 2, ..manual() }, usize::MAX);
    for name in ["a", "b", "c"] {
        aside(&mut wire, Method::POST, COLLECTION, &large(name, 6_000));
    }
    send_without_reading(&mut wire, &get(COLLECTION));
    for name in ["a", "b", "c"] {
        aside(&mut wire, Method::DELETE, &format!("{COLLECTION}/{name}"), &json!({}));
    }
    wire.pump();
    let text = wire.read();
    let (list, complete) = chunks(response(&text).2);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((list["items"].as_array().unwrap().len(), complete), (3, Some("")));
}

#[test]
fn connection_closes_if_list_is_not_read_within_a_minute() {
    let mut wire = Wire::new(manual(), usize::MAX);
    for name in ["a", "b", "c", "d"] {
        aside(&mut wire, Method::POST, COLLECTION, &large(name, 20_000));
    }
    send_without_reading(&mut wire, &get(COLLECTION));
    // The client reads a little now and then, so that it is not dropped as silent.
    wire.millis = 50_000;
    assert!(!transmitted(&mut wire).is_empty());
    assert_eq!(wire.session.deadline(), Instant::from_millis(60_000));
    wire.millis = 60_000;
    wire.drive();
    assert!(wire.session.is_closed());
}

#[test]
fn watcher_that_does_not_read_gets_410() {
    let mut wire = Wire::new(Options { history: 16, ..manual() }, usize::MAX);
    wire.exchange(get(&format!("{COLLECTION}?watch=true")).as_bytes());
    for index in 0..100 {
        aside(&mut wire, Method::POST, COLLECTION, &large(&format!("n{index}"), 20_000));
    }
    let out = transmitted(&mut wire);
    assert!(out.len() < 50_000, "{}", out.len());
    wire.take(&out);
    wire.pump();
    let text = wire.read();
    let (events, ended) = lines(&text);
    let last = events.last().unwrap();
    assert!(ended && events.len() < 5, "{}", events.len());
    assert_eq!((&last["type"], &last["object"]["code"]), (&json!("ERROR"), &json!(410)));
}

#[test]
fn watcher_slow_to_read_initial_objects_gets_410() {
    let mut server = Server::new(Options { history: 2, ..manual() });
    for name in ["a", "b", "c"] {
        server.create(&Role::Bootstrap, &node_csr(name, "one"));
    }
    let mut watcher = server.watch("");
    assert_eq!(server.drain(&mut watcher).0, ["ADDED a", "ADDED b", "ADDED c"]);
    let mut watcher = server.watch("");
    for name in ["a", "b", "c"] {
        server.delete(&Role::Admin, name);
    }
    assert_eq!(server.drain(&mut watcher), (vec!["ERROR 410".to_owned()], true));
}

#[test]
fn next_answer_is_made_only_after_previous_one_is_sent() {
    let mut wire = Wire::new(manual(), usize::MAX);
    aside(&mut wire, Method::POST, COLLECTION, &large("a", 40_000));
    send_without_reading(&mut wire, &get(&format!("{COLLECTION}/a")).repeat(100));
    let mut answers = 0;
    loop {
        let out = transmitted(&mut wire);
        if out.is_empty() {
            break;
        }
        wire.take(&out);
        answers = wire.received.windows(15).filter(|bytes| bytes == b"HTTP/1.1 200 OK").count();
    }
    assert_eq!(answers, 1, "the next one is made when this one is sent");
    wire.pump();
    assert_eq!(wire.read().matches("HTTP/1.1 200 OK").count(), 100);
}

#[test]
fn body_of_unauthenticated_request_is_not_read() {
    for credential in ["x: y", "authorization: Bearer abcdef.0123456789abcdeg", "authorization: Basic YTpi"] {
        let mut wire = Wire::new(manual(), usize::MAX);
        let head = format!("POST {COLLECTION} HTTP/1.1\r\nhost: x\r\n{credential}\r\ncontent-length: 100000\r\n\r\n");
        let text = wire.exchange(head.as_bytes());
        let (status, head, body, rest) = response(&text);
        assert_eq!((status, rest), (401, ""), "{credential}");
        assert!(head.contains("connection: close") && body.contains("\"reason\":\"Unauthorized\""), "{text}");
        assert!(wire.session.is_closed() && !wire.session.wants_read());
    }
}

#[test]
fn client_beyond_the_connection_limit_gets_429() {
    for text in [get("/healthz"), post(&node_csr("a", "one"))] {
        let mut wire = Wire::new(manual(), usize::MAX);
        wire.session = Session::new(&wire.tls, Instant::default()).unwrap();
        wire.session.turn_away();
        let text = wire.exchange(text.as_bytes());
        let (status, head, body, _) = response(&text);
        assert_eq!(status, 429);
        assert!(head.contains("retry-after: 1\r\n") && head.contains("connection: close"), "{head}");
        assert!(body.contains("too many clients are connected"), "{body}");
        assert!(wire.session.is_closed() && wire.api.requests().next().is_none());
    }
}

#[test]
fn watch_beyond_the_limit_of_open_watches_gets_429() {
    let mut server = Server::new(Options { watches: 2, ..manual() });
    let (first, _second) = (server.watch(""), server.watch(""));
    let refused = server.list(&Role::Admin, "watch=true");
    assert_eq!(
        (refused.0, message(&refused)),
        (429, "this server has 2 watches open, its limit; end some, or try again")
    );
    assert_eq!(refused.1["details"]["retryAfterSeconds"], 1);
    drop(first);
    let request = ApiRequest::new(Method::GET, format!("{COLLECTION}?watch=true"));
    assert!(matches!(server.answer(&Role::Admin, request), Answer::Watch(_)));
}

#[test]
fn create_or_update_beyond_memory_limit_gets_429() {
    let mut server = Server::new(Options { memory: 100_000, ..manual() });
    for name in ["a", "b", "c"] {
        assert_eq!(server.create(&Role::Bootstrap, &large(name, 30_000)).0, 201);
    }
    let refused = server.create(&Role::Bootstrap, &large("d", 30_000));
    assert_eq!((refused.0, &refused.1["reason"]), (429, &json!("TooManyRequests")));
    assert!(message(&refused).contains("97 KiB of them"), "{refused:?}");
    assert_eq!(server.create(&Role::Bootstrap, &large("d", 10)).0, 201);
    let grown = server.put(&Role::Admin, "d", &large("d", 30_000));
    assert_eq!((grown.0, &grown.1["reason"]), (429, &json!("TooManyRequests")));
    assert_eq!(server.put(&Role::Admin, "a", &large("a", 10)).0, 200, "less is always possible");
    assert_eq!(server.put(&Role::Admin, "d", &large("d", 30_000)).0, 200);
    assert_eq!(server.approve("d").0, 200);
    assert!(server.chain("d").is_some(), "what a controller adds is never too much");
}

#[test]
fn handshake_unfinished_after_ten_seconds_closes_the_connection() {
    let mut wire = Wire::new(manual(), usize::MAX);
    assert_eq!(wire.session.deadline(), Instant::from_millis(10_000));
    let mut hello = Vec::new();
    wire.client.write_tls(&mut hello).unwrap();
    wire.millis = 9_999;
    wire.session.receive(&hello[..hello.len() / 2]);
    wire.drive();
    assert!(!wire.session.is_closed());
    wire.millis = 10_000;
    wire.drive();
    assert!(wire.session.is_closed());
}

#[test]
fn deadline_of_an_idle_watch_is_its_next_bookmark() {
    let mut wire = Wire::new(manual(), usize::MAX);
    let selector = "watch=true&allowWatchBookmarks=true&resourceVersion=1&fieldSelector=metadata.name%3Db";
    wire.exchange(get(&format!("{COLLECTION}?{selector}")).as_bytes());
    assert_eq!(wire.session.deadline(), Instant::from_millis(1_800_000), "there is nothing to tell");
    aside(&mut wire, Method::POST, COLLECTION, &node_csr("a", "one"));
    assert_eq!(wire.session.deadline(), Instant::from_millis(60_000));
    wire.millis = 60_000;
    wire.pump();
    let text = wire.read();
    let (events, _) = lines(&text);
    assert_eq!((events.len(), &events[0]["type"]), (1, &json!("BOOKMARK")));
    assert_eq!(events[0]["object"]["metadata"]["resourceVersion"], "2");
    assert!(wire.session.deadline() > Instant::default().after(Duration::from_secs(1000)));
}

#[test]
fn session_deadline_is_in_the_future_after_each_drive() {
    let plan = r#"{"rules":[{"fault":{"trickle":"1s"}}]}"#;
    for plan in [None, Some(plan)] {
        let mut wire = Wire::new(manual(), usize::MAX);
        for name in ["a", "b", "c"] {
            aside(&mut wire, Method::POST, COLLECTION, &large(name, 20_000));
        }
        if let Some(plan) = plan {
            wire.api.set_faults(Plan::parse(plan).unwrap(), NOW);
        }
        send_without_reading(&mut wire, &get(COLLECTION));
        for millis in [0, 1, 1000, 30_000] {
            wire.millis = millis;
            wire.drive();
            assert!(wire.session.deadline() > wire.now().instant, "after {millis} ms");
            transmitted(&mut wire);
            assert!(wire.session.deadline() > wire.now().instant, "after {millis} ms");
        }
    }
}

/// All that a client receives after it has closed its sending side, until the server closes the connection.
fn last_words(wire: &mut Wire) -> String {
    wire.session.receive_eof();
    for _ in 0..10_000 {
        wire.drive();
        let out = transmitted(wire);
        wire.take(&out);
        if wire.session.is_closed() && out.is_empty() {
            return wire.read();
        }
    }
    panic!("the connection does not close");
}

#[test]
fn client_that_closes_its_sending_side_gets_all_answers() {
    let mut wire = Wire::new(manual(), usize::MAX);
    for index in 0..30 {
        aside(&mut wire, Method::POST, COLLECTION, &large(&format!("n{index:02}"), 20_000));
    }
    let texts = [get(COLLECTION), get(&format!("{COLLECTION}/n00")).repeat(10), get(COLLECTION)];
    send_without_reading(&mut wire, &texts.concat());
    let text = last_words(&mut wire);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 12);
    for list in [&text, &text[text.rfind("HTTP/1.1").unwrap()..]] {
        let list: Value = serde_json::from_str(&chunks(response(list).2).0).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 30);
    }
}
