//! How the `Date` headers of the API server's answers influence a rotation.

use std::time::Duration;

use crate::support::{Ca, EPOCH, SECOND};
use perennial::{Instant, Now, Template, UnixTime};
use perennial_rotation::{Answer, Health, Input, Progress, ServerDate};

const DAY: Duration = Duration::from_secs(86_400);

/// A node whose clock is two days ahead, and which has submitted its first request.
struct Node(crate::support::Node);

impl Node {
    fn two_days_ahead() -> Self {
        let now = Now { instant: Instant::from_millis(1000), unix: UnixTime::from_secs(EPOCH).after(2 * DAY) };
        Self(crate::support::Node::asking(Template::node("a"), now, |_| {}))
    }

    /// A second passes; then an answer of the API server arrives, with the true time as its `Date`; then five more
    /// seconds pass. Returns the health that the answer shows.
    fn dated(&mut self) -> Health {
        let at = Now { instant: self.0.now.instant.after(SECOND), unix: self.0.now.unix.after(SECOND) };
        let date = Some(ServerDate { unix: at.unix.before(2 * DAY), at: at.instant });
        self.0.now = Now { instant: at.instant.after(5 * SECOND), unix: at.unix.after(5 * SECOND) };
        Health { answer: Answer::Served, at, date }
    }

    fn progressed(&mut self, health: Health) {
        let input = Input::Progressed { id: self.0.request, progress: Progress::Submitting, health: Some(health) };
        self.0.rotation.handle(input, self.0.now);
    }

    fn issued(&mut self, health: Option<Health>) {
        let pem = Ca::new("the test CA").sign(&self.0.public_key, &["system:nodes"], true, 3600);
        self.0.issued(&pem, health);
    }

    fn offset(&self) -> Option<i64> {
        self.0.rotation.snapshot(self.0.now).clock_offset.map(|offset| offset.millis)
    }
}

#[test]
fn clock_offset_is_known_after_three_agreeing_answers() {
    let mut node = Node::two_days_ahead();
    for known in [None, None, Some(-172_800_000)] {
        let health = node.dated();
        node.progressed(health);
        assert_eq!(node.offset(), known);
        // The same health, reported again, does not count as another answer.
        node.progressed(health);
        assert_eq!(node.offset(), known);
    }
}

#[test]
fn clock_offset_is_remembered_while_answers_disagree() {
    let mut node = Node::two_days_ahead();
    for _ in 0..3 {
        let health = node.dated();
        node.progressed(health);
    }
    let mut health = node.dated();
    health.date = health.date.map(|date| ServerDate { unix: date.unix.after(DAY), ..date });
    node.progressed(health);
    assert_eq!(node.offset(), Some(-172_800_000));
    assert_eq!(node.0.rotation.machine().server_time(node.0.now), None, "and not judged by");
}

#[test]
fn date_header_counts_for_certificate_in_same_answer() {
    for (answers, accepted) in [(1, false), (2, true)] {
        let mut node = Node::two_days_ahead();
        for _ in 0..answers {
            let health = node.dated();
            node.progressed(health);
        }
        let last = node.dated();
        node.issued(Some(last));
        assert_eq!(node.0.rotation.snapshot(node.0.now).credential.is_some(), accepted, "{answers} answers before");
    }
}

#[test]
fn expiry_is_decided_by_local_clock_if_answers_have_no_date() {
    let mut node = Node::two_days_ahead();
    node.issued(None);
    let snapshot = node.0.rotation.snapshot(node.0.now);
    assert!(snapshot.credential.is_none() && snapshot.clock_offset.is_none());
    assert!(snapshot.last_error.unwrap().contains("check the clocks"));
}
