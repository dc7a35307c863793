//! A CA in the program's own process ([`SignWith`]): the rotation paces the requests to this CA, checks the chains from
//! it, and provides identities for the requests, as it does with an API server.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::authority::Authority;
use perennial::{Failure, Now, Reason, State, Template, UnixTime, Validity};
use perennial_pki::{Chain, KeyAlgorithm, KeyPair, Usage};
use perennial_rotation::{
    Authentication, Cancel, Exchange, Handle, Identity, IdentitySource as _, Memory, NotYet, Profile, Rotator,
    SignError, SignRequest, SignWith, Snapshot, Store as _, Task, Token, Work, clock,
};

const START: UnixTime = UnixTime::from_secs(1_767_225_600);
const BUSY: Duration = Duration::from_secs(100);
const HOUR: Duration = Duration::from_secs(3600);

struct Ca(Authority);

impl Ca {
    fn new() -> Self {
        Self(Authority::new(Validity::new(START.before(HOUR), START.after(1000 * HOUR)).unwrap()))
    }

    /// Issues a certificate for this common name and key, valid from `START` for `lifetime`.
    fn sign(&self, name: &str, public_key_der: &[u8], lifetime: Duration) -> Chain {
        self.0.issue(&Template::new(name), public_key_der, Validity::new(START, START.after(lifetime)).unwrap())
    }
}

/// A running rotation: its handle, its task and the virtual time.
struct Life {
    handle: Handle,
    task: Task,
    now: Now,
}

impl Life {
    fn new(signer: SignWith, store: &Memory) -> Self {
        let template = Template::new("mesh-1");
        let rotator = Rotator::new().template(template).signer(signer).store(store.clone());
        let (handle, task) = rotator.prepare().unwrap();
        // The builder reads the clock of this machine.
        let now = Now { instant: clock::now().instant, unix: START };
        Self { handle, task, now }
    }

    /// Advances time until the rotation submits a request, runs its exchange, and returns the snapshot after it.
    fn attempt(&mut self) -> Arc<Snapshot> {
        loop {
            if let Some(work) = self.task.step(self.now).pop() {
                match work {
                    Work::Drive(exchange, reporter) => {
                        reporter.finish(match exchange {
                            Exchange::Blocking(work) => work(&Cancel::default()),
                            Exchange::Future(mut future) => {
                                match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                                    Poll::Ready(result) => result,
                                    Poll::Pending => panic!("nothing in it waits"),
                                }
                            }
                            Exchange::Conversation(conversation) => panic!("{conversation:?}"),
                        });
                        assert!(self.task.step(self.now).is_empty(), "memory is written at once");
                        return self.handle.snapshot();
                    }
                    Work::Cancel | Work::Store(_) => panic!("{work:?}"),
                }
            }
            let due = self.task.deadline().unwrap().max(self.now.instant);
            self.now = Now { instant: due, unix: self.now.unix.after(due.since(self.now.instant)) };
        }
    }

    fn last(&self) -> (Failure, Duration) {
        match self.handle.state() {
            State::BackingOff { last, until, .. } => (last, until.since(self.now.instant)),
            state => panic!("{state:?}"),
        }
    }
}

#[test]
fn blocking_and_async_local_cas_issue_and_rotate() {
    let ca = Arc::new(Ca::new());
    let sign = move |request: &SignRequest| {
        assert_eq!((request.template.common_name(), request.lifetime), ("mesh-1", Some(HOUR)));
        Ok(ca.sign("mesh-1", &request.public_key_der, 24 * HOUR))
    };
    let profile = || Profile { lifetime: Some(HOUR), ..Profile::new([Usage::ClientAuth]) };
    let (block, wait) = (sign.clone(), sign);
    let signers = [
        SignWith::blocking("example.com/mesh", move |request, _| block(&request)).profile(profile()),
        SignWith::future("example.com/mesh", move |request| std::future::ready(wait(&request))).profile(profile()),
    ];
    for signer in signers {
        let store = Memory::default();
        let mut life = Life::new(signer, &store);
        let first = life.attempt().credential.clone().unwrap();
        assert_eq!(first.chain().certificate().common_name(), "mesh-1");
        life.now.unix = START.after(23 * HOUR);
        life.now.instant = life.now.instant.after(23 * HOUR);
        let second = life.attempt().credential.clone().unwrap();
        assert_ne!(first.key().public_key_der(), second.key().public_key_der());
        let [first, second] = [&first, &second].map(|pair| &pair.chain().certificate().names);
        assert!(Arc::ptr_eq(first, second), "both share the names of the template");
        assert!(store.recall().unwrap().is_some());
    }
}

#[test]
fn error_or_panic_of_local_ca_is_reported_and_leads_to_backoff() {
    type Failing = fn() -> SignError;
    let cases: [(Failing, Failure, &str); 4] = [
        (|| SignError::new(Failure::Denied, "not on a Sunday"), Failure::Denied, "not on a Sunday"),
        (|| SignError::new(Failure::Throttled, "busy").retry_after(BUSY), Failure::Throttled, "busy"),
        (|| SignError::new(Failure::Unreachable, "the token is unplugged"), Failure::Unreachable, "unplugged"),
        (|| panic!("no such slot"), Failure::Local, "the signer panicked: no such slot"),
    ];
    for (fails, failure, words) in cases {
        for signer in [
            SignWith::blocking("example.com/mesh", move |_, _| Err(fails())),
            SignWith::future("example.com/mesh", move |_| async move { Err(fails()) }),
        ] {
            let mut life = Life::new(signer, &Memory::default());
            let snapshot = life.attempt();
            assert!(snapshot.last_error.as_ref().unwrap().contains(words), "{:?}", snapshot.last_error);
            let (last, wait) = life.last();
            assert_eq!(last, failure);
            match failure {
                Failure::Throttled => assert!(wait >= BUSY, "{wait:?}"),
                _ => assert!(wait > Duration::ZERO, "{wait:?}"),
            }
        }
    }
}

#[test]
fn unusable_chain_of_local_ca_is_rejected() {
    let (ca, other) = (Arc::new(Ca::new()), Ca::new());
    let roots = ca.0.roots();
    type Sign = Arc<dyn Fn(&SignRequest) -> Chain + Send + Sync>;
    let other_key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let signs: [(Sign, &str); 4] = [
        (
            {
                let ca = ca.clone();
                Arc::new(move |_| ca.sign("mesh-1", other_key.public_key_der(), HOUR))
            },
            "was issued for another key",
        ),
        (
            {
                let ca = ca.clone();
                Arc::new(move |request| ca.sign("mesh-2", &request.public_key_der, HOUR))
            },
            "its common name is `mesh-2`",
        ),
        (
            {
                let ca = ca.clone();
                Arc::new(move |request| ca.sign("mesh-1", &request.public_key_der, Duration::from_secs(1)))
            },
            "expired at 2026-01-01T00:00:01Z",
        ),
        (Arc::new(move |request| other.sign("mesh-1", &request.public_key_der, HOUR)), "does not lead to a trusted CA"),
    ];
    for (sign, words) in signs {
        let profile =
            Profile { issuers: Some(roots.clone()), skew: Duration::ZERO, ..Profile::new([Usage::ClientAuth]) };
        let signer = SignWith::blocking("example.com/mesh", move |request, _| Ok(sign(&request))).profile(profile);
        let store = Memory::default();
        let mut life = Life::new(signer, &store);
        life.now.unix = START.after(Duration::from_secs(2));
        let snapshot = life.attempt();
        let error = snapshot.last_error.clone().unwrap();
        assert!(error.contains(words), "{error}");
        assert_eq!(life.last().0, Failure::BadCertificate);
        assert!(snapshot.credential.is_none());
    }
}

#[test]
fn request_waits_for_coming_identity_without_counting_failures() {
    let (ca, is_there, reads) = (Ca::new(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (there, count) = (is_there.clone(), reads.clone());
    let node = move || {
        count.fetch_add(1, Ordering::SeqCst);
        match there.load(Ordering::SeqCst) {
            true => Ok(Identity::Token(Token::new("abcdef").unwrap())),
            false => Err(NotYet::coming("the node has no certificate yet")),
        }
    };
    let signer = SignWith::blocking("example.com/mesh", move |request, _| {
        assert!(matches!(request.identity, Identity::Token(_)));
        Ok(ca.sign("mesh-1", &request.public_key_der, 24 * HOUR))
    });
    let mut life = Life::new(signer.authentication(Authentication::other(node)), &Memory::default());
    let begin = life.now.instant;
    let mut read_at = Vec::new();
    while read_at.len() < 6 {
        let before = reads.load(Ordering::SeqCst);
        assert!(life.task.step(life.now).is_empty());
        if reads.load(Ordering::SeqCst) > before {
            read_at.push(life.now.instant.since(begin).as_secs());
        }
        let snapshot = life.handle.snapshot();
        assert!(matches!(snapshot.state, State::NoIdentity { .. }), "{:?}", snapshot.state);
        assert_eq!(snapshot.last_error.as_deref(), Some("the node has no certificate yet"));
        let due = life.task.deadline().unwrap();
        life.now = Now { instant: due, unix: life.now.unix.after(due.since(life.now.instant)) };
    }
    assert_eq!(read_at, [0, 1, 3, 7, 15, 25]);
    is_there.store(true, Ordering::SeqCst);
    // The next poll finds the identity. Waiting for it has counted as no attempt.
    let snapshot = life.attempt();
    assert_eq!(life.now.instant.since(begin).as_secs(), 35);
    assert_eq!((snapshot.issued, snapshot.last_error.as_deref()), (1, None));
}

#[test]
fn issued_certificate_is_accepted_before_new_names_are_requested() {
    let (ca, is_there) = (Ca::new(), Arc::new(AtomicBool::new(true)));
    let there = is_there.clone();
    let node = move || match there.load(Ordering::SeqCst) {
        true => Ok(Identity::Anonymous),
        false => Err(NotYet::coming("the certificate of the node is being replaced")),
    };
    let signer = SignWith::blocking("example.com/mesh", move |request, _| {
        Ok(ca.sign("mesh-1", &request.public_key_der, 24 * HOUR))
    });
    let mut life = Life::new(signer.authentication(Authentication::other(node)), &Memory::default());
    let Some(Work::Drive(Exchange::Blocking(work), reporter)) = life.task.step(life.now).pop() else { panic!() };
    let later = Duration::from_secs(120);
    life.now = Now { instant: life.now.instant.after(later), unix: life.now.unix.after(later) };
    is_there.store(false, Ordering::SeqCst);
    // Would supersede the request, if there were an identity for the next one.
    life.handle.set_template(Some(Template::new("mesh-1").with_dns_names(["mesh.example"]))).unwrap();
    assert!(life.task.step(life.now).is_empty());
    assert!(matches!(life.handle.state(), State::Requesting { .. }), "{:?}", life.handle.state());
    is_there.store(true, Ordering::SeqCst);
    reporter.finish(work(&Cancel::default()));
    let next = life.task.step(life.now);
    let snapshot = life.handle.snapshot();
    assert_eq!((snapshot.issued, snapshot.credential.is_some()), (1, true));
    assert!(matches!(next[..], [Work::Drive(..)]), "the next request, for the other name: {next:?}");
}

fn has_arrival(task: &Task) -> bool {
    pin!(task.arrival()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// The requests of the second rotation authenticate with the handle of the first. In the first run, the handle is given
/// as [`Authentication::Other`]; in the second run, as the bootstrap identity, since the second rotation has no
/// certificate of its own yet.
#[test]
fn request_waits_for_another_rotations_certificate_and_begins_when_it_arrives() {
    let ca = Arc::new(Ca::new());
    for of in [|first: Handle| Authentication::other(first), |first| Authentication::own(first)] {
        let sign = |ca: &Arc<Ca>| {
            let ca = ca.clone();
            // Valid by the real clock, too, by which `Handle::credential` judges.
            SignWith::blocking("example.com/mesh", move |request, _| {
                Ok(ca.sign("mesh-1", &request.public_key_der, 200_000 * HOUR))
            })
        };
        let mut first = Life::new(sign(&ca), &Memory::default());
        assert!(first.handle.identity().unwrap_err().is_coming());
        let mut second = Life::new(sign(&ca).authentication(of(first.handle.clone())), &Memory::default());
        assert!(second.task.step(second.now).is_empty());
        let snapshot = second.handle.snapshot();
        assert!(matches!(snapshot.state, State::NoIdentity { .. }), "{:?}", snapshot.state);
        let why = "waiting for the certificate that authenticates requests";
        assert_eq!(snapshot.last_error.as_deref(), Some(why));
        assert!(!has_arrival(&second.task), "nothing has woken it");

        first.attempt();
        assert!(has_arrival(&second.task));
        // No time has passed.
        let work = second.task.step(second.now);
        assert!(matches!(work[..], [Work::Drive(..)]), "{work:?}");
        assert_eq!(second.handle.snapshot().last_error, None);
    }
}

#[test]
fn request_rejected_as_unauthorized_makes_its_client_certificate_due() {
    let ca = Ca::new();
    let first = SignWith::blocking("example.com/mesh", move |request, _| {
        Ok(ca.sign("mesh-1", &request.public_key_der, 200_000 * HOUR))
    });
    let mut first = Life::new(first, &Memory::default());
    first.attempt();
    let refuses =
        SignWith::blocking("example.com/mesh", |_, _| Err(SignError::new(Failure::Unauthorized, "who are you?")));
    let of_first = Authentication::other(first.handle.clone());
    let mut second = Life::new(refuses.authentication(of_first), &Memory::default());
    second.attempt();
    assert_eq!(second.last().0, Failure::Unauthorized);
    assert!(has_arrival(&first.task));
    let _ = first.task.step(first.now);
    assert_eq!(first.handle.snapshot().due, Some(Reason::Refused));
    assert!(!has_arrival(&first.task), "reported once");
}

#[test]
fn on_cancel_closure_runs_once_even_if_set_after_cancel() {
    let (cancel, early, late) = (Cancel::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let ran = early.clone();
    cancel.on_cancel(move || assert!(!ran.swap(true, Ordering::SeqCst)));
    cancel.cancel();
    cancel.cancel();
    let ran = late.clone();
    cancel.on_cancel(move || assert!(!ran.swap(true, Ordering::SeqCst)));
    assert!(early.load(Ordering::SeqCst) && late.load(Ordering::SeqCst) && cancel.is_cancelled());
    cancel.sleep(Duration::MAX);
}
