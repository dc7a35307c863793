//! Changes of the policy and the signer while a rotation runs, over real sockets.

use std::sync::Arc;

use perennial::{Policy, State, Window};
use perennial_dev::{Approval, Decision};
use perennial_rotation::Signer;
use perennial_tests::loopback::{
    BOUND, LoopbackServer, Runtime, issued, node, on_both, policy, serve, waits_for_approval,
};

fn signer_of(server: &LoopbackServer) -> Option<Arc<dyn Signer>> {
    let signer = node(Runtime::Std, &server.cluster).signer;
    signer.map(|signer| Arc::new(signer) as Arc<dyn Signer>)
}

#[test]
fn policy_change_moves_rotation_point_without_restart() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let handle = node(runtime, &server.cluster).start();
        let first = issued(&handle, 1);
        let resting = handle.wait_for(|now| matches!(now.state, State::Scheduled { .. })).within(BOUND).unwrap();
        assert_eq!(resting.due, None);
        // The signer backdates by minutes, so that a rotation point in the first 0.2 % of the lifetime has passed.
        handle.set_policy(Policy { window: Window::new(1, 2).unwrap(), ..policy() });
        let second = issued(&handle, 2);
        assert_ne!(first.chain(), second.chain());
        handle.set_policy(policy());
        handle.wait_for(|now| matches!(now.state, State::Scheduled { .. })).within(BOUND).unwrap();
        handle.shutdown().wait();
    });
}

#[test]
fn new_signer_gets_a_request_with_a_new_key() {
    on_both(|runtime| {
        let [old, new] = [Approval::Manual, Approval::Auto].map(serve);
        let handle = node(runtime, &old.cluster).start();
        waits_for_approval(&handle);
        handle.set_signer(signer_of(&new));
        issued(&handle, 1);
        assert_ne!(old.csr_names(), new.csr_names(), "another key");
        assert_eq!((old.csr_names().len(), new.csr_names().len()), (1, 1));
        handle.shutdown().wait();
    });
}

#[test]
fn setting_an_equal_signer_keeps_the_unapproved_request() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let handle = node(runtime, &server.cluster).start();
        let name = waits_for_approval(&handle);
        for _ in 0..20 {
            handle.set_signer(signer_of(&server));
        }
        assert_eq!(waits_for_approval(&handle), name);
        server.decide_all(Decision::Approve);
        issued(&handle, 1);
        assert_eq!(server.csr_names(), [name]);
        handle.shutdown().wait();
    });
}

#[test]
fn rotation_without_signer_keeps_serving_and_submits_no_request() {
    on_both(|runtime| {
        let server = serve(Approval::Auto);
        let handle = node(runtime, &server.cluster).start();
        let first = issued(&handle, 1);
        handle.set_signer(None);
        handle.rotate_now();
        handle.wait_for(|now| now.state == State::NotEnabled).within(BOUND).unwrap();
        assert_eq!(handle.credential().unwrap().chain(), first.chain());
        assert_eq!(server.csr_names().len(), 1);
        handle.set_signer(signer_of(&server));
        assert_ne!(issued(&handle, 2).chain(), first.chain(), "the rotation that was requested meanwhile");
        handle.shutdown().wait();
    });
}
