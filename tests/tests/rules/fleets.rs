//! Turns in a fleet: limits, order, clocks, and members that come and go.

use perennial::{Actions, Budget, Fleet, Limits, MemberKey, Planner, State};

use super::*;

/// A fleet and its clocks, which only the test changes.
struct Many {
    fleet: Fleet,
    now: Now,
}

impl Many {
    fn new(in_flight: u32, budget: Option<Budget>) -> Self {
        let limits = Limits { in_flight: in_flight.try_into().unwrap(), budget, ..Limits::default() };
        Self { fleet: Fleet::new(limits), now: Now { instant: Instant::from_millis(0), unix: mint::EPOCH } }
    }

    fn add(&mut self, certificate: Option<Certificate>) -> MemberKey {
        self.fleet.insert(setup(certificate), self.now)
    }

    /// Adds a member whose certificate expires after `left`, and for which a rotation was requested.
    fn add_expiring(&mut self, left: Duration) -> MemberKey {
        let certificate = issued(&node(), 1, self.now.unix.since(mint::EPOCH), left);
        self.fleet.insert(Setup { rotate_now: true, ..setup(Some(certificate)) }, self.now)
    }

    fn pass(&mut self, span: Duration) {
        self.now = Now { instant: self.now.instant.after(span), unix: self.now.unix.after(span) };
    }

    /// Lets every member act whose turn it is, and returns the requests that were submitted, in order.
    fn submitted(&mut self) -> Vec<(MemberKey, RequestId)> {
        let mut submitted = vec![];
        for turn in 0.. {
            assert!(turn < 10_000, "the fleet spins");
            let Some((key, actions)) = self.fleet.tick(self.now) else { break };
            submitted.extend(super::submitted(&actions.collect::<Vec<_>>()).map(|(id, ..)| (key, id)));
        }
        assert!(self.fleet.deadline().is_none_or(|at| at > self.now.instant));
        submitted
    }

    fn keys(&mut self) -> Vec<MemberKey> {
        self.submitted().into_iter().map(|(key, _)| key).collect()
    }

    fn fail(&mut self, (key, id): (MemberKey, RequestId)) -> Actions {
        self.fleet.handle(key, Event::CsrFailed { id, failure: Failure::Denied, retry_after: None }, self.now)
    }

    fn state(&self, key: MemberKey) -> State {
        self.fleet.get(key).unwrap().state()
    }
}

#[test]
fn fleet_submits_no_more_requests_than_its_limit() {
    let mut many = Many::new(2, None);
    let keys: Vec<_> = (0..5).map(|_| many.add(None)).collect();
    let first = many.submitted();
    assert_eq!(first.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys[..2]);
    assert!(matches!(many.state(keys[4]), State::Queued { .. }));
    let _ = many.fail(first[0]);
    assert_eq!(many.keys(), [keys[2]], "one place is free");
    assert_eq!(many.fleet.planner().in_flight(), 2);
}

#[test]
fn request_that_times_out_frees_its_place() {
    let mut many = Many::new(1, None);
    let [first, second] = [many.add(None), many.add(None)];
    assert_eq!(many.keys(), [first]);
    many.pass(Policy::default().request_timeout);
    assert_eq!(many.keys(), [second]);
}

#[test]
fn nearest_expiry_submits_first() {
    let mut many = Many::new(1, None);
    let hours = [9, 3, 23, 5];
    let keys = hours.map(|hours| many.add_expiring(HOUR * hours));
    let none = many.add(None);
    let mut order = vec![];
    while let [request] = many.submitted()[..] {
        order.push(request.0);
        many.fleet.remove(request.0);
    }
    assert_eq!(order, [none, keys[1], keys[3], keys[0], keys[2]]);
}

#[test]
fn newcomer_never_overtakes_member_that_has_waited_for_patience() {
    let mut many = Many::new(1, None);
    let busy = many.add(None);
    assert_eq!(many.keys(), [busy]);
    let patient = many.add_expiring(DAY * 300);
    many.fleet.tick(many.now);
    many.pass(Planner::PATIENCE - MINUTE);
    many.fleet.remove(busy);
    // A newcomer without a certificate is the most urgent.
    let urgent = many.add(None);
    assert_eq!(many.keys(), [urgent], "patience has not ended yet");
    many.pass(MINUTE * 2);
    let late = many.add(None);
    assert_eq!(many.keys(), []);
    many.fleet.remove(urgent);
    assert_eq!(many.keys(), [patient]);
    many.fleet.remove(patient);
    assert_eq!(many.keys(), [late]);
}

#[test]
fn fleet_budget_delays_submissions_and_deadline_names_the_next() {
    let mut many = Many::new(100, Some(Budget::new(3, MINUTE).unwrap()));
    (0..9).for_each(|_| _ = many.add(None));
    assert_eq!(many.keys().len(), 3);
    assert_eq!(many.fleet.deadline(), Some(many.now.instant.after(MINUTE)));
    many.pass(MINUTE - Duration::from_millis(1));
    assert_eq!(many.keys().len(), 0);
    many.pass(Duration::from_millis(1));
    assert_eq!(many.keys().len(), 1);
    many.pass(MINUTE * 2);
    assert_eq!(many.keys().len(), 2);
}

#[test]
fn turn_without_request_returns_place_and_token() {
    use perennial::{Schedule, Turn};
    let now = Now::default();
    let mut planner = Planner::new(Limits {
        budget: Some(Budget::new(2, HOUR).unwrap()),
        in_flight: 1.try_into().unwrap(),
        ..Limits::default()
    });
    let queued = Schedule { queued: Some(now.instant), ..Schedule::default() };
    let key = planner.insert(queued, now);
    for _ in 0..20 {
        assert_eq!((planner.next(now), planner.in_flight()), (Some(Turn::Grant(key)), 1));
        assert_eq!(planner.next(now), None);
        planner.update(key, Schedule::default(), now);
        planner.update(key, queued, now);
        assert_eq!(planner.in_flight(), 0);
    }
}

#[test]
fn request_that_supersedes_another_keeps_its_place() {
    let mut many = Many::new(1, None);
    let [first, second] = [many.add(None), many.add(None)];
    assert_eq!(many.keys(), [first]);
    many.pass(MINUTE * 5);
    // The first to wait needs a place, and has none: the request in flight stays, and so does its place.
    many.fleet.remove(second);
    let _ = many.fleet.handle(first, Event::TemplateChanged(Some(Arc::new(with_name()))), many.now);
    assert_eq!((many.keys(), many.fleet.planner().in_flight()), (vec![first], 1));
}

#[test]
fn removed_member_frees_its_place_and_its_late_reply_changes_nothing() {
    let mut many = Many::new(1, None);
    let [first, second] = [many.add(None), many.add(None)];
    let request = many.submitted()[0];
    assert!(many.fleet.remove(first).is_some_and(|machine| machine.pending(many.now).is_some()));
    assert!(many.fleet.remove(first).is_none());
    assert_eq!(many.keys(), [second]);
    // The place is taken again, under another key.
    let third = many.add(None);
    many.submitted();
    let before = format!("{:?}", many.fleet);
    let actions = many.fail(request);
    assert!(actions.is_empty() && actions.outcomes().is_ignored());
    assert_eq!(format!("{:?}", many.fleet), before);
    assert!(third != first && many.fleet.get(first).is_none() && many.fleet.get(third).is_some());
}

#[test]
fn step_of_the_wall_clock_is_noticed_within_max_sleep() {
    let mut many = Many::new(9, None);
    let keys = [many.add(Some(fresh(DAY))), many.add(Some(fresh(DAY)))];
    assert_eq!(many.keys(), []);
    many.pass(MINUTE / 2);
    many.now.unix = many.now.unix.after(HOUR * 23);
    assert_eq!(many.fleet.deadline(), Some(Instant::from_millis(60_000)));
    many.pass(MINUTE / 2);
    assert_eq!(many.keys(), keys);
}

#[test]
fn slewed_wall_clock_moves_rotation_by_two_seconds_at_most() {
    let mut many = Many::new(9, None);
    let key = many.add(Some(fresh(DAY)));
    let point = many.fleet.get(key).unwrap().rotation_point().unwrap();
    loop {
        if !many.keys().is_empty() {
            break;
        }
        let sleep = many.fleet.deadline().unwrap().since(many.now.instant);
        many.pass(sleep);
        // 500 parts per million, as fast as Linux slews.
        many.now.unix = many.now.unix.after(sleep / 2000);
    }
    assert!(many.now.unix.since(point) <= Planner::TOLERANCE * 2, "{} after {point}", many.now.unix);
}

#[test]
fn idle_fleet_wakes_only_to_check_its_clocks() {
    let mut many = Many::new(9, None);
    (0..100).for_each(|_| _ = many.add(Some(fresh(DAY))));
    many.submitted();
    for _ in 0..60 {
        let sleep = many.fleet.deadline().unwrap().since(many.now.instant);
        assert_eq!(sleep, MINUTE);
        many.pass(sleep);
        assert!(many.fleet.tick(many.now).is_none(), "no machine handles an event");
    }
}

#[test]
fn driver_cannot_grant_a_turn_itself() {
    let mut many = Many::new(1, None);
    let [_, second] = [many.add(None), many.add(None)];
    many.submitted();
    assert!(many.fleet.handle(second, Event::TurnGranted, many.now).is_empty());
    assert!(many.fleet.handle(second, Event::SignerChanged(SignerStatus::Ready), many.now).is_empty());
    assert!(matches!(many.state(second), State::Queued { .. }));
}

#[test]
fn fleet_without_members_has_no_deadline() {
    let mut many = Many::new(1, None);
    assert_eq!(many.fleet.deadline(), None);
    let key = many.add(None);
    many.submitted();
    many.fleet.remove(key);
    assert_eq!((many.fleet.deadline(), many.fleet.planner().is_empty()), (None, true));
}

/// Every newcomer is more urgent, one comes each minute, and no reply ever comes. Still, each patient member submits
/// within its patience, plus a request timeout for each member that was queued before the patience ended, divided by the
/// number of places.
#[test]
fn patient_members_submit_within_a_bound_despite_urgent_newcomers() {
    const PLACES: u32 = 4;
    let mut many = Many::new(PLACES, None);
    let patient: Vec<_> = (0..8).map(|i| many.add_expiring(DAY * (300 + i))).collect();
    // The urgent ones take every place.
    let mut urgent: std::collections::VecDeque<_> = (0..60).map(|_| many.add(None)).collect();
    let began = many.now.instant;
    let mut waiting = patient.clone();
    let timeout = Policy::default().request_timeout;
    let bound = Planner::PATIENCE + timeout * (patient.len() + urgent.len()).div_ceil(PLACES as usize) as u32 + MINUTE;
    while !waiting.is_empty() {
        let served = many.keys();
        waiting.retain(|key| !served.contains(key));
        let waited = many.now.instant.since(began);
        assert!(waited <= bound, "{} members have waited for {waited:?}, the bound is {bound:?}", waiting.len());
        if waited == MINUTE * 30 {
            assert_eq!(waiting.len(), patient.len(), "the urgent ones go first");
        }
        // One urgent member leaves, and another one comes.
        let key = urgent.pop_front().unwrap();
        many.fleet.remove(key);
        urgent.push_back(many.add(None));
        many.pass(MINUTE);
    }
    assert!(many.now.instant.since(began) > Planner::PATIENCE, "the urgent ones take every turn until then");
}
