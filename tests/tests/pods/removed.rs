//! Pods and sources that are removed: no key and no file is left.

use std::fs;
use std::path::{Path, PathBuf};

use perennial_kubernetes::pods::PodCertificateState as State;
use perennial_rotation::Projection;

use super::mesh::{Answer, HOUR, MINUTE};
use super::{Node, OTHER, SIGNER, bundle, cas, certificate, names, served, states, two_files};

/// All files below `path` with a private key.
fn keys(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(keys(&entry.path()));
        } else if fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("PRIVATE KEY")) {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn removed_pod_leaves_no_key_and_no_file() {
    let node = Node::new();
    let mut life = node.start();
    let pod = |uid| node.pod(uid, [bundle("credential.pem"), two_files(OTHER), cas()]);
    for uid in ["a", "b"] {
        life.pods.put(pod(uid), life.now()).unwrap();
    }
    life.step();
    assert!(keys(&node.volume("a")).len() > 1 && !keys(&node.state().join("a")).is_empty());
    life.pods.remove("a", life.now()).unwrap();
    assert_eq!(keys(&node.volume("a")), Vec::<PathBuf>::new());
    assert_eq!(names(&node.state()), ["b"]);
    assert_eq!(states(&life), [State::Fresh; 2]);
    life.run(HOUR);
    assert_eq!((names(&node.state()), keys(&node.volume("a"))), (vec!["b".into()], Vec::new()));
    assert_eq!(served(&node.volume("b").join("credential.pem")), "web-b");
    // Again, and of a pod that never was.
    life.pods.remove("a", life.now()).unwrap();
    life.pods.remove("c", life.now()).unwrap();
    for bad in ["", "..", "../state", "b/mesh"] {
        life.pods.remove(bad, life.now()).unwrap_err();
    }
    assert_eq!(names(&node.state()), ["b"]);
}

#[test]
fn pod_removed_while_its_request_is_in_flight_leaves_nothing() {
    let node = Node::new();
    let mut life = node.start();
    node.mesh.answer(SIGNER, Answer::Silent);
    let pod = node.pod("a", [bundle("credential.pem")]);
    life.pods.put(pod.clone(), life.now()).unwrap();
    life.step();
    assert!(!keys(&node.state()).is_empty(), "the pending record");
    life.pods.remove("a", life.now()).unwrap();
    assert_eq!(names(&node.state()), [""; 0]);
    life.run(HOUR);
    assert_eq!(names(&node.state()), [""; 0], "the end of the member writes nothing");
    assert!(!node.volume("a").exists());
    let first = node.mesh.asked();
    // The pod comes back at once, before the fleet's loop has noticed the end of the member.
    node.mesh.answer(SIGNER, Answer::Issue);
    life.pods.put(pod.clone(), life.now()).unwrap();
    life.pods.remove("a", life.now()).unwrap();
    life.pods.put(pod, life.now()).unwrap();
    life.step();
    let second = node.mesh.asked();
    assert!(first.len() == 1 && second.iter().all(|asked| asked.name != first[0].name), "{first:?} {second:?}");
    assert_eq!((states(&life), served(&node.volume("a").join("credential.pem"))), (vec![State::Fresh], "web-a".into()));
}

#[test]
fn pod_removed_between_issue_and_write_leaves_nothing() {
    let node = Node::new();
    let mut life = node.start();
    // The first write to the volume fails, so that a write is owed when the pod is removed.
    fs::create_dir_all(node.root.path().join("volumes")).unwrap();
    fs::write(node.volume("a"), "a file").unwrap();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    life.step();
    fs::remove_file(node.volume("a")).unwrap();
    life.pods.remove("a", life.now()).unwrap();
    life.run(HOUR);
    assert!(!node.volume("a").exists());
    assert_eq!(names(&node.state()), [""; 0]);
}

#[test]
fn retain_removes_state_of_pods_that_are_gone() {
    let node = Node::new();
    let mut life = node.start();
    let pod = |uid| node.pod(uid, [bundle("credential.pem")]);
    for uid in ["a", "b", "c"] {
        life.pods.put(pod(uid), life.now()).unwrap();
    }
    life.step();
    drop(life);
    fs::write(node.state().join("notes.txt"), "of another program").unwrap();
    fs::create_dir(node.state().join(".snapshot")).unwrap();
    let life = node.start();
    life.pods.put(pod("a"), life.now()).unwrap();
    life.pods.retain(["a", "b"], life.now()).unwrap();
    assert_eq!(names(&node.state()), [".snapshot", "a", "b", "notes.txt"]);
    assert_eq!(states(&life), [State::Fresh]);
    life.pods.retain([""; 0], life.now()).unwrap();
    assert_eq!(names(&node.state()), [".snapshot", "notes.txt"]);
    assert_eq!(states(&life), []);
    // A node that never had pods.
    let fresh = Node::new();
    let life = fresh.start();
    life.pods.retain(["a"], life.now()).unwrap();
    assert!(!fresh.state().exists());
}

#[test]
fn vanished_source_loses_key_and_file_and_the_others_stay() {
    let node = Node::new();
    let mut life = node.start();
    life.pods
        .set_trust_bundle(&perennial_kubernetes::BundleSelection::of_signer(SIGNER), &node.mesh.roots(), life.now())
        .unwrap();
    life.pods.put(node.pod("a", [bundle("credential.pem"), two_files(OTHER), cas()]), life.now()).unwrap();
    life.step();
    node.mesh.asked();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    life.run(HOUR);
    let volume = node.volume("a");
    let visible: Vec<String> = names(&volume).into_iter().filter(|name| !name.starts_with("..")).collect();
    assert_eq!(visible, ["credential.pem"]);
    assert_eq!(names(&node.state().join("a/mesh")), ["0"]);
    assert_eq!((states(&life), node.mesh.asked()), (vec![State::Fresh], Vec::new()));
}

#[test]
fn moved_files_are_written_from_private_state_without_a_request() {
    let node = Node::new();
    let mut life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    life.step();
    node.mesh.asked();
    // Another path, another form, another directory, another mode.
    let mut moved = node.pod("a", [bundle("tls/credential.pem")]);
    life.pods.put(moved.clone(), life.now()).unwrap();
    assert_eq!(names(&node.volume("a")).last().unwrap(), "tls");
    assert_eq!(served(&node.volume("a").join("tls/credential.pem")), "web-a");
    life.pods.put(node.pod("a", [two_files(SIGNER)]), life.now()).unwrap();
    assert_eq!(names(&node.volume("a").join("tls")), ["chain.pem", "key.pem"]);
    moved.volumes[0].path = node.volume("elsewhere");
    moved.volumes[0].mode = 0o600;
    life.pods.put(moved, life.now()).unwrap();
    assert_eq!(keys(&node.volume("a")), Vec::<PathBuf>::new());
    assert_eq!(served(&node.volume("elsewhere").join("tls/credential.pem")), "web-a");
    life.run(HOUR);
    assert_eq!((states(&life), node.mesh.asked()), (vec![State::Fresh], Vec::new()));
}

#[test]
fn changed_signer_gets_a_request_and_the_old_certificate_stays_meanwhile() {
    let node = Node::new();
    let mut life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    life.step();
    let before = fs::read_to_string(node.volume("a").join("credential.pem")).unwrap();
    let other = certificate(OTHER, Projection::Bundle { path: "credential.pem".into() });
    life.pods.put(node.pod("a", [other]), life.now()).unwrap();
    assert_eq!(fs::read_to_string(node.volume("a").join("credential.pem")).unwrap(), before);
    life.run(MINUTE);
    let asked: Vec<String> = node.mesh.asked().into_iter().map(|asked| asked.signer).collect();
    assert_eq!(asked, [SIGNER, OTHER]);
    assert_ne!(fs::read_to_string(node.volume("a").join("credential.pem")).unwrap(), before);
}

/// The path may be a mistake: that of the pods of kubelet, or of a directory that the agent uses for other things, too.
#[test]
fn files_of_other_programs_in_state_directory_stay() {
    let node = Node::new();
    let mut life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    life.step();
    let others = [
        "README",
        "cache/index",
        "cache/v1/0/data",
        "a/etc-hosts",
        "a/containers/0/1a2b",
        "a/mesh/0/podium",
        "a/mesh/01/x",
    ];
    for other in others {
        let path = node.state().join(other);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "of another program").unwrap();
    }
    life.pods.remove("cache", life.now()).unwrap();
    life.pods.retain([""; 0], life.now()).unwrap();
    assert_eq!(keys(&node.state()), Vec::<PathBuf>::new());
    for other in others {
        assert!(node.state().join(other).is_file(), "{other}");
    }
    assert_eq!(names(&node.state().join("a/mesh/0")), ["podium"]);
}

#[test]
fn failed_removal_is_repeated_by_the_next_call() {
    let node = Node::new();
    let mut life = node.start();
    let both = node.pod("a", [bundle("credential.pem"), two_files(OTHER)]);
    life.pods.put(both, life.now()).unwrap();
    life.step();
    let (volume, aside, state) = (node.volume("a"), node.volume("aside"), node.state().join("a/mesh"));
    // Neither the files of the volume nor the private state can be removed.
    let obstruct = |source: &str| {
        fs::rename(&volume, &aside).unwrap();
        fs::write(&volume, "a file").unwrap();
        fs::create_dir(state.join(source).join("pod-x")).unwrap();
    };
    let clear = |source: &str| {
        fs::remove_file(&volume).unwrap();
        fs::rename(&aside, &volume).unwrap();
        fs::remove_dir(state.join(source).join("pod-x")).unwrap();
    };
    obstruct("1");
    let one = node.pod("a", [bundle("credential.pem")]);
    life.pods.put(one.clone(), life.now()).unwrap_err();
    clear("1");
    life.pods.put(one, life.now()).unwrap();
    assert_eq!((names(&state), served(&volume.join("credential.pem"))), (vec!["0".into()], "web-a".into()));
    assert!(!volume.join("tls").exists());
    obstruct("0");
    life.pods.remove("a", life.now()).unwrap_err();
    assert_eq!(states(&life), []);
    clear("0");
    // A pod that gets the volume meanwhile gets no key of the other one.
    let mut heir = node.pod("b", [two_files(SIGNER)]);
    heir.volumes[0].path = volume.clone();
    life.pods.put(heir, life.now()).unwrap();
    assert_eq!(keys(&volume), Vec::<PathBuf>::new());
    life.step();
    life.pods.remove("a", life.now()).unwrap();
    assert_eq!((names(&node.state()), keys(&volume).len()), (vec!["b".into()], 1));
}

#[test]
fn state_of_sources_that_vanished_between_two_runs_is_removed() {
    let node = Node::new();
    let mut life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem"), two_files(OTHER)]), life.now()).unwrap();
    life.step();
    drop(life);
    let life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    assert_eq!(names(&node.state().join("a/mesh")), ["0"]);
    assert_eq!(states(&life), [State::Fresh]);
}

#[test]
fn source_with_other_signer_and_other_files_does_not_take_over_the_old_certificate() {
    let node = Node::new();
    let mut life = node.start();
    life.pods.put(node.pod("a", [bundle("credential.pem")]), life.now()).unwrap();
    life.step();
    // Two sources, as if another one had been inserted before the first.
    life.pods.put(node.pod("a", [two_files(OTHER), bundle("credential.pem")]), life.now()).unwrap();
    assert!(!node.volume("a").join("tls").exists());
    life.run(MINUTE);
    let mut asked: Vec<String> = node.mesh.asked().into_iter().map(|asked| asked.signer).collect();
    asked.sort();
    assert_eq!(asked, [SIGNER, SIGNER, OTHER]);
    assert_eq!(states(&life), [State::Fresh; 2]);
}
