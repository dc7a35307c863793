//! The CAs that a cluster publishes as ClusterTrustBundles: a list, watches that follow it, and what their errors change.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use perennial::Now;
use perennial_kubernetes::client::Limits;
use perennial_kubernetes::{BundleSelection, BundleState, BundleWatch, TrustBundles};
use perennial_rotation::{Conversation, Identity, IdentitySource, IoEvent, IoRequest, NotYet, RootsSource as _, Token};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const MESH: &str = "example.com/mesh";

/// A watch that ends once `ends` returns true, so that it can be driven to an end.
struct Until<'a> {
    watch: BundleWatch,
    ends: Box<dyn FnMut(Now) -> bool + 'a>,
}

impl Conversation for Until<'_> {
    type Outcome = ();

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        self.watch.handle(input, now);
    }

    fn poll(&mut self, now: Now) -> IoRequest<()> {
        let step = self.watch.poll(now);
        if (self.ends)(now) {
            return IoRequest::Done(());
        }
        match step {
            IoRequest::Connect { host, port, until } => IoRequest::Connect { host, port, until },
            IoRequest::Transmit { bytes, until } => IoRequest::Transmit { bytes, until },
            IoRequest::Receive { until } => IoRequest::Receive { until },
            IoRequest::Disconnect => IoRequest::Disconnect,
            IoRequest::Keep(kept) => IoRequest::Keep(kept),
            IoRequest::Reuse(kept) => IoRequest::Reuse(kept),
            IoRequest::Wait { until } => IoRequest::Wait { until },
            IoRequest::Done(never) => match never {},
        }
    }
}

/// A node that reads the bundles of a selection.
struct Reader {
    scene: Scene,
    bundles: TrustBundles,
    identity: Arc<dyn IdentitySource>,
}

impl Reader {
    fn new() -> Self {
        Self::of(BundleSelection::of_signer(MESH))
    }

    fn of(selection: BundleSelection) -> Self {
        let identity = Arc::new(Identity::Anonymous);
        Self { scene: Scene::new(), bundles: TrustBundles::new(selection), identity }
    }

    /// Reads the bundles from a server that answers by `script`, until `ends` returns true for a state.
    fn until<'a>(
        &self,
        script: impl FnMut(&ReceivedRequest) -> Reply + 'a,
        ends: impl Fn(&BundleState) -> bool,
    ) -> World<'a> {
        let mut world = self.scene.world(script);
        self.run(&mut world, |_, state| ends(state));
        world
    }

    /// Reads the bundles from a server that answers by `script`, for `span`.
    fn lasting<'a>(&self, span: Duration, script: impl FnMut(&ReceivedRequest) -> Reply + 'a) -> World<'a> {
        let mut world = self.scene.world(script);
        let until = world.now.instant.after(span);
        self.run(&mut world, |now, _| now.instant >= until);
        world
    }

    fn run(&self, world: &mut World<'_>, ends: impl Fn(Now, &BundleState) -> bool) {
        let watch = self.bundles.watch(self.scene.cluster(), self.identity.clone(), Limits::default(), 7);
        let ends = Box::new(|now| ends(now, &self.bundles.state()));
        world.run(&mut Until { watch, ends });
    }

    /// The subjects of the trusted CAs, sorted.
    fn trusted(&self) -> BTreeSet<String> {
        self.bundles.roots().map_or_else(|_| BTreeSet::new(), |roots| roots.subjects().collect())
    }
}

fn subjects<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(|name| format!("CN={name}")).into()
}

fn bundle_of(signer: &str, name: &str, pem: &str) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "ClusterTrustBundle",
        "metadata": { "name": name, "uid": "uid-1", "resourceVersion": "100" },
        "spec": { "signerName": signer, "trustBundle": pem },
    })
}

fn bundle(name: &str, pem: &str) -> Value {
    bundle_of(MESH, name, pem)
}

fn list(version: &str, items: &[Value]) -> Reply {
    let list = json!({ "kind": "ClusterTrustBundleList", "metadata": { "resourceVersion": version }, "items": items });
    Reply::json(200, list.to_string())
}

/// A server with these bundles. Answers the n-th watch, counted from 0, with `nth(n)`; the others stay open.
fn server<'a>(
    items: Vec<Value>,
    mut nth: impl FnMut(usize) -> Reply + 'a,
) -> impl FnMut(&ReceivedRequest) -> Reply + 'a {
    let mut watches = 0;
    move |request| match request.is_watch() {
        false => list("120", &items),
        true => {
            watches += 1;
            nth(watches - 1)
        }
    }
}

fn pem(name: &str) -> String {
    Ca::new(name).pem
}

fn pems<const N: usize>(names: [&str; N]) -> [String; N] {
    names.map(pem)
}

/// The certificate of a CA, of 84 KiB.
fn large_pem(name: &str) -> String {
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![0; 62 << 10]));
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

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
fn selection_is_sent_as_field_and_label_selector() {
    for (selection, query) in [
        (BundleSelection::Name("b=1,x".to_owned()), "fieldSelector=metadata.name%3Db%5C%3D1%5C%2Cx"),
        (BundleSelection::of_signer(MESH), "fieldSelector=spec.signerName%3Dexample.com%2Fmesh"),
        (
            BundleSelection::Signer { name: MESH.to_owned(), labels: "live,tier in (a, b)".to_owned() },
            "fieldSelector=spec.signerName%3Dexample.com%2Fmesh&labelSelector=live%2Ctier%20in%20%28a%2C%20b%29",
        ),
    ] {
        let reader = Reader::of(selection);
        let world = reader.until(server(vec![], |_| Reply::stream()), |state| state.read.is_some());
        assert_eq!(world.requests[0].line.split_once('?').unwrap().1, query);
    }
}

#[test]
fn state_is_independent_of_portions_of_bytes() {
    let [a, b] = pems(["a", "b"]);
    for portion in [1, 2, 7, 64, 1000, usize::MAX] {
        let reader = Reader::new();
        let script = server(vec![bundle("m:1", &a)], |_| Reply::stream().event("MODIFIED", bundle("m:1", &b)));
        let mut world = reader.scene.world(script).portions(|length| length.min(portion));
        reader.run(&mut world, |_, _| reader.trusted() == subjects(["b"]));
        assert_eq!((world.requests.len(), reader.bundles.state().problem), (2, None), "{portion}");
    }
}

#[test]
fn certificates_are_joined_once_each_in_order_of_their_der() {
    let [a, b, c] = pems(["a", "b", "c"]);
    let divisions = [
        vec![bundle("m:1", &format!("{a}{b}{c}"))],
        vec![bundle("m:1", &format!("# CAs\n{c}{a}")), bundle("m:2", &format!("{a}{b}{b}"))],
        vec![bundle("m:3", &a), bundle("m:2", &b), bundle("m:1", &c), bundle("m:4", &a)],
    ];
    let read = divisions.map(|items| {
        let reader = Reader::new();
        reader.until(server(items, |_| Reply::stream()), |state| state.roots.is_some());
        reader.bundles.roots().unwrap()
    });
    assert_eq!(read[0].subjects().count(), 3);
    assert!(read.iter().all(|roots| *roots == read[0]));
}

#[test]
fn bad_bundle_is_disregarded_and_its_last_good_cas_stay() {
    let [a, b] = pems(["a", "b"]);
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (bad, why) in [
        (json!(""), "no certificate found"),
        (json!("no PEM"), "no certificate found"),
        (json!(key), "is a PRIVATE KEY; only CERTIFICATE blocks are allowed"),
        (json!(format!("{b}{key}")), "is a PRIVATE KEY; only CERTIFICATE blocks are allowed"),
        (json!(b.replacen("MII", "M!I", 1)), "does not contain plain base64"),
        (json!(&b[..b.len() / 2]), "is cut short"),
        (json!(b.replacen("-----\n", "-----\nName: value\n\n", 1)), "has headers"),
        (json!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "not valid DER"),
        (json!(format!("{b}{}", " ".repeat(1 << 20))), "exceed the limit of 1 MiB"),
        (json!(17), "it cannot be read: invalid type"),
    ] {
        let mut changed = bundle("m:1", "");
        changed["spec"]["trustBundle"] = bad.clone();
        // As the first content of the bundle, and after a good one.
        for is_first in [true, false] {
            let reader = Reader::new();
            let first = if is_first { changed.clone() } else { bundle("m:1", &a) };
            let script = server(vec![first, bundle("m:2", &b)], |_| Reply::stream().event("MODIFIED", &changed));
            reader
                .until(script, |state| state.problem.as_ref().is_some_and(|problem| problem.starts_with("the bundle")));
            let state = reader.bundles.state();
            let problem = state.problem.unwrap();
            assert!(problem.starts_with("the bundle m:1 is disregarded: ") && problem.contains(why), "{problem}");
            let trusted = if is_first { subjects(["b"]) } else { subjects(["a", "b"]) };
            assert_eq!((reader.trusted(), state.bundles), (trusted, 2), "{problem}");
            assert_eq!(state.is_partial, is_first, "{problem}");
            assert_eq!(problem.ends_with("; the CAs that it contained before stay trusted"), !is_first, "{problem}");
        }
    }
}

#[test]
fn bad_bundle_as_only_one_leaves_no_ca() {
    let reader = Reader::new();
    let script = server(vec![bundle("m:1", "none"), bundle("m:2", "none")], |_| Reply::stream());
    reader.until(script, |state| state.problem.is_some());
    assert_eq!(
        reader.bundles.roots().unwrap_err().to_string(),
        "no CA from the ClusterTrustBundles of signer example.com/mesh: the bundle m:1 is disregarded: no certificate \
         found; expected a PEM block CERTIFICATE; 2 bundles are disregarded in all"
    );
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
fn bundle_of_another_signer_or_name_is_not_trusted() {
    let [a, b] = pems(["a", "b"]);
    let items = vec![bundle("m:1", &a), bundle_of("example.com/other", "o:1", &b)];
    let reader = Reader::new();
    reader.until(server(items.clone(), |_| Reply::stream()), |state| state.roots.is_some());
    assert_eq!((reader.trusted(), reader.bundles.state().bundles), (subjects(["a"]), 1));
    let reader = Reader::of(BundleSelection::Name("o:1".to_owned()));
    reader.until(server(items, |_| Reply::stream()), |state| state.roots.is_some());
    assert_eq!((reader.trusted(), reader.bundles.state().bundles), (subjects(["b"]), 1));
}

#[test]
fn oldest_served_version_of_api_is_found() {
    let a = pem("a");
    let reader = Reader::new();
    let world = reader.lasting(SECOND, |request| match (request.line.contains("/v1alpha1/"), request.is_watch()) {
        (false, _) => Reply::raw("HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n404 page not found\n"),
        (true, false) => list("120", &[bundle("m:1", &a)]),
        (true, true) => Reply::stream(),
    });
    assert_eq!((reader.trusted(), reader.bundles.state().problem), (subjects(["a"]), None));
    let versions: Vec<_> = world.requests.iter().map(|request| request.line.split('/').nth(3).unwrap()).collect();
    assert_eq!(versions, ["v1", "v1beta1", "v1alpha1", "v1alpha1"]);
}

#[test]
fn server_without_api_is_reported_and_asked_seldom() {
    let reader = Reader::new();
    let world = reader.lasting(3600 * SECOND, |_| {
        Reply::raw("HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n404 page not found\n")
    });
    let problem = reader.bundles.state().problem.unwrap();
    for part in ["--feature-gates=ClusterTrustBundle=true", "--runtime-config=certificates.k8s.io/v1beta1"] {
        assert!(problem.contains(part), "{problem}");
    }
    // Three versions, every one to two minutes.
    assert!((90..=183).contains(&world.requests.len()), "{}", world.requests.len());
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

/// A hostile server, or a proxy that shows the request in its errors.
#[test]
fn problem_hides_echoed_token() {
    const SECRET: &str = "abcdef.0123456789abcdef";
    let identity = Arc::new(Identity::Token(Token::new(SECRET).unwrap()));
    let text = format!("you sent {SECRET}");
    let status = json!({ "kind": "Status", "code": 500, "message": text });
    let bad = bundle(SECRET, "no PEM");
    let error = || Reply::status(500, "InternalError", &text);
    for (what, answer, event) in [
        ("list", Some(error()), Reply::stream()),
        ("refused watch", None, error()),
        ("error event", None, Reply::stream().event("ERROR", &status)),
        ("name", None, Reply::stream().event("ADDED", &bad)),
        ("kind", None, Reply::stream().event("ADDED", json!(SECRET))),
    ] {
        let reader = Reader { identity: identity.clone(), ..Reader::new() };
        let script = |request: &ReceivedRequest| match (request.is_watch(), &answer) {
            (true, _) => event.clone(),
            (false, Some(answer)) => answer.clone(),
            (false, None) => list("120", &[]),
        };
        let quotes = |problem: &String| [SECRET, "[token]"].iter().any(|token| problem.contains(token));
        reader.until(script, |state| state.problem.as_ref().is_some_and(quotes));
        let shown = format!("{:?}", reader.bundles);
        assert!(!shown.contains(SECRET), "{what}: {shown}");
    }
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

#[test]
fn bundles_beyond_limits_are_reported() {
    let a = pem("a");
    let many: Vec<_> = (0..1001).map(|i| bundle(&format!("m:{i}"), &a)).collect();
    let reader = Reader::new();
    reader.until(server(many, |_| Reply::stream()), |state| state.problem.is_some());
    let state = reader.bundles.state();
    assert_eq!(state.problem.unwrap(), "more than 1000 bundles are selected, and only 1000 are used; select fewer");
    assert_eq!((state.bundles, reader.trusted(), state.is_partial), (1000, subjects(["a"]), true));

    let large = a.repeat((1 << 20) / a.len());
    let reader = Reader::new();
    let items: Vec<_> = (0..3).map(|i| bundle(&format!("m:{i}"), &large)).collect();
    reader.until(server(items, |_| Reply::stream()), |state| state.roots.is_some());
    assert_eq!(reader.bundles.state().problem, None, "each certificate is kept once");

    // Five bundles of almost 1 MiB each, whose certificates all differ.
    let pems: Vec<String> = (0..5).map(|i| (0..12).map(|j| large_pem(&format!("{i}.{j}"))).collect()).collect();
    let reader = Reader::new();
    let script = server(vec![bundle("m:0", &pems[0])], |_| {
        let name = |i: usize| format!("m:{i}");
        (1..5).fold(Reply::stream(), |reply, i| reply.event("ADDED", bundle(&name(i), &pems[i])))
    });
    reader.until(script, |state| state.problem.is_some());
    let problem = reader.bundles.state().problem.unwrap();
    assert_eq!(problem, "the bundle m:4 is disregarded: the bundles have more than 4 MiB of certificates");
    assert_eq!(reader.trusted().len(), 48);

    let reader = Reader::new();
    reader.until(|_| Reply::json(200, vec![b' '; 5 << 20]), |state| state.problem.is_some());
    assert_eq!(reader.bundles.state().problem.unwrap(), "the answer is longer than 4 MiB");

    let reader = Reader::new();
    let line = vec![b' '; (3 << 19) + 1];
    let script = server(vec![bundle("m:1", &a)], move |_| {
        let mut reply = Reply::stream();
        reply.pieces.push((SECOND, chunk(&line)));
        reply
    });
    reader.until(script, |state| state.problem.is_some());
    let problem = reader.bundles.state().problem.unwrap();
    assert_eq!(problem, "an event of the watch is longer than 1.5 MiB; the CAs read before stay trusted");
}

/// The connection ends after each number of bytes of the list and of the watch, once. The next list finds what was lost.
#[test]
fn answer_cut_at_any_byte_loses_no_change() {
    let [a, b, c] = pems(["a", "b", "c"]);
    let first = [bundle("m:1", &a), bundle("m:2", &b)];
    let second = [bundle("m:1", &a), bundle("m:2", &c)];
    let watch = || Reply::stream().event("MODIFIED", &second[1]).finish(Duration::ZERO);
    let lengths = [list("120", &first).len(), watch().len()];
    for (is_watch, length) in [false, true].into_iter().zip(lengths).flat_map(|(is_watch, length)| {
        // Each byte of the heads and of the frames; of the certificates, one in 97.
        (0..length).filter(move |at| *at < 160 || *at + 40 > length || at % 97 == 0).map(move |at| (is_watch, at))
    }) {
        let reader = Reader::new();
        let mut is_cut = false;
        reader.until(
            |request| {
                let reply = match (request.is_watch(), is_cut) {
                    (false, false) => list("120", &first),
                    (false, true) => list("130", &second),
                    (true, false) => watch(),
                    (true, true) => Reply::stream(),
                };
                match is_cut || request.is_watch() != is_watch {
                    true => reply,
                    false => {
                        is_cut = true;
                        reply.cut_at(length)
                    }
                }
            },
            |state| state.problem.is_none() && reader.trusted() == subjects(["a", "c"]),
        );
        assert!(is_cut, "watch: {is_watch}, {length}");
    }
}
