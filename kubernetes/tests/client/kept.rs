//! Submissions that hand their connection to each other, in clusters that keep connections.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::{Issuance, Limits};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Roots;
use perennial_rotation::{Identity, Signer as _, Token};

/// A node whose cluster keeps connections. The CAs of the cluster can be replaced.
struct Kept {
    scene: Scene,
    cluster: Arc<Cluster>,
    roots: Arc<Mutex<Roots>>,
}

impl Kept {
    fn new() -> Self {
        let scene = Scene::new();
        let roots = Arc::new(Mutex::new(scene.ca.roots()));
        let source = roots.clone();
        let cluster = Cluster::from_url("https://api.example:6443").unwrap();
        let cluster = cluster.with_kept_connections().with_roots(move || Ok(source.lock().unwrap().clone()));
        Self { scene, cluster: Arc::new(cluster), roots }
    }

    /// A server that issues each certificate before the client reads the object.
    fn world(&self) -> World<'_> {
        self.scene.world(|request| self.issue(request))
    }

    fn issue(&self, request: &ReceivedRequest) -> Reply {
        match request.is_post() {
            true => Reply::object(201, &self.scene.object(&[])),
            false => Reply::object(200, &self.scene.issued()),
        }
    }

    fn submission(&self, identity: Identity) -> Issuance {
        let csr = self.scene.desired_csr.clone();
        Issuance::new(csr, self.cluster.clone(), identity, Limits::default(), 7).sharing_connections()
    }

    fn submit(&self, world: &mut World<'_>, identity: &Identity) {
        world.run(&mut self.submission(identity.clone())).unwrap();
    }

    /// A signer that uses the cluster.
    fn signer(&self) -> CsrSigner {
        CsrSigner::kubelet_client(self.cluster.clone(), None)
    }
}

fn token(text: &str) -> Identity {
    Identity::Token(Token::new(text).unwrap())
}

/// The number of the connection of each HTTP request.
fn connections(world: &World<'_>) -> Vec<usize> {
    world.requests.iter().map(|request| request.connection).collect()
}

#[test]
fn submissions_with_one_identity_share_a_connection() {
    let kept = Kept::new();
    let mut world = kept.world();
    (0..3).for_each(|_| kept.submit(&mut world, &token("a")));
    assert_eq!(connections(&world), [1; 6]);
    assert_eq!(world.steps.iter().filter(|step| *step == "keep").count(), 3);
    assert!(world.lines()[1].starts_with("GET") && world.lines()[1].ends_with(&kept.scene.desired_csr.name));
}

#[test]
fn kept_connection_reads_alike_however_bytes_are_split() {
    let kept = Kept::new();
    let run = |portion: fn(usize) -> usize| {
        let mut world = kept.world().portions(portion);
        (0..3).for_each(|_| kept.submit(&mut world, &token("a")));
        kept.signer().close_kept(later(&world, 5));
        (world.lines(), connections(&world), world.elapsed())
    };
    let whole = run(|length| length);
    assert_eq!(whole.1, [1; 6]);
    for portion in [|_| 1, |_| 7, |length: usize| length / 2] {
        assert_eq!(run(portion), whole);
    }
}

#[test]
fn other_identity_or_other_cas_get_another_connection() {
    let kept = Kept::new();
    let mut world = kept.world();
    let [one, renewed] = [(); 2].map(|()| kept.scene.ca.credential());
    let identities = [
        token("a"),
        token("b"),
        Identity::Anonymous,
        Identity::Certificate(one.clone()),
        Identity::Certificate(renewed),
        Identity::CertificateAndToken(one, Token::new("a").unwrap()),
    ];
    for _ in 0..2 {
        identities.iter().for_each(|identity| kept.submit(&mut world, identity));
    }
    let each = |number: usize| [number; 2];
    assert_eq!(connections(&world), [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6].map(each).concat());
    let more = Ca::new("another CA");
    *kept.roots.lock().unwrap() = Roots::from_pem(format!("{}{}", kept.scene.ca.pem, more.pem).as_bytes()).unwrap();
    kept.submit(&mut world, &token("a"));
    assert_eq!(connections(&world)[24..], [7, 7]);
}

#[test]
fn dead_kept_connection_is_replaced_by_one_new_connection() {
    let kept = Kept::new();
    let mut world = kept.world();
    kept.submit(&mut world, &token("a"));
    world.closes_kept = true;
    kept.submit(&mut world, &token("a"));
    kept.submit(&mut world, &token("a"));
    assert_eq!(connections(&world), [1, 1, 2, 2, 2, 2]);
    assert!(world.steps.iter().all(|step| !step.starts_with("wait") || step == "wait 100ms"), "{:?}", world.steps);
}

#[test]
fn bytes_that_a_server_sends_unasked_are_no_answer_to_the_next_request() {
    let kept = Kept::new();
    // A second answer, and the answer by which proxies end an idle connection. Then no bytes, only the end.
    let again = Reply::object(201, &kept.scene.object(&[]));
    let unasked = [
        (again.pieces[0].1.clone(), End::Keep),
        (b"HTTP/1.1 408 Request Time-out\r\nConnection: close\r\n\r\n".to_vec(), End::Close),
        (b"HTTP/1.1 408 Request Time-out\r\nContent-Length: 0\r\n\r\n".to_vec(), End::Cut),
        (Vec::new(), End::Close),
        (Vec::new(), End::Reset),
    ];
    for (bytes, end) in unasked {
        let late = (Duration::from_secs(1), bytes);
        let mut world = kept.world();
        world.script = Box::new(|request| {
            let mut reply = kept.issue(request);
            if !request.is_post() && request.connection == 1 {
                reply.pieces.push(late.clone());
                reply.end = end;
            }
            reply
        });
        kept.submit(&mut world, &token("a"));
        world.now = later(&world, 2);
        kept.submit(&mut world, &token("a"));
        assert_eq!(connections(&world), [1, 1, 2, 2], "{late:?}, {end:?}");
        assert!(world.steps.iter().all(|step| !step.starts_with("wait") || step == "wait 100ms"), "{:?}", world.steps);
        kept.signer().close_kept(later(&world, 5));
    }
}

#[test]
fn connection_is_kept_for_five_seconds() {
    let kept = Kept::new();
    let mut world = kept.world();
    assert_eq!(kept.signer().kept_until(), None);
    kept.submit(&mut world, &token("a"));
    let until = kept.signer().kept_until().unwrap();
    assert_eq!(until, world.now.instant.after(Duration::from_secs(5)));
    kept.signer().close_kept(later(&world, 4));
    assert_eq!(kept.signer().kept_until(), Some(until));
    kept.signer().close_kept(later(&world, 5));
    assert_eq!(kept.signer().kept_until(), None);
    kept.submit(&mut world, &token("a"));
    assert_eq!(connections(&world), [1, 1, 2, 2]);
    // Also without a call of `close_kept`.
    world.now = later(&world, 5);
    kept.submit(&mut world, &token("a"));
    assert_eq!(connections(&world)[4..], [3, 3]);
}

/// The time this many seconds after the world's.
fn later(world: &World<'_>, seconds: u64) -> perennial::Now {
    let span = Duration::from_secs(seconds);
    perennial::Now { instant: world.now.instant.after(span), unix: world.now.unix.after(span) }
}

#[test]
fn refused_identity_closes_its_kept_connections_only() {
    let kept = Kept::new();
    let mut world = kept.world();
    kept.submit(&mut world, &token("a"));
    kept.submit(&mut world, &token("b"));
    world.script = Box::new(|_| Reply::status(401, "Unauthorized", "Unauthorized"));
    // The kept connection of "a" is in use by the submission that is refused: the submission keeps none.
    world.run(&mut kept.submission(token("a"))).unwrap_err();
    world.script = Box::new(|request| kept.issue(request));
    kept.submit(&mut world, &token("a"));
    kept.submit(&mut world, &token("b"));
    assert_eq!(connections(&world), [1, 1, 2, 2, 1, 3, 3, 2, 2]);
}

#[test]
fn submission_that_has_to_watch_keeps_no_connection() {
    let kept = Kept::new();
    let mut world = kept.scene.world(kept.scene.well());
    kept.submit(&mut world, &token("a"));
    let lines = world.lines();
    assert!(lines.len() == 3 && lines[0].starts_with("POST") && lines[2].ends_with("?watch"), "{lines:?}");
    assert_eq!(kept.signer().kept_until(), None);
    assert_eq!(world.steps.last().unwrap(), "disconnect");
}

#[test]
fn cluster_that_keeps_no_connections_changes_nothing() {
    let scene = Scene::new();
    let mut world = scene.world(scene.well());
    world.run(&mut scene.issuance().sharing_connections()).unwrap();
    assert_eq!(world.lines().len(), 2);
    assert!(!world.steps.iter().any(|step| step.starts_with("wait") || step == "keep"), "{:?}", world.steps);
}
