//! Signers in closures of the program, blocking or async, on both runtimes.

mod panics;
mod threads;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Waker;
use std::time::{Duration, Instant};

use perennial::{Failure, State, Template, Validity};
use perennial_pki::{
    Chain, Credential, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Terms, Usage, read_request, self_signed,
};
use perennial_rotation::{
    Authentication, Directory, Handle, Identity, IdentitySource, NotYet, Rotator, SignError, SignRequest, SignWith,
    clock,
};
use perennial_tests::loopback::{BOUND, issued, on_both, policy, start, stored};

const NAME: &str = "example.com/mesh";

/// A local CA that denies the first request and panics at the second.
#[derive(Clone)]
struct Ca(Arc<Issuer>, Arc<AtomicU32>);

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let chain = self_signed("mesh CA", &key, &[1], validity(48)).unwrap();
        Self(Arc::new(Issuer::new(Credential::new(chain, Arc::new(key)).unwrap()).unwrap()), Arc::default())
    }

    fn sign(&self, request: &SignRequest) -> Result<Chain, SignError> {
        match self.1.fetch_add(1, Ordering::SeqCst) {
            0 => Err(SignError::new(Failure::Denied, "not yet")),
            1 => panic!("this CA has a bug"),
            serial => {
                let terms = Terms {
                    serial: &[u8::try_from(serial).unwrap()],
                    validity: validity(24),
                    key_usages: &[KeyUsage::DigitalSignature],
                    extended_key_usages: &[Usage::ClientAuth],
                };
                let request = read_request(request.csr.pem.as_bytes()).unwrap();
                self.0.issue(&request, &terms).map_err(|error| SignError::new(Failure::Rejected, error.to_string()))
            }
        }
    }
}

/// A validity period from a minute ago, for this many hours.
fn validity(hours: u64) -> Validity {
    let begin = clock::now().unix.before(Duration::from_secs(60));
    Validity::new(begin, begin.after(Duration::from_secs(hours * 3600))).unwrap()
}

fn rotator() -> Rotator {
    let quick = policy();
    Rotator::new().template(Template::new("mesh-1")).policy(perennial::Policy { refused: quick.transient, ..quick })
}

#[test]
fn rotation_continues_after_closure_denied_and_panicked() {
    on_both(|runtime| {
        for is_async in [false, true] {
            let (ca, directory) = (Ca::new(), tempfile::tempdir().unwrap());
            let rotator = rotator().store(Directory::open(directory.path(), "kubelet-client").unwrap());
            let rotator = match is_async {
                false => rotator.sign_with(NAME, move |request, _| ca.sign(&request)),
                true => rotator.sign_with_async(NAME, move |request| {
                    let ca = ca.clone();
                    async move {
                        smol::Timer::after(Duration::from_millis(1)).await;
                        ca.sign(&request)
                    }
                }),
            };
            let handle = start(runtime, rotator);
            let first = issued(&handle, 1);
            assert_eq!(first.chain().certificate().common_name(), "mesh-1");
            handle.rotate_now();
            let second = issued(&handle, 2);
            assert_ne!(first.key().public_key_der(), second.key().public_key_der());
            handle.shutdown().within(BOUND);
            assert_eq!(stored(directory.path()).chain(), second.chain());
        }
    });
}

#[test]
fn request_is_retried_after_panic_of_closure_is_reported() {
    on_both(|runtime| {
        let rotator = rotator().sign_with(NAME, |_, _| panic!("no token in slot 0"));
        let handle = start(runtime, rotator);
        let fails = |state: &State| matches!(state, State::BackingOff { last: Failure::Local, failures: 2.., .. });
        let snapshot = handle.wait_for(|now| fails(&now.state)).within(BOUND).unwrap();
        assert_eq!(snapshot.last_error.as_deref(), Some("the signer panicked: no token in slot 0"));
        handle.shutdown().within(BOUND);
    });
}

#[test]
fn shutdown_cancels_blocking_closure_and_drops_future() {
    on_both(|runtime| {
        let (begun, has_begun) = mpsc::channel();
        let (ended, has_ended) = mpsc::channel();
        let rotator = rotator().sign_with(NAME, move |_, cancel| {
            begun.send(()).unwrap();
            cancel.sleep(Duration::MAX);
            ended.send(cancel.is_cancelled()).unwrap();
            Err(SignError::new(Failure::Unreachable, "cancelled"))
        });
        let handle = start(runtime, rotator);
        has_begun.recv_timeout(BOUND.unwrap()).unwrap();
        handle.shutdown().within(BOUND);
        assert_eq!(has_ended.recv_timeout(BOUND.unwrap()), Ok(true));

        let (dropped, (begun, has_begun)) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
        let handle = start(runtime, rotator_of_future(begun, dropped.clone()));
        has_begun.recv_timeout(BOUND.unwrap()).unwrap();
        handle.shutdown().within(BOUND);
        let end = Instant::now() + BOUND.unwrap();
        while !dropped.load(Ordering::SeqCst) {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
    });
}

/// Is owned by a future, and sets the flag when the future is dropped.
struct Flag(Arc<AtomicBool>);
impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A rotator whose signer is a future that never ends.
fn rotator_of_future(begun: mpsc::Sender<()>, flag: Arc<AtomicBool>) -> Rotator {
    rotator().sign_with_async(NAME, move |_| {
        let (begun, flag) = (begun.clone(), Flag(flag.clone()));
        async move {
            let _flag = flag;
            begun.send(()).unwrap();
            std::future::pending().await
        }
    })
}

/// An identity source that returns the identity of a handle, and counts the calls of `identity`.
struct Counted(Handle, Arc<AtomicU32>);

impl IdentitySource for Counted {
    fn identity(&self) -> Result<Identity, NotYet> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.identity()
    }

    fn wake_on_change(&self, waker: &Waker) {
        self.0.wake_on_change(waker);
    }
}

#[test]
fn second_rotation_starts_as_soon_as_first_has_certificate() {
    on_both(|runtime| {
        let ca = Ca::new();
        // From its third request on, this CA neither denies nor panics.
        ca.1.store(2, Ordering::SeqCst);
        let (release, held) = mpsc::channel::<()>();
        let (held, ca_of_first) = (Mutex::new(held), ca.clone());
        let first = rotator().sign_with(NAME, move |request, _| {
            held.lock().unwrap().recv().unwrap();
            ca_of_first.sign(&request)
        });
        let first = start(runtime, first);
        let polls = Arc::new(AtomicU32::new(0));
        let node = Authentication::other(Counted(first.clone(), polls.clone()));
        let signer = SignWith::blocking("example.com/serving", move |request, _| {
            assert!(matches!(request.identity, Identity::Certificate(_)));
            ca.sign(&request)
        });
        let second = start(runtime, rotator().signer(signer.authentication(node)));
        // The third poll, three seconds after the first: each reads the identity twice. The fourth would come four seconds
        // after the third.
        while polls.load(Ordering::SeqCst) < 6 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(matches!(second.state(), State::NoIdentity { .. }), "{:?}", second.state());
        let begun = Instant::now();
        release.send(()).unwrap();
        issued(&second, 1);
        assert!(begun.elapsed() < Duration::from_millis(3500), "{:?}", begun.elapsed());
        first.shutdown().wait();
        second.shutdown().wait();
    });
}
