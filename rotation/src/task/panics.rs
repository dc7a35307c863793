//! Restarts of a rotation after a panic.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use perennial::Now;

use super::{Stage, Task, Work};
use crate::exchange::text_of;
use crate::{News, Snapshot};

/// Pause after the first panic of a rotation. Each further panic within [`LONGEST_PAUSE`] of the end of the last pause
/// doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Task {
    /// Continues from the last published state after a pause, or ends the task if it was ending.
    pub(super) fn restart(&mut self, panic: &(dyn Any + Send), now: Now, work: &mut Vec<Work>) {
        let error: Arc<str> = format!("the rotation panicked{}", text_of(panic)).into();
        if self.stage != Stage::Running {
            tracing::error!("{error}; the rotation was ending and has ended now; please report this as a bug");
            self.stage = Stage::Over;
            return;
        }
        let is_repeated = self.paused_until.is_some_and(|until| now.instant < until.after(LONGEST_PAUSE));
        self.panics = if is_repeated { self.panics.saturating_add(1) } else { 0 };
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.panics)).min(LONGEST_PAUSE);
        self.paused_until = Some(now.instant.after(pause));
        let link = self.link().clone();
        let (machine, published) = (link.machine(), link.snapshot());
        // The restarted rotation fails the request in flight: its exchange must not report any more.
        self.drop_exchange(work);
        self.rotation.restart(machine.clone(), &published, &error, now);
        let published = Snapshot { progress: None, at: now, ..Snapshot::clone(&published) };
        link.publish(published, &machine, vec![News::Panicked { error, pause }]);
    }
}

#[cfg(test)]
mod tests {
    use std::future;
    use std::sync::atomic::{AtomicBool, Ordering};

    use perennial::{Failure, State, Template};
    use perennial_pki::interim;

    use super::*;
    use crate::{
        Authentication, Command, Handle, Identity, Input, Memory, NotYet, Rotator, SignWith, Store as _, clock,
    };

    fn signer() -> SignWith {
        SignWith::future("example.com/mesh", |_| future::pending())
    }

    fn task(rotator: Rotator) -> (Handle, Task, Now) {
        let (handle, task) = rotator.template(Template::new("mesh-1")).prepare().unwrap();
        (handle, task, clock::now())
    }

    /// Restarts the task as after a panic, and returns the time at which the pause of the task ends.
    fn panicked(task: &mut Task, now: Now) -> Now {
        task.restart(&"a bug", now, &mut Vec::new());
        let at = now.instant.after(FIRST_PAUSE);
        assert_eq!(task.deadline(), Some(at));
        Now { instant: at, unix: now.unix.after(FIRST_PAUSE) }
    }

    #[test]
    fn rotation_without_signer_stays_disabled_after_a_panic() {
        let (handle, mut task, now) = task(Rotator::new());
        assert!(task.step(now).is_empty());
        let now = panicked(&mut task, now);
        handle.rotate_now();
        assert!(task.step(now).is_empty());
        assert_eq!(handle.state(), State::NotEnabled);
    }

    #[test]
    fn signer_change_survives_a_panic_in_the_same_step() {
        let (handle, mut task, now) = task(Rotator::new());
        drop(task.rotation.handle(Input::SignerChanged(Some(Arc::new(signer()))), now));
        let now = panicked(&mut task, now);
        assert!(matches!(task.step(now)[..], [Work::Drive(..)]), "{:?}", handle.state());
        drop(task.rotation.handle(Input::SignerChanged(None), now));
        task.restart(&"a bug", now, &mut Vec::new());
        handle.rotate_now();
        assert!(task.step(now).is_empty());
        assert_eq!(handle.state(), State::NotEnabled);
    }

    #[test]
    fn wait_for_identity_after_a_panic_counts_no_second_failure() {
        let is_coming = Arc::new(AtomicBool::new(false));
        let coming = is_coming.clone();
        let identity = move || match coming.load(Ordering::SeqCst) {
            true => Err(NotYet::coming("waiting for a token")),
            false => Ok(Identity::Anonymous),
        };
        let (handle, mut task, now) =
            task(Rotator::new().signer(signer().authentication(Authentication::other(identity))));
        assert!(matches!(task.step(now)[..], [Work::Drive(..)]));
        is_coming.store(true, Ordering::SeqCst);
        let mut now = panicked(&mut task, now);
        assert!(task.step(now).is_empty());
        let State::BackingOff { until, failures: 1, last: Failure::Local, .. } = handle.state() else {
            panic!("{:?}", handle.state())
        };
        now = Now { instant: until, unix: now.unix.after(until.since(now.instant)) };
        assert!(task.step(now).is_empty());
        assert!(matches!(handle.state(), State::NoIdentity { .. }), "{:?}", handle.state());
    }

    /// A `tracing` subscriber that panics on each log line.
    struct BuggySubscriber;

    impl tracing::Subscriber for BuggySubscriber {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            panic!("a bug in the subscriber");
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn panic_of_log_subscriber_does_not_disturb_rotation() {
        let (handle, mut task, now) = task(Rotator::new().signer(signer()));
        let mut notices = handle.notices(100);
        let work = tracing::subscriber::with_default(BuggySubscriber, || task.step(now));
        assert!(matches!(work[..], [Work::Drive(..)]), "{work:?}");
        let panicked =
            std::iter::from_fn(|| notices.try_recv()).any(|notice| matches!(notice.news, News::Panicked { .. }));
        assert!(!panicked && matches!(handle.state(), State::Requesting { .. }));
    }

    #[test]
    fn panic_before_notice_of_new_pair_only_delays_the_notice() {
        let (handle, mut task, now) = task(Rotator::new());
        let mut notices = handle.notices(100);
        let pair = Arc::new(interim(&Template::new("mesh-1"), now.unix).unwrap());
        drop(task.rotation.handle(Input::Replaced(Some(pair.clone())), now));
        let now = panicked(&mut task, now);
        handle.report_replaced(Some(pair));
        assert!(task.step(now).is_empty());
        let in_place = std::iter::from_fn(|| notices.try_recv()).map(|notice| notice.news);
        let in_place: Vec<_> = in_place.filter(|news| matches!(news, News::InPlace { .. })).collect();
        assert_eq!(in_place, [News::InPlace { replaced: None }]);
    }

    #[test]
    fn record_unsaved_because_of_a_panic_is_saved_before_next_submission() {
        let store = Arc::new(Memory::default());
        let (_, mut task, now) = task(Rotator::new().signer(signer()).store(store.clone()));
        let commands = task.rotation.handle(Input::Tick, now);
        assert!(matches!(commands[..], [Command::Save { .. }, Command::Drive { .. }]), "{commands:?}");
        drop(commands);
        let now = panicked(&mut task, now);
        assert!(matches!(task.step(now)[..], [Work::Drive(..)]));
        assert!(store.recall().unwrap().is_some());
    }
}
