//! Certificates that are not valid yet, over sockets and on disk.

use std::path::Path;
use std::time::Duration;

use perennial::{State, UnixTime};
use perennial_dev::faults::Plan;
use perennial_dev::{Options, Random};
use perennial_pki::Credential;
use perennial_rotation::{Directory, clock};
use perennial_tests::loopback::{BOUND, issued, new_authority, node, on_both, serve_at, stored};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn dated(path: &Path) -> usize {
    path.read_dir()
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("-20"))
        .count()
}

/// The waiting pair is written beside the current pair. After a restart, the rotation has both; it serves the waiting
/// pair once a server has refused the current certificate.
#[test]
fn early_certificate_waits_on_disk_until_current_is_refused() {
    on_both(|runtime| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        // The early certificate begins in two hours, so that the current one has to last longer.
        let options = Options { signing_duration: DAY, ..Options::default() };
        let server = serve_at(([127, 0, 0, 1], 0).into(), new_authority(), options);
        let handle = node(runtime, &server.cluster).stored_in(path).start();
        let held = issued(&handle, 1);

        let plan = Plan::parse("rules: [{ fault: { certificate: notYetValid } }]").unwrap();
        server.handle.with_api(|api, now| api.set_faults(plan, now));
        handle.rotate_now();
        let waits = handle.wait_for(|now| now.waiting.is_some() && !now.unwritten).within(BOUND).unwrap();
        let waiting = waits.waiting.clone().unwrap();
        assert!(matches!(waits.state, State::Scheduled { .. }) && waits.last_error.is_none(), "{waits:?}");
        assert_eq!(handle.credential().unwrap().chain(), held.chain());
        assert_eq!(stored(path).chain(), held.chain(), "the link stays");
        handle.shutdown().wait();

        let requests = server.csr_names().len();
        let handle = node(runtime, &server.cluster).stored_in(path).start();
        let again = handle.wait_for(|now| matches!(now.state, State::Scheduled { .. })).within(BOUND).unwrap();
        assert_eq!(again.waiting.as_ref().unwrap().chain(), waiting.chain(), "a restart finds the waiting pair");
        let files = dated(path);
        handle.report_refused(&held);
        handle.wait_for(|now| now.waiting.is_none() && !now.unwritten).within(BOUND).unwrap();
        assert_eq!(handle.credential().unwrap().chain(), waiting.chain());
        assert_eq!((stored(path).chain(), dated(path)), (waiting.chain(), files), "the pair keeps its file");
        assert_eq!(server.csr_names().len(), requests, "no further request");
        handle.shutdown().wait();
    });
}

/// Loads a directory in the state that a crash leaves after the write of an early certificate and before the notBefore
/// of that certificate.
#[test]
fn waiting_pair_is_found_beside_current_pair() {
    let directory = tempfile::tempdir().unwrap();
    let store = Directory::open(directory.path(), "kubelet-client").unwrap();
    let now = clock::now().unix;
    let (held, waiting) = (pair(now, 0), pair(now, 2));
    store.write(&held, now).unwrap();
    store.write_ahead(&waiting, now).unwrap();
    store.write_ahead(&waiting, now).unwrap();
    assert_eq!(dated(directory.path()), 2, "once is enough");
    let loaded = store.load(None, now).unwrap();
    assert_eq!(loaded.credential.unwrap().0.chain(), held.chain());
    assert_eq!(loaded.waiting.unwrap().chain(), waiting.chain());
    store.write(&waiting, now).unwrap();
    let loaded = store.load(None, now).unwrap();
    assert_eq!((loaded.credential.unwrap().0.chain(), dated(directory.path())), (waiting.chain(), 2));
}

fn pair(now: UnixTime, hours: u32) -> Credential {
    let mut random = Random::from_os().unwrap();
    let begins = now.after(HOUR * hours);
    new_authority().client_credential("system:node:a", &["system:nodes"], &mut random, begins, DAY / 2).unwrap()
}
