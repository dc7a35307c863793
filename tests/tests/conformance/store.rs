//! The cases of certificate_store_test.go, on a real directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial::store::{FileOp, Layout, Listing};
use perennial_pki::{Chain, Credential, CredentialError};
use perennial_rotation::Directory;

use super::{Row, different, same};
use perennial_tests::simulation::{DAY, START, Server};

const SOURCE: &str = "certificate_store_test.go";
const LOADS: &str = "loads, with all that is known of the leaf";
const CURRENT: &str = "kubelet-server-current.pem";

pub(crate) const ROWS: &[Row] = &[
    different(
        SOURCE,
        "TestUpdateSymlinkExistingFileError",
        "no error: a file in the place of the link gets a dated name, and the new pair is used",
        "a file that an operator copied must not keep a node off the cluster; nothing is lost",
        || {
            let pki = Pki::new();
            fs::write(pki.path(CURRENT), "somebody's").unwrap();
            pki.directory().write(&pki.credential, START).unwrap();
            pki.loads_the_credential();
            let aside = pki.directory().quarantined().unwrap();
            assert!(matches!(&aside[..], [file] if fs::read_to_string(file).unwrap() == "somebody's"), "{aside:?}");
        },
    ),
    different(
        SOURCE,
        "TestUpdateSymlinkNewFileNotExist",
        "impossible: an update makes the file complete and durable before it makes a link to it",
        "upstream's link is a separate step, which has to check for the file",
        || {
            let steps = Layout::new("kubelet-server").unwrap().update(&Listing::default(), START).steps;
            use FileOp::{CreateNew, Rename, Symlink, Sync, SyncDir};
            let [CreateNew { name }, Sync { .. }, Rename { from, to }, Symlink { target, .. }, SyncDir, ..] =
                &steps[..]
            else {
                panic!("{steps:?}")
            };
            assert_eq!((name, to), (from, target));
        },
    ),
    same(SOURCE, "TestUpdateSymlinkNoSymlink", "the link is made, and the file behind it stays", || {
        let pki = Pki::new();
        pki.directory().write(&pki.credential, START).unwrap();
        assert!(pki.target().is_file());
    }),
    same(
        SOURCE,
        "TestUpdateSymlinkReplaceExistingSymlink",
        "the link leads to the new file, and both files stay",
        || {
            let pki = Pki::new();
            pki.directory().write(&pki.credential, START).unwrap();
            let old = pki.target();
            pki.directory().write(&pki.another(), START.after(DAY)).unwrap();
            assert!(pki.target() != old && pki.target().is_file() && old.is_file());
        },
    ),
    same(SOURCE, "TestLoadFile/cert and key", LOADS, || {
        let pki = Pki::new();
        fs::write(pki.path(CURRENT), format!("{}{}", pki.certificate(), pki.key())).unwrap();
        pki.loads_the_credential();
    }),
    same(SOURCE, "TestLoadFile/key and cert", LOADS, || {
        let pki = Pki::new();
        fs::write(pki.path(CURRENT), format!("{}{}", pki.key(), pki.certificate())).unwrap();
        pki.loads_the_credential();
    }),
    same(SOURCE, "TestUpdateNoRotation", "written and found, although a pair of files is there", update_over_files),
    same(SOURCE, "TestUpdateRotation", "written and found, although a pair of files is there", update_over_files),
    same(SOURCE, "TestUpdateTwoCerts", "both certificates of the chain are written and found", || {
        let pki = Pki::new();
        pki.directory().write(&pki.chain_of_two(), START).unwrap();
        assert_eq!(pki.loaded().chain().der().len(), 2);
    }),
    same(SOURCE, "TestUpdateWithBadCertKeyData", "an error, and nothing is written", || {
        let pki = Pki::new();
        let bad = Credential::from_pem(&[0, 0]);
        assert!(matches!(bad, Err(CredentialError::Chain(_))));
        Chain::from_pem(&[0, 0]).unwrap_err();
        assert_eq!(fs::read_dir(pki.root()).unwrap().count(), 0);
    }),
    same(SOURCE, "TestCurrentPairFile", LOADS, || {
        let pki = Pki::new();
        fs::write(pki.path("kubelet-server-pair.pem"), pki.credential.to_pem().as_bytes()).unwrap();
        symlink(pki.path("kubelet-server-pair.pem"), pki.path(CURRENT)).unwrap();
        pki.loads_the_credential();
    }),
    same(SOURCE, "TestCurrentCertKeyFiles", LOADS, || {
        let pki = Pki::new();
        pki.write_pair_of_files(&pki.certificate());
        pki.loads_the_credential();
    }),
    same(SOURCE, "TestCurrentTwoCerts", "both certificates of the chain", || {
        let pki = Pki::new();
        pki.write_pair_of_files(&pki.chain_of_two().chain().pem());
        assert_eq!(pki.loaded().chain().der().len(), 2);
    }),
    same(SOURCE, "TestCurrentNoFiles", "no certificate, which is no failure", || {
        let loaded = Pki::new().directory().load(None, START).unwrap();
        assert!(loaded.credential.is_none() && loaded.problems.is_empty());
    }),
];

/// A credential directory, and a pair to write to it.
pub(crate) struct Pki {
    root: tempfile::TempDir,
    pub(crate) credential: Arc<Credential>,
    authority: String,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut server = Server::new(perennial_dev::Options::default());
        let credential = server.node_credential(DAY, 2 * DAY);
        let authority = server.api.authority().certificate_pem().to_owned();
        Self { root: tempfile::tempdir().unwrap(), credential, authority }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn directory(&self) -> Directory {
        Directory::open(self.root(), "kubelet-server").unwrap_or_else(|error| panic!("{error}"))
    }

    /// The file to which `PREFIX-current.pem` leads.
    pub(crate) fn target(&self) -> PathBuf {
        self.root().join(fs::read_link(self.path(CURRENT)).unwrap())
    }

    pub(crate) fn loaded(&self) -> Arc<Credential> {
        Directory::open_existing(self.root(), "kubelet-server")
            .unwrap()
            .load(None, START)
            .unwrap()
            .credential
            .unwrap()
            .0
    }

    pub(crate) fn another(&self) -> Arc<Credential> {
        Server::new(perennial_dev::Options::default()).node_credential(DAY, 3 * DAY)
    }

    fn certificate(&self) -> String {
        self.credential.chain().pem()
    }

    fn key(&self) -> String {
        self.credential.key().to_pem().to_string()
    }

    fn chain_of_two(&self) -> Credential {
        let chain = Chain::from_pem(format!("{}{}", self.certificate(), self.authority).as_bytes()).unwrap();
        Credential::new(chain, Arc::clone(self.credential.key())).unwrap()
    }

    fn write_pair_of_files(&self, chain: &str) {
        fs::write(self.path("kubelet-server.crt"), chain).unwrap();
        fs::write(self.path("kubelet-server.key"), self.key()).unwrap();
    }

    pub(crate) fn loads_the_credential(&self) {
        let (loaded, expected) = (self.loaded(), self.credential.chain().certificate());
        assert_eq!(loaded.chain().certificate().fingerprint, expected.fingerprint);
        assert_eq!(loaded.chain().certificate().common_name(), "system:node:worker-1");
        assert_eq!(loaded.key().public_key_der(), self.credential.key().public_key_der());
    }
}

fn update_over_files() {
    let pki = Pki::new();
    pki.write_pair_of_files(&pki.certificate());
    let new = pki.another();
    pki.directory().write(&new, START).unwrap();
    assert_eq!(pki.loaded().chain(), new.chain());
}
