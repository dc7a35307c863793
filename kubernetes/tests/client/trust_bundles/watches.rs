//! Changes that a watch reports, and the errors of watches and lists.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use perennial_rotation::{NotYet, Token};

use super::*;

#[test]
fn roots_follow_list_and_events_of_watch() {
    let [a, b, c] = pems(["a", "b", "c"]);
    let reader = Reader::new();
    let error = reader.bundles.roots().unwrap_err().to_string();
    assert_eq!(
        error,
        "no CA from the ClusterTrustBundles of signer example.com/mesh yet: the API server has \
         not answered so far"
    );
    let seen = Mutex::new(Vec::new());
    let script = server(vec![bundle("m:1", &a)], |_| {
        Reply::stream()
            .event("ADDED", bundle("m:2", &b))
            .event("BOOKMARK", json!({ "metadata": { "resourceVersion": "130" } }))
            .event("MODIFIED", bundle("m:1", &format!("{a}{c}")))
            .event("DELETED", bundle("m:2", &b))
            .event("MODIFIED", bundle("m:1", &c))
    });
    let world = reader.until(script, |_| {
        let trusted = reader.trusted();
        let mut seen = seen.lock().unwrap();
        if seen.last() != Some(&trusted) {
            seen.push(trusted.clone());
        }
        trusted == subjects(["c"])
    });
    let expected = [
        BTreeSet::new(),
        subjects(["a"]),
        subjects(["a", "b"]),
        subjects(["a", "b", "c"]),
        subjects(["a", "c"]),
        subjects(["c"]),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!(world.requests.len(), 2);
    let path =
        "GET /apis/certificates.k8s.io/v1/clustertrustbundles?fieldSelector=spec.signerName%3Dexample.com%2Fmesh";
    assert_eq!(world.requests[0].line, path);
    let watch = &world.requests[1].line;
    assert!(watch.starts_with(&format!("{path}&watch=true&resourceVersion=120&timeoutSeconds=")), "{watch}");
    let state = reader.bundles.state();
    assert_eq!((state.problem, state.bundles), (None, 1));
    assert_eq!(state.read, state.changed);
    let origin = reader.bundles.origin();
    assert!(origin.starts_with("the ClusterTrustBundles of signer example.com/mesh, read at 2026-"), "{origin}");
}

#[test]
fn deleting_last_bundle_keeps_its_cas() {
    let [a, b, c] = pems(["a", "b", "c"]);
    let reader = Reader::new();
    let script = server(vec![bundle("m:1", &a), bundle("m:2", &b)], |_| {
        Reply::stream().event("DELETED", bundle("m:1", &a)).event("DELETED", bundle("m:2", &b))
    });
    reader.until(script, |state| state.problem.is_some());
    let state = reader.bundles.state();
    assert_eq!((reader.trusted(), state.bundles), (subjects(["b"]), 0));
    assert_eq!(state.problem.unwrap(), "the server has no such bundle; the CAs read before stay trusted");
    let origin = reader.bundles.origin();
    assert!(origin.contains(", unchanged since 2026-"), "{origin}");
    // A new process on the same selection, after the bundle came back with other content.
    let script = server(vec![bundle("m:3", &c)], |_| Reply::stream());
    reader.until(script, |state| state.problem.is_none() && state.bundles == 1);
    assert_eq!(reader.trusted(), subjects(["c"]));
}

#[test]
fn bundle_absent_from_later_list_is_removed() {
    let [a, b] = pems(["a", "b"]);
    let reader = Reader::new();
    let mut lists = 0;
    reader.until(
        |request| match request.is_watch() {
            true => Reply::stream().finish(400 * SECOND),
            false => {
                lists += 1;
                let items = [bundle("m:1", &a), bundle("m:2", &b)];
                list("120", if lists == 1 { &items } else { &items[1..] })
            }
        },
        |state| state.roots.is_some() && reader.trusted() == subjects(["b"]),
    );
    assert_eq!(reader.bundles.state().problem, None);
}

#[test]
fn failing_server_is_asked_with_backoff() {
    type Script = fn(&ReceivedRequest) -> Reply;
    let open: Script = |request| if request.is_watch() { Reply::stream() } else { list("1", &[]) };
    let cases: [(&str, Script, std::ops::RangeInclusive<usize>); 8] = [
        ("500", |_| Reply::status(500, "InternalError", "etcd"), 120..=500),
        ("403", |_| Reply::status(403, "Forbidden", "no"), 30..=61),
        ("400", |_| Reply::status(400, "BadRequest", "unable to parse requirement"), 30..=61),
        ("no list", |_| Reply::json(200, "[]"), 120..=500),
        ("closed", |_| Reply::silence().then(End::Close), 120..=500),
        (
            "watch ends at once",
            |request| if request.is_watch() { Reply::stream().finish(Duration::ZERO) } else { list("1", &[]) },
            240..=1000,
        ),
        (
            "watch is always too old",
            |request| match request.is_watch() {
                true => Reply::status(410, "Expired", "too old resource version"),
                false => list("1", &[]),
            },
            240..=1000,
        ),
        ("good, a watch of at least 5 minutes each", open, 12..=26),
    ];
    for (what, script, requests) in cases {
        let reader = Reader::new();
        let world = reader.lasting(3600 * SECOND, script);
        let count = world.requests.len();
        assert!(requests.contains(&count), "{what}: {count} requests in an hour");
    }
}

#[test]
fn retry_after_of_server_is_honoured() {
    let reader = Reader::new();
    let busy = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n";
    let world = reader.lasting(1000 * SECOND, |_| Reply::raw(busy));
    assert_eq!(world.requests.len(), 2);
}

#[test]
fn watch_that_ends_leads_to_list_without_pause() {
    let a = pem("a");
    let status = json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old" });
    let minute = || Reply::stream().event("BOOKMARK", json!({ "metadata": {} })).after(61 * SECOND);
    for (what, first) in [
        ("finished", minute().finish(SECOND)),
        ("closed", minute().then(End::Close)),
        ("cut", minute().then(End::Cut)),
        ("reset", minute().then(End::Reset)),
        ("410 event", Reply::stream().event("ERROR", &status)),
        ("410", Reply::status(410, "Expired", "too old resource version")),
    ] {
        let reader = Reader::new();
        let script = server(vec![bundle("m:1", &a)], |n| if n == 0 { first.clone() } else { Reply::stream() });
        let world = reader.lasting(70 * SECOND, script);
        let kinds: Vec<_> = world.requests.iter().map(ReceivedRequest::is_watch).collect();
        assert_eq!(kinds, [false, true, false, true], "{what}");
        assert_eq!((reader.trusted(), reader.bundles.state().problem), (subjects(["a"]), None), "{what}");
    }
}

#[test]
fn outage_keeps_cas_and_is_over_once_a_watch_is_open() {
    let [a, b] = pems(["a", "b"]);
    let reader = Reader::new();
    let is_down = AtomicUsize::new(0);
    let script = |request: &ReceivedRequest| match (is_down.load(Ordering::SeqCst), request.is_watch()) {
        (1, _) => Reply::status(503, "ServiceUnavailable", "starting"),
        (0, false) => list("120", &[bundle("m:1", &a)]),
        (0, true) => Reply::stream().then(End::Cut),
        (_, false) => list("300", &[bundle("m:1", &b)]),
        (_, true) => Reply::stream(),
    };
    let mut world = reader.scene.world(script);
    let start = world.now.instant;
    reader.run(&mut world, |now, state| {
        let elapsed = now.instant.since(start);
        if elapsed < SECOND && state.roots.is_some() {
            is_down.store(1, Ordering::SeqCst);
        }
        if elapsed > 300 * SECOND {
            is_down.store(2, Ordering::SeqCst);
        }
        if (10 * SECOND..300 * SECOND).contains(&elapsed) {
            let problem = state.problem.as_ref().unwrap();
            assert!(problem.starts_with("the server answered 503 ServiceUnavailable: starting"), "{problem}");
            assert!(problem.ends_with("; the CAs read before stay trusted"), "{problem}");
            assert_eq!(reader.trusted(), subjects(["a"]));
        }
        elapsed > 400 * SECOND
    });
    assert_eq!((reader.trusted(), reader.bundles.state().problem), (subjects(["b"]), None));
}

/// An identity that is coming at first, then is the token `t1`, and `t2` once `t1` was refused.
#[derive(Default)]
struct Tokens {
    calls: AtomicUsize,
    refused: Mutex<Vec<Identity>>,
}

impl IdentitySource for Tokens {
    fn identity(&self) -> Result<Identity, NotYet> {
        if self.calls.fetch_add(1, Ordering::SeqCst) < 6 {
            return Err(NotYet::coming("waiting for the client certificate"));
        }
        let token = if self.refused.lock().unwrap().is_empty() { "t1" } else { "t2" };
        Ok(Identity::Token(Token::new(token).unwrap()))
    }

    fn identity_refused(&self, identity: &Identity) {
        self.refused.lock().unwrap().push(identity.clone());
    }
}

#[test]
fn list_waits_for_identity_and_reports_refused_one() {
    let a = pem("a");
    let tokens = Arc::new(Tokens::default());
    let reader = Reader { identity: tokens.clone(), ..Reader::new() };
    let world = reader.until(
        |request| match (request.head.contains("Bearer t2"), request.is_watch()) {
            (false, _) => Reply::status(401, "Unauthorized", "who are you?"),
            (true, false) => list("120", &[bundle("m:1", &a)]),
            (true, true) => Reply::stream(),
        },
        |state| state.roots.is_some() && state.problem.is_none(),
    );
    // 1 + 2 + 4 + 8 + 10 + 10 seconds without a request, then a refusal, a pause, a list and a watch.
    assert_eq!((world.requests.len(), tokens.refused.lock().unwrap().len()), (3, 1));
    assert!((35 * SECOND..38 * SECOND).contains(&world.elapsed()), "{:?}", world.elapsed());
    assert_eq!(world.requests.iter().map(|request| request.connection).collect::<Vec<_>>(), [1, 2, 2]);
}
