//! Calls for different pods at the same time: a volume that does not answer, and claims of one path.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use perennial_kubernetes::BundleSelection;
use perennial_kubernetes::pods::{PodCertificateState as State, PodCertificates, PodError};

use super::mesh::{HOUR, Mesh};
use super::{Node, OTHER, SIGNER, bundle, cas, names, served, states, two_files};

const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps the volume of a pod from answering until the sender is dropped.
fn hang<'scope>(scope: &'scope Scope<'scope, '_>, pods: &PodCertificates, uid: &str) -> Sender<()> {
    let volume = pods.volume(uid, "mesh").unwrap();
    let ((release, released), (hangs, hanging)) = (mpsc::channel::<()>(), mpsc::channel());
    scope.spawn(move || {
        let keep = |_: &str| {
            // Received once; the other files of the volume follow.
            let _ = hangs.send(());
            released.recv().is_err()
        };
        volume.retain(keep, perennial_rotation::clock::now().unix).unwrap();
    });
    hanging.recv_timeout(PATIENCE).unwrap();
    release
}

/// Waits until a call has removed this state, after which it changes the volume.
fn until_removed(state: &Path) {
    let end = Instant::now() + PATIENCE;
    while state.exists() {
        assert!(Instant::now() < end, "{}", state.display());
        thread::yield_now();
    }
}

fn until_contents(path: &Path, wanted: &str) {
    let end = Instant::now() + PATIENCE;
    while !fs::read_to_string(path).is_ok_and(|found| found == wanted) {
        assert!(Instant::now() < end, "{}", path.display());
        thread::yield_now();
    }
}

#[test]
fn volume_that_does_not_answer_holds_up_calls_for_its_own_pod_only() {
    let node = Node::new();
    let mut life = node.start();
    let pod = |uid| node.pod(uid, [bundle("credential.pem"), two_files(OTHER), cas()]);
    let selection = BundleSelection::of_signer(SIGNER);
    life.pods.set_trust_bundle(&selection, &node.mesh.roots(), life.now()).unwrap();
    for uid in ["a", "b", "c"] {
        life.pods.put(pod(uid), life.now()).unwrap();
    }
    life.step();
    let (now, pods, next) = (life.now(), &life.pods, Mesh::new().roots());
    thread::scope(|scope| {
        let release = hang(scope, pods, "a");
        // Fewer sources: the state of the second one is removed before the volume is changed.
        let changing = scope.spawn(|| pods.put(node.pod("a", [bundle("credential.pem"), cas()]), now));
        until_removed(&node.state().join("a/mesh/1"));
        // Reach all other pods before they wait.
        let calls = [
            scope.spawn(|| pods.set_trust_bundle(&selection, &next, now)),
            scope.spawn(|| {
                fs::remove_file(node.volume("b").join("credential.pem")).unwrap();
                pods.restore(now)
            }),
        ];
        ["b", "c"].iter().for_each(|uid| until_contents(&node.volume(uid).join("ca.pem"), next.pem()));
        let end = Instant::now() + PATIENCE;
        while !node.volume("b").join("credential.pem").exists() {
            assert!(Instant::now() < end);
            thread::yield_now();
        }
        let (done, others) = mpsc::channel();
        let (node, pod) = (&node, &pod);
        scope.spawn(move || {
            pods.put(pod("d"), now).unwrap();
            pods.put(node.pod("b", [bundle("moved.pem")]), now).unwrap();
            pods.remove("c", now).unwrap();
            done.send(()).unwrap();
        });
        others.recv_timeout(PATIENCE).unwrap();
        assert_eq!(names(&node.state()), ["a", "b", "d"]);
        assert_eq!(served(&node.volume("b").join("moved.pem")), "web-b");
        assert!(!changing.is_finished());
        drop(release);
        changing.join().unwrap().unwrap();
        calls.into_iter().for_each(|call| call.join().unwrap().unwrap());
    });
    assert_eq!(fs::read_to_string(node.volume("a").join("ca.pem")).unwrap(), next.pem());
    assert_eq!(served(&node.volume("a").join("credential.pem")), "web-a");
    assert!(!node.volume("a").join("tls").exists());
}

#[test]
fn one_of_two_simultaneous_pods_gets_a_path() {
    let node = Node::new();
    let mut life = node.start();
    for round in 0..30 {
        let uids = [format!("a{round}"), format!("b{round}")];
        let pods = uids.each_ref().map(|uid| {
            let mut pod = node.pod(uid, [bundle("credential.pem")]);
            pod.volumes[0].path = node.volume("shared");
            pod
        });
        let (now, all) = (life.now(), &life.pods);
        let put: Vec<_> = thread::scope(|scope| {
            let calls = pods.each_ref().map(|pod| scope.spawn(|| all.put(pod.clone(), now)));
            calls.map(|call| call.join().unwrap()).into()
        });
        let lost = put.iter().position(Result::is_err).unwrap();
        assert!(put[1 - lost].is_ok() && matches!(&put[lost], Err(PodError::Invalid { .. })), "{put:?}");
        life.step();
        assert_eq!(served(&node.volume("shared").join("credential.pem")), format!("web-{}", uids[1 - lost]));
        life.pods.remove(&uids[1 - lost], life.now()).unwrap();
    }
}

/// A removal that has not ended yet would take the files of the next pod with it.
#[test]
fn next_pod_of_path_waits_until_files_of_the_former_are_removed() {
    let node = Node::new();
    let mut life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem"), two_files(OTHER)]), life.now()).unwrap();
    life.step();
    let mut heir = node.pod("b", [bundle("credential.pem"), cas()]);
    heir.volumes[0].path = node.volume("a");
    let (now, pods) = (life.now(), &life.pods);
    let selection = BundleSelection::of_signer(SIGNER);
    pods.set_trust_bundle(&selection, &node.mesh.roots(), now).unwrap();
    thread::scope(|scope| {
        let release = hang(scope, pods, "a");
        let removing = scope.spawn(|| pods.remove("a", now));
        until_removed(&node.state().join("a"));
        let adding = scope.spawn(|| pods.put(heir.clone(), now));
        drop(release);
        removing.join().unwrap().unwrap();
        adding.join().unwrap().unwrap();
    });
    life.run(HOUR);
    assert_eq!((states(&life), names(&node.state())), (vec![State::Fresh], vec!["b".into()]));
    assert_eq!(served(&node.volume("a").join("credential.pem")), "web-b");
    assert_eq!(fs::read_to_string(node.volume("a").join("ca.pem")).unwrap(), node.mesh.roots().pem());
}
