//! Both runtimes against the embedded API server: real sockets, real TLS, real files.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, State, Template};
use perennial_dev::{Approval, Decision, Options};
use perennial_rotation::{Answer, Directory};
use perennial_tests::address;
use perennial_tests::loopback::{
    BOUND, break_directory, digest, issued, mend_directory, new_authority, node, on_both, serve, serve_at, stored,
    waits_for_approval,
};

#[test]
fn new_connections_present_the_rotated_certificate() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let handle = node(runtime, &server.cluster).start();
        let first = issued(&handle, 1);
        assert_eq!(server.user_of(&first), ("system:node:worker-1".into(), digest(&first)));
        // The second request authenticates with the first certificate, the third with the second.
        for n in 2..=3 {
            handle.rotate_now();
            let next = issued(&handle, n);
            assert_ne!(next.chain().serial(), first.chain().serial());
            assert_eq!(server.user_of(&handle.credential().unwrap()), ("system:node:worker-1".into(), digest(&next)));
        }
        let users: Vec<String> =
            server.handle.with_api(|api, _| api.requests().map(|csr| csr.spec.username.clone()).collect());
        assert_eq!(users.iter().filter(|name| *name == "system:bootstrap:abcdef").count(), 1);
        assert_eq!(users.iter().filter(|name| *name == "system:node:worker-1").count(), 2);
        handle.shutdown().wait();
    });
}

#[test]
fn request_waiting_for_approval_is_reported() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let handle = node(runtime, &server.cluster).start();
        let csr_name = waits_for_approval(&handle);
        assert_eq!(server.csr_names(), [csr_name]);
        assert!(handle.credential().is_none());
        server.decide_all(Decision::Approve);
        issued(&handle, 1);
        handle.shutdown().wait();
    });
}

#[test]
fn denial_keeps_certificate_and_reports_reason() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let handle = node(runtime, &server.cluster).start();
        waits_for_approval(&handle);
        server.decide_all(Decision::Approve);
        let first = issued(&handle, 1);
        handle.rotate_now();
        waits_for_approval(&handle);
        server.decide_all(Decision::Deny);
        let denied = handle.wait_for(|now| now.last_error.is_some()).within(BOUND).unwrap();
        let why = denied.last_error.as_ref().unwrap();
        assert!(why.contains("denied") && why.contains("because"), "{why}");
        assert_eq!(denied.health.unwrap().answer, Answer::Served);
        assert!(matches!(denied.state, State::BackingOff { last: Failure::Denied, .. }), "{}", denied.state);
        assert_eq!(handle.credential().unwrap().chain(), first.chain());
        assert_eq!(server.user_of(&first).0, "system:node:worker-1");
        handle.shutdown().wait();
    });
}

/// A problem of Kubernetes: a node is stuck once its certificate is no longer accepted.
/// <https://github.com/kubernetes/kubernetes/issues/65991>
#[test]
fn certificate_of_unknown_authority_is_replaced_using_bootstrap_credential() {
    on_both(|runtime| {
        let directory = tempfile::tempdir().unwrap();
        let open = || Directory::open(directory.path(), "kubelet-client").unwrap();
        let before = serve(Approval::Auto);
        let mut holder = node(runtime, &before.cluster);
        holder.store = Some(Arc::new(open()));
        let handle = holder.start();
        let disowned = issued(&handle, 1);
        handle.shutdown().wait();

        // Another cluster, with another authority.
        let after = serve(Approval::Auto);
        let mut holder = node(runtime, &after.cluster);
        holder.store = Some(Arc::new(open()));
        let handle = holder.start();
        assert_eq!(handle.credential().unwrap().chain(), disowned.chain());
        handle.rotate_now();
        let ours = issued(&handle, 1);
        assert_eq!(after.user_of(&ours), ("system:node:worker-1".into(), digest(&ours)));
        handle.shutdown().wait();
    });
}

#[test]
fn refused_certificate_is_replaced_using_bootstrap_credential() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let handle = node(runtime, &server.cluster).start();
        let first = issued(&handle, 1);
        handle.report_refused(&first);
        let second = issued(&handle, 2);
        // A late report about a certificate that is no longer in use changes nothing.
        handle.report_refused(&first);
        handle.rotate_now();
        issued(&handle, 3);
        handle.shutdown().wait();
        assert_ne!(second.chain().serial(), first.chain().serial());
        let users: Vec<String> =
            server.handle.with_api(|api, _| api.requests().map(|csr| csr.spec.username.clone()).collect());
        assert_eq!(users.iter().filter(|name| *name == "system:bootstrap:abcdef").count(), 2);
        assert_eq!(users.iter().filter(|name| *name == "system:node:worker-1").count(), 1);
    });
}

/// A problem of another program: chain and key of a pair are in one file. <https://github.com/spiffe/spiffe/pull/376>
#[test]
fn directory_has_one_file_each_for_current_and_previous_pair() {
    on_both(|runtime| {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("pki");
        let server = serve(Approval::Auto);
        let handle = node(runtime, &server.cluster).stored_in(&path).start();
        let mut last = issued(&handle, 1);
        for n in 2..=4 {
            handle.rotate_now();
            last = issued(&handle, n);
        }
        handle.shutdown().wait();

        let stored = stored(&path);
        assert_eq!(stored.chain(), last.chain());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let current = path.join("kubelet-client-current.pem");
        let target = current.read_link().unwrap();
        assert!(target.is_relative(), "a directory that moves keeps working");
        let mut files = 0;
        for entry in path.read_dir().unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                files += 1;
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
        assert_eq!(files, 4, "the pair in use, the one before it, the record of the last request, and the lock");
    });
}

#[test]
fn restart_serves_stored_pair_without_request() {
    on_both(|runtime| {
        let directory = tempfile::tempdir().unwrap();
        let server = serve(Approval::Auto);
        for run in 0..2 {
            let handle = node(runtime, &server.cluster).stored_in(directory.path()).start();
            let resting =
                handle.wait_for(|now| matches!(now.state, State::Scheduled { .. }) && !now.unwritten).within(BOUND);
            assert_eq!(resting.unwrap().issued, u64::from(run == 0));
            handle.shutdown().wait();
        }
        assert_eq!(server.csr_names().len(), 1);
    });
}

#[test]
fn certificate_is_served_from_memory_until_disk_recovers() {
    on_both(|runtime| {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("pki");
        let server = serve(Approval::Manual);
        let handle = node(runtime, &server.cluster).stored_in(&path).start();
        waits_for_approval(&handle);
        break_directory(&path);
        server.decide_all(Decision::Approve);
        let broken = handle.wait_for(|now| now.unwritten && now.last_error.is_some()).within(BOUND).unwrap();
        assert!(broken.last_error.as_ref().unwrap().contains(path.to_str().unwrap()), "{:?}", broken.last_error);
        assert_eq!(server.user_of(&handle.credential().unwrap()).0, "system:node:worker-1");
        mend_directory(&path);
        let written = issued(&handle, 1);
        assert_eq!(Some(written.chain()), broken.credential.as_ref().map(|served| served.chain()));
        assert_eq!(server.csr_names().len(), 1, "a failed write costs no request");
        handle.shutdown().wait();
    });
}

#[test]
fn node_gets_certificate_from_api_server_that_starts_later() {
    on_both(|runtime| {
        // A port without a listener, for now.
        let address = address::unused();
        let authority = new_authority();
        let cluster = perennial_kubernetes::cluster::Cluster::from_url(&format!("https://{address}")).unwrap();
        let cluster = Arc::new(cluster.with_roots(authority.roots().unwrap()));
        let handle = node(runtime, &cluster).start();
        let failed = handle.wait_for(|now| now.last_error.is_some()).within(BOUND).unwrap();
        assert!(failed.last_error.as_ref().unwrap().contains(&address.to_string()), "{:?}", failed.last_error);
        let server = serve_at(address, authority, Options::default());
        let credential = issued(&handle, 1);
        assert_eq!(server.user_of(&credential).0, "system:node:worker-1");
        assert_eq!(handle.snapshot().last_error, None);
        handle.shutdown().wait();
    });
}

#[test]
fn template_change_supersedes_unapproved_request() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let handle = node(runtime, &server.cluster).start();
        waits_for_approval(&handle);
        handle.set_template(Some(Template::node("worker-2"))).unwrap();
        handle.wait_for(|_| server.csr_names().len() == 2).within(BOUND).unwrap();
        server.decide_all(Decision::Approve);
        let credential = issued(&handle, 1);
        assert_eq!(credential.chain().certificate().common_name(), "system:node:worker-2");
        handle.shutdown().wait();
    });
}

#[test]
fn shutdown_does_not_wait_for_approval() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let handle = node(runtime, &server.cluster).start();
        waits_for_approval(&handle);
        let (done, ended) = std::sync::mpsc::channel();
        let other = handle.clone();
        std::thread::spawn(move || {
            other.shutdown().wait();
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(5)).expect("shutdown does not wait for approval");
        assert!(handle.wait_for(|_| false).within(BOUND).is_none(), "waiters learn of the end");
        handle.shutdown().wait();
    });
}

#[test]
fn stored_pair_is_served_without_signer() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let directory = tempfile::tempdir().unwrap();
        let handle = node(runtime, &server.cluster).stored_in(directory.path()).start();
        let credential = issued(&handle, 1);
        handle.shutdown().wait();

        let mut holder = node(runtime, &server.cluster);
        holder.signer = None;
        holder.store = Some(Arc::new(Directory::open(directory.path(), "kubelet-client").unwrap()));
        let handle = holder.start();
        handle.rotate_now();
        let now = handle.wait_for(|now| matches!(now.state, State::NotEnabled)).within(BOUND).unwrap();
        assert_eq!(now.credential.as_ref().unwrap().chain(), credential.chain());
        handle.shutdown().wait();
    });
}
