//! Checks that each rotation's loop takes its steps when they are due, for the systemd watchdog and liveness probes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use perennial::RotationMachine;
use perennial_rotation::{Handle, News};

use crate::rotation::Observer;
use crate::spans::words;

/// Lateness from which a loop counts as hanging. A disk, name server, hook or signer that does not answer makes no loop
/// late, since other threads than the loop's wait for the answer.
const OVERDUE: Duration = Duration::from_secs(60);
/// Time that a loop gets to take its step after a probe has found it late. Without it, a process that was stopped and
/// goes on could report a loop as hanging: it may answer a probe before the loop runs.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The loops of all rotations, by the name of their certificate.
#[derive(Default)]
pub(crate) struct Pulse(Mutex<BTreeMap<String, Loop>>);

/// The loop of one rotation: the time of its next step, and what probes found.
#[derive(Default)]
struct Loop {
    /// Time of the loop's next step; `None` if no step is planned. The clock of this time stands still in suspend, so a
    /// loop is not late after a suspend.
    next_step: Option<Instant>,
    /// End of the pause after the last panic. Until then the rotation is not ticked.
    paused_until: Option<Instant>,
    /// True once the loop has taken a step.
    has_stepped: bool,
    /// The rotation's handle; `None` until the rotation has started. Without a handle, the loop is not checked: the
    /// store is read, or an earlier rotation of the certificate has not ended.
    handle: Option<Handle>,
    /// Time of the probe that first found the loop late or ended; `None` if the last probe found the loop neither late
    /// nor ended.
    wrong_since: Option<Instant>,
}

impl Pulse {
    /// Returns an observer of the rotation of certificate `of`. The first step of the rotation is due once
    /// [`watch`](Self::watch) sets its handle.
    pub(crate) fn observer(self: &Arc<Self>, of: &str) -> Observer {
        self.loops().insert(of.to_owned(), Loop::default());
        let (pulse, of) = (self.clone(), of.to_owned());
        Box::new(move |notice| {
            let sleep_of = |machine: &RotationMachine| Some(machine.deadline()?.since(notice.at.instant));
            let sleep = match &notice.news {
                News::Stepped(step) => sleep_of(&step.after),
                News::Missed { machine, .. } => sleep_of(machine),
                News::Panicked { pause, .. } => Some(*pause),
                _ => return,
            };
            if let Some(watched) = pulse.loops().get_mut(&of) {
                watched.has_stepped = true;
                let next_step = sleep.and_then(|sleep| Instant::now().checked_add(sleep));
                if let News::Panicked { .. } = notice.news {
                    watched.paused_until = next_step;
                }
                watched.next_step = next_step.map(|step| watched.paused_until.map_or(step, |until| step.max(until)));
            }
        })
    }

    /// Sets the rotations of the running configuration: their handles, or `None` for a rotation that is starting. Other
    /// rotations are no longer checked, and a starting one is not checked yet.
    pub(crate) fn watch(&self, rotations: BTreeMap<String, Option<Handle>>) {
        let mut loops = self.loops();
        loops.retain(|name, _| rotations.contains_key(name));
        for (name, handle) in rotations {
            if let Some(watched) = loops.get_mut(&name) {
                if watched.handle.is_none() && handle.is_some() && !watched.has_stepped {
                    watched.next_step = Some(Instant::now());
                }
                watched.handle = handle;
            }
        }
    }

    /// Returns a line for each rotation whose loop hangs or has ended; empty if there is none. Must be called
    /// repeatedly, since a single call never reports a loop: a late loop gets a line once calls have found it late for
    /// more than [`CATCH_UP`].
    ///
    /// An ended loop gets a line once calls have found it ended for more than [`OVERDUE`]. A reload ends a rotation
    /// that is no longer wanted, and calls [`watch`](Self::watch) shortly afterwards; calls in between must not report
    /// this rotation.
    pub(crate) fn why_not_alive(&self, now: Instant) -> String {
        let mut lines = String::new();
        for (name, watched) in &mut *self.loops() {
            let Some(handle) = &watched.handle else {
                watched.wrong_since = None;
                continue;
            };
            let ended = handle.has_ended();
            let late = watched.next_step.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
            if !ended && late <= OVERDUE {
                watched.wrong_since = None;
                continue;
            }
            let wrong = now.saturating_duration_since(*watched.wrong_since.get_or_insert(now));
            if ended && wrong > OVERDUE {
                lines += &format!("{name}: its rotation has ended\n");
            } else if !ended && wrong > CATCH_UP {
                lines += &format!("{name}: its rotation hangs: its next step was due {} ago\n", words(late));
            }
        }
        lines
    }

    fn loops(&self) -> MutexGuard<'_, BTreeMap<String, Loop>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use perennial::{Event, Now, RotationMachine, Setup, Template};
    use perennial_rotation::{Notice, Rotator, Task, Transition};

    use super::*;

    /// A rotation that is not run, and a [`Pulse`]. The test sends the notices of the rotation to the [`Pulse`] itself.
    struct Rotation {
        pulse: Arc<Pulse>,
        task: Option<Task>,
        handle: Handle,
        machine: Arc<RotationMachine>,
        observer: Observer,
        start: Instant,
    }

    fn later(span: Duration) -> Now {
        let start = Now::default();
        Now { instant: start.instant.after(span), unix: start.unix.after(span) }
    }

    impl Rotation {
        fn new() -> Self {
            let now = Now::default();
            let template = Some(Arc::new(Template::node("worker")));
            let machine = Arc::new(RotationMachine::new(Setup { template, ..Setup::default() }, now));
            let (handle, task) = Rotator::new().prepare().unwrap();
            let pulse = Arc::new(Pulse::default());
            let observer = pulse.observer("node");
            pulse.watch([("node".to_owned(), Some(handle.clone()))].into());
            Self { pulse, handle, task: Some(task), machine, observer, start: Instant::now() }
        }

        fn tick(&mut self, now: Now) {
            let step = Arc::new(Transition::of(&mut self.machine, Event::Tick, now));
            (self.observer)(&Notice { at: now, news: News::Stepped(step), snapshot: self.handle.snapshot() });
        }

        fn probe(&self, seconds: u64) -> String {
            self.pulse.why_not_alive(self.start + Duration::from_secs(seconds))
        }
    }

    #[test]
    fn ended_rotation_is_reported_after_a_minute() {
        let mut rotation = Rotation::new();
        assert_eq!(rotation.probe(0), "");
        rotation.task = None;
        assert_eq!([rotation.probe(1), rotation.probe(61)], ["", ""]);
        assert_eq!(rotation.probe(62), "node: its rotation has ended\n");
    }

    #[test]
    fn loop_is_not_checked_while_its_rotation_starts() {
        let mut rotation = Rotation::new();
        rotation.tick(Now::default());
        // The files have moved: the next rotation waits until the disk has answered to the last one.
        rotation.pulse.watch([("node".to_owned(), None)].into());
        assert_eq!([rotation.probe(200), rotation.probe(400)], ["", ""]);
        // The next rotation reads its store for minutes.
        rotation.observer = rotation.pulse.observer("node");
        assert_eq!([rotation.probe(600), rotation.probe(800)], ["", ""]);
        rotation.pulse.watch([("node".to_owned(), Some(rotation.handle.clone()))].into());
        assert_eq!(rotation.probe(100), "");
        assert!(rotation.probe(110).starts_with("node: its rotation hangs"));
    }

    #[test]
    fn loop_that_pauses_after_a_panic_is_not_late() {
        let mut rotation = Rotation::new();
        let news = News::Panicked { error: "a bug".into(), pause: Duration::from_secs(300) };
        (rotation.observer)(&Notice { at: Now::default(), news, snapshot: rotation.handle.snapshot() });
        // Other inputs are handled during the pause; the next tick comes after it.
        rotation.tick(Now::default());
        assert_eq!([rotation.probe(120), rotation.probe(350)], ["", ""]);
        assert_eq!(rotation.probe(370), "");
        assert!(rotation.probe(380).starts_with("node: its rotation hangs"));
    }

    #[test]
    fn late_loop_is_reported_until_its_next_step() {
        let mut rotation = Rotation::new();
        // The loop has not taken its first step.
        assert_eq!([rotation.probe(59), rotation.probe(120)], ["", ""]);
        let why = rotation.probe(130);
        assert!(why.starts_with("node: its rotation hangs: its next step was due 2 min"), "{why}");
        rotation.tick(Now::default());
        // A machine never sleeps for longer than a minute.
        assert_eq!(rotation.machine.deadline(), Some(later(Duration::from_secs(60)).instant));
        assert_eq!([rotation.probe(119), rotation.probe(180)], ["", ""]);
        assert!(!rotation.probe(186).is_empty());
        rotation.tick(later(Duration::from_secs(60)));
        assert_eq!(rotation.probe(30), "");
    }

    #[test]
    fn loop_is_not_late_right_after_stopped_process_resumes() {
        let mut rotation = Rotation::new();
        rotation.tick(Now::default());
        // SIGSTOP for ten minutes: the probe is answered before the loop has had a turn.
        assert_eq!(rotation.probe(600), "");
        rotation.start = Instant::now();
        rotation.tick(later(Duration::from_secs(600)));
        assert_eq!(rotation.probe(10), "");
    }
}
