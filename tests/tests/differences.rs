//! The page that lists where perennial differs from upstream on purpose, beside the table that tests it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of the cases that are `different`, as the table's source has them.
fn in_the_table() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sources = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let sources: Vec<String> = sources.map(|path| fs::read_to_string(path).unwrap()).collect();
    let rows = sources.iter().flat_map(|source| {
        // Where the function itself is defined, no name follows.
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
fn every_deliberate_difference_is_on_the_page_and_nothing_else() {
    let (table, page) = (in_the_table(), on_the_page());
    assert!(table.len() > 20, "{table:?}");
    assert_eq!(page, table);
}
