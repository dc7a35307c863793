//! `RootFiles`, CAs in files that another program replaces: which CAs are trusted, and when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use perennial::Validity;
use perennial_pki::{KeyAlgorithm, KeyPair, self_signed};
use perennial_rotation::{RootFiles, RootsSource as _, clock};
use perennial_tests::replacement::{Files, Way};

/// The certificate of a new CA with this common name, as PEM.
fn ca(name: &str) -> String {
    let begin = clock::now().unix.before(Duration::from_secs(60));
    let validity = Validity::new(begin, begin.after(Duration::from_secs(3600))).unwrap();
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    self_signed(name, &key, &[1], validity).unwrap().pem().to_owned()
}

/// The common names of the trusted CAs, in order.
fn trusted(roots: &RootFiles) -> Vec<String> {
    let mut subjects: Vec<String> = roots.roots().unwrap().subjects().collect();
    subjects.sort();
    subjects
}

#[test]
fn cas_of_each_file_are_old_or_new_after_each_step_of_its_replacement() {
    let pem = ["one", "two", "three", "four"].map(ca);
    let of = |names: &[&str]| names.iter().map(|name| format!("CN={name}")).collect::<Vec<_>>();
    let [one, two, three, four] = pem.each_ref().map(|pem| vec![pem.clone()]);
    let both = |a: &[String], b: &[String]| [a, b].concat();
    let old: Files = vec![("a.crt", both(&one, &two)), ("b.crt", three.clone())];
    // CA two moves from one file to the other.
    let new: Files = vec![("a.crt", four), ("b.crt", both(&two, &three))];
    let (before, after) = (of(&["one", "three", "two"]), of(&["four", "three", "two"]));
    // Only the first file was replaced.
    let between = of(&["four", "three"]);
    for (way, seen) in [
        (Way::Volume, vec![before.clone(), after.clone()]),
        (Way::Renames, vec![before.clone(), between.clone(), after.clone()]),
        (Way::Links, vec![before, between, after]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        way.replace(directory.path(), &old);
        let roots = RootFiles::open(["a.crt", "b.crt"].map(|name| directory.path().join(name))).unwrap();
        let roots = roots.every(Duration::ZERO);
        let minute_ago = clock::now().unix.before(Duration::from_secs(60));
        let mut found = vec![trusted(&roots)];
        for step in way.steps(directory.path(), &new) {
            step(minute_ago);
            found.push(trusted(&roots));
        }
        found.dedup();
        assert_eq!(found, seen, "{way:?}");
    }
}

#[test]
fn volume_that_is_switched_during_reads_never_yields_mixed_cas() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(ca);
    // The CAs change places, so that a reader of one old and one new file would trust a single CA.
    let generations: [Files; 2] = [
        vec![("a.crt", vec![one.clone()]), ("b.crt", vec![two.clone()])],
        vec![("a.crt", vec![two]), ("b.crt", vec![one])],
    ];
    Way::Volume.replace(directory.path(), &generations[0]);
    let roots = RootFiles::open(["a.crt", "b.crt"].map(|name| directory.path().join(name))).unwrap();
    let roots = roots.every(Duration::ZERO);
    let switching = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=300 {
                Way::Volume.replace(directory.path(), &generations[n % 2]);
            }
            switching.store(false, Ordering::SeqCst);
        });
        while switching.load(Ordering::SeqCst) {
            assert_eq!(trusted(&roots), ["CN=one", "CN=two"]);
        }
    });
}
