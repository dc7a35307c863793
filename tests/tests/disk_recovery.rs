//! A start from a damaged credential directory finds the best pair, and changes only the entries that it repairs.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use perennial::store::{FileOp, Layout, Listing};
use perennial_pki::Credential;
use perennial_rotation::{Directory, DirectoryError, LoadRequest, Loaded, Store};
use perennial_tests::disk::{Call, Disk, Fate, NODE, NOW, PREFIX, Virtual, expired, pair};

const CURRENT: &str = "kubelet-client-current.pem";
const OLD: &str = "kubelet-client-2025-01-01-00-00-00-000.pem";
const NEW: &str = "kubelet-client-2025-02-01-00-00-00-000.pem";

/// A temporary credential directory.
struct Pki(tempfile::TempDir);

impl Pki {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, contents: impl AsRef<[u8]>, mode: u32) {
        fs::write(self.path(name), contents).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    fn put_pair(&self, name: &str, credential: &Credential) {
        self.put(name, credential.to_pem().as_bytes(), 0o600);
    }

    fn use_pair(&self, name: &str) {
        symlink(name, self.path(CURRENT)).unwrap();
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    fn directory(&self) -> Directory {
        Directory::open(self.0.path(), PREFIX).unwrap()
    }

    fn recover(&self) -> Loaded {
        self.directory().recover(None, NOW).unwrap()
    }
}

fn is(loaded: &Loaded, wanted: &Credential) -> bool {
    loaded.credential.as_ref().is_some_and(|(credential, _)| credential.chain() == wanted.chain())
}

fn exposed(problems: &[DirectoryError]) -> Vec<&Path> {
    let exposed = problems.iter().filter_map(|problem| match problem {
        DirectoryError::Exposed { path } => Some(path.as_path()),
        _ => None,
    });
    exposed.collect()
}

/// A damaged pair: the chain of `credential` with the key of another certificate.
fn damaged(credential: &Credential) -> String {
    format!("{}{}", credential.chain().pem(), *pair(NODE, 9).key().to_pem())
}

/// Path, mode and contents of each entry of the directory, except for lock files. The contents of a link are its
/// target.
fn everything(pki: &Pki) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let entries = fs::read_dir(pki.0.path()).unwrap().map(|entry| entry.unwrap().path());
    let others = entries.filter(|path| path.extension().is_none_or(|extension| extension != "lock"));
    others
        .map(|path| {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let contents = match metadata.is_symlink() {
                true => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                false => fs::read(&path).unwrap(),
            };
            (path, (metadata.permissions().mode(), contents))
        })
        .collect()
}

#[test]
fn start_leaves_unreadable_pair_and_its_mode_unchanged() {
    let pki = Pki::new();
    let good = pair(NODE, 1);
    pki.put_pair(OLD, &good);
    pki.put(NEW, damaged(&good), 0o644);
    pki.use_pair(NEW);
    let before = everything(&pki);
    pki.put(&format!("{OLD}.new"), "half", 0o600);
    let loaded = pki.recover();
    assert!(is(&loaded, &good) && !loaded.in_use);
    assert_eq!(loaded.problems.len(), 2, "{:?}", loaded.problems);
    assert_eq!(exposed(&loaded.problems), [pki.path(CURRENT)]);
    assert_eq!(everything(&pki), before, "but for what a crash left");
}

#[test]
fn pending_record_readable_by_group_is_reported_and_left_unchanged() {
    let pki = Pki::new();
    let directory = pki.directory();
    directory.remember(b"a key").unwrap();
    let name = "kubelet-client-pending.json";
    fs::set_permissions(pki.path(name), Permissions::from_mode(0o640)).unwrap();
    assert_eq!(exposed(&directory.load(None, NOW).unwrap().problems), [pki.path(name)]);
    assert_eq!(exposed(&directory.recover(None, NOW).unwrap().problems), [pki.path(name)]);
    assert_eq!(pki.mode(name), 0o640);
    assert_eq!(directory.recall().unwrap().unwrap().as_slice(), b"a key");
    directory.remember(b"another").unwrap();
    assert_eq!(pki.mode(name), 0o600);
}

#[test]
fn link_to_file_without_the_prefix_stays_until_next_write() {
    for foreign in ["ca.crt", "kubelet-server-2025-01-01-00-00-00-000.pem"] {
        let pki = Pki::new();
        let good = pair(NODE, 1);
        pki.put_pair(OLD, &good);
        pki.put(foreign, good.chain().pem(), 0o644);
        pki.use_pair(foreign);
        let (directory, before) = (pki.directory(), everything(&pki));
        let loaded = directory.recover(None, NOW).unwrap();
        assert!(is(&loaded, &good) && !loaded.in_use && exposed(&loaded.problems).is_empty(), "{loaded:?}");
        assert_eq!(everything(&pki), before);
        directory.write(&pair(NODE, 2), NOW).unwrap();
        assert_ne!(fs::read_link(pki.path(CURRENT)).unwrap(), Path::new(foreign));
        let there = everything(&pki);
        assert!(before.iter().all(|(path, it)| path.ends_with(CURRENT) || there.get(path) == Some(it)), "{there:?}");
    }
}

#[test]
fn link_that_leads_nowhere_is_replaced_by_link_to_newest_pair() {
    // Names of the links to make, with their targets. The last target leads through a loop among its directories.
    let tables: [&[(&str, &str)]; 4] = [
        &[(CURRENT, "gone.pem")],
        &[(CURRENT, CURRENT)],
        &[("one", "two"), ("two", "one"), (CURRENT, "one")],
        &[("loop", "loop"), (CURRENT, "loop/pair.pem")],
    ];
    for links in tables {
        let pki = Pki::new();
        let good = pair(NODE, 1);
        pki.put_pair(OLD, &good);
        for (name, target) in links {
            symlink(target, pki.path(name)).unwrap();
        }
        let loaded = pki.recover();
        assert!(is(&loaded, &good) && loaded.in_use, "{links:?}: {loaded:?}");
        assert_eq!(fs::read_link(pki.path(CURRENT)).unwrap(), Path::new(OLD), "{links:?}");
    }
}

#[test]
fn valid_pair_is_used_instead_of_expired_one() {
    let (new, foreign) = (pair(NODE, 1), pair("system:node:worker-2", 9));
    for kind in ["a link", "a file", "an update cut short"] {
        let pki = Pki::new();
        let old = expired(NODE, 1);
        pki.put_pair(NEW, &new);
        pki.put_pair("kubelet-client-2025-03-01-00-00-00-000.pem", &foreign);
        if kind == "a file" {
            pki.put_pair(CURRENT, &old);
        } else {
            pki.put_pair(OLD, &old);
            pki.use_pair(OLD);
        }
        if kind == "an update cut short" {
            symlink(NEW, pki.path("kubelet-client-updated.pem")).unwrap();
        }
        let before = everything(&pki);
        let loaded = pki.recover();
        let is_reported =
            matches!(&loaded.problems[..], [DirectoryError::Expired { path }] if *path == pki.path(CURRENT));
        assert!(is(&loaded, &new) && is_reported && !loaded.in_use, "{kind}: {loaded:?}");
        assert_eq!(everything(&pki), before, "{kind}");

        let next = pair(NODE, 2);
        pki.directory().write(&next, NOW).unwrap();
        let loaded = pki.recover();
        assert!(is(&loaded, &next) && loaded.in_use && loaded.problems.is_empty(), "{kind}: {loaded:?}");
        assert!(fs::symlink_metadata(pki.path(CURRENT)).unwrap().is_symlink(), "{kind}");
    }
}

#[test]
fn file_in_place_of_link_gets_dated_name() {
    let pki = Pki::new();
    let (copy, unreadable) = (pair(NODE, 1), "a key of a kind that only others know");
    pki.put_pair(CURRENT, &copy);
    pki.put("kubelet-client-updated.pem", unreadable, 0o600);
    let new = pair(NODE, 2);
    pki.directory().write(&new, NOW).unwrap();
    let loaded = pki.recover();
    assert!(is(&loaded, &new) && loaded.in_use, "{loaded:?}");
    let previous = pki.directory().previous().unwrap();
    assert_eq!(previous.len(), 1, "the copy is the pair before");
    assert_eq!(previous[0].0.chain(), copy.chain());
    let quarantined = pki.directory().quarantined().unwrap();
    assert_eq!(quarantined.len(), 1, "{quarantined:?}");
    assert_eq!(fs::read_to_string(&quarantined[0]).unwrap(), unreadable);
}

#[test]
fn dangling_link_leads_to_newest_pair_after_start() {
    let pki = Pki::new();
    let good = pair(NODE, 1);
    pki.put_pair(OLD, &good);
    for target in ["gone.pem", "/nonexistent/gone.pem", CURRENT] {
        let _ = fs::remove_file(pki.path(CURRENT));
        pki.use_pair(target);
        let loaded = pki.recover();
        assert!(is(&loaded, &good) && loaded.in_use, "{target}: {loaded:?}");
        assert_eq!(fs::read_link(pki.path(CURRENT)).unwrap(), Path::new(OLD), "{target}");
    }
}

/// The clock may be wrong while the computer boots. Whatever it shows, the start uses the newer pair, to which the link
/// leads, and not the older one.
#[test]
fn pair_in_use_stays_whatever_the_clock_shows() {
    let pki = Pki::new();
    let (older, newer) = (pair(NODE, 9), pair(NODE, 1));
    pki.put_pair(OLD, &older);
    pki.put_pair(NEW, &newer);
    pki.use_pair(NEW);
    for now in [perennial::UnixTime::from_secs(0), NOW, NOW.after(std::time::Duration::from_secs(1 << 28))] {
        assert!(is(&pki.directory().recover(None, now).unwrap(), &newer), "{now}");
    }
    assert_eq!(fs::read_link(pki.path(CURRENT)).unwrap(), Path::new(NEW));
}

#[test]
fn foreign_pair_is_ignored_once_common_name_is_known() {
    let (mine, foreign) = (pair(NODE, 1), pair("system:node:worker-2", 9));
    let pki = Pki::new();
    pki.put_pair(OLD, &foreign);
    // Without a pair in use, the node's name is not known.
    assert!(is(&pki.directory().load(None, NOW).unwrap(), &foreign));
    assert!(pki.directory().load(Some(NODE), NOW).unwrap().credential.is_none());
    // The common name is known from the chain of the pair in use.
    pki.put(NEW, damaged(&mine), 0o600);
    pki.use_pair(NEW);
    assert!(pki.directory().load(None, NOW).unwrap().credential.is_none());
    pki.put_pair("kubelet-client-2024-01-01-00-00-00-000.pem", &mine);
    assert!(is(&pki.directory().load(None, NOW).unwrap(), &mine));
}

#[test]
fn foreign_pair_in_use_is_reported_and_stays() {
    let (mine, foreign) = (pair(NODE, 1), pair("system:node:worker-2", 9));
    let pki = Pki::new();
    pki.put_pair(OLD, &foreign);
    pki.use_pair(OLD);
    let before = everything(&pki);
    let loaded = pki.directory().recover(Some(NODE), NOW).unwrap();
    assert!(loaded.credential.is_none(), "{loaded:?}");
    let [DirectoryError::Foreign { path, common_name, wanted }] = &loaded.problems[..] else { panic!("{loaded:?}") };
    assert_eq!((path, common_name.as_str(), wanted.as_str()), (&pki.path(CURRENT), "system:node:worker-2", NODE));
    let message = loaded.problems[0].to_string();
    assert!(message.contains("system:node:worker-2") && message.contains(NODE), "{message}");
    assert_eq!(everything(&pki), before);
    pki.directory().write(&mine, NOW).unwrap();
    assert!(is(&pki.directory().load(Some(NODE), NOW).unwrap(), &mine));
    assert_eq!(fs::read(pki.path(OLD)).unwrap(), foreign.to_pem().as_bytes());
}

#[test]
fn start_reads_each_file_once() {
    let volume = Virtual::new(Disk::default());
    let directory = volume.directory();
    [1, 2].into_iter().for_each(|number| directory.write(&pair(NODE, number), NOW).unwrap());
    let in_use = volume.disk().list().file_behind(CURRENT).unwrap().to_owned();
    let read = Arc::new(Mutex::new(Vec::new()));
    let reads = read.clone();
    volume.set_fates(Box::new(move |_, call| {
        if let Call::Read(name) = call {
            reads.lock().unwrap().push(name.to_owned());
        }
        Fate::Done
    }));
    let request = LoadRequest { common_name: Some(NODE), has_signer: true, now: NOW, keys: None, request_digest: None };
    assert!(Store::load(&directory, &request).unwrap().credential.is_some());
    let mut read = read.lock().unwrap().clone();
    read.sort();
    let [dated @ .., current, record] = &read[..] else { panic!("{read:?}") };
    assert_eq!((&**current, &**record), (CURRENT, "kubelet-client-pending.json"));
    assert!(dated.len() == 1 && dated[0] != in_use, "the predecessor: {dated:?}");
}

#[test]
fn thousand_dated_files_do_not_hide_crt_key_pair() {
    let pki = Pki::new();
    for n in 0..1001 {
        pki.put(&format!("kubelet-client-2025-01-01-00-{:02}-{:02}-000.pem", n / 60, n % 60), "x", 0o600);
    }
    let good = pair(NODE, 1);
    pki.put("kubelet-client.crt", good.chain().pem(), 0o644);
    pki.put("kubelet-client.key", good.key().to_pem().as_bytes(), 0o600);
    assert!(is(&pki.directory().load(None, NOW).unwrap(), &good));
}

#[test]
fn current_link_to_path_below_a_file_counts_as_dangling() {
    let pki = Pki::new();
    let good = pair(NODE, 1);
    pki.put_pair(OLD, &good);
    pki.use_pair(&format!("{OLD}/current.pem"));
    assert!(is(&pki.recover(), &good));
    assert_eq!(fs::read_link(pki.path(CURRENT)).unwrap(), Path::new(OLD), "it is put right");
}

#[test]
fn update_renames_updated_pem_to_current_pem() {
    let layout = Layout::new("kubelet-client").unwrap();
    let update = layout.update(&Listing::default(), NOW);
    let (from, to) = ("kubelet-client-updated.pem".into(), "kubelet-client-current.pem".into());
    assert!(update.steps.contains(&FileOp::Rename { from, to }), "{update:?}");
}

#[test]
fn unusable_prefix_is_refused_with_reason() {
    for prefix in ["", ".hidden", "../pki", "a/b"] {
        let refused = Layout::new(prefix).unwrap_err().to_string();
        assert!(refused.contains(&format!("{prefix:?}")) && refused.contains("slash"), "{refused}");
    }
}
