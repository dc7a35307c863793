//! Trouble while waiting: what is tried again, when, and what is given up.

mod client_support;

use std::sync::Arc;
use std::time::Duration;

use client_support::*;
use perennial::{Failure, Policy, Template};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::{Issuance, Limits};
use perennial_rotation::{Authentication, Command, Exchange, Input, Rotation, Start};

const SECOND: Duration = Duration::from_secs(1);

/// A server that has the request pending and answers the n-th watch (from 0) like this; one that it has no
/// answer for brings the certificate.
fn watches<'a>(scene: &'a Scene, mut nth: impl FnMut(usize) -> Option<Reply> + 'a) -> impl FnMut(&Asked) -> Reply + 'a {
    let mut watches = 0;
    move |asked| match (asked.is_post(), asked.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, false) => Reply::object(200, &scene.object(&[])),
        (_, true) => {
            watches += 1;
            nth(watches - 1).unwrap_or_else(|| Reply::stream().event("MODIFIED", scene.issued()))
        }
    }
}

#[test]
fn a_watch_that_ends_in_order_is_followed_by_a_look_and_another_watch_on_the_same_connection() {
    let scene = Scene::new();
    let mut world = scene.world(watches(&scene, |n| (n == 0).then(|| Reply::stream().finish(400 * SECOND))));
    world.run(&mut scene.issuance()).unwrap();
    let object = format!("GET {CSRS}/{}", scene.ask.name);
    let watch = format!("GET {CSRS}?watch");
    assert_eq!(world.lines(), [format!("POST {CSRS}"), watch.clone(), object, watch]);
    assert!(world.asked.iter().all(|asked| asked.connection == 1));
    assert!(world.elapsed() < 401 * SECOND, "no pause after a watch that lasted");
}

#[test]
fn watches_that_break_off_at_once_are_repeated_ever_more_slowly() {
    let scene = Scene::new();
    let mut world = scene.world(watches(&scene, |n| (n < 8).then(|| Reply::stream().then(End::Cut))));
    world.run(&mut scene.issuance()).unwrap();
    assert!(world.elapsed() > 8 * Duration::from_millis(800), "{:?}", world.elapsed());
    assert!(world.elapsed() < 4 * 60 * SECOND, "{:?}", world.elapsed());
}

#[test]
fn a_watch_that_falls_silent_is_given_up_soon_after_its_time() {
    let scene = Scene::new();
    let mut world = scene.world(watches(&scene, |n| (n == 0).then(Reply::stream)));
    world.run(&mut scene.issuance()).unwrap();
    let seconds = world.elapsed().as_secs();
    assert!((330..=632).contains(&seconds), "{seconds}");
}

#[test]
fn where_watching_is_forbidden_the_object_is_read_now_and_then() {
    let scene = Scene::new();
    let mut reads = 0;
    let mut world = scene.world(|asked| match (asked.is_post(), asked.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, true) => Reply::status(403, "Forbidden", "watch is not allowed"),
        (_, false) => {
            reads += 1;
            if reads < 20 { Reply::object(200, &scene.object(&[])) } else { Reply::object(200, &scene.issued()) }
        }
    });
    world.run(&mut scene.issuance()).unwrap();
    let watches = world.asked.iter().filter(|asked| asked.is_watch()).count();
    assert_eq!((watches, world.asked.len()), (1, 22));
    assert!(world.asked.iter().all(|asked| asked.connection == 1));
    let minutes = world.elapsed().as_secs() / 60;
    assert!((6..=10).contains(&minutes), "20 looks, 5 to 30 s apart: {minutes} min");
}

#[test]
fn a_server_that_asks_for_patience_is_left_alone_that_long() {
    let scene = Scene::new();
    let body = r#"{"kind":"Status","code":429,"details":{"retryAfterSeconds":17}}"#;
    let header = Reply::raw("HTTP/1.1 503 X\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n");
    for answer in [header, Reply::json(429, body)] {
        let mut world = scene.world(watches(&scene, |n| (n == 0).then(|| answer.clone())));
        world.run(&mut scene.issuance()).unwrap();
        assert!((17 * SECOND..20 * SECOND).contains(&world.elapsed()), "{:?}", world.elapsed());
    }
}

/// A load balancer that asks for an hour must not hold a request until the certificate has expired, nor for long after.
#[test]
fn retry_after_leaves_an_attempt_before_the_certificate_expires() {
    let scene = Scene::new();
    let header = Reply::raw("HTTP/1.1 503 X\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n");
    for (left, least, most) in [(16, 8, 9), (0, 120, 121), (7200, 900, 901)] {
        let mut world = scene.world(watches(&scene, |n| (n == 0).then(|| header.clone())));
        let mut limits = Limits::default();
        limits.needed_by = world.now.instant.after(left * SECOND);
        let mut issuance = Issuance::new(scene.ask.clone(), scene.cluster(), scene.identity.clone(), limits, 7);
        world.run(&mut issuance).unwrap();
        let took = world.elapsed();
        assert!((least * SECOND..=most * SECOND).contains(&took), "{left} s were left: {took:?}");
    }
}

#[test]
fn an_ailing_server_is_asked_a_bounded_number_of_times() {
    let scene = Scene::new();
    let mut world = scene.world(|asked| match asked.is_post() {
        true => Reply::object(201, &scene.object(&[])),
        false => Reply::status(503, "ServiceUnavailable", "etcd is unwell"),
    });
    let error = world.run(&mut scene.issuance()).unwrap_err();
    assert_eq!((error.failure, world.asked.len()), (Failure::Unreachable, 64));
    assert!(error.message.contains("64 HTTP requests") && error.message.contains("etcd is unwell"), "{error}");
}

#[test]
fn the_bound_on_requests_covers_resubmissions_and_dead_connections() {
    let scene = Scene::new();
    let limits = || {
        let mut limits = Limits::default();
        limits.requests = 5;
        limits
    };
    let issuance = || Issuance::new(scene.ask.clone(), scene.cluster(), scene.identity.clone(), limits(), 7);
    let mut world = scene.world(|asked| match asked.is_post() {
        true => Reply::object(201, &scene.object(&[])).then(End::Close),
        false => Reply::silence().then(End::Cut),
    });
    assert_eq!(world.run(&mut issuance()).unwrap_err().failure, Failure::Unreachable);
    assert!(world.asked.len() <= 5, "{}", world.asked.len());
}

#[test]
fn a_quarter_of_an_hour_of_quiet_waiting_stays_far_below_the_bound() {
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
fn the_bound_grows_with_the_time_a_request_may_take() {
    let bound = |hours: u32| Limits::default().lasting(hours * 3600 * SECOND).requests;
    assert_eq!((Limits::default().lasting(900 * SECOND).requests, bound(1), bound(12)), (64, 289, 3589));
    assert_eq!(Limits::default().lasting(Duration::MAX).requests, u32::MAX);
}

#[test]
fn who_waits_for_hours_is_not_cut_short_by_the_bound_on_requests() {
    let scene = Scene::new();
    let policy = Policy { request_timeout: 8 * 3600 * SECOND, ..Policy::default() };
    // Nobody decides, and watching is forbidden.
    let mut object = serde_json::Value::Null;
    let mut world = scene.world(|asked| {
        if asked.is_post() {
            object = serde_json::from_slice(&asked.body).unwrap();
            object["metadata"]["uid"] = "uid-1".into();
        }
        match asked.is_watch() {
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
    assert_eq!((error.failure, world.asked.len()), (Failure::TimedOut, 64 + (8 * 3600 - 900) / 12));
    assert!(error.message.contains("still undecided after 2389 HTTP requests"), "{error}");
}

#[test]
fn a_kept_connection_found_dead_costs_a_new_one_but_no_pause() {
    let scene = Scene::new();
    for end in [End::Close, End::Cut] {
        let mut world = scene.world(watches(&scene, |n| (n == 0).then(|| Reply::silence().then(end))));
        world.run(&mut scene.issuance()).unwrap();
        assert_eq!(world.asked.iter().map(|asked| asked.connection).collect::<Vec<_>>(), [1, 1, 2]);
        assert!(world.elapsed() < SECOND, "{:?}", world.elapsed());
        assert!(!world.steps.iter().any(|step| step.starts_with("wait")));
    }
}

#[test]
fn so_does_one_that_cannot_even_be_written_to() {
    let scene = Scene::new();
    for end in [End::Close, End::Cut] {
        let mut world = scene.world(|asked| match asked.is_post() {
            true => Reply::object(201, &scene.object(&[])).then(end),
            false => Reply::stream().event("MODIFIED", scene.issued()),
        });
        assert_eq!(world.run(&mut scene.issuance()).unwrap().requests, 3);
        assert_eq!(world.asked.iter().map(|asked| asked.connection).collect::<Vec<_>>(), [1, 2]);
        assert!(world.elapsed() < SECOND, "{:?}", world.elapsed());
    }
}

#[test]
fn a_server_that_closes_after_each_answer_is_connected_to_anew() {
    let scene = Scene::new();
    let mut world = scene.world(|asked| match asked.is_post() {
        true => {
            let mut reply = Reply::object(201, &scene.object(&[])).then(End::Close);
            let text = String::from_utf8(reply.pieces[0].1.clone()).unwrap();
            reply.pieces[0].1 = text.replacen("\r\n", "\r\nConnection: close\r\n", 1).into_bytes();
            reply
        }
        false => Reply::stream().event("MODIFIED", scene.issued()),
    });
    assert_eq!(world.run(&mut scene.issuance()).unwrap().requests, 2);
    assert_eq!(world.asked[1].connection, 2);
}

#[test]
fn a_submission_without_an_answer_is_made_again_under_the_same_name() {
    let scene = Scene::new();
    let mut well = scene.well();
    let mut lost = 0;
    let mut world = scene.world(|asked| {
        let reply = well(asked);
        if asked.is_post() && lost == 0 {
            lost = 1;
            return Reply::silence().then(End::Cut);
        }
        reply
    });
    assert_eq!(world.run(&mut scene.issuance()).unwrap().requests, 4);
    assert_eq!(
        world.lines()[..3],
        [format!("POST {CSRS}"), format!("POST {CSRS}"), format!("GET {CSRS}/{}", scene.ask.name)]
    );
}

#[test]
fn a_submission_that_never_gets_an_answer_is_given_up() {
    let scene = Scene::new();
    for reply in [Reply::silence().then(End::Close), Reply::silence()] {
        let mut world = scene.world(|_| reply.clone());
        let error = world.run(&mut scene.issuance()).unwrap_err();
        assert_eq!((error.failure, world.asked.len()), (Failure::Unreachable, 3), "{error}");
        assert!(world.elapsed() < 100 * SECOND);
    }
}

#[test]
fn an_object_that_vanishes_between_watches_is_reported() {
    let scene = Scene::new();
    let error = scene.error(|asked| match (asked.is_post(), asked.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, true) => Reply::stream().finish(SECOND),
        (_, false) => Reply::status(404, "NotFound", "no such CSR"),
    });
    assert_eq!(error.failure, Failure::Deleted);
}
