//! Submissions to a server whose bytes arrive in portions of any size, incomplete, without end, damaged or random.

use std::time::Duration;

use crate::support::*;
use perennial::Failure;
use perennial_kubernetes::client::{Call, ExchangeError, Limits, Request};
use perennial_rotation::Identity;
use proptest::collection::vec;
use proptest::prelude::*;

/// A server whose answers are unusual, though legal: interim heads, chunk extensions, an answer that ends with its
/// connection, a watch that ends with 410, two events in one chunk, one event in many chunks, trailers.
fn troubled(scene: &Scene) -> impl FnMut(&ReceivedRequest) -> Reply + '_ {
    let mut watches = 0;
    move |request| match (request.is_post(), request.is_watch()) {
        (true, _) => {
            let mut reply = Reply::object(201, &scene.object(&[]));
            let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
            reply.pieces[0].1.splice(0..0, interim.iter().copied());
            reply
        }
        (_, false) => {
            assert!(request.is_list(), "{request:?}");
            let body = list_of("120", &[scene.object(&[])]).to_string().into_bytes();
            Reply::raw([b"HTTP/1.0 200 OK\r\n\r\n".as_slice(), &body].concat()).then(End::Close)
        }
        (_, true) => {
            watches += 1;
            if watches == 1 {
                let gone = serde_json::json!({ "kind": "Status", "code": 410 });
                return Reply::stream().event("BOOKMARK", serde_json::json!({})).event("ERROR", gone);
            }
            let line = |object: &_| format!("{}\n", serde_json::json!({ "type": "MODIFIED", "object": object }));
            let approved = line(&scene.object(&["Approved"]));
            let mut reply = Reply::stream();
            reply.pieces.push((Duration::ZERO, chunk(format!("{approved}{approved}").as_bytes())));
            let issued = line(&scene.issued());
            for part in issued.as_bytes().chunks(100) {
                let framed = [format!("{:x};x=y\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
                reply.pieces.push((Duration::ZERO, framed));
            }
            reply.pieces.push((Duration::ZERO, b"0\r\nX-Trailer: 1\r\n\r\n".to_vec()));
            reply
        }
    }
}

#[test]
fn submission_runs_alike_if_bytes_arrive_one_by_one() {
    let scene = Scene::new();
    let whole = scene.world(troubled(&scene)).summary(scene.issuance());
    assert_eq!(whole.0, Ok(4));
    let single = scene.world(troubled(&scene)).portions(|_| 1).summary(scene.issuance());
    assert_eq!(single, whole);
}

/// A server whose answer to the first watch is damaged: `byte` replaces the byte at index `at`, modulo the answer's
/// length.
fn damaged(scene: &Scene, at: usize, byte: u8) -> impl FnMut(&ReceivedRequest) -> Reply + '_ {
    let mut watches = 0;
    move |request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, false) => Reply::object(200, &scene.object(&[])),
        (_, true) => {
            watches += 1;
            let mut reply = Reply::stream().event("MODIFIED", scene.object(&["Approved"]));
            reply = reply.event("MODIFIED", scene.issued()).finish(Duration::ZERO);
            if watches == 1 {
                reply = reply.damaged(at, byte);
            }
            reply
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn submission_runs_alike_however_bytes_are_split(sizes in vec(1..700_usize, 1..40)) {
        let scene = Scene::new();
        let whole = scene.world(troubled(&scene)).summary(scene.issuance());
        let mut sizes = sizes.iter().cycle();
        let split = scene.world(troubled(&scene)).portions(move |_| *sizes.next().unwrap());
        prop_assert_eq!(split.summary(scene.issuance()), whole);
    }

    #[test]
    fn submission_with_damaged_watch_runs_alike_however_bytes_are_split(
        at in any::<usize>(),
        byte in prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b'0')],
        sizes in vec(1..300_usize, 1..40),
    ) {
        let scene = Scene::new();
        let whole = scene.world(damaged(&scene, at, byte)).summary(scene.issuance());
        let mut sizes = sizes.iter().cycle();
        let split = scene.world(damaged(&scene, at, byte)).portions(move |_| *sizes.next().unwrap());
        prop_assert_eq!(split.summary(scene.issuance()), whole);
    }

    #[test]
    fn random_answer_fails_submission(bytes in vec(any::<u8>(), 0..600), end in 0..3_u8) {
        let scene = Scene::new();
        let end = [End::Keep, End::Close, End::Cut][usize::from(end)];
        let error = scene.error(|_| Reply::raw(bytes.clone()).then(end));
        prop_assert_eq!(error.failure, Failure::Unreachable);
    }

    #[test]
    fn random_bytes_instead_of_tls_fail_submission(bytes in vec(any::<u8>(), 0..300)) {
        let scene = Scene::new();
        let mut world = scene.world(|_| panic!("not TLS"));
        world.not_tls = Some(bytes);
        prop_assert!(world.run(&mut scene.issuance()).is_err());
    }
}

proptest! {
    // Fewer cases, since each makes the 64 requests that are the limit.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn random_watch_events_fail_submission(lines in vec("[ -~\n]{0,80}", 0..12)) {
        let scene = Scene::new();
        let mut world = scene.world(|request| match (request.is_post(), request.is_watch()) {
            (true, _) => Reply::object(201, &scene.object(&[])),
            (_, false) => Reply::object(200, &scene.object(&[])),
            (_, true) => {
                let mut reply = Reply::stream();
                reply.pieces.extend(lines.iter().map(|line| (Duration::from_millis(1), line.clone().into_bytes())));
                reply.then(End::Close)
            }
        });
        let error = world.run(&mut scene.issuance()).unwrap_err();
        prop_assert_eq!((error.failure, world.requests.len()), (Failure::Unreachable, 64));
    }
}

#[test]
fn create_is_repeated_if_answer_is_cut_at_any_byte() {
    let scene = Scene::new();
    let full = Reply::object(201, &scene.issued());
    for length in 0..full.len() {
        let mut first = true;
        let (outcome, lines) = scene.run(|request| match request.is_post() {
            true if std::mem::take(&mut first) => full.cut_at(length),
            true => Reply::status(409, "AlreadyExists", "it is there"),
            false => Reply::object(200, &scene.issued()),
        });
        assert_eq!((outcome.unwrap().requests, lines.len()), (3, 3), "cut at {length}");
    }
}

#[test]
fn watch_cut_at_any_byte_is_resumed() {
    let scene = Scene::new();
    let full = Reply::stream().event("MODIFIED", scene.issued());
    // The last bytes are not cut: without the line end of its chunk, the event is complete.
    for length in 0..full.len() - 3 {
        let mut first = true;
        let mut world = scene.world(|request| match (request.is_post(), request.is_watch()) {
            (true, _) => Reply::object(201, &scene.object(&[])),
            (_, false) => Reply::object(200, &scene.object(&[])),
            (_, true) if std::mem::take(&mut first) => full.cut_at(length),
            (_, true) => full.clone(),
        });
        let requests = world.run(&mut scene.issuance()).unwrap().requests;
        // Cut before the first byte, the connection counts as an idle one that the server has closed.
        assert_eq!(requests, if length == 0 { 3 } else { 4 }, "cut at {length}");
    }
}

#[test]
fn endless_answer_fails_at_size_limit() {
    let scene = Scene::new();
    let endless = |start: &str, with: &[u8]| {
        let mut bytes = start.as_bytes().to_vec();
        bytes.extend(with.iter().cycle().take(6 << 20));
        Reply::raw(bytes)
    };
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (answer, complaint) in [
        (endless("HTTP/1.1 200 OK\r\nX: ", b"x"), "response head"),
        (endless("", b"HTTP/1.1 102 Processing\r\n\r\n"), "response head"),
        (endless(head, b"1"), "chunk header"),
        (endless(&format!("{head}0\r\nX: "), b"x"), "trailer"),
        (endless(head, b"10\r\nabcdefghijklmnop\r\n"), "4 MiB"),
        (endless("HTTP/1.1 200 OK\r\n\r\n", b"x"), "4 MiB"),
        (endless("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", b"x"), "4 MiB"),
    ] {
        let mut world = scene.world(|_| answer.clone()).portions(|_| 16 << 10);
        let error = world.run(&mut scene.issuance()).unwrap_err();
        assert_eq!(error.failure, Failure::Unreachable);
        assert!(error.message.contains(complaint), "{error} does not mention {complaint}");
        assert_eq!(world.requests.len(), 1);
    }
}

#[test]
fn watch_event_over_size_limit_leads_to_read_of_object() {
    let scene = Scene::new();
    let mut first = true;
    let mut world = scene.world(|request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, false) => Reply::object(200, &scene.issued()),
        (_, true) if std::mem::take(&mut first) => {
            let mut reply = Reply::stream();
            reply.pieces.push((Duration::ZERO, chunk(&vec![b' '; 2 << 20])));
            reply
        }
        (_, true) => panic!("the read has the certificate"),
    });
    assert_eq!(world.run(&mut scene.issuance()).unwrap().requests, 3);
    assert!(world.elapsed() < Duration::from_secs(1));
}

#[test]
fn altered_tls_byte_breaks_connection_or_changes_nothing() {
    let scene = Scene::new();
    let (mut noticed, mut harmless) = (0, 0);
    for at in (0..5000).step_by(41) {
        let mut well = scene.well();
        let mut world = scene.world(|request| well(request));
        world.damaged_byte = Some(at);
        let outcome = world.run(&mut scene.issuance());
        if world.damaged_byte.is_some() {
            assert_eq!(outcome.unwrap().requests, 2, "there are no {at} bytes to damage");
            continue;
        }
        match outcome {
            // The version in a record's head must be ignored (RFC 8446 §5.1).
            Ok(issued) if issued.requests == 2 => {
                harmless += 1;
                assert_eq!(issued.chain.pem().trim(), scene.certificate.trim(), "byte {at}");
            }
            Ok(_) => noticed += 1,
            Err(error) => {
                noticed += 1;
                assert_eq!(error.failure, Failure::Unreachable, "byte {at}: {error}");
            }
        }
    }
    assert!(noticed > 10 * harmless, "{noticed} noticed, {harmless} not");
}

#[test]
fn body_without_length_is_complete_unless_connection_is_reset() {
    let scene = Scene::new();
    let call = || Call::new(Request::get("/version"), scene.cluster(), Identity::Anonymous, Limits::default());
    let answer = |end| scene.world(|_| Reply::raw("HTTP/1.1 200 OK\r\n\r\n{}").then(end)).run(&mut call());
    for end in [End::Close, End::Cut] {
        assert_eq!(answer(end).unwrap().body, b"{}");
    }
    assert_eq!(answer(End::Reset).unwrap_err(), ExchangeError::Broken("connection reset".to_owned()));
}

#[test]
fn request_body_larger_than_tls_buffer_is_sent() {
    let scene = Scene::new();
    let body: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let mut world = scene.world(|request| Reply::json(200, request.body.clone()));
    let request = Request::post("/echo", body.clone());
    let answer = world.run(&mut Call::new(request, scene.cluster(), Identity::Anonymous, Limits::default())).unwrap();
    assert!(answer.body == body);
}
