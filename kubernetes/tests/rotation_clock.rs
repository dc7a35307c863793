//! What the `Date` of the API server's answers does to a rotation.

mod client_support;

use std::sync::Arc;
use std::time::Duration;

use client_support::{Ca, EPOCH, Scene};
use perennial::{Instant, Now, Policy, RequestId, Template, UnixTime};
use perennial_kubernetes::CsrSigner;
use perennial_pki::Chain;
use perennial_rotation::{
    Answer, Authentication, Command, Health, Identity, Input, Issued, Progress, Rotation, ServerDate, Start,
};

const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);

/// A node whose clock is two days ahead, and the request that it makes at once.
struct Node {
    rotation: Rotation,
    now: Now,
    asked: RequestId,
    public_key: Vec<u8>,
}

impl Node {
    fn two_days_ahead() -> Self {
        let now = Now { instant: Instant::from_millis(1000), unix: UnixTime::from_secs(EPOCH).after(2 * DAY) };
        let mut signer = CsrSigner::kubelet_client(Scene::new().cluster(), None);
        signer.authentication = Authentication::other(Identity::Anonymous);
        let start = Start {
            policy: Arc::new(Policy::default()),
            signer: Some(Arc::new(signer)),
            template: Some(Arc::new(Template::node("a"))),
            common_name: None,
            credential: None,
            waiting: None,
            unwritten: false,
            rotate_now: false,
            pending: None,
        };
        let mut rotation = Rotation::new(start, now);
        let (mut asked, mut key) = (None, None);
        for command in rotation.handle(Input::Tick, now) {
            match command {
                Command::Save { record } => key = record.key,
                Command::Drive { id, .. } => asked = Some(id),
                Command::Drop { .. } | Command::Write { .. } | Command::SetTimer(_) => {}
            }
        }
        Self { rotation, now, asked: asked.unwrap(), public_key: key.unwrap().public_key_der().to_vec() }
    }

    /// An answer with the true time, which the rotation learns of a while later.
    fn dated(&mut self) -> Health {
        let at = Now { instant: self.now.instant.after(SECOND), unix: self.now.unix.after(SECOND) };
        let date = Some(ServerDate { unix: at.unix.before(2 * DAY), at: at.instant });
        self.now = Now { instant: at.instant.after(5 * SECOND), unix: at.unix.after(5 * SECOND) };
        Health { answer: Answer::Served, at, date }
    }

    fn progressed(&mut self, health: Health) {
        let input = Input::Progressed { id: self.asked, progress: Progress::Submitting, health: Some(health) };
        self.rotation.handle(input, self.now);
    }

    fn issued(&mut self, health: Option<Health>) {
        let pem = Ca::new("the test CA").sign(&self.public_key, &["system:nodes"], true, 3600);
        let chain = Chain::from_pem(pem.as_bytes()).unwrap();
        let result = Ok(Issued { chain, csr_name: String::new(), requests: 2, health });
        self.rotation.handle(Input::Finished { id: self.asked, result }, self.now);
    }

    fn offset(&self) -> Option<i64> {
        self.rotation.snapshot(self.now).clock_offset.map(|offset| offset.millis)
    }
}

#[test]
fn offset_is_known_once_three_answers_agree() {
    let mut node = Node::two_days_ahead();
    for known in [None, None, Some(-172_800_000)] {
        let health = node.dated();
        node.progressed(health);
        assert_eq!(node.offset(), known);
        // What is reported again is no new answer.
        node.progressed(health);
        assert_eq!(node.offset(), known);
    }
}

#[test]
fn offset_is_remembered_while_answers_disagree() {
    let mut node = Node::two_days_ahead();
    for _ in 0..3 {
        let health = node.dated();
        node.progressed(health);
    }
    let mut health = node.dated();
    health.date = health.date.map(|date| ServerDate { unix: date.unix.after(DAY), ..date });
    node.progressed(health);
    assert_eq!(node.offset(), Some(-172_800_000));
    assert_eq!(node.rotation.machine().server_time(node.now), None, "and not judged by");
}

#[test]
fn certificate_is_judged_by_the_clock_of_its_own_answer() {
    for (answers, accepted) in [(1, false), (2, true)] {
        let mut node = Node::two_days_ahead();
        for _ in 0..answers {
            let health = node.dated();
            node.progressed(health);
        }
        let last = node.dated();
        node.issued(Some(last));
        assert_eq!(node.rotation.snapshot(node.now).credential.is_some(), accepted, "{answers} answers before");
    }
}

#[test]
fn certificate_without_a_server_clock_is_judged_by_the_local_one() {
    let mut node = Node::two_days_ahead();
    node.issued(None);
    let snapshot = node.rotation.snapshot(node.now);
    assert!(snapshot.credential.is_none() && snapshot.clock_offset.is_none());
    assert!(snapshot.last_error.unwrap().contains("check the clocks"));
}
