use std::future;
use std::time::Duration;

use perennial::Template;
use perennial_pki::interim;
use perennial_rotation::{Memory, Rotator, SignWith, Task};

use super::*;
use crate::fleet::Inbox;
use crate::hook_debt::Hook;
use crate::lines::Lines;

/// A rotation that the test steps itself, the reporter of the rotation, and the file of the reported events.
struct Scene {
    reporter: CertReporter,
    task: Task,
    hooks: Hooks,
    report: Report,
    file: tempfile::NamedTempFile,
}

impl Scene {
    /// Creates a rotation that starts with this pair. The queue to the reporter has room for `queued` notices.
    fn starting_with(pair: &Arc<Credential>, rotator: Rotator, queued: usize) -> Self {
        let (rotation, task) = ActiveRotation::prepared(rotator.store(holding(pair)), queued);
        Self::of(rotation, task)
    }

    fn of(rotation: ActiveRotation, task: Task) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let report = Report::Json(Some(Lines::to(&file, "a file", |_| String::new()).unwrap()));
        let reporter = CertReporter::new("node", rotation, "current.pem".into());
        let hooks = Hooks::new(Some(Hook::of_flag("true", Duration::from_secs(60))), false);
        Self { reporter, task, hooks, report, file }
    }

    fn step(&mut self) {
        drop(self.task.step(clock::now()));
        self.reporter.poll(&self.report, &self.hooks);
    }

    /// The names of all events so far.
    fn events(&mut self) -> Vec<String> {
        self.reporter.poll(&self.report, &self.hooks);
        assert!(self.report.finish_within(Duration::from_secs(60)));
        let text = fs::read_to_string(self.file.path()).unwrap();
        let name = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event"].as_str().unwrap().to_owned();
        text.lines().map(name).collect()
    }
}

/// A store with this pair.
fn holding(pair: &Arc<Credential>) -> Memory {
    let store = Memory::default();
    Store::write(&store, pair, true, clock::now().unix).unwrap();
    store
}

/// A pair that is valid for a day.
fn pair() -> Arc<Credential> {
    Arc::new(interim(&Template::node("worker"), clock::now().unix).unwrap())
}

/// A signer at `endpoint` that never answers.
fn signer(endpoint: &str) -> SignWith {
    SignWith::future("example.com/mesh", |_| future::pending()).endpoint(endpoint)
}

#[test]
fn certificate_is_reported_and_hook_runs_though_its_notice_was_missed() {
    let mut scene = Scene::starting_with(&pair(), Rotator::new(), 1);
    assert_eq!(scene.events(), ["disabled"]);
    let new = pair();
    scene.reporter.rotation.handle().report_replaced(Some(new.clone()));
    scene.step();
    assert_eq!(scene.events(), ["disabled", "rotated"]);
    scene.hooks.finish_within(Duration::from_secs(60));
    let done = scene.hooks.debts().all()["node"].record.done.clone();
    assert_eq!(done, Some(format!("{:x}", new.chain().certificate().fingerprint)));
}

/// The thread that brings the notices of a fleet's members is late.
#[test]
fn member_is_not_reported_by_snapshot_newer_than_its_notices() {
    let (handle, task) = Rotator::new().store(holding(&pair())).prepare().unwrap();
    let (mut notices, inbox) = (handle.notices(64), Inbox::default());
    let mut bring = inbox.observer();
    let mut scene = Scene::of(ActiveRotation::of_fleet(handle.clone(), inbox), task);
    for new in [pair(), pair()] {
        handle.report_replaced(Some(new));
        scene.step();
    }
    assert_eq!(scene.events(), ["disabled"]);
    std::iter::from_fn(|| notices.try_recv()).for_each(|notice| bring(&notice));
    assert_eq!(scene.events(), ["disabled", "rotated", "rotated"]);
}

#[test]
fn ended_member_is_reported_though_its_last_notices_are_on_their_way() {
    let (handle, task) = Rotator::new().store(holding(&pair())).prepare().unwrap();
    let mut scene = Scene::of(ActiveRotation::of_fleet(handle.clone(), Inbox::default()), task);
    assert_eq!(scene.events(), ["disabled"]);
    handle.report_replaced(Some(pair()));
    scene.step();
    assert_eq!(scene.events(), ["disabled"]);
    // A rotation ends once its task is dropped.
    scene.task = Rotator::new().prepare().unwrap().1;
    assert_eq!(scene.events(), ["disabled", "rotated"]);
}

#[test]
fn state_event_is_not_repeated_after_signer_change() {
    let rotator = Rotator::new().template(Template::node("worker")).signer(signer("a"));
    let mut scene = Scene::starting_with(&pair(), rotator, 64);
    assert_eq!(scene.events(), ["resting"]);
    scene.reporter.rotation.handle().rotate_now();
    scene.step();
    scene.reporter.rotation.handle().report_replaced(Some(pair()));
    scene.step();
    assert_eq!(scene.events(), ["resting", "rotated", "resting"]);
    scene.reporter.rotation.handle().set_signer(Some(Arc::new(signer("b"))));
    scene.step();
    assert_eq!(scene.events(), ["resting", "rotated", "resting"]);
}
