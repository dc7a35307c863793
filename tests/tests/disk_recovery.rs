//! A start from a directory that is not in order: which pair is taken, what is put right, and what is left alone.

#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/volume.rs"]
mod volume;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use pairs::{NODE, expired, pair};
use perennial::store::{FileOp, Layout, Listing};
use perennial_pki::Credential;
use perennial_std::{Directory, DirectoryError, Loaded};
use volume::{NOW, PREFIX};

const CURRENT: &str = "kubelet-client-current.pem";
const OLD: &str = "kubelet-client-2025-01-01-00-00-00-000.pem";
const NEW: &str = "kubelet-client-2025-02-01-00-00-00-000.pem";

/// A directory in which one puts things.
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
        self.directory().recover(NOW).unwrap()
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

/// With a key that is not the chain's.
fn damaged(credential: &Credential) -> String {
    format!("{}{}", credential.chain().pem(), *pair(NODE, 9).key().to_pem())
}

#[test]
fn a_damaged_file_that_others_can_read_is_private_when_it_is_set_aside_and_the_rest_is_done_all_the_same() {
    let pki = Pki::new();
    let good = pair(NODE, 1);
    pki.put_pair(OLD, &good);
    pki.put(NEW, damaged(&good), 0o644);
    pki.use_pair(NEW);
    pki.put(&format!("{OLD}.new"), "half", 0o600);
    let loaded = pki.recover();
    assert!(is(&loaded, &good));
    assert_eq!(loaded.problems.len(), 2, "{:?}", loaded.problems);
    assert_eq!(exposed(&loaded.problems), [pki.path(CURRENT)]);
    assert_eq!(pki.mode(&format!("{NEW}.bad")), 0o600);
    assert!(!pki.path(&format!("{OLD}.new")).exists());
    assert!(pki.recover().problems.is_empty());
}

#[test]
fn a_record_that_others_can_read_is_made_private_and_that_is_said() {
    let pki = Pki::new();
    let directory = pki.directory();
    directory.remember(b"a key").unwrap();
    let name = "kubelet-client-pending.json";
    fs::set_permissions(pki.path(name), Permissions::from_mode(0o640)).unwrap();
    assert_eq!(exposed(&directory.load(NOW).unwrap().problems), [pki.path(name)]);
    assert_eq!(exposed(&directory.recover(NOW).unwrap().problems), [pki.path(name)]);
    assert_eq!(pki.mode(name), 0o600);
    assert_eq!(directory.recall().unwrap().unwrap().as_slice(), b"a key");
    assert!(directory.recover(NOW).unwrap().problems.is_empty());
}

#[test]
fn what_a_link_leads_to_that_is_not_ours_keeps_its_name_and_mode_and_the_link_is_shown_aside() {
    for foreign in ["ca.crt", "kubelet-server-2025-01-01-00-00-00-000.pem"] {
        let pki = Pki::new();
        let good = pair(NODE, 1);
        pki.put_pair(OLD, &good);
        pki.put(foreign, good.chain().pem(), 0o644);
        pki.use_pair(foreign);
        let directory = pki.directory();
        let loaded = directory.recover(NOW).unwrap();
        assert!(is(&loaded, &good) && exposed(&loaded.problems).is_empty(), "{loaded:?}");
        assert_eq!(
            (fs::read_to_string(pki.path(foreign)).unwrap().as_str(), pki.mode(foreign)),
            (good.chain().pem(), 0o644)
        );
        assert_eq!(directory.aside().unwrap(), [pki.path(&format!("{CURRENT}.bad"))]);
        assert_eq!(fs::read_link(pki.path(CURRENT)).unwrap(), Path::new(OLD));
    }
}

#[test]
fn a_pair_that_has_expired_gives_way_to_one_that_is_valid_and_of_the_same_name() {
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
        assert!(is(&pki.directory().load(NOW).unwrap(), &new), "{kind}");
        let loaded = pki.recover();
        let told = matches!(&loaded.problems[..], [DirectoryError::Expired { path }] if *path == pki.path(CURRENT));
        assert!(is(&loaded, &new) && told, "{kind}: {loaded:?}");
        assert_eq!(fs::read_link(pki.path(CURRENT)).unwrap(), Path::new(NEW), "{kind}");
        let kept = if kind == "a file" { format!("{CURRENT}.kept") } else { OLD.to_owned() };
        assert_eq!(fs::read(pki.path(&kept)).unwrap(), old.to_pem().as_bytes(), "{kind}");
        assert!(pki.recover().problems.is_empty(), "{kind}");
    }
}

/// A clock that is wrong at the start of a machine is no reason to go back to an older pair.
#[test]
fn a_pair_stays_in_use_if_none_is_valid_or_it_is_not_valid_yet() {
    let pki = Pki::new();
    let (older, newer) = (pair(NODE, 9), pair(NODE, 1));
    pki.put_pair(OLD, &older);
    pki.put_pair(NEW, &newer);
    pki.use_pair(NEW);
    for now in [perennial::UnixTime::from_secs(0), NOW, NOW.after(std::time::Duration::from_secs(1 << 28))] {
        assert!(is(&pki.directory().recover(now).unwrap(), &newer), "{now}");
    }
    assert_eq!(fs::read_link(pki.path(CURRENT)).unwrap(), Path::new(NEW));
}

#[test]
fn the_pair_of_another_node_is_not_brought_into_use_where_it_is_known_whose_it_should_be() {
    let (mine, foreign) = (pair(NODE, 1), pair("system:node:worker-2", 9));
    let pki = Pki::new();
    pki.put_pair(OLD, &foreign);
    // Nobody knows, without the pair in use.
    assert!(is(&pki.directory().load(NOW).unwrap(), &foreign));
    assert!(pki.directory().recover_of(Some(NODE), NOW).unwrap().credential.is_none());
    // Its chain says it.
    pki.put(NEW, damaged(&mine), 0o600);
    pki.use_pair(NEW);
    assert!(pki.directory().load(NOW).unwrap().credential.is_none());
    pki.put_pair("kubelet-client-2024-01-01-00-00-00-000.pem", &mine);
    assert!(is(&pki.directory().load(NOW).unwrap(), &mine));
    // What is in use stays in use: it is not for us to take it away.
    fs::remove_file(pki.path(CURRENT)).unwrap();
    pki.use_pair(OLD);
    assert!(is(&pki.directory().recover_of(Some(NODE), NOW).unwrap(), &foreign));
}

#[test]
fn a_thousand_files_of_newer_names_do_not_hide_the_pair_of_an_older_installation() {
    let pki = Pki::new();
    for n in 0..1001 {
        pki.put(&format!("kubelet-client-2025-01-01-00-{:02}-{:02}-000.pem", n / 60, n % 60), "x", 0o600);
    }
    let good = pair(NODE, 1);
    pki.put("kubelet-client.crt", good.chain().pem(), 0o644);
    pki.put("kubelet-client.key", good.key().to_pem().as_bytes(), 0o600);
    assert!(is(&pki.directory().load(NOW).unwrap(), &good));
}

#[test]
fn a_link_through_a_file_leads_nowhere_for_good() {
    let pki = Pki::new();
    let good = pair(NODE, 1);
    pki.put_pair(OLD, &good);
    pki.use_pair(&format!("{OLD}/current.pem"));
    assert!(is(&pki.recover(), &good));
    assert_eq!(fs::read_link(pki.path(CURRENT)).unwrap(), Path::new(OLD), "it is put right");
}

#[test]
fn what_is_put_in_place_has_the_name_that_kubelet_gives_it() {
    let layout = Layout::new("kubelet-client").unwrap();
    let update = layout.update(&Listing::default(), NOW);
    let (from, to) = ("kubelet-client-updated.pem".into(), "kubelet-client-current.pem".into());
    assert!(update.steps.contains(&FileOp::Rename { from, to }), "{update:?}");
}

#[test]
fn a_prefix_that_would_leave_the_directory_is_refused_with_the_reason() {
    for prefix in ["", ".hidden", "../pki", "a/b"] {
        let refused = Layout::new(prefix).unwrap_err().to_string();
        assert!(refused.contains(&format!("{prefix:?}")) && refused.contains("slash"), "{refused}");
    }
}
