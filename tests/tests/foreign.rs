//! Certificates that are issued with another common name, or with rights that were not requested, and stored pairs with
//! another common name. The node neither serves nor writes such certificates. There are three exceptions: the node is
//! configured to accept such rights, the template's common name changes while the rotation runs, or there is no signer.

use std::path::Path;

use perennial::{Failure, Reason, State, Template};
use perennial_dev::faults::Plan;
use perennial_dev::{Approval, Decision};
use perennial_tests::loopback::{BOUND, LoopbackServer, issued, node, on_both, serve, stored, waits_for_approval};

/// Makes the server issue every certificate with this fault.
fn spoil(server: &LoopbackServer, wrong: &str) {
    let plan = Plan::parse(&format!("rules: [{{ fault: {{ certificate: {wrong} }} }}]")).unwrap();
    server.handle.with_api(|api, now| api.set_faults(plan, now));
}

fn pairs(path: &Path) -> usize {
    let is_pair = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".pem");
    path.read_dir().unwrap().filter(|entry| is_pair(&entry.as_ref().unwrap().file_name())).count()
}

#[test]
fn foreign_first_certificate_is_rejected() {
    let kinds = [
        ("otherName", "common name is `system:node:another-node`, and `system:node:worker-1` was requested"),
        ("extraOrganization", "O `system:masters`, which can grant rights, was not requested"),
        ("extraUri", "URI `spiffe://example.org/admin`, which can grant rights, was not requested"),
    ];
    on_both(|runtime| {
        for (wrong, why) in kinds {
            let directory = tempfile::tempdir().unwrap();
            let server = serve(Approval::Auto);
            spoil(&server, wrong);
            let handle = node(runtime, &server.cluster).stored_in(directory.path()).start();
            let refused = handle.wait_for(|now| matches!(now.state, State::BackingOff { .. })).within(BOUND).unwrap();
            let error = refused.last_error.as_ref().unwrap();
            assert!(error.contains(why), "{error}");
            assert!(
                matches!(refused.state, State::BackingOff { last: Failure::BadCertificate, .. }),
                "{}",
                refused.state
            );
            assert_eq!((refused.due, refused.issued), (Some(Reason::NoCertificate), 0));
            assert!(refused.credential.is_none() && pairs(directory.path()) == 0, "{wrong}");

            server.handle.with_api(|api, now| api.set_faults(Plan::default(), now));
            handle.rotate_now();
            assert_eq!(issued(&handle, 1).chain(), stored(directory.path()).chain());
            handle.shutdown().wait();
        }
    });
}

#[test]
fn certificate_with_unrequested_rights_is_accepted_if_configured() {
    on_both(|runtime| {
        for wrong in ["extraOrganization", "extraUri"] {
            let server = serve(Approval::Auto);
            spoil(&server, wrong);
            let mut holder = node(runtime, &server.cluster);
            holder.signer.as_mut().unwrap().profile.accepts_extra_rights = true;
            let handle = holder.start();
            issued(&handle, 1);
            handle.shutdown().wait();
        }
    });
}

/// The stored pair has another common name than the template, as after a typing error in the configuration. The node
/// does not serve the pair and authenticates no request with it. The link keeps leading to the pair until a certificate
/// of the right name is issued.
#[test]
fn foreign_pair_at_start_is_not_used() {
    on_both(|runtime| {
        let directory = tempfile::tempdir().unwrap();
        let server = serve(Approval::Auto);
        let mut holder = node(runtime, &server.cluster).stored_in(directory.path());
        holder.template = Some(Template::node("worker-2"));
        let handle = holder.start();
        let another = issued(&handle, 1);
        handle.shutdown().wait();
        let file = directory.path().join("kubelet-client-current.pem").read_link().unwrap();

        spoil(&server, "otherName");
        let handle = node(runtime, &server.cluster).stored_in(directory.path()).start();
        let began = handle.snapshot();
        assert!(began.credential.is_none());
        let refused = handle.wait_for(|now| matches!(now.state, State::BackingOff { .. })).within(BOUND).unwrap();
        assert!(refused.credential.is_none());
        assert_eq!(stored(directory.path()).chain(), another.chain(), "it stays where it is");

        server.handle.with_api(|api, now| api.set_faults(Plan::default(), now));
        handle.rotate_now();
        let ours = issued(&handle, 1);
        assert_eq!(ours.chain().certificate().common_name(), "system:node:worker-1");
        assert_eq!(stored(directory.path()).chain(), ours.chain());
        assert!(directory.path().join(file).exists(), "as the pair before this one");
        handle.shutdown().wait();
        let users: Vec<String> =
            server.handle.with_api(|api, _| api.requests().map(|csr| csr.spec.username.clone()).collect());
        assert!(users.iter().all(|name| name == "system:bootstrap:abcdef"), "{users:?}");
    });
}

/// The template's common name changes while the rotation runs. The old certificate is served until its successor is
/// issued, but the bootstrap identity authenticates the request for the successor.
#[test]
fn pair_of_old_common_name_is_served_and_reported_as_error() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let mut holder = node(runtime, &server.cluster);
        holder.template = Some(Template::node("worker-2"));
        let handle = holder.start();
        waits_for_approval(&handle);
        server.decide_all(Decision::Approve);
        let before = issued(&handle, 1);
        handle.set_template(Some(Template::node("worker-1"))).unwrap();
        waits_for_approval(&handle);
        let waiting = handle.snapshot();
        let error = waiting.last_error.as_ref().unwrap();
        let both = "common name is `system:node:worker-2`, and `system:node:worker-1` is configured";
        assert!(error.contains(both), "{error}");
        assert_eq!(handle.credential().unwrap().chain(), before.chain());
        let users: Vec<String> =
            server.handle.with_api(|api, _| api.requests().map(|csr| csr.spec.username.clone()).collect());
        assert!(users.iter().all(|name| name == "system:bootstrap:abcdef"), "{users:?}");
        server.decide_all(Decision::Approve);
        let after = issued(&handle, 2);
        assert_eq!(after.chain().certificate().common_name(), "system:node:worker-1");
        assert_eq!(handle.snapshot().last_error, None);
        handle.shutdown().wait();
    });
}

/// Without a signer and a template, the pair is externally managed, and may have any common name.
#[test]
fn foreign_pair_is_served_without_signer() {
    on_both(|runtime| {
        let directory = tempfile::tempdir().unwrap();
        let server = serve(Approval::Auto);
        let mut holder = node(runtime, &server.cluster).stored_in(directory.path());
        holder.template = Some(Template::node("worker-2"));
        let handle = holder.start();
        let another = issued(&handle, 1);
        handle.shutdown().wait();

        let mut holder = node(runtime, &server.cluster).stored_in(directory.path());
        (holder.signer, holder.template) = (None, None);
        let handle = holder.start();
        assert_eq!(handle.credential().unwrap().chain(), another.chain());
        handle.shutdown().wait();
    });
}
