//! Hints of a signer when to rotate a certificate: the rotation follows them, and so does its next start.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::authority::Authority;
use perennial::{HintFault, Now, RenewalHint, State, Template, UnixTime, Validity};
use perennial_pki::{KeyAlgorithm, Usage};
use perennial_rotation::{
    Authentication, Cancel, Exchange, Handle, Issued, KeyValue, News, Profile, Rotator, SignError, SignRequest, Signer,
    StoreError, Task, Work, clock,
};
use zeroize::Zeroizing;

const HOUR: Duration = Duration::from_secs(3600);

/// A CA that issues certificates for a day at once, each with this hint.
#[derive(Debug)]
struct Ca {
    authority: Arc<Authority>,
    validity: Validity,
    hint: RenewalHint,
    profile: Profile,
    authentication: Authentication,
    endpoint: Option<String>,
}

impl Ca {
    fn new(begin: UnixTime, hint: RenewalHint) -> Self {
        let validity = Validity::new(begin, begin.after(24 * HOUR)).unwrap();
        let authority = Arc::new(Authority::new(validity));
        let (profile, authentication) = (Profile::new([Usage::ClientAuth]), Authentication::None);
        Self { authority, validity, hint, profile, authentication, endpoint: None }
    }
}

impl Signer for Ca {
    fn name(&self) -> &'static str {
        "example.com/ca"
    }

    fn endpoint(&self) -> Option<String> {
        self.endpoint.clone()
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    fn begin(&self, request: SignRequest, _: Now) -> Result<Exchange, SignError> {
        let (authority, validity, hint) = (self.authority.clone(), self.validity, self.hint);
        Ok(Exchange::blocking(move |_| {
            let chain = authority.issue(&request.template, &request.public_key_der, validity);
            Ok(Issued::from(chain).with_renewal(hint))
        }))
    }
}

/// A value that was written, and its key.
type Written = (&'static str, Vec<u8>);

/// A store that keeps a list of everything written to it.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Written>>>);

impl KeyValue for Recorder {
    fn get(&self, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let written = self.0.lock().unwrap();
        Ok(written.iter().rev().find(|(of, _)| *of == key).map(|(_, value)| Zeroizing::new(value.clone())))
    }

    fn put(&self, key: &'static str, value: &[u8]) -> Result<(), StoreError> {
        self.0.lock().unwrap().push((key, value.to_vec()));
        Ok(())
    }
}

fn start(ca: &Arc<Ca>, store: &Recorder) -> (Handle, Task) {
    Rotator::new().template(Template::new("mesh-1")).signer(ca.clone()).store(store.clone()).prepare().unwrap()
}

/// Steps until nothing is left to do at this time, and carries all work out.
fn settle(task: &mut Task, now: Now) {
    loop {
        let work = task.step(now);
        if work.is_empty() {
            return;
        }
        for work in work {
            match work {
                Work::Drive(Exchange::Blocking(sign), reporter) => reporter.finish(sign(&Cancel::default())),
                Work::Store(job) => job.run(),
                work => panic!("{work:?}"),
            }
        }
    }
}

fn rotate_at(handle: &Handle) -> UnixTime {
    match handle.state() {
        State::Scheduled { rotate_at } => rotate_at,
        state => panic!("{state}"),
    }
}

#[test]
fn restart_keeps_rotation_point_of_hint() {
    let begin = clock::now().unix;
    let hint = RenewalHint::after(begin.after(3 * HOUR));
    let (ca, store) = (Arc::new(Ca::new(begin, hint)), Recorder::default());
    let (handle, mut task) = start(&ca, &store);
    settle(&mut task, clock::now());
    let point = rotate_at(&handle);
    assert!(point >= begin.after(3 * HOUR) && point <= begin.after(3 * HOUR + Duration::from_secs(300)), "{point}");
    drop(task);
    let (handle, _task) = start(&ca, &store);
    assert_eq!(rotate_at(&handle), point);
}

/// The record of the request is of no use then, but its rotation point is that of the certificate.
#[test]
fn restart_with_other_endpoint_or_key_keeps_rotation_point_of_hint() {
    let begin = clock::now().unix;
    let ca = || Ca {
        endpoint: Some("https://old.example".into()),
        ..Ca::new(begin, RenewalHint::after(begin.after(3 * HOUR)))
    };
    let (first, store) = (Arc::new(ca()), Recorder::default());
    let (handle, mut task) = start(&first, &store);
    settle(&mut task, clock::now());
    let point = rotate_at(&handle);
    drop(task);
    let moved = Ca { endpoint: Some("https://new.example".into()), ..ca() };
    let rekeyed =
        Ca { profile: Profile { key_algorithm: KeyAlgorithm::Ed25519, ..Profile::new([Usage::ClientAuth]) }, ..ca() };
    for changed in [moved, rekeyed].map(Arc::new) {
        // The second start finds what the first one has left.
        for _ in 0..2 {
            let (handle, mut task) = start(&changed, &store);
            settle(&mut task, clock::now());
            assert_eq!(rotate_at(&handle), point);
        }
    }
}

/// A process may end after any write. As soon as the store has the certificate, it has its rotation point.
#[test]
fn rotation_point_of_hint_is_saved_before_certificate() {
    let begin = clock::now().unix;
    let ca = Arc::new(Ca::new(begin, RenewalHint::after(begin.after(3 * HOUR))));
    let store = Recorder::default();
    let (handle, mut task) = start(&ca, &store);
    settle(&mut task, clock::now());
    let written = store.0.lock().unwrap().clone();
    let keys: Vec<_> = written.iter().map(|(key, _)| *key).collect();
    // Before the request; with the rotation point; the certificate; without the key, which no retry needs any more.
    assert_eq!(keys, ["record", "record", "current", "record"]);
    for count in [3, 4] {
        let cut = Recorder(Arc::new(Mutex::new(written[..count].to_vec())));
        let (restarted, _task) = start(&ca, &cut);
        assert_eq!(rotate_at(&restarted), rotate_at(&handle), "after {count} writes");
    }
}

#[test]
fn hint_with_fault_is_news_and_policy_decides() {
    let begin = clock::now().unix;
    let (ca, store) = (Arc::new(Ca::new(begin, RenewalHint::after(begin.after(25 * HOUR)))), Recorder::default());
    let (handle, mut task) = start(&ca, &store);
    let mut notices = handle.notices(100);
    settle(&mut task, clock::now());
    let news: Vec<News> = std::iter::from_fn(|| notices.try_recv()).map(|notice| notice.news).collect();
    assert!(news.contains(&News::HintDisregarded { fault: HintFault::AfterValidity }), "{news:?}");
    assert!(rotate_at(&handle) >= begin.after(16 * HOUR), "{}", rotate_at(&handle));
}
