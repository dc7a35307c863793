//! The threads on which stores and signers are called.

use std::collections::HashSet;
use std::thread::{self, ThreadId};

use perennial::UnixTime;
use perennial_rotation::{LoadRequest, Store, StoreError, Stored};
use perennial_tests::loopback::Runtime;
use zeroize::Zeroizing;

use super::*;

/// The threads that have called something of a test: one for each call.
type Callers = Arc<Mutex<Vec<ThreadId>>>;

fn note(callers: &Callers) {
    callers.lock().unwrap().push(thread::current().id());
}

/// A store that notes its callers.
#[derive(Clone, Debug, Default)]
struct Noting(Callers);

impl Store for Noting {
    fn load(&self, _: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        Ok(Stored::default())
    }

    fn write(&self, _: &Arc<Credential>, _: bool, _: UnixTime) -> Result<(), StoreError> {
        note(&self.0);
        Ok(())
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    fn remember(&self, _: &[u8]) -> Result<(), StoreError> {
        note(&self.0);
        Ok(())
    }
}

/// A CA that neither denies nor panics.
fn willing() -> Ca {
    let ca = Ca::new();
    ca.1.store(2, Ordering::SeqCst);
    ca
}

/// Three rotations and a retry. Returns the threads that called store and signer, one for each call.
fn callers_of_rotations(runtime: Runtime) -> Vec<ThreadId> {
    let (ca, store) = (willing(), Noting::default());
    let (callers, requests) = (store.0.clone(), AtomicU32::new(0));
    let rotator = rotator().store(store.clone()).sign_with(NAME, move |request, _| {
        note(&callers);
        // The first request fails, so that there is a retry, too.
        match requests.fetch_add(1, Ordering::SeqCst) {
            0 => Err(SignError::new(Failure::Unreachable, "not yet")),
            _ => ca.sign(&request),
        }
    });
    let handle = start(runtime, rotator);
    for count in 1..=3 {
        issued(&handle, count);
        handle.rotate_now();
    }
    handle.shutdown().within(BOUND);
    store.0.lock().unwrap().clone()
}

#[test]
fn whole_rotations_start_one_thread_beside_their_loop() {
    let callers: HashSet<_> = callers_of_rotations(Runtime::Std).into_iter().collect();
    assert_eq!(callers.len(), 1, "{callers:?}");
    assert!(!callers.contains(&thread::current().id()));
}

/// On smol, the rotations of a process share the threads, so that other tests may take some of them meanwhile.
#[test]
fn rotations_on_smol_use_their_threads_again() {
    let calls = callers_of_rotations(Runtime::Smol);
    let callers: HashSet<_> = calls.iter().collect();
    assert!(calls.len() >= 10 && callers.len() <= calls.len() / 2, "{calls:?}");
}

#[test]
fn signer_that_ignores_its_cancel_does_not_delay_the_next_request() {
    on_both(|runtime| {
        let (ca, (release, held)) = (willing(), mpsc::channel::<()>());
        let (held, (begun, has_begun)) = (Mutex::new(held), mpsc::channel());
        let stuck = SignWith::blocking(NAME, move |_, _| {
            begun.send(()).unwrap();
            let _ = held.lock().unwrap().recv();
            Err(SignError::new(Failure::Unreachable, "too late"))
        });
        let handle = start(runtime, rotator().store(Noting::default()).signer(stuck));
        has_begun.recv_timeout(BOUND.unwrap()).unwrap();
        // The change cancels the request, whose signer goes on.
        handle.set_signer(Some(Arc::new(SignWith::blocking(NAME, move |request, _| ca.sign(&request)))));
        issued(&handle, 1);
        drop(release);
        handle.shutdown().within(BOUND);
    });
}
