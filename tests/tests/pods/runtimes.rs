//! The fleets of both runtimes keep the certificates of pods.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use perennial_kubernetes::pods::{PodCertificateState as State, PodCertificates};
use perennial_rotation::{Fleet, Limits, clock};

use super::{Node, bundle, names, served, two_files};

const PATIENCE: Duration = Duration::from_secs(60);

/// Two pods get their certificates, and one is removed while the fleet runs.
fn check(fleet: Fleet) {
    let node = Node::new();
    let mesh = node.mesh.clone();
    let pods =
        PodCertificates::with_signers(fleet.clone(), node.state(), move |pod, source| Ok(mesh.signer(pod, source)));
    for uid in ["a", "b"] {
        pods.put(node.pod(uid, [bundle("credential.pem"), two_files(super::OTHER)]), clock::now().unix).unwrap();
    }
    for (uid, source) in [("a", 0), ("a", 1), ("b", 0), ("b", 1)] {
        let handle = pods.handle(uid, "mesh", source).unwrap();
        let is_written =
            handle.wait_for(|snapshot| snapshot.credential.is_some() && !snapshot.unwritten).within(PATIENCE);
        assert!(is_written.is_some(), "{uid} {source}: {:?}", handle.snapshot());
    }
    assert!(pods.statuses(clock::now().unix).iter().all(|status| status.state == State::Fresh));
    let ended = pods.handle("a", "mesh", 0).unwrap();
    pods.remove("a", clock::now().unix).unwrap();
    ended.shutdown().within(PATIENCE);
    assert!(ended.has_ended());
    assert_eq!(names(&node.state()), ["b"]);
    assert_eq!(served(&node.volume("b").join("credential.pem")), "web-b");
    fleet.shutdown().within(PATIENCE);
    assert!(fleet.has_ended());
}

#[test]
fn threads_keep_certificates_of_pods() {
    check(perennial_std::fleet(Limits::default()).unwrap());
}

#[test]
#[cfg(feature = "smol")]
fn smol_keeps_certificates_of_pods() {
    let (fleet, running) = perennial_smol::fleet(Limits::default());
    let runner = thread::spawn(|| smol::block_on(running));
    check(fleet);
    runner.join().unwrap();
}

/// A write of the old member may wait for the volume while its old files are removed.
#[test]
fn rotation_while_files_move_leaves_no_key_at_old_path() {
    let node = Node::new();
    let mesh = node.mesh.clone();
    let fleet = perennial_std::fleet(Limits::default()).unwrap();
    let pods = PodCertificates::with_signers(fleet, node.state(), move |pod, source| Ok(mesh.signer(pod, source)));
    let is_over = AtomicBool::new(false);
    let left = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let Some(handle) = pods.handle("a", "mesh", 0) else { continue };
                handle.rotate_now();
                // Not faster than the fleet handles it.
                handle.wait_for(|_| false).within(Duration::from_micros(50));
            }
        });
        let left = (0..200).find_map(|round| {
            let [path, old] = if round % 2 == 0 { ["even", "odd"] } else { ["odd", "even"] };
            let error = pods.put(node.pod("a", [bundle(path)]), clock::now().unix).err().map(|error| error.to_string());
            let handle = pods.handle("a", "mesh", 0).unwrap();
            handle.wait_for(|snapshot| snapshot.credential.is_some() && !snapshot.unwritten).within(PATIENCE);
            error.or_else(|| node.volume("a").join(old).exists().then(|| format!("round {round}: {old}")))
        });
        is_over.store(true, Ordering::Relaxed);
        left
    });
    assert_eq!(left, None);
}
