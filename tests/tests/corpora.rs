//! Replays the fuzz corpora without a fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use perennial_tests::fuzz::{TARGETS, Target};

/// Runs the fuzz target on every file of its corpus. Returns the number of files.
fn replay(name: &str, target: Target) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in &files {
        let bytes = fs::read(file).unwrap();
        if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
            panic!("{name} fails on {}", file.display());
        }
    }
    files.len()
}

macro_rules! corpora {
    ($($target:ident,)*) => {
        $(#[test]
        fn $target() {
            let (name, target) = TARGETS.into_iter().find(|(name, _)| *name == stringify!($target)).unwrap();
            assert!(replay(name, target) > 0, "{name} has no corpus");
        })*

        #[test]
        fn every_fuzz_target_is_replayed() {
            let replayed = BTreeSet::from([$(stringify!($target)),*].map(str::to_owned));
            let targets = TARGETS.map(|(name, _)| name.to_owned());
            assert_eq!(replayed, BTreeSet::from(targets));
            let sources = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets")).unwrap();
            let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert_eq!(sources.map(|entry| stem(&entry.unwrap().path())).collect::<BTreeSet<_>>(), replayed);
        }
    };
}

corpora! {
    csr_client,
    directory,
    fleet,
    kubeconfig,
    pem_x509,
    pod_client,
    rotation,
    server,
    texts,
}
