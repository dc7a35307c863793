//! The errors that a rotation reports, and the identity that a rotation chooses after a server has refused its
//! certificate.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use perennial::{Failure, State, Template};
use perennial_dev::{Approval, Authority, Decision, Options};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Roots;
use perennial_rotation::{
    Authentication, Handle, Identity, IdentitySource, Input, NotYet, Rotation, Start, Stored, Token, clock,
};
use perennial_tests::address;
use perennial_tests::loopback::{
    BOUND, LoopbackServer, Runtime, TOKEN, break_directory, issued, mend_directory, new_authority, node, on_both,
    policy, serve, serve_at, waits_for_approval,
};

#[test]
fn issued_certificate_already_due_is_reported_as_error() {
    on_both(|runtime| {
        let lifetime = Duration::from_secs(60);
        let options = Options { signing_duration: lifetime, backdate: Some(lifetime * 20), ..Options::default() };
        let server = serve_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), new_authority(), options);
        let handle = node(runtime, &server.cluster).start();
        let due = |state: &State| matches!(state, State::BackingOff { last: Failure::AlreadyDue, .. });
        let now = handle.wait_for(|now| due(&now.state)).within(BOUND).unwrap();
        assert!(now.last_error.is_some(), "{now:?}");
        handle.shutdown().wait();
    });
}

#[test]
fn timed_out_request_is_reported_as_error() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let mut holder = node(runtime, &server.cluster);
        holder.policy.request_timeout = Duration::from_millis(500);
        let handle = holder.start();
        let timed_out = |state: &State| matches!(state, State::BackingOff { last: Failure::TimedOut, .. });
        let now = handle.wait_for(|now| timed_out(&now.state)).within(BOUND).unwrap();
        let why = now.last_error.clone();
        assert!(why.is_some_and(|why| why.contains("waiting for approval of CSR")), "{now:?}");
        handle.shutdown().wait();
    });
}

/// Starts a node and breaks its credential directory before its first certificate is issued, so that the certificate
/// cannot be written. Returns the node's handle, and the directory.
fn cannot_write(runtime: Runtime, server: &LoopbackServer, path: &Path) -> (Handle, PathBuf) {
    let pki = path.join("pki");
    let handle = node(runtime, &server.cluster).stored_in(&pki).start();
    waits_for_approval(&handle);
    break_directory(&pki);
    server.decide_all(Decision::Approve);
    handle.wait_for(|now| now.unwritten && now.last_error.is_some()).within(BOUND).unwrap();
    (handle, pki)
}

#[test]
fn write_error_is_cleared_by_successful_write() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let parent = tempfile::tempdir().unwrap();
        let (handle, broken) = cannot_write(runtime, &server, parent.path());
        mend_directory(&broken);
        issued(&handle, 1);
        assert_eq!(handle.snapshot().last_error, None);
        handle.shutdown().wait();
    });
}

#[test]
fn successful_write_does_not_clear_a_request_error() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let parent = tempfile::tempdir().unwrap();
        let (handle, broken) = cannot_write(runtime, &server, parent.path());
        let address = server.handle.address();
        drop(server);
        handle.rotate_now();
        let has_request_error =
            |why: &Option<Arc<str>>| why.as_ref().is_some_and(|why| why.contains(&address.to_string()));
        handle.wait_for(|now| has_request_error(&now.last_error)).within(BOUND).unwrap();
        mend_directory(&broken);
        handle.wait_for(|now| !now.unwritten).within(BOUND).unwrap();
        assert!(has_request_error(&handle.snapshot().last_error), "{:?}", handle.snapshot().last_error);
        handle.shutdown().wait();
    });
}

/// Checks a rotation through an outage. During the outage, the API server refuses the node's certificate, and the
/// bootstrap identity is the result of `expired`. After the outage, the server accepts the certificate again, and the
/// rotation must use the certificate.
fn an_outage_of_trust(expired: impl Fn() -> Result<Identity, NotYet> + Send + Sync + Clone + 'static) {
    on_both(|runtime| {
        let (ours, other) = (new_authority(), new_authority());
        let roots = [ours.certificate_pem(), other.certificate_pem()].concat();
        let pem = ours.to_pem();
        let address = address::unused();
        let before = serve_at(address, ours, Options::default());
        let cluster = Cluster::from_url(&format!("https://{address}")).unwrap();
        let cluster = Arc::new(cluster.with_roots(Roots::from_pem(roots.as_bytes()).unwrap()));

        let is_gone = Arc::new(AtomicBool::new(false));
        let (gone, expired) = (is_gone.clone(), expired.clone());
        let source: Arc<dyn IdentitySource> = Arc::new(move || {
            if gone.load(Ordering::SeqCst) { expired() } else { Ok(Identity::Token(Token::new(TOKEN).unwrap())) }
        });
        let mut holder = node(runtime, &cluster);
        holder.policy.refused = holder.policy.transient;
        holder.signer.as_mut().unwrap().authentication = Authentication::Own { bootstrap: Some(source) };
        let handle = holder.start();
        issued(&handle, 1);
        is_gone.store(true, Ordering::SeqCst);
        drop(before);

        let during = serve_at(address, other, Options::default());
        handle.rotate_now();
        handle.wait_for(|now| matches!(now.due, Some(perennial::Reason::Refused))).within(BOUND).unwrap();
        // Every credential has been tried.
        handle.wait_for(|now| matches!(now.state, State::BackingOff { failures: 2.., .. })).within(BOUND).unwrap();
        drop(during);

        let after = serve_at(address, Authority::from_pem(&pem).unwrap(), Options::default());
        let next = issued(&handle, 2);
        assert_eq!(after.user_of(&next).0, "system:node:worker-1");
        handle.shutdown().wait();
    });
}

#[test]
fn refused_certificate_is_retried_if_bootstrap_token_has_expired() {
    an_outage_of_trust(|| Ok(Identity::Token(Token::new("zzzzzz.0123456789abcdef").unwrap())));
}

#[test]
fn refused_certificate_is_retried_if_there_is_no_bootstrap_token() {
    an_outage_of_trust(|| Err(NotYet::new("bootstrap-kubeconfig is gone")));
}

#[test]
fn credential_taken_over_from_store_is_served() {
    let server = serve(Approval::Auto);
    let handle = node(Runtime::Std, &server.cluster).start();
    let first = issued(&handle, 1);
    handle.rotate_now();
    let second = issued(&handle, 2);
    handle.shutdown().wait();

    let start = Start {
        policy: Arc::new(policy()),
        template: Some(Arc::new(Template::node("worker-1"))),
        stored: Stored { credential: Some(first), ..Stored::default() },
        ..Start::default()
    };
    let now = clock::now();
    let mut rotation = Rotation::new(start, now);
    rotation.handle(Input::Replaced(Some(second.clone())), now);
    let held = rotation.machine().certificate().unwrap().fingerprint;
    assert_eq!(held, second.chain().certificate().fingerprint, "the machine takes it over");
    let served = rotation.snapshot(now).credential.unwrap();
    assert_eq!(served.chain(), second.chain());
    assert_eq!(rotation.snapshot(now).issued, 0, "the certificate was found, not issued");
}

#[test]
fn snapshot_after_cancelled_request_has_no_progress() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let handle = node(runtime, &server.cluster).start();
        waits_for_approval(&handle);
        handle.set_template(None).unwrap();
        let now = handle.wait_for(|now| matches!(now.state, State::NoTemplate)).within(BOUND).unwrap();
        assert_eq!(now.progress, None);
        handle.shutdown().wait();
    });
}

#[test]
fn server_address_with_ipv6_zone_is_dialled() {
    on_both(|runtime| {
        // No host has this address: the test is that it is dialled as an address, not looked up as a name.
        let cluster =
            Arc::new(Cluster::from_url("https://[fe80::1%25lo]:6443").unwrap().with_insecure_skip_tls_verify());
        let handle = node(runtime, &cluster).start();
        let failed = handle.wait_for(|now| now.last_error.is_some()).within(BOUND).unwrap();
        let why = failed.last_error.clone().unwrap();
        assert!(why.contains("at https://[fe80::1%25lo]:6443: cannot connect") && why.contains("os error"), "{why}");
        handle.shutdown().wait();
    });
}
