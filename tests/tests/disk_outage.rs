//! A node whose disk takes nothing for a while: it serves from memory, asks all the same, and writes when it can.

use std::io::ErrorKind;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use perennial::{State, Template};
use perennial_dev::Approval;
use perennial_pki::interim;
use perennial_rotation::{Handle, Left, Record, Rotator, Snapshot, clock};
use perennial_tests::disk::{Call, Disk, Fate, Virtual};
use perennial_tests::loopback::{BOUND, Runtime, Server, issued, node, on_both, serve};

const OUTAGES: [ErrorKind; 2] = [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem];

/// Reading goes on, nothing else does.
fn refuse(volume: &Virtual, kind: ErrorKind) {
    let is_write = |call: Call<'_>| matches!(call, Call::Op(_));
    volume.set_fates(Box::new(move |_, call| if is_write(call) { Fate::Failed(kind) } else { Fate::Done }));
}

fn recover(volume: &Virtual) {
    volume.set_fates(Box::new(|_, _| Fate::Done));
}

fn start(runtime: Runtime, server: &Server, volume: &Virtual) -> Handle {
    let mut holder = node(runtime, &server.cluster);
    holder.store = Some(Arc::new(volume.directory()));
    holder.start()
}

/// The `n`th certificate, which is served and nowhere else.
fn in_memory(handle: &Handle, server: &Server, n: u64, why: ErrorKind) {
    let told = |now: &Snapshot| {
        now.issued >= n && now.unwritten && now.last_error.as_ref().is_some_and(|it| it.contains(&why.to_string()))
    };
    handle.wait_for(told).within(BOUND).unwrap_or_else(|| panic!("no certificate in memory: {:?}", handle.snapshot()));
    assert_eq!(server.who_is(&handle.credential().unwrap()).0, "system:node:worker-1");
}

/// What is served is on the disk, and so is the record of the last request, its key no longer needed.
fn is_on_disk(handle: &Handle, volume: &Virtual) {
    let directory = volume.directory();
    let stored = directory.load(clock::now().unix).unwrap().credential.unwrap().0;
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
fn a_node_bootstraps_and_rotates_while_the_disk_takes_nothing_and_writes_the_last_when_it_does() {
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
fn blocked_disk_stops_neither_requests_nor_the_loop() {
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
        assert_eq!(server.who_is(&handle.credential().unwrap()).0, "system:node:worker-1");
        handle.rotate_now();
        let asks = |now: &Snapshot| matches!(now.state, State::Requesting { .. });
        handle
            .wait_for(asks)
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
fn a_node_that_starts_while_the_disk_takes_nothing_goes_on_with_the_certificate_it_has() {
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
fn a_rotation_that_is_gone_on_with_serves_and_writes_what_the_one_before_could_not() {
    on_both(|runtime| {
        let (server, volume) = (serve(Approval::Auto), Virtual::new(Disk::default()));
        let resume = |volume: &Virtual, left: Left| {
            let mut holder = node(runtime, &server.cluster);
            holder.store = Some(Arc::new(volume.directory()));
            holder.left = Some(left);
            holder.start()
        };
        let handle = start(runtime, &server, &volume);
        let first = issued(&handle, 1);
        is_on_disk(&handle, &volume);
        let written = handle.left();
        refuse(&volume, ErrorKind::StorageFull);
        handle.rotate_now();
        in_memory(&handle, &server, 2, ErrorKind::StorageFull);
        let second = handle.credential().unwrap();
        handle.shutdown().wait();
        assert!(handle.snapshot().unwritten);

        // The pair on the disk is as good as it, and older.
        let handle = resume(&volume, handle.left());
        assert_eq!(handle.credential().unwrap().chain(), second.chain());
        handle.shutdown().wait();
        // Nor can the disk be read.
        volume.set_fates(Box::new(|_, _| Fate::Failed(ErrorKind::Other)));
        assert!(Rotator::new().store(volume.directory()).prepare().is_err());
        let handle = resume(&volume, handle.left());
        assert_eq!(handle.credential().unwrap().chain(), second.chain());
        recover(&volume);
        handle.wait_for(|now| !now.unwritten).within(BOUND).unwrap();
        is_on_disk(&handle, &volume);
        handle.shutdown().wait();
        assert!(!handle.snapshot().unwritten);

        // What was written and then replaced is not brought back; what was written and then removed is.
        let handle = resume(&volume, written.clone());
        let serves_second = |now: &Snapshot| now.credential.as_ref().map(|it| it.chain()) == Some(second.chain());
        handle.wait_for(serves_second).within(BOUND).unwrap();
        handle.shutdown().wait();
        // So is what another one took the place of that is no good, as after a restore from a backup.
        let expired =
            interim(&Template::node("worker-1"), clock::now().unix.before(7 * Duration::from_secs(86_400))).unwrap();
        let restored = Virtual::new(Disk::default());
        restored.directory().write(&expired, clock::now().unix).unwrap();
        for volume in [Virtual::new(Disk::default()), restored] {
            let handle = resume(&volume, written.clone());
            assert_eq!(handle.credential().unwrap().chain(), first.chain());
            let stored = || volume.directory().load(clock::now().unix).unwrap().credential.map(|(stored, _)| stored);
            until("the pair on disk", || stored().is_some_and(|stored| stored.chain() == first.chain()));
            handle.shutdown().wait();
            assert!(!handle.snapshot().unwritten);
        }
        assert_eq!(server.csr_names().len(), 2);
    });
}
