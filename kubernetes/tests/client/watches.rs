//! The version from which a watch continues: that of the object, of a bookmark, or of a list after a 410.

use crate::support::*;
use perennial::Failure;
use perennial_kubernetes::objects::CertificateSigningRequest;

/// The HTTP requests to the server in short: `POST`, `GET`, `LIST`, or `WATCH 100` for a watch of changes after version
/// 100.
fn requests(world: &World<'_>) -> Vec<String> {
    let short = |request: &ReceivedRequest| {
        let version = request.line.split("resourceVersion=").nth(1).and_then(|rest| rest.split('&').next());
        match (request.is_post(), request.is_watch(), request.is_list()) {
            (true, ..) => "POST".to_owned(),
            (_, true, _) => format!("WATCH {}", version.unwrap_or_default()),
            (_, _, true) => "LIST".to_owned(),
            _ => "GET".to_owned(),
        }
    };
    world.requests.iter().map(short).collect()
}

/// The two ways in which a server reports that its watch cache no longer reaches back to the requested version: an
/// event of a watch with the code 410, and the HTTP status 410.
fn expired() -> [Reply; 2] {
    let status = serde_json::json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old" });
    [Reply::stream().event("ERROR", &status), Reply::status(410, "Expired", "too old resource version")]
}

/// A server at resource version 120, with an undecided request of version 100. Answers the n-th watch, counted from 0,
/// with `nth(n)`, or with the issued certificate if `nth(n)` is `None`.
fn server<'a>(
    scene: &'a Scene,
    nth: impl Fn(usize) -> Option<Reply> + 'a,
) -> impl FnMut(&ReceivedRequest) -> Reply + 'a {
    let mut watches = 0;
    move |request| match (request.is_post(), request.is_watch(), request.is_list()) {
        (true, ..) => Reply::object(201, &scene.object(&[])),
        (_, _, true) => Reply::list("120", &[scene.object(&[])]),
        (_, false, _) => Reply::object(200, &scene.object(&[])),
        (_, true, _) => {
            watches += 1;
            nth(watches - 1).unwrap_or_else(|| Reply::stream().event("MODIFIED", scene.issued()))
        }
    }
}

#[test]
fn watch_after_bookmark_begins_at_version_of_bookmark() {
    let scene = Scene::new();
    let bookmark = serde_json::json!({ "metadata": { "resourceVersion": "150" } });
    for end in [End::Keep, End::Close, End::Cut, End::Reset] {
        let first = || {
            let stream = Reply::stream().event("BOOKMARK", &bookmark).after(60 * SECOND);
            if end == End::Keep { stream.finish(400 * SECOND) } else { stream.then(end) }
        };
        let mut world = scene.world(server(&scene, |n| (n == 0).then(first)));
        world.run(&mut scene.issuance()).unwrap();
        assert_eq!(requests(&world), ["POST", "WATCH 100", "GET", "WATCH 150"], "{end:?}");
    }
}

#[test]
fn watch_after_read_begins_at_version_of_changed_object() {
    let scene = Scene::new();
    let mut approved = scene.object(&["Approved"]);
    approved.metadata.resource_version = "160".to_owned();
    let mut watches = 0;
    let mut world = scene.world(|request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, false) => Reply::object(200, &approved),
        (_, true) => {
            watches += 1;
            let event = if watches == 1 { serde_json::json!(17) } else { serde_json::json!(scene.issued()) };
            Reply::stream().event("MODIFIED", event)
        }
    });
    world.run(&mut scene.issuance()).unwrap();
    assert_eq!(requests(&world), ["POST", "WATCH 100", "GET", "WATCH 160"]);
}

#[test]
fn watch_after_410_begins_at_version_of_list() {
    let scene = Scene::new();
    for answer in expired() {
        let mut world = scene.world(server(&scene, |n| (n == 0).then(|| answer.clone())));
        world.run(&mut scene.issuance()).unwrap();
        assert_eq!(requests(&world), ["POST", "WATCH 100", "LIST", "WATCH 120"]);
        assert!(world.elapsed() < SECOND, "{:?}", world.elapsed());
    }
}

/// Each watch ends with 410 after a minute. In a very busy cluster, the version of a watch without events becomes too
/// old for the watch cache in this time.
#[test]
fn new_watch_begins_without_pause_if_410_ends_long_watch() {
    let scene = Scene::new();
    let [in_stream, _] = expired();
    let slowly = in_stream.after(61 * SECOND);
    let mut world = scene.world(server(&scene, |n| (n < 12).then(|| slowly.clone())));
    world.run(&mut scene.issuance()).unwrap();
    assert_eq!(requests(&world).iter().filter(|request| *request == "LIST").count(), 12);
    assert!(world.elapsed() < 12 * 61 * SECOND + SECOND, "no pause: {:?}", world.elapsed());
}

#[test]
fn client_polls_after_second_410_to_watch() {
    let scene = Scene::new();
    for answer in expired() {
        let mut reads = 0;
        let mut world = scene.world(|request| match (request.is_post(), request.is_watch(), request.is_list()) {
            (true, ..) => Reply::object(201, &scene.object(&[])),
            (_, true, _) => answer.clone(),
            (_, _, true) => Reply::list("120", &[scene.object(&[])]),
            _ => {
                reads += 1;
                Reply::object(200, &if reads < 20 { scene.object(&[]) } else { scene.issued() })
            }
        });
        world.run(&mut scene.issuance()).unwrap();
        let requests = requests(&world);
        assert_eq!(requests[..5], ["POST", "WATCH 100", "LIST", "WATCH 120", "GET"]);
        assert!(requests[5..].iter().all(|request| request == "GET"), "{requests:?}");
        let minutes = world.elapsed().as_secs() / 60;
        assert!((6..=10).contains(&minutes), "20 reads, 5 to 30 s apart: {minutes} min");
    }
}

#[test]
fn object_is_read_by_name_if_list_is_unusable() {
    let scene = Scene::new();
    let [_, expired] = expired();
    let lists = [
        Reply::status(403, "Forbidden", "no list for you"),
        Reply::status(404, "NotFound", "no such thing"),
        Reply::status(410, "Expired", "too old"),
        Reply::json(200, "[]"),
        Reply::json(200, vec![b' '; 5 << 20]),
    ];
    for list in lists {
        let mut world = scene.world(|request| match (request.is_post(), request.is_watch(), request.is_list()) {
            (true, ..) => Reply::object(201, &scene.object(&[])),
            (_, true, _) => expired.clone(),
            (_, _, true) => list.clone(),
            _ => Reply::object(200, &scene.issued()),
        });
        world.run(&mut scene.issuance()).unwrap();
        assert_eq!(requests(&world), ["POST", "WATCH 100", "LIST", "GET"]);
    }
}

#[test]
fn temporary_list_failure_is_retried() {
    let scene = Scene::new();
    let [_, expired] = expired();
    for trouble in [Reply::status(503, "ServiceUnavailable", "starting"), Reply::raw("").then(End::Cut)] {
        let mut lists = 0;
        let mut world = scene.world(|request| match (request.is_post(), request.is_watch(), request.is_list()) {
            (true, ..) => Reply::object(201, &scene.object(&[])),
            (_, true, _) => expired.clone(),
            (_, _, true) => {
                lists += 1;
                if lists == 1 { trouble.clone() } else { Reply::list("120", &[scene.issued()]) }
            }
            _ => panic!("{request:?}"),
        });
        world.run(&mut scene.issuance()).unwrap();
        assert!(requests(&world).ends_with(&["LIST".to_owned()]), "{:?}", requests(&world));
    }
}

#[test]
fn listed_object_gets_same_verdict_as_read_object() {
    let scene = Scene::new();
    let [in_stream, _] = expired();
    let mut stranger = scene.issued();
    stranger.metadata.name = "another".to_owned();
    let mut replaced = scene.issued();
    replaced.metadata.uid = "uid-2".to_owned();
    let rows: [(&[CertificateSigningRequest], _); 6] = [
        (&[scene.issued()], Ok(())),
        (&[stranger.clone(), scene.issued()], Ok(())),
        (&[], Err(Failure::Deleted)),
        (&[stranger], Err(Failure::Deleted)),
        (&[replaced], Err(Failure::Deleted)),
        (&[scene.object(&["Denied"])], Err(Failure::Denied)),
    ];
    for (objects, outcome) in rows {
        let (ended, _) = scene.run(|request| match (request.is_post(), request.is_watch()) {
            (true, _) => Reply::object(201, &scene.object(&[])),
            (_, true) => in_stream.clone(),
            (_, false) => Reply::list("120", objects),
        });
        assert_eq!(ended.map(|_| ()).map_err(|error| error.failure), outcome);
    }
    let none = scene.error(|request| match (request.is_post(), request.is_watch()) {
        (true, _) => Reply::object(201, &scene.object(&[])),
        (_, true) => in_stream.clone(),
        (_, false) => Reply::json(200, r#"{"metadata":{"resourceVersion":"120"},"items":null}"#),
    });
    assert!(none.failure == Failure::Deleted && none.message.contains("the server lists no object of this name"));
}
