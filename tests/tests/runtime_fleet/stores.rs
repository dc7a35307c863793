//! Stores that hang or fail.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use perennial::{Failure, Policy, State, Template, UnixTime};
use perennial_dev::Approval;
use perennial_pki::Credential;
use perennial_rotation::{
    Directory, Handle, Limits, LoadRequest, Rotator, SignError, SignWith, Store, StoreError, Stored, Zeroizing,
};
use perennial_tests::loopback::{
    BOUND, Runtime, break_directory, issued, mend_directory, node, policy, serve, steady, stored,
};

use super::{Ca, add, on_both};

/// A store whose writes hang until the gate opens.
#[derive(Debug)]
struct HangingStore(Arc<(Mutex<bool>, Condvar)>);

impl Store for HangingStore {
    fn load(&self, _: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        Ok(Stored::default())
    }

    fn write(&self, _: &Arc<Credential>, _: bool, _: UnixTime) -> Result<(), StoreError> {
        let (is_open, opened) = &*self.0;
        drop(opened.wait_while(is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
        Ok(())
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    fn remember(&self, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn hanging_stores_keep_no_other_member_from_its_store() {
    on_both(|fleet| {
        let (ca, gate) = (Ca::new(), Arc::new((Mutex::new(false), Condvar::new())));
        let hangs = |n| fleet.add(ca.member(&format!("hangs-{n}")).store(HangingStore(gate.clone()))).unwrap();
        // More than the runtimes call at once.
        let hanging: Vec<_> = (0..5).map(hangs).collect();
        for handle in &hanging {
            handle.wait_for(|now| now.issued == 1).within(BOUND).expect("is issued");
        }
        let directory = tempfile::tempdir().unwrap();
        let store = Directory::open(directory.path().join("pki"), "healthy").unwrap();
        let healthy = fleet.add(ca.member("healthy").store(store)).unwrap();
        let begun = Instant::now();
        issued(&healthy, 1);
        assert!(begun.elapsed() < Duration::from_secs(30), "written after {:?}", begun.elapsed());
        assert!(hanging.iter().all(|handle| handle.snapshot().unwritten));
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        fleet.shutdown().within(BOUND);
        assert!(fleet.has_ended());
    });
}

#[test]
fn removed_member_writes_an_owed_credential_before_it_ends() {
    on_both(|fleet| {
        let server = serve(Approval::Auto);
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("pki");
        let patient = steady(Duration::from_secs(3600));
        let store = Directory::open(&path, "kubelet-client").unwrap();
        let signer = node(Runtime::Std, &server.cluster).signer.unwrap();
        let holder = Rotator::new().policy(Policy { write: patient, ..policy() }).signer(signer).store(store);
        let handle = fleet.add(holder).unwrap();
        let other = add(&fleet, &server, "worker-2");
        handle.wait_for(|now| now.state == State::NoTemplate).within(BOUND).unwrap();
        break_directory(&path);
        handle.set_template(Some(Template::node("worker-1"))).unwrap();
        handle.wait_for(|now| now.unwritten && now.last_error.is_some()).within(BOUND).unwrap();
        mend_directory(&path);
        let served = handle.credential().unwrap();
        handle.shutdown().wait();
        assert_eq!(stored(&path).chain(), served.chain());
        issued(&other, 1);
        assert!(!other.has_ended());
        fleet.shutdown().wait();
    });
}

#[test]
fn dropped_future_of_a_fleet_ends_its_members_and_cancels_their_requests() {
    let (fleet, run) = perennial_smol::fleet(Limits::default());
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    let until_stopped = async move {
        let _ = stopped.recv().await;
    };
    let running = thread::spawn(move || smol::block_on(smol::future::or(run, until_stopped)));
    let (ca, gate) = (Ca::new(), Arc::new((Mutex::new(false), Condvar::new())));
    // More calls than the runtime makes at once: some have begun, the others never will.
    let hangs = |n| fleet.add(ca.member(&format!("store-{n}")).store(HangingStore(gate.clone()))).unwrap();
    let stores: Vec<_> = (0..6).map(hangs).collect();
    for handle in &stores {
        handle.wait_for(|now| now.issued == 1).within(BOUND).expect("is issued");
    }
    let ((begin, begun), (cancel, cancelled)) = (smol::channel::bounded(1), smol::channel::bounded(1));
    let signer = SignWith::blocking("example.com/ca", move |_, cancelled| {
        begin.send_blocking(()).unwrap();
        cancelled.sleep(Duration::MAX);
        cancel.send_blocking(()).unwrap();
        Err(SignError::new(Failure::Unreachable, "cancelled"))
    });
    let requesting = fleet.add(ca.member("requesting").signer(signer)).unwrap();
    begun.recv_blocking().unwrap();
    drop(stop);
    running.join().unwrap();
    cancelled.recv_blocking().unwrap();
    assert!(requesting.has_ended() && !fleet.has_ended(), "calls of stores go on");
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    stores.iter().for_each(|handle| drop(handle.wait_for(|_| false).within(BOUND)));
    fleet.shutdown().within(BOUND);
    assert!(fleet.has_ended() && stores.iter().all(Handle::has_ended));
}
