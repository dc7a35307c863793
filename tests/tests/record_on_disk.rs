//! The record's file: at every step of an update, a crash finds the old one or the new one, whole.

#[path = "support/volume.rs"]
mod volume;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use perennial::store::{Entry, FileOp, Kind, Layout, Listing};
use perennial_std::{Directory, Rotator};
use perennial_tests::disk::{Disk, Start};
use volume::{Call, Fate, Virtual};

/// Files by name: what is in them, and whether that would survive a power failure.
type Files = BTreeMap<String, (&'static str, bool)>;

fn listing(files: &Files) -> Listing {
    let entry = |name: &String| Entry { name: name.clone(), kind: Kind::File, target: None };
    Listing(files.keys().map(entry).collect())
}

fn execute(files: &mut Files, op: &FileOp) {
    match op {
        FileOp::CreateNew { name } => assert!(files.insert(name.clone(), ("new", false)).is_none(), "{name} exists"),
        FileOp::Sync { name } => files.get_mut(name).unwrap().1 = true,
        FileOp::Rename { from, to } => {
            let moved = files.remove(from).unwrap();
            files.insert(to.clone(), moved);
        }
        FileOp::Remove { name } => assert!(files.remove(name).is_some(), "{name} does not exist"),
        FileOp::Symlink { .. } | FileOp::Link { .. } | FileOp::Restrict { .. } => panic!("the record is no link"),
        FileOp::SyncDir => {}
    }
}

#[test]
fn an_update_cut_short_at_any_step_leaves_a_whole_record_and_is_in_no_updates_way() {
    let layout = Layout::new("kubelet-client").unwrap();
    let before = Files::from([(layout.pending(), ("old", true)), ("kubelet-client.crt".into(), ("other", true))]);
    let steps = layout.remember(&listing(&before)).steps;
    assert_eq!(steps.last(), Some(&FileOp::SyncDir));
    for cut in 0..=steps.len() {
        let mut files = before.clone();
        steps[..cut].iter().for_each(|step| execute(&mut files, step));
        let (contents, durable) = files[&layout.pending()];
        assert!(durable, "after {cut} steps");
        let renamed = steps[..cut].iter().any(|step| matches!(step, FileOp::Rename { .. }));
        assert_eq!(contents, if renamed { "new" } else { "old" }, "after {cut} steps");

        let plan = layout.remember(&listing(&files));
        for done in 0..=plan.steps.len() {
            let mut files = files.clone();
            plan.steps[..done].iter().for_each(|step| execute(&mut files, step));
            plan.undo(done).iter().for_each(|step| execute(&mut files, step));
            assert!(files[&layout.pending()].1, "cut at {cut}, failed at {done}");
            // A failure leaves nothing behind but what a crash had left before, if it could not even remove that.
            assert!(done == 0 || files.len() == before.len(), "cut at {cut}, failed at {done}: {files:?}");
        }
    }
}

#[test]
fn what_was_remembered_is_recalled_until_it_is_set_aside() {
    let parent = tempfile::tempdir().unwrap();
    let store = Directory::open(parent.path().join("pki"), "kubelet-client").unwrap();
    assert!(store.recall().unwrap().is_none());
    for contents in [b"one".as_slice(), b"another"] {
        store.remember(contents).unwrap();
        assert_eq!(store.recall().unwrap().unwrap().as_slice(), contents);
    }
    store.set_record_aside().unwrap();
    assert!(store.recall().unwrap().is_none());
    store.remember(b"third").unwrap();
    store.set_record_aside().unwrap();
    let aside = parent.path().join("pki/kubelet-client-pending.json.bad");
    assert_eq!(fs::read(aside).unwrap(), b"third");
    let loaded = store.load(perennial_std::clock::now().unix).unwrap();
    assert!(loaded.credential.is_none() && loaded.problems.is_empty(), "it is not taken for a pair");
}

#[test]
fn a_failure_to_remember_says_where_and_leaves_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let store = Directory::open(parent.path(), "kubelet-client").unwrap();
    // A directory in its place cannot be replaced.
    fs::create_dir(store.record()).unwrap();
    let error = store.remember(b"one").unwrap_err().to_string();
    assert!(error.contains("kubelet-client-pending.json"), "{error}");
    assert_eq!(parent.path().read_dir().unwrap().count(), 2, "that, and the lock");
    store.recall().unwrap_err();
    store.set_record_aside().unwrap();
    store.remember(b"one").unwrap();
}

#[test]
fn a_record_that_cannot_be_read_just_now_stays_where_it_is_and_one_that_never_can_is_set_aside() {
    let (name, aside) = ("kubelet-client-pending.json", "kubelet-client-pending.json.bad");
    for (kind, stays) in
        [(ErrorKind::Other, true), (ErrorKind::PermissionDenied, true), (ErrorKind::InvalidData, false)]
    {
        let volume = Virtual::new(Disk::default().with(name, Start::File(b"a record")));
        volume.set_fates(Box::new(move |_, call| match call {
            Call::Read(_) => Fate::Failed(kind),
            _ => Fate::Done,
        }));
        drop(Rotator::new().store(volume.directory()).unwrap());
        let left: Vec<String> = volume.disk().visible().keys().map(ToString::to_string).collect();
        assert_eq!(left, [if stays { name } else { aside }], "{kind}");
    }
    // There is nothing wrong with reading it, but with what is read.
    let volume = Virtual::new(Disk::default().with(name, Start::File(b"a record")));
    drop(Rotator::new().store(volume.directory()).unwrap());
    assert!(volume.disk().visible().contains_key(aside));
}
