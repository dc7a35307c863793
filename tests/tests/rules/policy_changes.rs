//! Changes of the policy while a machine runs (`Event::PolicyChanged`).

use perennial::{Backoff, Budget, Failure, Outcome, Policy, Reason, State, Window};

use super::*;

impl Holder {
    fn change(&mut self, policy: Policy) -> Vec<Action> {
        self.handle(Event::PolicyChanged(Arc::new(policy)))
    }
}

fn budget(size: u32, refill: Duration) -> Policy {
    Policy { budget: Budget::new(size, refill).unwrap(), spacing: SECOND, ..Policy::default() }
}

/// Requests a rotation each second of this span, and fails each request. Returns the number of submissions.
fn spend(holder: &mut Holder, span: Duration) -> usize {
    let (mut made, end) = (0, holder.now.instant.after(span));
    if let State::Requesting { id, .. } = holder.machine.state() {
        made += 1;
        holder.fail(id, Failure::Unreachable);
    }
    while holder.now.instant < end {
        // `RotateNow` ends a backoff, so that only spacing and budget delay a request.
        let actions = holder.handle(Event::RotateNow);
        if let Some((id, ..)) = submitted(&actions) {
            made += 1;
            holder.fail(id, Failure::Unreachable);
        }
        holder.pass(SECOND);
    }
    made
}

#[test]
fn setting_an_equal_policy_changes_nothing() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    let same = Event::PolicyChanged(Arc::new(Policy::default()));
    assert!(holder.machine.handle(same, holder.now).outcomes().is_ignored());
}

#[test]
fn policy_change_moves_rotation_point() {
    let mut holder = Holder::with(Some(fresh(DAY)));
    holder.tick();
    let before = holder.machine.rotation_point().unwrap();
    holder.change(Policy { window: Window::new(400, 500).unwrap(), ..Policy::default() });
    let after = holder.machine.rotation_point().unwrap();
    assert!(after < before);
    assert_eq!(holder.machine.state(), State::Scheduled { rotate_at: after });
    holder.pass(DAY / 2);
    let change = Event::PolicyChanged(Arc::new(Policy::default()));
    let _ = holder.machine.handle(change, holder.now);
    assert_eq!(holder.machine.due(holder.now), None, "changed back before the machine settled");
    holder.change(Policy { window: Window::new(400, 500).unwrap(), ..Policy::default() });
    assert!(matches!(holder.machine.state(), State::Requesting { reason: Reason::RotationPoint, .. }));
    let later = Event::PolicyChanged(Arc::new(Policy::default()));
    let actions: Vec<_> = holder.machine.handle(later, holder.now).collect();
    assert_eq!(cancelled(&actions), None, "the request in flight continues");
}

#[test]
fn slower_refill_grants_no_tokens_for_earlier_time() {
    let mut holder = under(budget(10, SECOND * 2), None);
    assert!(spend(&mut holder, SECOND * 20) >= 19);
    // By the old policy the budget is full again in 20 s. With a refill of an hour, that must not count as nearly full.
    holder.change(budget(10, HOUR));
    let made = spend(&mut holder, HOUR - SECOND);
    assert!(made <= 1, "{made}");
    assert_eq!(spend(&mut holder, HOUR * 4), 4);
}

#[test]
fn resized_budget_keeps_tokens_up_to_its_size() {
    let mut holder = under(budget(2, HOUR), None);
    holder.change(budget(10, HOUR));
    assert_eq!(spend(&mut holder, MINUTE), 2, "the tokens of the old budget");
    let mut holder = under(budget(10, HOUR), None);
    holder.change(budget(2, HOUR));
    assert_eq!(spend(&mut holder, MINUTE), 2, "at most the new size");
}

#[test]
fn many_policy_changes_neither_grant_nor_lose_tokens() {
    let mut holder = under(budget(10, HOUR), None);
    assert_eq!(spend(&mut holder, SECOND * 5), 5);
    for i in 0..1000 {
        holder.change(budget(10, if i % 2 == 0 { MINUTE * 7 } else { HOUR }));
    }
    assert_eq!(spend(&mut holder, MINUTE), 5);
}

#[test]
fn running_backoff_is_capped_at_the_longest_of_new_policy() {
    let (mut holder, request) = Holder::requesting();
    holder.fail(request.id, Failure::Denied);
    assert!(holder.time_to_request() >= MINUTE * 2);
    let refused = Backoff::new(SECOND, SECOND * 10, Window::new(1000, 1000).unwrap()).unwrap();
    holder.change(Policy { refused, ..Policy::default() });
    let State::BackingOff { failures: 1, last: Failure::Denied, .. } = holder.machine.state() else {
        panic!("{}", holder.machine)
    };
    assert!(holder.time_to_request() <= SECOND * 20);
}

#[test]
fn shorter_timeout_ends_request_in_flight() {
    let (mut holder, request) = Holder::requesting();
    holder.pass(MINUTE);
    let policy = Arc::new(Policy { request_timeout: SECOND * 30, ..Policy::default() });
    let actions = holder.machine.handle(Event::PolicyChanged(policy), holder.now);
    let outcomes: Vec<_> = actions.outcomes().iter().cloned().collect();
    assert_eq!(outcomes, [Outcome::Noted, Outcome::TimedOut { id: request.id }]);
}
