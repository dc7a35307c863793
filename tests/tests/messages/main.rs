//! Lists the texts that people meet: log, errors, help and output of the shipped crates, collected from their sources.
//! `snapshots` has a file for each crate. Checks the rules for these texts that a program can check.

mod collect;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use perennial_tests::sources::rust_files;

use collect::Message;
use rules::Exception;

const CRATES: [&str; 9] =
    ["core", "pki", "rotation", "kubernetes", "runtime-std", "runtime-smol", "agent", "simulation", "devserver"];

/// The messages of a crate, each with the path of its file.
fn messages(name: &str) -> Vec<(String, Message)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = rust_files(&root.join(name).join("src"));
    // Unit tests in files of their own.
    files.retain(|path| !path.ends_with("tests.rs") && path.parent().is_none_or(|folder| !folder.ends_with("tests")));
    let of_file = |path: &PathBuf| {
        let file = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let messages = collect::messages(&fs::read_to_string(path).unwrap());
        messages.into_iter().map(move |message| (file.clone(), message))
    };
    files.iter().flat_map(of_file).collect()
}

/// The text of a crate's snapshot: the messages of each file. The messages are sorted and have no line numbers, so that
/// the snapshot does not change if code moves within its file.
fn page(name: &str) -> String {
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, message) in messages(name) {
        files.entry(file).or_default().insert(message.to_string());
    }
    files.into_iter().map(|(file, lines)| format!("{file}\n{}\n", lines.into_iter().collect::<String>())).collect()
}

/// A changed message must also be changed in the snapshot of its crate, where a reviewer reads it. CONTRIBUTING.md has
/// the command that updates the snapshots.
#[test]
fn every_message_is_in_the_snapshot_of_its_crate() {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        for name in CRATES {
            insta::assert_snapshot!(name, page(name));
        }
    });
}

#[test]
fn every_message_follows_the_rules() {
    let messages: Vec<(String, Message)> = CRATES.iter().flat_map(|name| messages(name)).collect();
    assert!(messages.len() > 900, "only {} found", messages.len());
    let mut unused: Vec<_> = rules::EXCEPTIONS.iter().collect();
    let mut findings = Vec::new();
    for (file, message) in &messages {
        let is_about =
            |exception: &Exception| file.starts_with(exception.path) && message.text.contains(exception.text);
        let broken = rules::broken(message);
        if broken.is_empty() {
            continue;
        }
        unused.retain(|exception| !is_about(exception));
        if !rules::EXCEPTIONS.iter().any(is_about) {
            findings.extend(broken.iter().map(|rule| format!("{file}: {rule}:\n{message}")));
        }
    }
    assert!(findings.is_empty(), "{}", findings.concat());
    assert!(unused.is_empty(), "nothing needs these exceptions: {unused:?}");
}

/// Every log message that the table of `agent/docs/cluster.md` explains occurs in the source.
#[test]
fn every_log_message_in_cluster_md_occurs_in_source() {
    let page = include_str!("../../../agent/docs/cluster.md");
    let (_, table) = page.split_once("| `perennial run` logs |").unwrap();
    let quoted: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(quoted.len() > 5, "{quoted:?}");
    let messages: Vec<(String, Message)> =
        ["rotation", "kubernetes", "agent"].iter().flat_map(|name| messages(name)).collect();
    for part in quoted.iter().flat_map(|phrase| phrase.split('…')).map(|part| part.trim_matches([' ', ':', ')'])) {
        assert!(messages.iter().any(|(_, message)| message.text.contains(part)), "no message contains {part:?}");
    }
}
