//! A signer that refuses the kind of a key, and names the kind that it accepts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial::{Failure, Now, State, Template};
use perennial_pki::{KeyAlgorithm, Usage, read_request};
use perennial_rotation::{
    Authentication, Cancel, Exchange, Handle, Profile, Rotator, SignError, SignRequest, Signer, Task, Work, clock,
};

/// A signer that refuses each request, and names one kind of key after the other. It notes the key of each request.
#[derive(Debug)]
struct Picky {
    profile: Profile,
    authentication: Authentication,
    names: Mutex<Vec<KeyAlgorithm>>,
    keys: Arc<Mutex<Vec<usize>>>,
}

impl Picky {
    fn new(allowed: &[KeyAlgorithm], names: &[KeyAlgorithm]) -> Self {
        let profile = Profile { other_key_algorithms: allowed.to_vec(), ..Profile::new([Usage::ClientAuth]) };
        let names = Mutex::new(names.iter().rev().copied().collect());
        Self { profile, authentication: Authentication::None, names, keys: Arc::default() }
    }
}

impl Signer for Picky {
    fn name(&self) -> &'static str {
        "example.com/picky"
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    fn begin(&self, request: SignRequest, _: Now) -> Result<Exchange, SignError> {
        let (keys, named) = (self.keys.clone(), self.names.lock().unwrap().pop());
        Ok(Exchange::blocking(move |_| {
            let facts = read_request(request.csr.pem.as_bytes()).unwrap();
            keys.lock().unwrap().push(facts.public_key_der.len());
            let refused = SignError::new(Failure::Denied, "the key is of an unsupported kind");
            Err(named.into_iter().fold(refused, SignError::accepts_key))
        }))
    }
}

/// Lets the rotation make this many requests, and returns the failures and the wait after the last one.
fn requests(signer: &Arc<Picky>, count: usize) -> (Vec<Failure>, Duration) {
    let (handle, mut task): (Handle, Task) =
        Rotator::new().template(Template::new("mesh-1")).signer(signer.clone()).prepare().unwrap();
    further_requests(&handle, &mut task, clock::now(), count)
}

/// Like `requests`, from this time on.
fn further_requests(handle: &Handle, task: &mut Task, mut now: Now, count: usize) -> (Vec<Failure>, Duration) {
    let mut failures = Vec::new();
    while failures.len() < count {
        for work in task.step(now) {
            let Work::Drive(Exchange::Blocking(sign), reporter) = work else { panic!("{work:?}") };
            reporter.finish(sign(&Cancel::default()));
            assert!(task.step(now).is_empty(), "memory is written at once");
            let State::BackingOff { last, .. } = handle.state() else { panic!("{:?}", handle.state()) };
            failures.push(last);
        }
        if failures.len() < count {
            let due = task.deadline().unwrap().max(now.instant);
            now = Now { instant: due, unix: now.unix.after(due.since(now.instant)) };
        }
    }
    let State::BackingOff { until, .. } = handle.state() else { panic!("{:?}", handle.state()) };
    (failures, until.since(now.instant))
}

const HOUR: Duration = Duration::from_secs(3600);

/// Lengths of public keys in DER.
const P256: usize = 91;
const P384: usize = 120;
const ED25519: usize = 44;

#[test]
fn other_kind_of_key_is_tried_soon_and_once() {
    let names = [KeyAlgorithm::Ed25519, KeyAlgorithm::EcdsaP384, KeyAlgorithm::EcdsaP384];
    let signer = Arc::new(Picky::new(&[KeyAlgorithm::Ed25519, KeyAlgorithm::EcdsaP384], &names));
    let (failures, wait) = requests(&signer, 1);
    assert_eq!(failures, [Failure::UnsupportedKey]);
    assert!(wait < Duration::from_secs(2), "{wait:?}");

    let signer = Arc::new(Picky::new(&[KeyAlgorithm::Ed25519, KeyAlgorithm::EcdsaP384], &names));
    let (failures, wait) = requests(&signer, 3);
    assert_eq!(failures, [Failure::UnsupportedKey, Failure::Denied, Failure::Denied]);
    assert!(wait > Duration::from_secs(60), "{wait:?}");
    assert_eq!(*signer.keys.lock().unwrap(), [P256, ED25519, ED25519]);
}

#[test]
fn kind_of_key_that_is_not_allowed_is_not_tried() {
    for (allowed, named) in [
        (&[][..], KeyAlgorithm::EcdsaP384),
        (&[KeyAlgorithm::Ed25519], KeyAlgorithm::EcdsaP384),
        // The kind that the signer has just refused.
        (&[KeyAlgorithm::EcdsaP256], KeyAlgorithm::EcdsaP256),
    ] {
        let signer = Arc::new(Picky::new(allowed, &[named, named]));
        let (failures, wait) = requests(&signer, 2);
        assert_eq!(failures, [Failure::Denied, Failure::Denied], "{named}");
        assert!(wait > Duration::from_secs(60), "{wait:?}");
        assert_eq!(*signer.keys.lock().unwrap(), [P256, P256]);
    }
    let signer = Arc::new(Picky::new(&[KeyAlgorithm::EcdsaP384], &[KeyAlgorithm::EcdsaP384]));
    requests(&signer, 2);
    assert_eq!(*signer.keys.lock().unwrap(), [P256, P384]);
}

/// The kind that the signer named took the place of the first one, not of a kind that is wanted later.
#[test]
fn other_kind_is_forgotten_when_another_kind_is_wanted() {
    let other = [KeyAlgorithm::Ed25519];
    let first = Arc::new(Picky::new(&other, &other));
    let mut second = Picky::new(&other, &[]);
    second.profile.key_algorithm = KeyAlgorithm::EcdsaP384;
    second.keys = first.keys.clone();
    let (handle, mut task) = Rotator::new().template(Template::new("mesh-1")).signer(first.clone()).prepare().unwrap();
    further_requests(&handle, &mut task, clock::now(), 2);
    handle.set_signer(Some(Arc::new(second)));
    let later = clock::now();
    let later = Now { instant: later.instant.after(HOUR), unix: later.unix.after(HOUR) };
    further_requests(&handle, &mut task, later, 1);
    assert_eq!(*first.keys.lock().unwrap(), [P256, ED25519, P384]);
}
