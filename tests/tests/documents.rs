//! Compares a page of the documentation with the tests that it lists, and published packages with the files that they
//! include.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use perennial_tests::sources::rust_files;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The names of all cases that the conformance tables mark as `different`, read from the source files of the tables.
fn in_the_table() -> BTreeSet<String> {
    let files = rust_files(&Path::new(HERE).join("tests/conformance"));
    let sources: Vec<String> = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let rows = sources.iter().flat_map(|source| {
        // The definition of the function is no call.
        let calls = source.split("different(").zip(source.split("different(").skip(1));
        calls.filter(|(before, _)| !before.ends_with("fn ")).map(|(_, call)| call)
    });
    rows.map(|row| row.split('"').nth(1).unwrap().to_owned()).collect()
}

fn on_the_page() -> BTreeSet<String> {
    let page = include_str!("../../agent/docs/differences.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned()).collect()
}

#[test]
fn differences_page_lists_exactly_the_deliberate_differences() {
    let (table, page) = (in_the_table(), on_the_page());
    assert!(table.len() > 20, "{table:?}");
    assert_eq!(page, table);
}

/// The paths that a source file includes with `include_str!` and `include_bytes!`.
fn included(source: &str) -> impl Iterator<Item = &str> {
    let calls = ["include_str!(\"", "include_bytes!(\""];
    calls.into_iter().flat_map(|call| source.split(call).skip(1)).filter_map(|rest| rest.split('"').next())
}

/// A published package does not compile if it includes a file from outside of the package.
#[test]
fn published_packages_include_only_their_own_files() {
    let mut seen = 0;
    for name in ["core", "pki", "rotation", "kubernetes", "runtime-std", "runtime-smol", "agent", "devserver"] {
        let package = Path::new(HERE).join("..").join(name).canonicalize().unwrap();
        for path in rust_files(&package) {
            for file in included(&fs::read_to_string(&path).unwrap()) {
                let file = path.parent().unwrap().join(file).canonicalize().unwrap();
                assert!(file.starts_with(&package), "{} includes {}", path.display(), file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 3, "only {seen} found");
}
