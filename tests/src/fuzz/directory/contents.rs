//! Fuzzes a `Directory` on a virtual disk with arbitrary entries and file contents.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use perennial::store::{FileOp, Layout, Listing};
use perennial::{Template, UnixTime};
use perennial_pki::{Credential, Usage};
use perennial_rotation::volume::{Contents, Folder, Volume};
use perennial_rotation::{Directory, Loaded};

use super::{PREFIX, Thing, Things};
use crate::disk::{Disk, PATH, Start};
use crate::fuzz::pki::Pki;

/// Checks a credential directory with any entries and contents. A load must change nothing, and return a pair that is
/// complete in the directory, or none. Recovery must change no file that may be in use. After a write, a load must find
/// the new pair. A pending record must read as it was written.
pub(super) fn contents(there: &Things, kinds: &[(u8, String)], now: UnixTime) {
    let disk = SharedDisk(Arc::new(Mutex::new(disk(there, kinds))));
    let layout = Layout::new(PREFIX).expect("a usable prefix");
    let directory = Directory::on(Box::new(disk.clone()), PathBuf::from(PATH), layout.clone());
    let before = disk.disk().clone();
    let load = |when| directory.load(None, when).unwrap_or_else(|error| panic!("{error}"));

    let found = load(now);
    check_problems(&found);
    let _ = directory.recall();
    assert!(*disk.disk() == before, "a load has changed the directory");
    if let Some((credential, path)) = &found.credential {
        let name = path.strip_prefix(PATH).ok().and_then(|name| name.to_str()).expect("a file of the directory");
        // The pair may lie in two files.
        let names = [name.to_owned(), name.replace(".crt", ".key")];
        let file_contents = names.map(|name| before.read(&name).ok().flatten().unwrap_or_default()).concat();
        let pem = credential.chain().pem();
        assert!(String::from_utf8_lossy(&file_contents).contains(pem.lines().nth(1).unwrap_or(&pem)), "{name}");
    }

    let recovered = directory.recover(None, now).unwrap_or_else(|error| panic!("{error}"));
    check_problems(&recovered);
    assert_eq!(fingerprint(&recovered), fingerprint(&found));
    // A listing does not show where a link to a link leads.
    let is_link = |name: &String| matches!(there.get(name), Some(Thing::Link(_)));
    if !there.values().any(|thing| matches!(thing, Thing::Link(target) if is_link(target))) {
        assert_eq!(fingerprint(&load(now)), fingerprint(&found), "after a recovery, a load finds the same pair");
    }
    for (name, bytes) in before.visible() {
        let litter = name.ends_with(".new") || name.contains(".link");
        let is_file = matches!(there.get(name.as_ref()), Some(Thing::File(_)));
        assert!(!is_file || litter || disk.disk().visible().get(&name) == Some(&bytes), "{name} may be in use");
    }

    if directory.remember(b"a record").is_ok() {
        assert_eq!(directory.recall().ok().flatten().as_deref().map(Vec::as_slice), Some(&b"a record"[..]));
    } else {
        assert!(
            there.contains_key(&format!("{}.new", layout.pending())),
            "a record is refused without an entry in its way"
        );
    }
    directory.write(&PAIRS[1], now).unwrap_or_else(|error| panic!("{error}"));
    let written = load(now);
    assert_eq!(fingerprint(&written), Some(PAIRS[1].chain().certificate().fingerprint));
}

fn fingerprint(loaded: &Loaded) -> Option<perennial::Fingerprint> {
    loaded.credential.as_ref().map(|(credential, _)| credential.chain().certificate().fingerprint)
}

/// Checks that each problem which a load reports has a message, and that the message shows no private key.
fn check_problems(loaded: &Loaded) {
    for problem in &loaded.problems {
        let (message, debug) = (problem.to_string(), format!("{problem:?}"));
        assert!(!message.is_empty());
        for pair in PAIRS.iter() {
            let pem = pair.key().to_pem();
            let secret = pem.lines().nth(1).expect("a key has such a line");
            assert!(!message.contains(secret) && !debug.contains(secret), "{message}");
        }
    }
}

fn disk(there: &Things, kinds: &[(u8, String)]) -> Disk {
    there.iter().fold(Disk::default(), |disk, (name, thing)| match thing {
        Thing::File(index) => disk.with(name, Start::File(&bytes(&kinds[*index]))),
        Thing::Link(target) => disk.with(name, Start::Link(target)),
        Thing::Other => disk.with(name, Start::Folder),
    })
}

/// The contents of a file. The byte for the kind of its directory entry also selects the contents: a name, a pair, a
/// part of a pair, or nothing, for example.
fn bytes((kind, name): &(u8, String)) -> Vec<u8> {
    let [ours, another] = &*PAIRS;
    let (pem, key) = (ours.to_pem(), ours.key().to_pem());
    let chain = ours.chain().pem();
    let chain = chain.as_str();
    match kind / 3 {
        0 => name.clone().into_bytes(),
        1 => pem.as_bytes().to_vec(),
        2 => another.to_pem().as_bytes().to_vec(),
        3 => chain.as_bytes().to_vec(),
        4 => key.as_bytes().to_vec(),
        5 => [chain, another.key().to_pem().as_str()].concat().into_bytes(),
        6 => [key.as_str(), "\nwords\n", chain].concat().into_bytes(),
        7 => Vec::new(),
        // A part of the pair, as a crash of another program leaves it.
        cut => pem.as_bytes()[..usize::from(cut).min(80) * pem.len() / 80].to_vec(),
    }
}

/// Two pairs with the same validity period.
static PAIRS: LazyLock<[Credential; 2]> = LazyLock::new(|| {
    let pki = Pki::new();
    let template = Template::node("worker-1");
    let another = pki.issue(&template, &pki.another, Usage::ClientAuth);
    let another = Credential::new(another, Arc::clone(&pki.another)).expect("its key");
    [pki.credential(&template, Usage::ClientAuth), another]
});

/// A virtual disk as a volume.
#[derive(Clone, Debug)]
struct SharedDisk(Arc<Mutex<Disk>>);

impl SharedDisk {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume for SharedDisk {
    fn open(&self) -> std::io::Result<Box<dyn Folder + '_>> {
        Ok(Box::new(self.clone()))
    }
}

impl Folder for SharedDisk {
    fn list(&self) -> std::io::Result<Listing> {
        Ok(self.disk().list())
    }

    fn read(&self, name: &str) -> std::io::Result<Option<Contents>> {
        let contents = |bytes: Arc<[u8]>| Contents { bytes: bytes.to_vec().into(), exposed: false };
        Ok(self.disk().read(name)?.map(contents))
    }

    fn execute(&self, op: &FileOp, contents: &[u8]) -> std::io::Result<()> {
        self.disk().execute(op, contents, |_| ())
    }
}
