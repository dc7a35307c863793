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
    for name in
        ["core", "pki", "rotation", "kubernetes", "runtime-std", "runtime-smol", "agent", "simulation", "devserver"]
    {
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

/// The crates of other projects that the library in `folder` depends on.
fn foreign_crates(folder: &Path) -> BTreeSet<String> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let sections =
        manifest.split("\n[").filter(|section| section.contains("dependencies]") && !section.starts_with("dev-"));
    let names = sections.flat_map(str::lines).skip(1).filter_map(|line| line.split(['.', ' ']).next());
    names
        .filter(|name| name.starts_with(char::is_lowercase) && !name.starts_with("perennial"))
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// The crates whose types, imported in `source` or named by a path, are in the line of a public item.
fn in_public_items(source: &str, crates: &BTreeSet<String>) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod ").next().unwrap();
    let imports = code.split(";\n").filter_map(|item| item.rsplit_once("\nuse ")?.1.split_once("::"));
    let imports: Vec<(&str, &str)> = imports.filter(|(name, _)| crates.contains(*name)).collect();
    let words = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect()
    };
    let items =
        code.lines().map(str::trim_start).filter(|line| line.starts_with("pub ") && !line.starts_with("pub use"));
    let mut found = BTreeSet::new();
    for item in items {
        let used = words(item);
        found.extend(crates.iter().filter(|name| item.contains(&format!("{name}::"))).cloned());
        for (name, imported) in &imports {
            let types = words(imported).into_iter().filter(|word| word.starts_with(char::is_uppercase));
            if types.into_iter().any(|word| used.contains(&word)) {
                found.insert((*name).to_owned());
            }
        }
    }
    found
}

/// Each library whose public items name a type of another crate has a row for that crate in docs/api.md.
#[test]
fn api_page_lists_the_foreign_crates_of_public_items() {
    let page = include_str!("../../docs/api.md");
    let table = page.split("## Foreign types").nth(1).unwrap().split("## Features").next().unwrap();
    let mut seen = BTreeSet::new();
    for (name, crate_name) in [
        ("core", "perennial"),
        ("pki", "perennial-pki"),
        ("rotation", "perennial-rotation"),
        ("kubernetes", "perennial-kubernetes"),
        ("runtime-std", "perennial-std"),
        ("runtime-smol", "perennial-smol"),
        ("devserver", "perennial-dev"),
    ] {
        let folder = Path::new(HERE).join("..").join(name);
        let crates = foreign_crates(&folder);
        for path in rust_files(&folder.join("src")).iter().filter(|path| !path.to_string_lossy().contains("/bin/")) {
            for foreign in in_public_items(&fs::read_to_string(path).unwrap(), &crates) {
                let is_listed = |row: &str| {
                    row.starts_with(&format!("| `{crate_name}` |")) && row.contains(&format!("`{foreign}`"))
                };
                assert!(table.lines().any(is_listed), "{} names {foreign}: docs/api.md has no row", path.display());
                seen.insert((name, foreign));
            }
        }
    }
    assert!(
        seen.contains(&("pki", "rustls".to_owned())) && seen.contains(&("rotation", "zeroize".to_owned())),
        "{seen:?}"
    );
}
