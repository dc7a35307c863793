//! Damage to a credential directory in use: removal, replacement, and interrupted updates.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use perennial::store::{Entry, FileOp, Kind, Layout, Listing, Source};
use perennial_dev::{Approval, Decision};
use perennial_rotation::{Directory, DirectoryError, clock};
use perennial_tests::loopback::{issued, node, on_both, serve, stored, waits_for_approval};

#[test]
fn write_recreates_removed_directory() {
    on_both(|runtime| {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("pki");
        let server = serve(Approval::Manual);
        let handle = node(runtime, &server.cluster).stored_in(&path).start();
        waits_for_approval(&handle);
        fs::remove_dir_all(&path).unwrap();
        server.decide_all(Decision::Approve);
        let credential = issued(&handle, 1);
        assert_eq!(stored(&path).chain(), credential.chain());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        // The rotation holds the lock in the new directory, too.
        assert!(matches!(Directory::open(&path, "kubelet-client"), Err(DirectoryError::Owned { .. })));
        handle.shutdown().wait();
    });
}

#[test]
fn write_after_directory_was_replaced_goes_to_new_directory() {
    on_both(|runtime| {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("pki");
        let server = serve(Approval::Auto);
        let handle = node(runtime, &server.cluster).stored_in(&path).start();
        issued(&handle, 1);
        // A volume that is mounted late, or a restored backup, replaces a directory like this.
        fs::rename(&path, parent.path().join("old")).unwrap();
        fs::create_dir(&path).unwrap();
        handle.rotate_now();
        let second = issued(&handle, 2);
        let stored = stored(&path);
        assert_eq!(stored.chain(), second.chain());
        handle.shutdown().wait();
    });
}

#[test]
fn first_process_to_lock_replaced_or_unlocked_directory_owns_it() {
    let replace = |path: &Path| {
        fs::rename(path, path.with_extension("old")).unwrap();
        fs::create_dir(path).unwrap();
    };
    let unlock = |path: &Path| fs::remove_file(path.join(".kubelet-client.lock")).unwrap();
    let of_another = |error: DirectoryError| assert!(matches!(error, DirectoryError::Owned { .. }), "{error}");
    for (what, change) in [("replaced", &replace as &dyn Fn(&Path)), ("unlocked", &unlock)] {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("pki");
        let first = Directory::open(&path, "kubelet-client").unwrap();
        change(&path);
        // The first process to lock the new directory owns it.
        first.remember(b"mine").unwrap();
        of_another(Directory::open(&path, "kubelet-client").unwrap_err());
        first.remember(b"mine again").unwrap();
        fs::remove_dir_all(path.with_extension("old")).ok();

        change(&path);
        let second = Directory::open(&path, "kubelet-client").unwrap();
        second.remember(b"theirs").unwrap();
        of_another(first.remember(b"mine").unwrap_err());
        let problems = first.recover(None, clock::now().unix).unwrap().problems;
        assert!(matches!(problems[..], [DirectoryError::Owned { .. }]), "{what}: {problems:?}");
        assert_eq!(second.recall().unwrap().unwrap().as_slice(), b"theirs", "{what}");
        drop(second);
        first.remember(b"mine").unwrap();
    }
}

#[test]
fn unusable_prefix_creates_no_directory() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("pki");
    Directory::open(&path, "../evil").unwrap_err();
    assert!(!path.exists());
}

/// A directory in memory: its entries by name. `None` is a regular file that contains a whole pair, `Some` is a link to
/// the given target.
#[derive(Clone, Debug, Default)]
struct Names(BTreeMap<String, Option<String>>);

impl Names {
    fn listing(&self) -> Listing {
        let kind = |target: &Option<String>| if target.is_some() { Kind::Link } else { Kind::File };
        let entry = |(name, target): (&String, &Option<String>)| Entry {
            name: name.clone(),
            kind: kind(target),
            target: target.clone(),
        };
        Listing(self.0.iter().map(entry).collect())
    }

    fn execute(&mut self, op: &FileOp) {
        match op.clone() {
            FileOp::CreateNew { name } => assert!(self.0.insert(name, None).is_none()),
            FileOp::Symlink { target, name } => assert!(self.0.insert(name, Some(target)).is_none()),
            FileOp::Rename { from, to } => {
                let moved = self.0.remove(&from).unwrap();
                self.0.insert(to, moved);
            }
            FileOp::Remove { name } => assert!(self.0.remove(&name).is_some()),
            FileOp::Link { .. } => panic!("there is no regular file to make room"),
            FileOp::Sync { .. } | FileOp::SyncDir => {}
        }
    }

    /// True if a load would find a pair.
    fn holds_a_pair(&self, layout: &Layout) -> bool {
        layout.sources(&self.listing()).iter().any(|source| {
            let Source::Bundle(name) = source else { return false };
            match self.0.get(name) {
                Some(Some(target)) => self.0.get(target) == Some(&None),
                Some(None) => true,
                None => false,
            }
        })
    }
}

#[test]
fn second_interrupted_update_loses_no_pair() {
    let layout = Layout::new("kubelet-client").unwrap();
    let now = clock::now().unix;
    let first = layout.update(&Listing::default(), now).steps;
    for cut in 0..=first.len() {
        let mut names = Names::default();
        first[..cut].iter().for_each(|step| names.execute(step));
        let had_one = names.holds_a_pair(&layout);
        let second = layout.update(&names.listing(), now).steps;
        for step in &second {
            names.execute(step);
            assert!(!had_one || names.holds_a_pair(&layout), "after {cut} steps of {first:?}: {step:?} lost it");
        }
        assert!(names.holds_a_pair(&layout));
    }
}

#[test]
fn failed_update_leaves_old_pair_and_no_leftover() {
    let layout = Layout::new("kubelet-client").unwrap();
    let now = clock::now().unix;
    let first = layout.update(&Listing::default(), now).steps;
    for cut in 0..=first.len() {
        let mut before = Names::default();
        first[..cut].iter().for_each(|step| before.execute(step));
        let plan = layout.update(&before.listing(), now);
        for done in 0..=plan.steps.len() {
            let mut names = before.clone();
            plan.steps[..done].iter().for_each(|step| names.execute(step));
            let comes_into_use = [layout.updated(), layout.current()];
            let renamed = |step: &FileOp| matches!(step, FileOp::Rename { to, .. } if comes_into_use.contains(to));
            let in_use = plan.steps[..done].iter().any(renamed);
            plan.undo(done).iter().for_each(|step| names.execute(step));
            assert!(!before.holds_a_pair(&layout) || names.holds_a_pair(&layout), "cut {cut}, failed at {done}");
            assert!(in_use || names.0 == before.0, "cut {cut}, failed at {done}: {:?} became {:?}", before.0, names.0);
        }
    }
}
