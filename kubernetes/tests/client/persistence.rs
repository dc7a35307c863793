//! Failures while a submission waits: which HTTP requests are repeated, when, and when the submission gives up.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use perennial::{Failure, Policy, Template};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::{Issuance, Limits};
use perennial_rotation::{Authentication, Command, Exchange, Input, Rotation, Start};

/// A server with an undecided request. Answers the n-th watch, counted from 0, with `nth(n)`, or with the issued
/// certificate if `nth(n)` is `None`.
fn watches<'a>(
    scene: &'a Scene,
    mut nth: impl FnMut(usize) -> Option<Reply> + 'a,
) -> impl FnMut(&ReceivedRequest) -> Reply + 'a {
    let mut watches = 0;
    move |request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, false) => Reply::object(200, &scene.object(&[])),
        (_, true) => {
            watches += 1;
            nth(watches - 1).unwrap_or_else(|| Reply::stream().event("MODIFIED", scene.issued()))
        }
    }
}

#[test]
fn client_reads_object_and_watches_again_after_watch_ends() {
    let scene = Scene::new();
    let mut world = scene.world(watches(&scene, |n| (n == 0).then(|| Reply::stream().finish(400 * SECOND))));
    world.run(&mut scene.issuance()).unwrap();
    let object = format!("GET {CSRS}/{}", scene.desired_csr.name);
    let watch = format!("GET {CSRS}?watch");
    assert_eq!(world.lines(), [format!("POST {CSRS}"), watch.clone(), object, watch]);
    assert!(world.requests.iter().all(|request| request.connection == 1));
    assert!(world.elapsed() < 401 * SECOND, "no pause after a watch that lasted");
}

#[test]
fn client_backs_off_after_broken_watches() {
    let scene = Scene::new();
    let mut world = scene.world(watches(&scene, |n| (n < 8).then(|| Reply::stream().then(End::Cut))));
    world.run(&mut scene.issuance()).unwrap();
    assert!(world.elapsed() > 8 * Duration::from_millis(800), "{:?}", world.elapsed());
    assert!(world.elapsed() < 4 * 60 * SECOND, "{:?}", world.elapsed());
}

#[test]
fn silent_watch_is_abandoned_after_its_timeout() {
    let scene = Scene::new();
    let mut world = scene.world(watches(&scene, |n| (n == 0).then(Reply::stream)));
    world.run(&mut scene.issuance()).unwrap();
    let seconds = world.elapsed().as_secs();
    assert!((330..=632).contains(&seconds), "{seconds}");
}

#[test]
fn client_polls_if_watch_is_forbidden() {
    let scene = Scene::new();
    let mut reads = 0;
    let mut world = scene.world(|request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, true) => Reply::status(403, "Forbidden", "watch is not allowed"),
        (_, false) => {
            reads += 1;
            if reads < 20 { Reply::object(200, &scene.object(&[])) } else { Reply::object(200, &scene.issued()) }
        }
    });
    world.run(&mut scene.issuance()).unwrap();
    let watches = world.requests.iter().filter(|request| request.is_watch()).count();
    assert_eq!((watches, world.requests.len()), (1, 22));
    assert!(world.requests.iter().all(|request| request.connection == 1));
    let minutes = world.elapsed().as_secs() / 60;
    assert!((6..=10).contains(&minutes), "20 looks, 5 to 30 s apart: {minutes} min");
}

#[test]
fn retry_after_delays_next_request() {
    let scene = Scene::new();
    let body = r#"{"kind":"Status","code":429,"details":{"retryAfterSeconds":17}}"#;
    let header = Reply::raw("HTTP/1.1 503 X\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n");
    for answer in [header, Reply::json(429, body)] {
        let mut world = scene.world(watches(&scene, |n| (n == 0).then(|| answer.clone())));
        world.run(&mut scene.issuance()).unwrap();
        assert!((17 * SECOND..20 * SECOND).contains(&world.elapsed()), "{:?}", world.elapsed());
    }
}

/// A load balancer may send a `Retry-After` of an hour. If the certificate to be replaced expires earlier, the client
/// retries before that. If the certificate has expired already, the client retries within about two minutes.
#[test]
fn retry_after_is_shortened_if_certificate_expires_earlier() {
    let scene = Scene::new();
    let header = Reply::raw("HTTP/1.1 503 X\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n");
    for (left, least, most) in [(16, 8, 9), (0, 120, 121), (7200, 900, 901)] {
        let mut world = scene.world(watches(&scene, |n| (n == 0).then(|| header.clone())));
        let mut limits = Limits::default();
        limits.needed_by = world.now.instant.after(left * SECOND);
        let mut issuance = Issuance::new(scene.desired_csr.clone(), scene.cluster(), scene.identity.clone(), limits, 7);
        world.run(&mut issuance).unwrap();
        let took = world.elapsed();
        assert!((least * SECOND..=most * SECOND).contains(&took), "{left} s were left: {took:?}");
    }
}

#[test]
fn failing_server_gets_at_most_64_http_requests() {
    let scene = Scene::new();
    let mut world = scene.world(|request| match request.is_post() {
        true => Reply::object(201, &scene.object(&[])),
        false => Reply::status(503, "ServiceUnavailable", "etcd is unwell"),
    });
    let error = world.run(&mut scene.issuance()).unwrap_err();
    assert_eq!((error.failure, world.requests.len()), (Failure::Unreachable, 64));
    assert!(error.message.contains("64 HTTP requests") && error.message.contains("etcd is unwell"), "{error}");
}

#[test]
fn http_request_limit_counts_resubmissions_and_reconnections() {
    let scene = Scene::new();
    let limits = || {
        let mut limits = Limits::default();
        limits.requests = 5;
        limits
    };
    let issuance = || Issuance::new(scene.desired_csr.clone(), scene.cluster(), scene.identity.clone(), limits(), 7);
    let mut world = scene.world(|request| match request.is_post() {
        true => Reply::object(201, &scene.object(&[])).then(End::Close),
        false => Reply::silence().then(End::Cut),
    });
    assert_eq!(world.run(&mut issuance()).unwrap_err().failure, Failure::Unreachable);
    assert!(world.requests.len() <= 5, "{}", world.requests.len());
}

#[test]
fn quarter_hour_wait_for_approval_takes_eight_http_requests() {
    let scene = Scene::new();
    let mut world = scene.world(watches(&scene, |n| (n < 3).then(|| Reply::stream().finish(300 * SECOND))));
    assert_eq!(world.run(&mut scene.issuance()).unwrap().requests, 8);
    assert!(world.elapsed() >= 900 * SECOND);
    assert!(
        !world.steps.iter().any(|step| step.starts_with("wait")),
        "good watches follow one another without a pause"
    );
}

#[test]
fn http_request_limit_grows_with_request_timeout() {
    let bound = |hours: u32| Limits::default().lasting(hours * 3600 * SECOND).requests;
    assert_eq!((Limits::default().lasting(900 * SECOND).requests, bound(1), bound(12)), (64, 289, 3589));
    assert_eq!(Limits::default().lasting(Duration::MAX).requests, u32::MAX);
}

#[test]
fn eight_hour_wait_for_approval_stays_within_http_request_limit() {
    let scene = Scene::new();
    let policy = Policy { request_timeout: 8 * 3600 * SECOND, ..Policy::default() };
    // No approver decides, and watching is forbidden.
    let mut object = serde_json::Value::Null;
    let mut world = scene.world(|request| {
        if request.is_post() {
            object = serde_json::from_slice(&request.body).unwrap();
            object["metadata"]["uid"] = "uid-1".into();
        }
        match request.is_watch() {
            true => Reply::status(403, "Forbidden", "watch is not allowed"),
            false => Reply::json(200, object.to_string()),
        }
    });
    let mut signer = CsrSigner::kubelet_client(scene.cluster(), None);
    signer.authentication = Authentication::other(scene.identity.clone());
    let start = Start {
        policy: Arc::new(policy),
        signer: Some(Arc::new(signer)),
        template: Some(Arc::new(Template::node("a"))),
        ..Start::default()
    };
    let mut rotation = Rotation::new(start, world.now);
    let commands = rotation.handle(Input::Tick, world.now);
    let drive = |command| if let Command::Drive { exchange, .. } = command { Some(exchange) } else { None };
    let exchange = commands.into_iter().find_map(drive).unwrap();
    let Exchange::Conversation(mut exchange) = exchange else { panic!("{exchange:?}") };
    let error = world.run(&mut exchange).unwrap_err();
    assert!(world.elapsed() > 8 * 3600 * SECOND, "{:?}", world.elapsed());
    assert_eq!((error.failure, world.requests.len()), (Failure::TimedOut, 64 + (8 * 3600 - 900) / 12));
    assert!(error.message.contains("neither a certificate nor a refusal after 2389 HTTP requests"), "{error}");
}

#[test]
fn idle_connection_closed_by_server_is_replaced_at_once() {
    let scene = Scene::new();
    for end in [End::Close, End::Cut] {
        let mut world = scene.world(watches(&scene, |n| (n == 0).then(|| Reply::silence().then(end))));
        world.run(&mut scene.issuance()).unwrap();
        assert_eq!(world.requests.iter().map(|request| request.connection).collect::<Vec<_>>(), [1, 1, 2]);
        assert!(world.elapsed() < SECOND, "{:?}", world.elapsed());
        assert!(!world.steps.iter().any(|step| step.starts_with("wait")));
    }
}

#[test]
fn idle_connection_is_replaced_at_once_if_write_fails() {
    let scene = Scene::new();
    for end in [End::Close, End::Cut] {
        let mut world = scene.world(|request| match request.is_post() {
            true => Reply::object(201, &scene.object(&[])).then(end),
            false => Reply::stream().event("MODIFIED", scene.issued()),
        });
        assert_eq!(world.run(&mut scene.issuance()).unwrap().requests, 3);
        assert_eq!(world.requests.iter().map(|request| request.connection).collect::<Vec<_>>(), [1, 2]);
        assert!(world.elapsed() < SECOND, "{:?}", world.elapsed());
    }
}

#[test]
fn connection_close_header_leads_to_new_connection() {
    let scene = Scene::new();
    let mut world = scene.world(|request| match request.is_post() {
        true => {
            let mut reply = Reply::object(201, &scene.object(&[])).then(End::Close);
            let text = String::from_utf8(reply.pieces[0].1.clone()).unwrap();
            reply.pieces[0].1 = text.replacen("\r\n", "\r\nConnection: close\r\n", 1).into_bytes();
            reply
        }
        false => Reply::stream().event("MODIFIED", scene.issued()),
    });
    assert_eq!(world.run(&mut scene.issuance()).unwrap().requests, 2);
    assert_eq!(world.requests[1].connection, 2);
}

#[test]
fn unanswered_create_is_repeated_under_same_name() {
    let scene = Scene::new();
    let mut well = scene.well();
    let mut lost = 0;
    let mut world = scene.world(|request| {
        let reply = well(request);
        if request.is_post() && lost == 0 {
            lost = 1;
            return Reply::silence().then(End::Cut);
        }
        reply
    });
    assert_eq!(world.run(&mut scene.issuance()).unwrap().requests, 4);
    assert_eq!(
        world.lines()[..3],
        [format!("POST {CSRS}"), format!("POST {CSRS}"), format!("GET {CSRS}/{}", scene.desired_csr.name)]
    );
}

#[test]
fn create_without_answers_fails_after_three_attempts() {
    let scene = Scene::new();
    for reply in [Reply::silence().then(End::Close), Reply::silence()] {
        let mut world = scene.world(|_| reply.clone());
        let error = world.run(&mut scene.issuance()).unwrap_err();
        assert_eq!((error.failure, world.requests.len()), (Failure::Unreachable, 3), "{error}");
        assert!(world.elapsed() < 100 * SECOND);
    }
}

#[test]
fn request_object_missing_after_watch_fails_as_deleted() {
    let scene = Scene::new();
    let error = scene.error(|request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, true) => Reply::stream().finish(SECOND),
        (_, false) => Reply::status(404, "NotFound", "no such CSR"),
    });
    assert_eq!(error.failure, Failure::Deleted);
}
