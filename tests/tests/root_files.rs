//! `RootFiles`: another program replaces CAs in files. Tests which CAs are trusted at which time.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use perennial::Validity;
use perennial_pki::{KeyAlgorithm, KeyPair, self_signed};
use perennial_rotation::{RootFiles, RootsError, RootsSource as _, clock};
use perennial_tests::replacement::{Files, Way, write_at_rest};

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
fn last_good_cas_are_used_while_ca_file_is_damaged_or_missing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.crt");
    let (first, second) = (ca("CA"), ca("CA"));
    write_at_rest(&path, &first);
    let source = RootFiles::open([&path]).unwrap().every(Duration::ZERO);
    let trusted = || source.roots().unwrap().pem().to_owned();
    assert!(source.origin().contains("ca.crt, read at 20"), "{}", source.origin());
    assert_eq!(trusted(), first);
    write_at_rest(&path, &second);
    assert_eq!(trusted(), second);
    assert!(source.origin().contains("ca.crt, read at ") && !source.origin().contains("cannot"), "{}", source.origin());
    for damage in ["", "hello", &second[..second.len() / 2]] {
        write_at_rest(&path, damage);
        assert_eq!(trusted(), second, "{damage:?}");
        assert!(source.origin().contains("it cannot be read now"), "{}", source.origin());
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(trusted(), second);
    write_at_rest(&path, &first);
    assert_eq!(trusted(), first);
    assert!(!source.origin().contains("cannot"), "{}", source.origin());
}

#[test]
fn ca_that_is_in_two_files_is_trusted_once() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["one.crt", "two.crt"].map(|name| directory.path().join(name));
    let [first, second, third] = [ca("CA"), ca("CA"), ca("CA")];
    write_at_rest(&paths[0], &first);
    write_at_rest(&paths[1], first.clone() + &second);
    let source = RootFiles::open(&paths).unwrap().every(Duration::ZERO);
    let trusted = || source.roots().unwrap().pem().to_owned();
    assert_eq!(trusted(), first.clone() + &second);
    // A file that is damaged keeps its own CAs, and the other file is followed.
    write_at_rest(&paths[0], "hello");
    write_at_rest(&paths[1], &third);
    assert_eq!(trusted(), first + &third);
    let origin = source.origin();
    assert!(origin.contains("one.crt, read at ") && origin.contains("two.crt, read at "), "{origin}");
    assert_eq!(origin.matches("it cannot be read now").count(), 1, "{origin}");
}

#[test]
fn files_without_usable_ca_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.crt");
    assert!(matches!(RootFiles::open([&path; 0]), Err(RootsError::NoPath)));
    let refused = || RootFiles::open([&path]).unwrap_err().to_string();
    assert!(refused().contains("ca.crt: cannot be read: "), "{}", refused());
    write_at_rest(&path, "hello");
    assert!(refused().contains("ca.crt: no certificate found"), "{}", refused());
    fs::File::create(&path).unwrap().set_len((8 << 20) + 1).unwrap();
    assert!(refused().contains("ca.crt: longer than 8 MiB"), "{}", refused());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused().contains("it is not a regular file"), "{}", refused());
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
