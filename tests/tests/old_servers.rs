//! API servers of every release with certificates.k8s.io/v1, and of the last one without it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use perennial::{Failure, State};
use perennial_dev::Options;
use perennial_rotation::Snapshot;
use perennial_tests::loopback::{BOUND, LoopbackServer, issued, new_authority, node, on_both, serve_at};

const HOUR: Duration = Duration::from_secs(3600);

fn release(minor: u32) -> LoopbackServer {
    let options = Options { minor, signing_duration: 24 * HOUR, ..Options::default() };
    serve_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), new_authority(), options)
}

#[test]
fn releases_since_1_19_issue_certificates() {
    on_both(|runtime| {
        for minor in 19..=36 {
            let server = release(minor);
            let mut holder = node(runtime, &server.cluster);
            holder.signer.as_mut().unwrap().profile.lifetime = Some(HOUR);
            let handle = holder.start();
            let lifetime = issued(&handle, 1).chain().certificate().validity.lifetime();
            handle.rotate_now();
            issued(&handle, 2);
            let now = handle.snapshot();
            assert!(matches!(now.state, State::Scheduled { .. }) && now.last_error.is_none(), "1.{minor}: {now:?}");
            let heard = lifetime <= HOUR + Duration::from_secs(600);
            assert_eq!(heard, minor >= 22, "1.{minor}: {lifetime:?}");
            assert_eq!(now.differing_lifetime().is_none(), minor >= 22, "1.{minor}: {lifetime:?}");
            handle.shutdown().wait();
        }
    });
}

#[test]
fn release_1_18_is_reported_as_without_the_v1_api() {
    on_both(|runtime| {
        let server = release(18);
        let handle = node(runtime, &server.cluster).start();
        let rejected = |now: &Snapshot| matches!(now.state, State::BackingOff { last: Failure::Rejected, .. });
        let why = handle.wait_for(rejected).within(BOUND).unwrap().last_error.clone().unwrap();
        assert!(why.contains("which Kubernetes has from 1.19 on"), "{why}");
        assert!(why.contains("it serves certificates.k8s.io only as v1beta1"), "{why}");
        handle.shutdown().wait();
    });
}
