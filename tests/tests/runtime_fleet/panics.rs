//! Panics in the code of one member.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use perennial::{Failure, State};
use perennial_pki::Chain;
use perennial_rotation::{SignError, SignWith};
use perennial_tests::loopback::{BOUND, issued};

use super::{Ca, on_both};

#[test]
fn panic_of_one_members_signer_leaves_the_others_alone() {
    on_both(|fleet| {
        let ca = Ca::new();
        let buggy = SignWith::blocking("example.com/ca", |_, _| -> Result<Chain, SignError> { panic!("a bug") });
        let buggy = fleet.add(ca.member("buggy").signer(buggy)).unwrap();
        let healthy = fleet.add(ca.member("healthy")).unwrap();
        issued(&healthy, 1);
        buggy
            .wait_for(|now| now.last_error.as_deref().is_some_and(|error| error.contains("a bug")))
            .within(BOUND)
            .unwrap();
        healthy.rotate_now();
        issued(&healthy, 2);
        // The buggy member mends itself once its signer is mended.
        buggy.set_signer(Some(Arc::new(ca.signer())));
        issued(&buggy, 1);
        fleet.shutdown().wait();
    });
}

/// Code of a member with a bug: its drop panics.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bug in a drop");
    }
}

#[test]
fn panics_at_the_end_of_one_members_request_leave_the_others_alone() {
    on_both(|fleet| {
        let ca = Ca::new();
        let healthy = fleet.add(ca.member("healthy")).unwrap();
        issued(&healthy, 1);
        let hook = SignWith::blocking("example.com/ca", |_, cancel| {
            cancel.on_cancel(|| panic!("a bug in the hook"));
            cancel.sleep(Duration::MAX);
            Err(SignError::new(Failure::Unreachable, "cancelled"))
        });
        let future = SignWith::future("example.com/ca", |_| {
            let bomb = Bomb;
            async move {
                let _bomb = bomb;
                std::future::pending().await
            }
        });
        for signer in [hook, future] {
            let buggy = fleet.add(ca.member("buggy").signer(signer)).unwrap();
            buggy.wait_for(|now| matches!(now.state, State::Requesting { .. })).within(BOUND).unwrap();
            // The exchange has begun, and set its hook.
            thread::sleep(Duration::from_millis(100));
            buggy.set_signer(Some(Arc::new(ca.signer())));
            issued(&buggy, 1);
            let before = healthy.snapshot().issued;
            healthy.rotate_now();
            issued(&healthy, before + 1);
        }
        fleet.shutdown().wait();
    });
}
