//! A node whose disk refuses writes, or hangs, for a while. Meanwhile the node serves its certificate from memory and
//! requests new ones; it writes the certificate once the disk works again.

use std::io::ErrorKind;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use perennial::State;
use perennial_dev::Approval;
use perennial_rotation::{Handle, Record, Signer, Snapshot, clock};
use perennial_tests::disk::{Call, Disk, Fate, Virtual};
use perennial_tests::loopback::{BOUND, LoopbackServer, Runtime, issued, node, on_both, serve};

const OUTAGES: [ErrorKind; 2] = [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem];

/// Makes each operation on the volume fail with an error of this kind, except for reads.
fn refuse(volume: &Virtual, kind: ErrorKind) {
    let is_write = |call: Call<'_>| matches!(call, Call::Op(_));
    volume.set_fates(Box::new(move |_, call| if is_write(call) { Fate::Failed(kind) } else { Fate::Done }));
}

fn recover(volume: &Virtual) {
    volume.set_fates(Box::new(|_, _| Fate::Done));
}

fn start(runtime: Runtime, server: &LoopbackServer, volume: &Virtual) -> Handle {
    let mut holder = node(runtime, &server.cluster);
    holder.store = Some(Arc::new(volume.directory()));
    holder.start()
}

/// Waits until the `n`th certificate is issued, served from memory, and reported as unwritten with the error `why`.
fn in_memory(handle: &Handle, server: &LoopbackServer, n: u64, why: ErrorKind) {
    let is_unwritten = |now: &Snapshot| {
        now.issued >= n && now.unwritten && now.last_error.as_ref().is_some_and(|it| it.contains(&why.to_string()))
    };
    handle
        .wait_for(is_unwritten)
        .within(BOUND)
        .unwrap_or_else(|| panic!("no certificate in memory: {:?}", handle.snapshot()));
    assert_eq!(server.user_of(&handle.credential().unwrap()).0, "system:node:worker-1");
}

/// Checks that the served certificate is on disk. Then waits until the pending record on disk has no key, since a
/// request that was answered leaves no pending key.
fn is_on_disk(handle: &Handle, volume: &Virtual) {
    let directory = volume.directory();
    let stored = directory.load(None, clock::now().unix).unwrap().credential.unwrap().0;
    assert_eq!(stored.chain(), handle.credential().unwrap().chain());
    let saved = || Some(Record::decode(&directory.recall().unwrap()?).unwrap()).filter(|record| record.key.is_none());
    until("the record without its key", || saved().is_some());
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + BOUND.unwrap();
    while !is_so() {
        assert!(Instant::now() < end, "not there: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn node_rotates_in_memory_and_writes_after_disk_outage() {
    on_both(|runtime| {
        for kind in OUTAGES {
            let (server, volume) = (serve(Approval::Auto), Virtual::new(Disk::default()));
            refuse(&volume, kind);
            let handle = start(runtime, &server, &volume);
            in_memory(&handle, &server, 1, kind);
            handle.rotate_now();
            in_memory(&handle, &server, 2, kind);
            assert!(volume.disk().visible().is_empty(), "nothing is left lying about");
            recover(&volume);
            issued(&handle, 2);
            is_on_disk(&handle, &volume);
            assert_eq!(server.csr_names().len(), 2, "what cannot be written or saved costs no request");
            handle.shutdown().wait();
        }
    });
}

#[test]
fn disk_that_hangs_stops_neither_serving_nor_requesting() {
    let scenario = |runtime| {
        let (server, volume) = (serve(Approval::Auto), Virtual::new(Disk::default()));
        // An operation that does not return, as on a network file system whose server is away.
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let closed = gate.clone();
        volume.set_fates(Box::new(move |_, call| {
            let opens = |open: &mut bool| !*open;
            if matches!(call, Call::Op(_)) {
                drop(closed.1.wait_while(closed.0.lock().unwrap(), opens).unwrap());
            }
            Fate::Done
        }));
        let handle = start(runtime, &server, &volume);
        let served = handle.wait_for(|now| now.issued == 1 && now.unwritten).within(BOUND);
        served.unwrap_or_else(|| panic!("no certificate: {:?}", handle.snapshot()));
        assert_eq!(server.user_of(&handle.credential().unwrap()).0, "system:node:worker-1");
        handle.rotate_now();
        let is_requesting = |now: &Snapshot| matches!(now.state, State::Requesting { .. });
        handle
            .wait_for(is_requesting)
            .within(BOUND)
            .unwrap_or_else(|| panic!("{runtime:?} stands still: {:?}", handle.snapshot()));

        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        issued(&handle, 2);
        is_on_disk(&handle, &volume);
        handle.shutdown().wait();
    };
    thread::scope(|scope| {
        [Runtime::Std, Runtime::Smol].map(|runtime| scope.spawn(move || scenario(runtime))).map(drop)
    });
}

#[test]
fn start_on_failing_disk_serves_stored_certificate() {
    on_both(|runtime| {
        for kind in OUTAGES {
            let (server, volume) = (serve(Approval::Auto), Virtual::new(Disk::default()));
            let handle = start(runtime, &server, &volume);
            let first = issued(&handle, 1);
            is_on_disk(&handle, &volume);
            handle.shutdown().wait();

            refuse(&volume, kind);
            let before = volume.disk();
            let handle = start(runtime, &server, &volume);
            assert_eq!(handle.credential().unwrap().chain(), first.chain());
            assert_eq!(server.csr_names().len(), 1);
            handle.rotate_now();
            in_memory(&handle, &server, 1, kind);
            assert_eq!(volume.disk(), before);
            recover(&volume);
            assert_ne!(issued(&handle, 1).chain(), first.chain());
            is_on_disk(&handle, &volume);
            handle.shutdown().wait();
        }
    });
}

#[test]
fn signer_changes_on_full_disk_lose_no_write() {
    on_both(|runtime| {
        let (server, volume) = (serve(Approval::Auto), Virtual::new(Disk::default()));
        let handle = start(runtime, &server, &volume);
        issued(&handle, 1);
        is_on_disk(&handle, &volume);
        refuse(&volume, ErrorKind::StorageFull);
        handle.rotate_now();
        in_memory(&handle, &server, 2, ErrorKind::StorageFull);
        let second = handle.credential().unwrap();

        let signer = || node(runtime, &server.cluster).signer.map(|signer| Arc::new(signer) as Arc<dyn Signer>);
        for changed in [signer(), None, signer(), None] {
            let is_enabled = changed.is_some();
            handle.set_signer(changed);
            let is_so = |now: &Snapshot| (now.state != State::NotEnabled) == is_enabled;
            let now = handle.wait_for(is_so).within(BOUND).unwrap();
            assert!(now.unwritten && now.credential.as_ref().unwrap().chain() == second.chain());
        }
        // The certificate that was accepted before rotation was switched off is written, and nothing after it.
        recover(&volume);
        handle.wait_for(|now| !now.unwritten).within(BOUND).unwrap();
        is_on_disk(&handle, &volume);
        let before = volume.disk();
        handle.rotate_now();
        handle.report_replaced(None);
        handle.set_template(None).unwrap();
        handle.shutdown().wait();
        assert_eq!(volume.disk(), before);
        assert_eq!(server.csr_names().len(), 2);
    });
}
