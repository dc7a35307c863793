//! Changes of the signer, of the policy or of the template while a rotation runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::silence::Silence;
use perennial::{Budget, Failure, Now, Policy, State, Template, UnixTime, Window};
use perennial_pki::{Usage, interim};
use perennial_rotation::{
    Authentication, Command, Exchange, Handle, Identity, Input, NotYet, Profile, Record, Rotation, Rotator, ServerDate,
    SignError, SignRequest, Signer, Start, Token, Work, clock,
};

/// A signer whose exchanges never end. Collects the requests submitted to it.
#[derive(Debug)]
struct Silent {
    endpoint: &'static str,
    profile: Profile,
    authentication: Authentication,
    requests: Arc<Mutex<Vec<SignRequest>>>,
}

impl Signer for Silent {
    fn name(&self) -> &str {
        "example.com/mesh"
    }

    fn endpoint(&self) -> Option<String> {
        Some(self.endpoint.into())
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    fn begin(&self, request: SignRequest, _now: Now) -> Result<Exchange, SignError> {
        self.requests.lock().unwrap().push(request);
        Ok(Exchange::conversation(Silence))
    }
}

/// A rotation in virtual time, with all requests that it has submitted, its last pending record, and the number of its
/// commands of each kind.
struct Scene {
    rotation: Rotation,
    now: Now,
    requests: Arc<Mutex<Vec<SignRequest>>>,
    /// The pending record of the last [`Command::Save`].
    record: Option<Record>,
    saves: usize,
    drops: usize,
    drives: usize,
}

impl Scene {
    /// A rotation whose first request is in flight to the endpoint `a`.
    fn requesting() -> Self {
        let requests = Arc::default();
        let signer: Arc<dyn Signer> = Arc::new(silent("a", &requests));
        let mut scene = Self::starting(Some(signer), None, requests);
        scene.handle(Input::Tick);
        assert_eq!((scene.drives, scene.keys().len()), (1, 1));
        scene
    }

    fn starting(
        signer: Option<Arc<dyn Signer>>,
        pending: Option<Record>,
        requests: Arc<Mutex<Vec<SignRequest>>>,
    ) -> Self {
        let start = Start { signer, template: Some(Arc::new(Template::node("worker"))), pending, ..Start::default() };
        let now = Now::default();
        let rotation = Rotation::new(start, now);
        Self { rotation, now, requests, record: None, saves: 0, drops: 0, drives: 0 }
    }

    fn handle(&mut self, input: Input) {
        for command in self.rotation.handle(input, self.now) {
            match command {
                Command::Save { record } => (self.record, self.saves) = (Some(*record), self.saves + 1),
                Command::Drop { .. } => self.drops += 1,
                Command::Drive { .. } => self.drives += 1,
                Command::Write { .. } | Command::Key { .. } => {}
            }
        }
    }

    /// Replaces the signer by one with this endpoint and an equal profile.
    fn set_signer(&mut self, endpoint: &'static str) {
        let signer = silent(endpoint, &self.requests);
        self.handle(Input::SignerChanged(Some(Arc::new(signer))));
    }

    /// Advances time by `span`, with a Tick at each deadline on the way.
    fn pass(&mut self, span: Duration) {
        let end = self.now.instant.after(span);
        while let Some(next) = self.rotation.deadline().filter(|next| *next <= end) {
            self.now = Now { instant: next, unix: self.now.unix.after(next.since(self.now.instant)) };
            self.handle(Input::Tick);
            assert!(self.rotation.deadline().is_none_or(|next| next > self.now.instant), "{:?}", self.rotation);
        }
        self.now = Now { instant: end, unix: self.now.unix.after(end.since(self.now.instant)) };
    }

    /// The public keys of all requests submitted so far, oldest first.
    fn keys(&self) -> Vec<Vec<u8>> {
        self.requests.lock().unwrap().iter().map(|request| request.public_key_der.clone()).collect()
    }

    fn is_requesting(&self) -> bool {
        matches!(self.rotation.snapshot(self.now).state, State::Requesting { .. })
    }
}

fn silent(endpoint: &'static str, requests: &Arc<Mutex<Vec<SignRequest>>>) -> Silent {
    let (profile, authentication) = (Profile::new([Usage::ClientAuth]), Authentication::None);
    Silent { endpoint, profile, authentication, requests: requests.clone() }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn signer_with_another_endpoint_gets_request_with_new_key() {
    let mut scene = Scene::requesting();
    scene.set_signer("b");
    assert_eq!((scene.drops, scene.drives, scene.saves), (1, 1, 1), "the budget spaces requests to whomever");
    scene.pass(MINUTE);
    assert!(scene.is_requesting());
    let keys = scene.keys();
    assert_eq!((scene.drives, keys.len()), (2, 2));
    assert_ne!(keys[0], keys[1]);
    let record = scene.record.unwrap();
    assert_eq!(record.server.as_deref(), Some("b"));
    assert_eq!(record.key.unwrap().public_key_der(), keys[1]);
}

#[test]
fn equal_signer_continues_the_request_in_flight() {
    let mut scene = Scene::requesting();
    let before = scene.rotation.machine().clone();
    for _ in 0..1000 {
        scene.set_signer("a");
    }
    assert_eq!((scene.drops, scene.drives, scene.saves), (1000, 1001, 1));
    assert_eq!(*scene.rotation.machine(), before, "no request of its own");
    let keys = scene.keys();
    assert!(keys.iter().all(|key| *key == keys[0]));
}

#[test]
fn request_continues_with_same_key_after_rotation_was_off() {
    let mut scene = Scene::requesting();
    scene.handle(Input::SignerChanged(None));
    assert_eq!(scene.rotation.snapshot(scene.now).state, State::NotEnabled);
    scene.pass(60 * MINUTE);
    assert_eq!((scene.drops, scene.drives, scene.saves), (1, 1, 1));
    scene.set_signer("a");
    assert!(scene.is_requesting());
    let keys = scene.keys();
    assert_eq!((scene.drives, keys.len(), keys[0] == keys[1]), (2, 2, true));
}

#[test]
fn signer_set_later_yields_same_rotation_point_as_restart() {
    let (template, requests) = (Template::new("mesh-1"), Arc::default());
    let now = clock::now();
    let template = Some(Arc::new(template));
    let signer: Option<Arc<dyn Signer>> = Some(Arc::new(silent("a", &requests)));
    let restarted =
        Rotation::new(Start { signer: signer.clone(), template: template.clone(), ..Start::default() }, now);
    let (common_name, signer_name) = (Some("mesh-1".into()), signer.as_ref().map(|signer| signer.name().to_owned()));
    let mut later = Rotation::new(Start { common_name, signer_name, ..Start::default() }, now);
    later.handle(Input::TemplateChanged(template), now);
    later.handle(Input::SignerChanged(signer), now);
    let seed = |rotation: &Rotation| rotation.machine().checkpoint().seed;
    assert_eq!(seed(&later), seed(&restarted));
    assert_ne!(seed(&later), seed(&Rotation::new(Start::default(), now)));
}

#[test]
fn signer_set_later_continues_the_recorded_request() {
    let scene = Scene::requesting();
    let key = scene.keys().remove(0);
    for (endpoint, is_continued) in [("a", true), ("b", false)] {
        let mut later = Scene::starting(None, scene.record.clone(), Arc::default());
        later.pass(60 * MINUTE);
        assert_eq!((later.drives, later.saves), (0, 0));
        later.set_signer(endpoint);
        later.pass(60 * MINUTE);
        assert_eq!(later.keys()[0] == key, is_continued, "{endpoint}");
    }
}

#[test]
fn failed_save_of_record_is_not_repeated_without_a_signer() {
    let mut scene = Scene::requesting();
    scene.handle(Input::Saved { result: Err("no space left".into()) });
    assert!(scene.rotation.snapshot(scene.now).last_error.is_some());
    scene.handle(Input::SignerChanged(None));
    assert_eq!(scene.rotation.snapshot(scene.now).last_error, None);
    scene.pass(60 * MINUTE);
    assert_eq!(scene.saves, 1);
    scene.set_signer("a");
    assert_eq!(scene.saves, 2, "with the next request at the latest");
}

#[test]
fn equal_signer_set_again_ends_backoff_except_after_refusal() {
    for (failure, is_tried) in [(Failure::Unreachable, true), (Failure::Denied, false)] {
        let mut scene = Scene::requesting();
        let State::Requesting { id, .. } = scene.rotation.snapshot(scene.now).state else { panic!() };
        scene.pass(MINUTE);
        scene.handle(Input::Finished { id, result: Err(SignError::new(failure, "no")) });
        assert!(matches!(scene.rotation.snapshot(scene.now).state, State::BackingOff { .. }));
        scene.set_signer("a");
        assert_eq!(scene.is_requesting(), is_tried, "{failure:?}");
        // A refusal of one endpoint does not bind another.
        scene.set_signer("b");
        scene.pass(MINUTE);
        assert!(scene.is_requesting(), "{failure:?}");
    }
}

#[test]
fn changed_budget_saves_the_pending_record_at_once() {
    let mut scene = Scene::requesting();
    let same_budget = Policy { window: Window::new(1, 2).unwrap(), ..Policy::default() };
    scene.handle(Input::PolicyChanged(Arc::new(same_budget)));
    assert_eq!(scene.saves, 1);
    let refill = MINUTE * 60;
    let slower = Policy { budget: Budget::new(10, refill).unwrap(), ..Policy::default() };
    scene.handle(Input::PolicyChanged(Arc::new(slower)));
    let whole = scene.record.as_ref().unwrap().pending.budget_whole;
    assert_eq!((scene.saves, whole), (2, scene.now.unix.after(refill)), "one token is missing");
}

#[test]
fn another_endpoint_discards_clock_readings_of_the_old_signer() {
    for (endpoint, is_kept) in [("a", true), ("b", false)] {
        let mut scene = Scene::requesting();
        for _ in 0..3 {
            scene.pass(Duration::from_secs(1));
            let date = ServerDate { unix: scene.now.unix.after(60 * MINUTE), at: scene.now.instant };
            scene.handle(Input::ServerDated(date));
        }
        let server_ahead = |scene: &Scene| {
            let server = scene.rotation.machine().server_time(scene.now)?;
            Some(server.since(scene.now.unix))
        };
        assert_eq!(server_ahead(&scene), Some(60 * MINUTE));
        scene.set_signer(endpoint);
        assert_eq!(server_ahead(&scene), is_kept.then_some(60 * MINUTE), "{endpoint}");
        assert_eq!(scene.rotation.snapshot(scene.now).clock_offset.is_some(), is_kept, "{endpoint}");
    }
}

#[test]
fn reports_of_a_dropped_exchange_are_ignored() {
    let requests = Arc::default();
    let rotator = Rotator::new().template(Template::node("worker")).signer(silent("a", &requests));
    let (handle, mut task) = rotator.prepare().unwrap();
    let now = clock::now();
    let reporter = |work: Vec<Work>| {
        work.into_iter().find_map(|work| if let Work::Drive(_, reporter) = work { Some(reporter) } else { None })
    };
    let before = reporter(task.step(now)).expect("an exchange");
    handle.set_signer(Some(Arc::new(silent("a", &requests))));
    let after = reporter(task.step(now)).expect("another exchange of the same request");
    let is_requesting = |handle: &Handle| matches!(handle.state(), State::Requesting { .. });
    before.finish(Err(SignError::new(Failure::Unreachable, "cancelled")));
    assert!(reporter(task.step(now)).is_none());
    assert!(is_requesting(&handle), "{:?}", handle.state());
    after.finish(Err(SignError::new(Failure::Denied, "no")));
    assert!(reporter(task.step(now)).is_none());
    assert!(!is_requesting(&handle), "{:?}", handle.state());
}

/// No request was submitted before, so that the submission budget allows one: the step that changes the template
/// submits the request.
#[test]
fn changed_name_is_requested_with_bootstrap_identity() {
    let requests = Arc::default();
    let bootstrap = Token::new("abcdef").unwrap();
    let signer = Silent { authentication: Authentication::own(bootstrap), ..silent("a", &requests) };
    let mut scene = Scene::starting(Some(Arc::new(signer)), None, requests);
    let held = Arc::new(interim(&Template::node("worker"), scene.now.unix).unwrap());
    scene.handle(Input::Replaced(Some(held)));
    assert!(matches!(scene.rotation.machine().state(), State::Scheduled { .. }));
    scene.handle(Input::TemplateChanged(Some(Arc::new(Template::node("renamed")))));
    let identities: Vec<_> = scene.requests.lock().unwrap().iter().map(|request| request.identity.describe()).collect();
    assert_eq!(identities, ["a bearer token"]);
}

/// The rotation awaits the bootstrap identity; then another program writes a certificate. Later the identity is
/// available, and the template gets another name: the request must use the identity.
#[test]
fn changed_name_is_requested_with_bootstrap_identity_that_was_awaited() {
    let requests = Arc::default();
    let is_there = Arc::new(AtomicBool::new(false));
    let there = is_there.clone();
    let bootstrap = move || match there.load(Ordering::Relaxed) {
        true => Ok(Identity::Token(Token::new("abcdef").unwrap())),
        false => Err(NotYet::coming("waiting for a token")),
    };
    let signer = Silent { authentication: Authentication::own(bootstrap), ..silent("a", &requests) };
    let mut scene = Scene::starting(Some(Arc::new(signer)), None, requests);
    scene.handle(Input::Tick);
    assert!(matches!(scene.rotation.machine().state(), State::NoIdentity { .. }));
    let held = Arc::new(interim(&Template::node("worker"), scene.now.unix).unwrap());
    scene.handle(Input::Replaced(Some(held)));
    assert!(matches!(scene.rotation.machine().state(), State::Scheduled { .. }));
    is_there.store(true, Ordering::Relaxed);
    scene.handle(Input::TemplateChanged(Some(Arc::new(Template::node("renamed")))));
    let identities: Vec<_> = scene.requests.lock().unwrap().iter().map(|request| request.identity.describe()).collect();
    assert_eq!(identities, ["a bearer token"]);
}

/// The served certificate expires while no Tick comes, as during a suspend. Then another program writes a pair that is
/// already due: the request for its successor authenticates with this pair, not with the bootstrap identity.
#[test]
fn pair_taken_over_authenticates_the_request_for_its_successor() {
    let requests = Arc::default();
    let bootstrap = Token::new("abcdef").unwrap();
    let signer = Silent { authentication: Authentication::own(bootstrap), ..silent("a", &requests) };
    let mut scene = Scene::starting(Some(Arc::new(signer)), None, requests);
    let pair = |at: UnixTime| Arc::new(interim(&Template::node("worker"), at).unwrap());
    scene.handle(Input::Replaced(Some(pair(scene.now.unix))));
    assert!(matches!(scene.rotation.machine().state(), State::Scheduled { .. }));
    let days = Duration::from_secs(2 * 86_400);
    scene.now = Now { instant: scene.now.instant.after(days), unix: scene.now.unix.after(days) };
    let new = pair(scene.now.unix.before(Duration::from_secs(23 * 3600)));
    scene.handle(Input::Replaced(Some(new.clone())));
    let requests = scene.requests.lock().unwrap();
    let [SignRequest { identity: Identity::Certificate(shown), .. }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(shown.chain(), new.chain());
}
