//! The file of the pending record: a crash at any step of an update leaves the old record or the new one, complete.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use perennial::store::{Entry, FileOp, Kind, Layout, Listing};
use perennial_rotation::{Directory, Rotator};
use perennial_tests::disk::{Call, Disk, Fate, Start, Virtual};

/// Files by name: their contents, and whether the contents would survive a loss of power.
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
        FileOp::Symlink { .. } | FileOp::Link { .. } => panic!("the record is no link"),
        FileOp::SyncDir => {}
    }
}

#[test]
fn interrupted_record_update_leaves_a_complete_record() {
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
            // A failed update adds no file. If its first step failed, a leftover of an earlier crash may stay.
            assert!(done == 0 || files.len() == before.len(), "cut at {cut}, failed at {done}: {files:?}");
        }
    }
}

#[test]
fn recall_returns_the_record_written_last() {
    let parent = tempfile::tempdir().unwrap();
    let store = Directory::open(parent.path().join("pki"), "kubelet-client").unwrap();
    assert!(store.recall().unwrap().is_none());
    for contents in [b"one".as_slice(), b"another"] {
        store.remember(contents).unwrap();
        assert_eq!(store.recall().unwrap().unwrap().as_slice(), contents);
    }
    let loaded = store.load(None, perennial_rotation::clock::now().unix).unwrap();
    assert!(loaded.credential.is_none() && loaded.problems.is_empty(), "it is not taken for a pair");
}

#[test]
fn directory_in_place_of_pending_record_is_quarantined() {
    let parent = tempfile::tempdir().unwrap();
    let store = Directory::open(parent.path(), "kubelet-client").unwrap();
    fs::create_dir(store.record()).unwrap();
    fs::write(store.record().join("kept"), "").unwrap();
    let error = store.recall().unwrap_err().to_string();
    assert!(error.contains("kubelet-client-pending.json"), "{error}");
    store.remember(b"one").unwrap();
    assert_eq!(store.recall().unwrap().unwrap().as_slice(), b"one");
    let quarantined = parent.path().join("kubelet-client-pending.json.bad");
    assert!(quarantined.join("kept").exists());
    assert_eq!(store.quarantined().unwrap(), [quarantined]);
}

#[test]
fn failed_record_write_names_file_and_leaves_no_leftover() {
    let parent = tempfile::tempdir().unwrap();
    let store = Directory::open(parent.path(), "kubelet-client").unwrap();
    // A directory with the name of the temporary file: a plan cannot remove it as a file.
    fs::create_dir(parent.path().join("kubelet-client-pending.json.new")).unwrap();
    let error = store.remember(b"one").unwrap_err().to_string();
    assert!(error.contains("kubelet-client-pending.json"), "{error}");
    assert_eq!(parent.path().read_dir().unwrap().count(), 2, "that, and the lock");
}

#[test]
fn unreadable_record_stays_until_next_record() {
    let name = "kubelet-client-pending.json";
    let fails = [ErrorKind::Other, ErrorKind::PermissionDenied, ErrorKind::InvalidData].map(Some);
    // `None`: reading works, but the contents are no record.
    for kind in fails.into_iter().chain([None]) {
        let volume = Virtual::new(Disk::default().with(name, Start::File(b"a record")));
        volume.set_fates(Box::new(move |_, call| match (call, kind) {
            (Call::Read(_), Some(kind)) => Fate::Failed(kind),
            _ => Fate::Done,
        }));
        let before = volume.disk();
        drop(Rotator::new().store(volume.directory()).prepare().unwrap());
        assert_eq!(volume.disk(), before, "{kind:?}");
        volume.directory().remember(b"{}").unwrap();
        let left: Vec<String> = volume.disk().visible().keys().map(ToString::to_string).collect();
        assert_eq!(left, [name], "{kind:?}");
    }
}
